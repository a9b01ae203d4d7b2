//! A machine of the private network: its document, its wire, and what it says.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::LazyLock;

use casemate_image::assemble::InitBinary;
use casemate_image::io::compile::Compiler;
use casemate_image::progress::Progress;
use casemate_measure::image::Flavor;
use casemate_measure::{ComposeHash, MrConfigId};
use casemate_qemu::shape::Network;
use casemate_qemu::share::Share;
use serde_json::{Value, json};

use crate::console::process;
use crate::headscale::{DOMAIN, Headscale, KeyFor};
use crate::images::{self, Image};
use crate::machine::{Machine, Options};
use crate::net::{Host, Succeed as _, WIRE};
use crate::wait::s;

/// Where a service of another host of the network listens.
pub(crate) const PORT: u16 = 8000;
/// Where a listener waits on the login server's host, whom no service may reach.
pub(crate) const OUTSIDE: u16 = 9999;

/// A machine that is on.
pub(crate) struct Guest {
    pub(crate) machine: Machine,
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) document: String,
    /// Every frame on its wire.
    pub(crate) dump: PathBuf,
}

/// What a machine is to do.
pub(crate) struct Wanted<'a> {
    pub(crate) host: &'a Host,
    /// Whom its workload asks by name: another machine, and a host.
    pub(crate) asks: [&'a str; 2],
    /// A measured target: document and address.
    pub(crate) target: Option<(&'a str, &'a str)>,
    /// What breaks, as `init/src/guest/faults.rs` has it.
    pub(crate) fault: Option<&'a str>,
}

impl Guest {
    pub(crate) fn switch_on(server: &Headscale, noise_key: &str, wanted: &Wanted<'_>) -> Self {
        let host = wanted.host;
        let document = document(server, noise_key, wanted);
        let share = Share { document: document.clone().into(), sys_config: None, instance_info: None };
        let dump = host.folder.join("wire.pcap");
        let mut extra = format!("-object filter-dump,id=dump,netdev=net0,file={}", dump.display());
        if let Some(fault) = wanted.fault {
            extra += &format!(" -smbios type=11,value=casemate.fault={fault}");
        }
        let options = Options {
            // Not QEMU's user network: there a machine has an address that no other one reaches.
            network: Some(Network::Socket("socket:connect=127.0.0.1:1".parse().unwrap())),
            rewrite: format!(
                "s/^socket,id=net0,.*/tap,id=net0,ifname={WIRE},script=no,downscript=no,vnet_hdr=off/"
            )
            .leak(),
            through: host.through().leak(),
            extra: extra.leak(),
            share: Some(share.image().unwrap()),
            mrconfigid: Some(MrConfigId::v1(&ComposeHash::of(document.as_bytes()))),
            company: true,
            ..Options::default()
        };
        let machine = Machine::switch_on(image(), options);
        Self { machine, name: host.name.clone(), address: host.v4, document, dump }
    }

    /// The status document, once the VPN process is in the network and sees so many others.
    pub(crate) fn running(&self, peers: u64) -> Value {
        let status = self.machine.wait_status(&format!("{} in the network", self.name), |status| {
            let vpn = &status["vpn"];
            vpn["state"] == "running" && vpn["connected"] == true && vpn["peers"].as_u64() == Some(peers)
        });
        assert_eq!(status["egress"]["locked"], true, "{status}");
        status
    }

    /// How often its workload has said something.
    pub(crate) fn said(&self, line: &str) -> usize {
        let line = format!("probe: {line}");
        self.machine.console().iter().filter(|said| **said == line).count()
    }

    /// Waits until its workload says something (again).
    pub(crate) fn says(&self, line: &str) {
        let before = self.said(line);
        self.machine.wait(&format!("{}: {line:?}", self.name), || (self.said(line) > before).then_some(()));
    }

    /// Packets that a counter of the lock has.
    pub(crate) fn counted(status: &Value, counter: &str) -> u64 {
        let counters = status["egress"]["counters"].as_array().unwrap().iter();
        counters.filter(|one| one["name"] == counter).map(|one| one["packets"].as_u64().unwrap()).sum()
    }

    pub(crate) fn restarts(status: &Value, name: &str) -> u64 {
        process(status, name)["restarts"].as_u64().unwrap()
    }
}

/// The key that a server has for ts2021, as its operator reads it.
pub(crate) fn noise_key(server: &Headscale) -> String {
    let mut curl = server.host.command(s(20), "curl");
    let said = curl.args(["-sk", &format!("{}/key?v=130", server.url())]).succeed();
    let key: Value = serde_json::from_str(&said).unwrap();
    key["publicKey"].as_str().unwrap().to_owned()
}

fn document(server: &Headscale, noise_key: &str, wanted: &Wanted<'_>) -> String {
    let Wanted { host, asks: [other, go], target, .. } = wanted;
    let targets: serde_json::Map<String, Value> =
        target.iter().map(|(document, address)| (app(document), json!(format!("{address}:443")))).collect();
    let by_mesh = target.map_or_else(String::new, |(document, _)| {
        format!(
            "wget -q -T 20 -O - --header 'x-dstack-target-app: {}' http://127.0.0.1:8888/ | grep -q 'demo workload' \
             && echo the page of the other machine || echo no page of the other machine; ",
            app(document)
        )
    });
    let [one, two, three, _] = host.v4.octets();
    // Busybox has TLS 1.2 and no later one: the mesh refuses that, with protocol_version(70) (RFC 8446 section 6).
    let script = format!(
        "while sleep 1; do \
         wget -q -T 20 -O - http://{go}.{DOMAIN}:{PORT}/ || echo no answer of the host; \
         wget -q -T 20 -O - --no-check-certificate https://{other}.{DOMAIN}/health 2>&1 | grep -q 'alert code 70' \
         && echo the mesh of the other machine answers || echo no answer of the other machine; \
         {by_mesh}\
         nc -w 2 {} {OUTSIDE} </dev/null && echo reached the outside || echo did not reach the outside; done",
        server.host.v4
    );
    json!({
        "manifest_version": 2, "name": host.name, "runner": "casemate", "public_logs": false,
        "public_sysinfo": false, "key_provider": "none", "secure_time": false,
        "casemate": {
            "version": 1, "role": "node", "node": { "name": host.name, "type": "test" },
            "network": {
                "mode": "static", "address": format!("{}/24", host.v4), "gateway": format!("{one}.{two}.{three}.1"),
            },
            "vpn": {
                "mode": "tunnel",
                "login_server": {
                    "url": server.url(), "noise_key": noise_key, "authkey": server.key(KeyFor::default()),
                },
                "prefixes": ["100.64.0.0/10"], "derp_pins": {}, "require_policy": true,
            },
            "egress": { "mode": "internal-only" },
            "mesh": {
                "backends": [{ "listen": 443, "kind": "http", "to": "web:8000", "allow": ["any"] }],
                "targets": targets, "verify": "quote", "images": ["same"],
            },
            "services": [
                {
                    "name": "web", "rootfs": "web", "uid": 1000, "ports": [8000], "restart": "always",
                    "exec": ["/bin/httpd", "-f", "-p", "8000", "-h", "/www"],
                },
                {
                    "name": "probe", "rootfs": "web", "uid": 1001, "restart": "always",
                    "exec": ["/bin/sh", "-c", script],
                },
            ],
        },
    })
    .to_string()
}

fn app(document: &str) -> String {
    ComposeHash::of(document.as_bytes()).app_id().to_string()
}

/// An image without a document, whose processes break on order.
pub(crate) fn image() -> &'static Image {
    static INIT: LazyLock<InitBinary> = LazyLock::new(|| {
        let (flavor, danger, epoch) = (Flavor::Dev, Some("danger-faults"), images::lock().epoch);
        let compiler = Compiler { workspace: images::workspace(), flavor, danger, jobs: None, epoch };
        compiler.compile(&Progress::silent()).unwrap()
    });
    static IMAGE: LazyLock<Image> = LazyLock::new(|| {
        Image::build_with("tunnel", Flavor::Dev, None, &[("web", images::busybox())], &INIT)
    });
    &IMAGE
}
