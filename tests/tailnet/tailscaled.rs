//! The Go client.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;

use crate::built;
use crate::headscale::{CODES, Headscale};
use crate::net::{Host, Succeed as _};
use crate::peer::Path;
use crate::process::Process;
use crate::wait::{s, until};

/// A running `tailscaled`, joined or not.
#[derive(Debug)]
pub(crate) struct Tailscaled {
    pub(crate) host: Host,
    _process: Process,
    socket: PathBuf,
}

/// Its interface.
pub(crate) const INTERFACE: &str = "tailscale0";

impl Tailscaled {
    /// Starts one on a host, with the state that it left there, if any.
    pub(crate) fn start(host: &Host, server: &Headscale) -> Self {
        let socket = host.folder.join("tailscaled.sock");
        drop(std::fs::remove_file(&socket));
        let process = host.start("tailscaled", &built::tailscale().join("tailscaled"), |command| {
            command.arg("--statedir").arg(&host.folder).arg("--socket").arg(&socket);
            command.args(["--tun", INTERFACE, "--port", "41641", "--no-logs-no-support"]);
            if server.plain() {
                command.env("TS_DEBUG_USE_DERP_HTTP", "1");
            }
            if let Some(certificate) = &server.certificate {
                command.env("SSL_CERT_FILE", &certificate.roots);
            }
        });
        until(s(20), "tailscaled's socket", || std::os::unix::net::UnixStream::connect(&socket).ok());
        Self { host: host.clone(), _process: process, socket }
    }

    /// Joins; or what it says why not.
    pub(crate) fn up(&self, server: &Headscale, key: &str) -> Result<(), String> {
        self.up_at(&server.url(), key)
    }

    /// The same at another address of the server's.
    pub(crate) fn up_at(&self, url: &str, key: &str) -> Result<(), String> {
        let host = &self.host.name;
        let mut arguments = vec!["up", "--login-server", url, "--auth-key", key, "--hostname", host];
        arguments.extend(["--accept-dns=false", "--timeout", "20s"]);
        let output = self.cli(30, &arguments);
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn cli(&self, seconds: u64, arguments: &[&str]) -> Output {
        let mut command = self.host.command(s(seconds), built::tailscale().join("tailscale"));
        command.arg("--socket").arg(&self.socket).args(arguments).output().unwrap()
    }

    pub(crate) fn status(&self) -> Value {
        let mut command = self.host.command(s(10), built::tailscale().join("tailscale"));
        let said = command.arg("--socket").arg(&self.socket).args(["status", "--json"]).succeed();
        serde_json::from_str(&said).unwrap()
    }

    /// IPv4 and IPv6, in this order.
    pub(crate) fn addresses(&self) -> [String; 2] {
        let status = self.status();
        let address = |n: usize| status["Self"]["TailscaleIPs"][n].as_str().unwrap().to_owned();
        [address(0), address(1)]
    }

    /// The region of its relay, by its code.
    pub(crate) fn home(&self) -> Option<u16> {
        let status = self.status();
        let code = status["Self"]["Relay"].as_str()?;
        CODES.iter().find(|(known, _)| *known == code).map(|(_, region)| *region)
    }

    /// How it sends to whoever has this address, if it does.
    pub(crate) fn path_to(&self, address: &str) -> Option<Path> {
        let status = self.status();
        let peer = status["Peer"].as_object()?.values().find(|peer| peer["TailscaleIPs"][0] == address)?;
        match peer["CurAddr"].as_str() {
            Some(direct) if !direct.is_empty() => Some(Path::Direct(direct.parse::<SocketAddr>().unwrap())),
            _ if peer["Active"] == true && peer["RxBytes"].as_u64()? > 0 => Some(Path::Relayed),
            _ => None,
        }
    }
}
