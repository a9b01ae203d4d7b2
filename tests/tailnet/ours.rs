//! `casemate-init vpn` on a host.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path as FilePath, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use crate::built;
use crate::headscale::Headscale;
use crate::net::Host;
use crate::peer::Path;
use crate::process::Process;
use crate::wait::{s, until};

/// A running one.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) host: Host,
    program: PathBuf,
    process: Process,
}

/// Its interface.
pub(crate) const INTERFACE: &str = "casemate0";
const CONFIG: &str = "vpn.json";

/// The configuration of a node of this server. The key is in a file: a test that has another one later writes it there.
pub(crate) fn config(host: &Host, server: &Headscale, key: &str) -> Value {
    let roots = server.certificate.as_ref().map(|certificate| certificate.roots.as_path());
    config_at(host, &server.url(), server.plain(), roots, key)
}

/// The same of whatever server this is.
pub(crate) fn config_at(host: &Host, url: &str, plain: bool, roots: Option<&FilePath>, key: &str) -> Value {
    let file = host.folder.join("authkey");
    fs::write(&file, key).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
    json!({
        "login_server": {
            "url": url,
            "noise_key": null,
            "authkey": { "file": file },
            "plain_http": plain,
        },
        "hostname": host.name,
        "prefixes": ["100.64.0.0/10", "fd7a:115c:a1e0::/48"],
        "derp_pins": {},
        // Without a policy, Headscale lets everybody through to everybody.
        "require_policy": false,
        "state": host.folder.join("state.json"),
        "interface": INTERFACE,
        "port": 41641,
        "mtu": 1280,
        "queues": null,
        "uid": 65534,
        "status_socket": host.folder.join("vpn.sock"),
        "dns": { "listen": true, "resolvers": [], "internal_only": false, "allowlist": [] },
        "roots": roots,
        "debug_use_derp_http": plain,
    })
}

impl Ours {
    /// Starts one that gets in.
    pub(crate) fn join(host: &Host, server: &Headscale, key: &str) -> Self {
        let node = Self::start(host, &config(host, server, key));
        node.running(s(30));
        node
    }

    pub(crate) fn start(host: &Host, config: &Value) -> Self {
        Self::start_program(host, config, built::casemate_init())
    }

    /// The same of another build.
    pub(crate) fn start_program(host: &Host, config: &Value, program: PathBuf) -> Self {
        fs::write(host.folder.join(CONFIG), config.to_string()).unwrap();
        Self::resume(host, program)
    }

    fn resume(host: &Host, program: PathBuf) -> Self {
        drop(fs::remove_file(host.folder.join("vpn.sock")));
        let process = host.start("vpn", &program, |command| {
            command.arg("vpn").arg("--config").arg(host.folder.join(CONFIG));
        });
        Self { host: host.clone(), program, process }
    }

    /// Starts it again, as it was configured, after its end.
    pub(crate) fn restart(&mut self) {
        assert!(self.process.ended().is_some(), "it runs");
        *self = Self::resume(&self.host, self.program.clone());
    }

    pub(crate) const fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The unprivileged process that does the work: the parent's only child.
    pub(crate) fn child(&self) -> u32 {
        until(s(10), "the vpn's child", || {
            let pid = self.process.pid();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            children.split_whitespace().next()?.parse().ok()
        })
    }

    /// Gives it another key.
    pub(crate) fn rekey(&self, key: &str) {
        fs::write(self.host.folder.join("authkey"), key).unwrap();
    }

    fn cli(&self, limit: Duration, arguments: &[&str]) -> Output {
        let mut command: Command = self.host.command(limit, &self.program);
        command.arg("vpn").args(arguments).arg("--socket").arg(self.socket()).output().unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.host.folder.join("vpn.sock")
    }

    /// What it says of itself, if it is there to say it.
    pub(crate) fn status(&self) -> Option<Value> {
        let output = self.cli(s(10), &["status", "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// Waits until it is in one of these states, and gives its status then.
    fn becomes(&self, states: &[&str], limit: Duration) -> Value {
        until(limit, &format!("{} is {states:?}", self.host.name), || {
            self.status().filter(|status| states.iter().any(|state| status["state"] == *state))
        })
    }

    pub(crate) fn running(&self, limit: Duration) -> Value {
        self.becomes(&["running"], limit)
    }

    /// Whether it follows the server's maps now: it also runs with the last that it had.
    pub(crate) fn connected(&self) -> bool {
        self.status()
            .is_some_and(|status| status["state"] == "running" && status["control"]["connected"] == true)
    }

    pub(crate) fn comes_in(&self, limit: Duration) {
        until(limit, &format!("{} is let in", self.host.name), || self.connected().then_some(()));
    }

    /// Its key was refused, or it has none and was told that it needs one.
    pub(crate) fn waits_for_a_key(&self, limit: Duration) -> Value {
        self.becomes(&["refused", "key-needed"], limit)
    }

    /// Its own ping, which says how it got there.
    pub(crate) fn ping(&self, name: &str, until_direct: bool) -> Output {
        let mut arguments = vec!["ping", name, "--count", "10"];
        if until_direct {
            arguments.push("--until-direct");
        }
        self.cli(s(30), &arguments)
    }

    /// IPv4 and IPv6, in this order.
    pub(crate) fn addresses(&self) -> [String; 2] {
        let all = addresses(&self.status().unwrap()["self"]);
        let of = |v4: bool| all.iter().find(|one| one.contains(':') != v4).unwrap().clone();
        [of(true), of(false)]
    }

    /// The region of its relay.
    pub(crate) fn home(&self) -> Option<u16> {
        self.status()?["derp"]["home"].as_u64()?.try_into().ok()
    }

    /// How it sends to whoever has this address, if it does.
    pub(crate) fn path_to(&self, address: &str) -> Option<Path> {
        let status = self.status()?;
        let mut peers = status["peers"].as_array()?.iter();
        let peer = peers.find(|peer| addresses(peer).iter().any(|one| one == address))?;
        match peer["path"]["kind"].as_str()? {
            "direct" => {
                let address = peer["path"]["address"].as_str().unwrap();
                Some(Path::Direct(address.parse::<SocketAddr>().unwrap()))
            }
            "relayed" if peer["rx_bytes"].as_u64()? > 0 => Some(Path::Relayed),
            _ => None,
        }
    }
}

/// Of a node of its status, without the lengths of their prefixes.
fn addresses(node: &Value) -> Vec<String> {
    let addresses = node["addresses"].as_array().unwrap();
    addresses.iter().map(|one| one.as_str().unwrap().split('/').next().unwrap().to_owned()).collect()
}
