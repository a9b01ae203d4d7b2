//! A machine of the private network: its document, its wire, and what it says.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use casemate_image::assemble::InitBinary;
use casemate_image::io::compile::Compiler;
use casemate_image::progress::Progress;
use casemate_measure::image::Flavor;
use casemate_measure::{ComposeHash, MrConfigId};
use casemate_qemu::shape::Network;
use casemate_qemu::share::Share;
use serde_json::{Value, json};

use crate::console::process;
use crate::headscale::{DOMAIN, Headscale, KeyFor, TAG};
use crate::images::{self, Image};
use crate::machine::{Machine, Options, PATIENCE};
use crate::net::{Host, Succeed as _, WIRE};
use crate::wait::s;

/// The UDP ports of a machine (init's `layout`) and of the Go client's rig.
pub(crate) const UDP_PORT: u16 = 31641;
pub(crate) const GO_PORT: u16 = 41641;
/// Where a service of another host of the network listens.
pub(crate) const PORT: u16 = 8000;
/// Where a listener waits on the login server's host, whom no service may reach.
pub(crate) const OUTSIDE: u16 = 9999;

/// A machine that is on.
pub(crate) struct Guest {
    pub(crate) machine: Machine,
    pub(crate) wire: Wire,
    pub(crate) document: String,
}

/// A machine's wire, of which there is something to see when the machine is off, too.
pub(crate) struct Wire {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    /// Every frame.
    pub(crate) dump: PathBuf,
}

/// Web servers, and pings.
pub(crate) fn policy() -> Value {
    json!({
        "tagOwners": { TAG: ["alice@"] },
        "acls": [
            { "action": "accept", "proto": "tcp", "src": [TAG], "dst": [format!("{TAG}:443,{PORT}")] },
            { "action": "accept", "proto": "icmp", "src": [TAG], "dst": [format!("{TAG}:*")] },
        ],
    })
}

/// What a machine is to do.
pub(crate) struct Wanted<'a> {
    pub(crate) host: &'a Host,
    /// Whom its workload asks by name: another machine, and a host.
    pub(crate) asks: [&'a str; 2],
    /// A measured target: document and address.
    pub(crate) target: Option<(&'a str, &'a str)>,
    /// What else its workload does each time, as the shell has it.
    pub(crate) also: &'a str,
    /// What breaks, as `init/src/guest/faults.rs` has it.
    pub(crate) faults: &'a [&'a str],
    /// More arguments for QEMU.
    pub(crate) extra: &'a str,
}

/// The login server of a document.
pub(crate) struct Login {
    pub(crate) address: Ipv4Addr,
    pub(crate) url: String,
    pub(crate) noise_key: String,
    pub(crate) authkey: String,
}

impl Login {
    /// A Headscale, with a key for one node.
    pub(crate) fn of(server: &Headscale, noise_key: &str) -> Self {
        let (url, noise_key, authkey) = (server.url(), noise_key.to_owned(), server.key(KeyFor::default()));
        Self { address: server.host.v4, url, noise_key, authkey }
    }
}

impl Guest {
    pub(crate) fn switch_on(login: &Login, wanted: &Wanted<'_>) -> Self {
        let host = wanted.host;
        let document = document(login, wanted);
        let share = Share { document: document.clone().into(), sys_config: None, instance_info: None };
        let dump = host.folder.join("wire.pcap");
        let mut extra =
            format!("-object filter-dump,id=dump,netdev=net0,file={} {}", dump.display(), wanted.extra);
        for fault in wanted.faults {
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
        Self { machine, wire: Wire { name: host.name.clone(), address: host.v4, dump }, document }
    }

    /// The status document, once the VPN process is in the network and sees so many others.
    pub(crate) fn running(&self, peers: u64) -> Value {
        self.running_within(PATIENCE, peers)
    }

    /// The same, with another limit.
    pub(crate) fn running_within(&self, limit: Duration, peers: u64) -> Value {
        let what = format!("{} in the network", self.wire.name);
        let status = self.machine.wait_within(limit, &what, || {
            let status = self.status()?;
            let vpn = &status["vpn"];
            (vpn["state"] == "running" && vpn["connected"] == true && vpn["peers"].as_u64() == Some(peers))
                .then_some(status)
        });
        assert_eq!(status["egress"]["locked"], true, "{status}");
        status
    }

    /// The last status document.
    pub(crate) fn status(&self) -> Option<Value> {
        self.machine.last_status()
    }

    /// How often its workload has said something.
    pub(crate) fn said(&self, line: &str) -> usize {
        let line = format!("probe: {line}");
        self.machine.console().iter().filter(|said| **said == line).count()
    }

    /// Waits until its workload says something (again).
    pub(crate) fn says(&self, line: &str) {
        let before = self.said(line);
        self.machine
            .wait(&format!("{}: {line:?}", self.wire.name), || (self.said(line) > before).then_some(()));
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

fn document(login: &Login, wanted: &Wanted<'_>) -> String {
    let Wanted { host, asks: [other, go], target, also, .. } = wanted;
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
         {by_mesh}{also}\
         nc -w 2 {} {OUTSIDE} </dev/null && echo reached the outside || echo did not reach the outside; done",
        login.address
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
                    "url": login.url, "plain_http": login.url.starts_with("http://"),
                    "noise_key": login.noise_key, "authkey": login.authkey,
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
