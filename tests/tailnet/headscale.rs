//! A real Headscale on a host of its own, with its DERP and STUN, as its operator handles it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::built::{self, Release};
use crate::certificate::Certificate;
use crate::net::{Host, Succeed as _};
use crate::process::Process;
use crate::wait::{s, until};

/// How its relay is reached. The control server is on the same port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Relay {
    /// Without TLS, for clients that were told that this is a test.
    Plain,
    /// By TLS, under a root.
    Rooted,
    /// Another server's, without TLS: this one may be away.
    Elsewhere(Ipv4Addr),
    /// Two of others, without TLS.
    Two([Ipv4Addr; 2]),
    /// By TLS, under no root: the certificate's digest is in a file of `derp.paths`, in a region of its own.
    Pinned,
}

/// What a test wants of a server.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) relay: Relay,
    /// Whether its relay is for its nodes only.
    pub(crate) verify_clients: bool,
    /// DNS records beside the nodes' names: name and address.
    pub(crate) records: Vec<(String, IpAddr)>,
    /// Resolvers that it gives to the nodes.
    pub(crate) resolvers: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { relay: Relay::Plain, verify_clients: true, records: Vec::new(), resolvers: Vec::new() }
    }
}

/// The domain under which nodes have their names.
pub(crate) const DOMAIN: &str = "t.internal";
/// The region of its own relay, and those that a file describes. Their codes are [`CODES`].
pub(crate) const REGION: u16 = 999;
pub(crate) const FILE_REGION: u16 = 900;
pub(crate) const SECOND_REGION: u16 = 901;
pub(crate) const CODES: [(&str, u16); 3] =
    [("own", REGION), ("file", FILE_REGION), ("second", SECOND_REGION)];
/// Where it listens.
pub(crate) const PORT: u16 = 8080;

/// A running server.
#[derive(Debug)]
pub(crate) struct Headscale {
    pub(crate) options: Options,
    pub(crate) host: Host,
    pub(crate) certificate: Option<Certificate>,
    program: PathBuf,
    process: Option<Process>,
}

/// A node as the server sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) id: u64,
    pub(crate) name: String,
    pub(crate) key: String,
    pub(crate) tags: Vec<String>,
    pub(crate) addresses: Vec<String>,
    pub(crate) online: bool,
}

/// What a key for joining is good for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyFor<'a> {
    pub(crate) tags: &'a [&'a str],
    pub(crate) reusable: bool,
    /// As `1h`.
    pub(crate) expires: &'a str,
}

/// The tag of whoever a test does not want another one for.
pub(crate) const TAG: &str = "tag:internal-only";

impl Default for KeyFor<'_> {
    fn default() -> Self {
        Self { tags: &[TAG], reusable: false, expires: "1h" }
    }
}

impl Headscale {
    /// Starts one with an empty database and one user.
    pub(crate) fn start(host: &Host, release: Release, options: Options) -> Self {
        let certificate = match options.relay {
            Relay::Plain | Relay::Elsewhere(_) | Relay::Two(_) => None,
            Relay::Rooted => Some(Certificate::issued(&host.folder, host.v4.into())),
            Relay::Pinned => Some(Certificate::self_signed(&host.folder, host.v4.into())),
        };
        let program = built::headscale(release);
        let mut server = Self { options, host: host.clone(), certificate, program, process: None };
        fs::write(server.path("config.yaml"), server.config().to_string()).unwrap();
        server.resume();
        server.cli(&["users", "create", "alice"]);
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host.folder.join(name)
    }

    /// What nodes are told.
    pub(crate) fn url(&self) -> String {
        self.url_at(PORT)
    }

    /// Whether nodes must be told that this is a test, and talk to its relay without TLS.
    pub(crate) const fn plain(&self) -> bool {
        self.certificate.is_none()
    }

    /// The same through another port of its host.
    pub(crate) fn url_at(&self, port: u16) -> String {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}:{port}", self.host.v4)
    }

    pub(crate) fn region(&self) -> u16 {
        match self.options.relay {
            Relay::Plain | Relay::Rooted => REGION,
            Relay::Pinned | Relay::Elsewhere(_) | Relay::Two(_) => FILE_REGION,
        }
    }

    /// JSON is YAML.
    fn config(&self) -> Value {
        let Options { relay, verify_clients, records, resolvers } = &self.options;
        let v4 = self.host.v4;
        let path = |name: &str| self.path(name);
        let records: Vec<_> = records
            .iter()
            .map(|(name, address)| {
                let kind = if address.is_ipv4() { "A" } else { "AAAA" };
                json!({ "name": name, "type": kind, "value": address })
            })
            .collect();
        let mut config = json!({
            "server_url": self.url(),
            "listen_addr": format!("0.0.0.0:{PORT}"),
            "metrics_listen_addr": "127.0.0.1:9090",
            "grpc_listen_addr": "127.0.0.1:50443",
            "noise": { "private_key_path": path("noise.key") },
            "prefixes": { "v4": "100.64.0.0/10", "v6": "fd7a:115c:a1e0::/48", "allocation": "sequential" },
            "derp": {
                "server": {
                    "enabled": true,
                    "region_id": REGION,
                    "region_code": "own",
                    "region_name": "own",
                    "stun_listen_addr": format!("{v4}:3478"),
                    "private_key_path": path("derp.key"),
                    "verify_clients": verify_clients,
                    "ipv4": v4,
                    "automatically_add_embedded_derp_region": true,
                },
                "urls": [],
                "paths": [],
                "auto_update_enabled": false,
            },
            "disable_check_updates": true,
            "database": { "type": "sqlite", "sqlite": { "path": path("db.sqlite") } },
            "policy": { "mode": "database" },
            "dns": {
                "magic_dns": true,
                "base_domain": DOMAIN,
                "override_local_dns": !resolvers.is_empty(),
                "nameservers": { "global": resolvers },
                "extra_records": records,
            },
            "unix_socket": path("headscale.sock"),
        });
        if let Some(certificate) = &self.certificate {
            config["tls_cert_path"] = json!(certificate.chain);
            config["tls_key_path"] = json!(certificate.key);
        }
        let (described, pin) = match relay {
            Relay::Plain | Relay::Rooted => (vec![], ""),
            Relay::Pinned => (vec![v4], self.certificate.as_ref().unwrap().pin.as_str()),
            Relay::Elsewhere(address) => (vec![*address], ""),
            Relay::Two(addresses) => (addresses.to_vec(), ""),
        };
        if !described.is_empty() {
            let regions = described.iter().zip(&CODES[1..]).map(|(address, (code, number))| {
                let node = json!({
                    "name": code, "regionid": number, "hostname": address, "ipv4": address, "derpport": PORT,
                    "stunport": 3478, "certname": pin,
                });
                let region = json!({
                    "regionid": number, "regioncode": code, "regionname": code, "nodes": [node],
                });
                // Its keys are numbers, which JSON has not.
                format!("  {number}: {region}\n")
            });
            fs::write(path("derp.yaml"), format!("regions:\n{}", regions.collect::<String>())).unwrap();
            config["derp"]["server"]["automatically_add_embedded_derp_region"] = json!(false);
            config["derp"]["paths"] = json!([path("derp.yaml")]);
        }
        config
    }

    /// Starts it with the database that there is.
    pub(crate) fn resume(&mut self) {
        let socket = self.path("headscale.sock");
        drop(fs::remove_file(&socket));
        let config = self.path("config.yaml");
        let process = self.process.insert(self.host.start("headscale", &self.program, |command| {
            command.arg("--config").arg(config).arg("serve");
        }));
        // Its socket is there after its database and before its other listeners.
        until(s(60), "Headscale's socket", || {
            assert!(process.ended().is_none(), "Headscale has ended");
            UnixStream::connect(&socket).ok()
        });
        let address = (self.host.v4, PORT);
        until(s(30), "Headscale's port", || {
            assert!(process.ended().is_none(), "Headscale has ended");
            self.host.inside(|| std::net::TcpStream::connect(address).ok())
        });
    }

    /// Ends it at once: what it had not written is lost, as after a crash.
    pub(crate) fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.as_ref().unwrap().signal(signal);
    }

    /// A copy of its database as it is now.
    pub(crate) fn backup(&self, name: &str) {
        self.signal(Signal::SIGSTOP);
        copied(&self.host.folder, &self.path(name));
        self.signal(Signal::SIGCONT);
    }

    /// Puts a copy back. It must not run.
    pub(crate) fn restore(&self, name: &str) {
        assert!(self.process.is_none(), "Headscale runs");
        for file in DATABASE {
            drop(fs::remove_file(self.path(file)));
        }
        copied(&self.path(name), &self.host.folder);
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.host.command(s(30), &self.program);
        command.arg("--config").arg(self.path("config.yaml")).args(["--force", "--output", "json"]);
        command.args(arguments);
        command
    }

    /// What the command line says, in JSON.
    pub(crate) fn cli(&self, arguments: &[&str]) -> Value {
        let said = self.command(arguments).succeed();
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {said}"))
    }

    /// A key for joining.
    pub(crate) fn key(&self, for_: KeyFor<'_>) -> String {
        let tags = for_.tags.join(",");
        let mut arguments = vec!["preauthkeys", "create", "--user", "1", "--expiration", for_.expires];
        if !for_.tags.is_empty() {
            arguments.extend(["--tags", &tags]);
        }
        if for_.reusable {
            arguments.push("--reusable");
        }
        self.cli(&arguments)["key"].as_str().unwrap().to_owned()
    }

    /// Everybody who joined.
    pub(crate) fn nodes(&self) -> Vec<Node> {
        let nodes = self.cli(&["nodes", "list"]);
        let nodes = nodes.as_array().map(Vec::as_slice).unwrap_or_default();
        nodes.iter().map(Node::of).collect()
    }

    pub(crate) fn node(&self, name: &str) -> Option<Node> {
        self.nodes().into_iter().find(|node| node.name == name)
    }

    /// Sets the policy. A rule without a protocol means other things in other releases: write it.
    pub(crate) fn policy(&self, policy: &Value) {
        let file = self.path("policy.json");
        fs::write(&file, policy.to_string()).unwrap();
        self.command(&["policy", "set", "--file", file.to_str().unwrap()]).succeed();
    }

    pub(crate) fn delete(&self, node: &Node) {
        self.command(&["nodes", "delete", "--identifier", &node.id.to_string()]).succeed();
    }

    pub(crate) fn expire(&self, node: &Node) {
        self.command(&["nodes", "expire", "--identifier", &node.id.to_string()]).succeed();
    }

    /// A node's key ends then (RFC 3339); releases before 0.28 know only now.
    pub(crate) fn expire_at(&self, node: &Node, end: &str) {
        self.command(&["nodes", "expire", "--identifier", &node.id.to_string(), "--expiry", end]).succeed();
    }
}

impl Node {
    fn of(node: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().map(|all| all.iter().map(text).collect()).unwrap_or_default()
        };
        // Until 0.27 a key's tags became "forced" ones.
        let tags = if node["tags"].is_null() { &node["forced_tags"] } else { &node["tags"] };
        Self {
            id: node["id"].as_u64().unwrap(),
            name: text(&node["given_name"]),
            key: text(&node["node_key"]),
            tags: texts(tags),
            addresses: texts(&node["ip_addresses"]),
            online: node["online"].as_bool().unwrap_or_default(),
        }
    }
}

/// A database of SQLite is as many files while somebody writes to it.
const DATABASE: [&str; 3] = ["db.sqlite", "db.sqlite-wal", "db.sqlite-shm"];

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in DATABASE {
        if from.join(file).exists() {
            fs::copy(from.join(file), to.join(file)).unwrap();
        }
    }
}
