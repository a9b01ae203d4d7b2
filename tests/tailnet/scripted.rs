//! The tests' own coordination server on a host: it says to real nodes what no Headscale says.

use std::net::TcpListener;
use std::thread;

use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::control_server::{ControlServer, Maps};
use crate::net::Host;
use crate::ours::{self, Ours};

/// A running one. Whatever it says goes on in threads of its own.
pub(crate) struct Scripted {
    url: String,
    server: ControlServer,
    runtime: Runtime,
}

impl Scripted {
    /// Starts one that admits everybody.
    pub(crate) fn start(host: &Host) -> Self {
        let listener = host.inside(|| TcpListener::bind((host.v4, 8080)).unwrap());
        listener.set_nonblocking(true).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = runtime.block_on(async {
            ControlServer::on(tokio::net::TcpListener::from_std(listener).unwrap(), None)
        });
        Self { url, server, runtime }
    }

    /// The configuration of a node of it.
    pub(crate) fn config(&self, host: &Host) -> Value {
        ours::config_at(host, &self.url, true, None, "hskey-auth-scripted")
    }

    /// Starts a node, whose stream of maps it hands over with the first map said; `first` is without the node's own key.
    pub(crate) fn admit(&self, node: impl FnOnce() -> Ours, mut first: Value) -> (Ours, Maps) {
        let node = node();
        let maps = self.runtime.block_on(self.server.next_stream());
        first["Node"]["Key"] = maps.request["NodeKey"].clone();
        maps.map(&first);
        (node, maps)
    }
}

/// A first map of a network in which everybody may talk to everybody.
pub(crate) fn first_map(id: u64, peers: &[Value], names: &Value) -> Value {
    let addresses = [format!("100.64.0.{id}/32"), format!("fd7a:115c:a1e0::{id:x}/128")];
    let ports = json!([{ "IP": "*", "Ports": { "First": 0, "Last": 65535 } }]);
    json!({
        "Node": { "ID": id, "Name": format!("node-{id}.t.internal."), "Addresses": addresses, "AllowedIPs": addresses },
        "Peers": peers,
        "DNSConfig": names,
        "PacketFilters": { "base": [{ "SrcIPs": ["*"], "DstPorts": ports }] },
    })
}

/// One delta after the other, at most one in each `pace`; as a server's come that tells of one node at a time.
pub(crate) fn said_slowly(maps: &Maps, pace: std::time::Duration, deltas: impl Iterator<Item = Value>) {
    for delta in deltas {
        maps.map(&delta);
        thread::sleep(pace);
    }
}
