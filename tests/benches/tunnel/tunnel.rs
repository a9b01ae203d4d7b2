//! Who has a way between two hosts.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::Value;

use crate::MTU;
use crate::headscale::Headscale;
use crate::net::{Host, Net};
use crate::peer::{Kind, Peer, become_direct, direct};
use crate::wait::s;
use crate::{ours, tailscaled};

/// A way between two hosts of its own.
pub(crate) trait Tunnel {
    /// Its name in the figures.
    fn name(&self) -> &'static str;
    /// Who sends and who receives.
    fn hosts(&self) -> [&Host; 2];
    /// What the receiver listens on.
    fn address(&self) -> String;
    /// Where packets enter it, on each host.
    fn interfaces(&self) -> [String; 2];
    /// Packets go where they should, or this panics.
    fn ready(&self) {}
    /// Where both sides send to, directly, without anybody having waited for it; of who finds that out by itself.
    fn paths(&self) -> Option<[SocketAddr; 2]> {
        None
    }
    /// What both sides say that they dropped, by reason; of who says it.
    fn drops(&self) -> Option<BTreeMap<String, u64>> {
        None
    }
}

/// The link itself.
pub(crate) struct Bare([Host; 2]);

impl Bare {
    pub(crate) fn new(net: &mut Net) -> Self {
        let hosts = ["bare-a", "bare-b"].map(|name| net.host(name));
        for host in &hosts {
            host.ip(&format!("link set eth0 mtu {MTU}"));
        }
        Self(hosts)
    }
}

impl Tunnel for Bare {
    fn name(&self) -> &'static str {
        "bare"
    }

    fn hosts(&self) -> [&Host; 2] {
        self.0.each_ref()
    }

    fn address(&self) -> String {
        self.0[1].v4.to_string()
    }

    fn interfaces(&self) -> [String; 2] {
        ["eth0", "eth0"].map(str::to_owned)
    }
}

/// Who joins a tailnet.
pub(crate) const TAILNETS: [(&str, Kind); 2] = [("ours", Kind::Ours), ("tailscaled", Kind::Go)];

/// Two nodes of a tailnet.
pub(crate) struct Tailnet {
    name: &'static str,
    kind: Kind,
    nodes: [Peer; 2],
    address: String,
}

impl Tailnet {
    pub(crate) fn new(name: &'static str, kind: Kind, net: &mut Net, server: &Headscale) -> Self {
        let nodes = ["a", "b"].map(|side| Peer::join(kind, &net.host(&format!("{name}-{side}")), server));
        let [address, _] = nodes[1].addresses();
        Self { name, kind, nodes, address }
    }
}

impl Tunnel for Tailnet {
    fn name(&self) -> &'static str {
        self.name
    }

    fn hosts(&self) -> [&Host; 2] {
        self.nodes.each_ref().map(Peer::host)
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn interfaces(&self) -> [String; 2] {
        let name = match self.kind {
            Kind::Ours => ours::INTERFACE,
            Kind::Go => tailscaled::INTERFACE,
        };
        [name, name].map(str::to_owned)
    }

    fn ready(&self) {
        let [a, b] = &self.nodes;
        become_direct(a, b, s(30));
    }

    fn paths(&self) -> Option<[SocketAddr; 2]> {
        let [a, b] = &self.nodes;
        let [to_a, _] = a.addresses();
        let one =
            |from, to: &str| direct(from, to).unwrap_or_else(|| panic!("{}: no direct path", self.name));
        Some([one(a, &self.address), one(b, &to_a)])
    }

    fn drops(&self) -> Option<BTreeMap<String, u64>> {
        let mut all = BTreeMap::new();
        for node in &self.nodes {
            let Peer::Ours(node) = node else { return None };
            let status = node.status().unwrap();
            for (reason, count) in status["drops"].as_object().into_iter().flatten() {
                *all.entry(reason.clone()).or_default() += count.as_u64().unwrap();
            }
        }
        Some(all)
    }
}

/// Of an interface: its MTU, and what the kernel dropped there.
pub(crate) fn link(host: &Host, interface: &str) -> (u64, u64) {
    let links: Value =
        serde_json::from_str(&host.ip(&format!("-json -statistics link show dev {interface}"))).unwrap();
    let link = &links[0];
    let dropped = |way: &str| link["stats64"][way]["dropped"].as_u64().unwrap();
    (link["mtu"].as_u64().unwrap(), dropped("rx") + dropped("tx"))
}
