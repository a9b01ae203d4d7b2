//! The tunnels that have no coordinator: a program for each side, told by `wg set` who the other one is.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::MTU;
use casemate_tests::cargo::cargo;

use crate::built::{cache, filled};
use crate::net::{Host, Net, Succeed as _};
use crate::process::Process;
use crate::tunnel::Tunnel;
use crate::wait::{s, until};

/// A program that speaks WireGuard and is told what to do on a socket.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) source: Source,
    program: &'static str,
    arguments: &'static [&'static str],
}

/// Where it comes from.
pub(crate) enum Source {
    /// A published crate, installed into the cache by its version.
    Crate { name: &'static str, version: &'static str },
    /// A package of the machine's own distribution.
    Package(&'static str),
}

pub(crate) const PEERS: [Program; 3] = [
    Program {
        name: "gotatun",
        source: Source::Crate { name: "gotatun-cli", version: "0.10.2" },
        program: "gotatun",
        arguments: &["--foreground", "--disable-drop-privileges"],
    },
    Program {
        name: "boringtun",
        source: Source::Crate { name: "boringtun-cli", version: "0.7.1" },
        program: "boringtun-cli",
        // A thread for each of the processors that these figures were first taken on; more are slower there.
        arguments: &["--foreground", "--disable-drop-privileges", "--threads", "2"],
    },
    Program {
        name: "wireguard-go",
        source: Source::Package("wireguard-go"),
        program: "wireguard-go",
        arguments: &["--foreground"],
    },
];

/// Where such programs have their sockets, named by their interfaces, whatever the network namespace.
const SOCKETS: &str = "/var/run/wireguard";

impl Program {
    /// The program, which is there afterwards.
    fn path(&self) -> Result<PathBuf, String> {
        match self.source {
            Source::Package(package) => {
                let found = std::env::var_os("PATH").and_then(|path| {
                    std::env::split_paths(&path).map(|one| one.join(self.program)).find(|one| one.exists())
                });
                found.ok_or_else(|| format!("the package {package} is not installed"))
            }
            Source::Crate { name, version } => {
                let place = filled(&cache().join("cargo"), &format!("{name}-{version}"), |fresh, into| {
                    let mut install = cargo();
                    install.args(["install", "--locked", name, "--version", version, "--root"]).arg(into);
                    install.env("CARGO_TARGET_DIR", fresh.join("target")).current_dir(fresh);
                    // Looked at below.
                    drop(install.stdin(Stdio::null()).status());
                });
                let program = place.join("bin").join(self.program);
                if !program.exists() {
                    // Another run tries again.
                    fs::remove_dir_all(&place).unwrap();
                    return Err(format!("cargo install {name} {version} failed"));
                }
                Ok(program)
            }
        }
    }

    /// The version that runs.
    fn version(&self) -> String {
        match self.source {
            Source::Crate { version, .. } => version.to_owned(),
            Source::Package(package) => {
                let asked = ["--show", "--showformat", "${Version}", package];
                let output = Command::new("dpkg-query").args(asked).output();
                output.map_or_else(
                    |_| "of an unknown version".to_owned(),
                    |output| String::from_utf8_lossy(&output.stdout).into_owned(),
                )
            }
        }
    }
}

/// Both sides.
pub(crate) struct WireGuard {
    name: &'static str,
    hosts: [Host; 2],
    interfaces: [String; 2],
    address: String,
    _processes: [Process; 2],
}

impl WireGuard {
    pub(crate) fn new(program: &Program, number: usize, net: &mut Net) -> Result<Self, String> {
        if let Err(error) = Command::new("wg").arg("--version").stdout(Stdio::null()).status() {
            return Err(format!("wg(8): {error}"));
        }
        let path = program.path()?;
        println!("# {} {}", program.name, program.version());
        let hosts = ["a", "b"].map(|side| net.host(&format!("{}-{side}", program.name)));
        // The machine's, since their sockets are.
        let interfaces = ["a", "b"].map(|side| format!("wg{number}{side}{}", std::process::id()));
        let processes = [0, 1].map(|side| {
            hosts[side].start(program.name, &path, |command| {
                command.args(program.arguments).arg(&interfaces[side]);
                if matches!(program.source, Source::Crate { .. }) {
                    command.arg("--log").arg(hosts[side].folder.join("own.log"));
                }
                // It would rather not, where the kernel can do it.
                command.env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1");
            })
        });
        for interface in &interfaces {
            until(s(20), "the socket of a WireGuard", || UnixStream::connect(socket(interface)).ok());
        }
        let tunnel = Self {
            name: program.name,
            interfaces,
            address: format!("10.77.{number}.2"),
            hosts,
            _processes: processes,
        };
        tunnel.configure(number);
        Ok(tunnel)
    }

    fn configure(&self, number: usize) {
        let files = self.hosts.each_ref().map(|host| host.folder.join("private-key"));
        let keys = files.each_ref().map(|file| key(file));
        for (side, host) in self.hosts.iter().enumerate() {
            let other = 1 - side;
            let interface = &self.interfaces[side];
            let mut set = host.command(s(10), "wg");
            set.args(["set", interface, "private-key"]).arg(&files[side]);
            set.args(["listen-port", "51820", "peer", &keys[other]]);
            set.args(["allowed-ips", &format!("10.77.{number}.0/24")]);
            set.args(["endpoint", &format!("{}:51820", self.hosts[other].v4)]).succeed();
            host.ip(&format!("link set {interface} mtu {MTU} up"));
            host.ip(&format!("address add 10.77.{number}.{}/24 dev {interface}", side + 1));
        }
    }
}

/// Makes a private key in a file, and says the public one.
fn key(file: &Path) -> String {
    let script = "umask 077; wg genkey > \"$1\" && wg pubkey < \"$1\"";
    Command::new("sh").args(["-c", script, "sh"]).arg(file).succeed().trim().to_owned()
}

fn socket(interface: &str) -> PathBuf {
    Path::new(SOCKETS).join(format!("{interface}.sock"))
}

impl Tunnel for WireGuard {
    fn name(&self) -> &'static str {
        self.name
    }

    fn hosts(&self) -> [&Host; 2] {
        self.hosts.each_ref()
    }

    fn address(&self) -> String {
        self.address.clone()
    }

    fn interfaces(&self) -> [String; 2] {
        self.interfaces.clone()
    }

    fn ready(&self) {
        self.hosts[0].pings_soon(s(20), &self.address);
    }
}

impl Drop for WireGuard {
    fn drop(&mut self) {
        for interface in &self.interfaces {
            drop(fs::remove_file(socket(interface)));
        }
    }
}
