//! The VPN process.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufReader;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use casemate_vpn::parent::network::NAMES_V4;
use casemate_vpn::parent::{Config, Handover, Requests};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::{report_ready_and_beat, trace};
use crate::confine::{self, Kernel, Profile, Reach};
use crate::layout::AGENT_SOCKET_DIRECTORY;
use crate::{handover, sys};

/// More than any node has: six DNS sockets and queues.
const MAX_DESCRIPTORS: usize = 64;

/// What the VPN process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VpnHandover {
    /// Whether PID 1 is the parent: then the process confines itself.
    pub guest: bool,
    /// Which TCP ports relays may have; nothing, if PID 1 is not the parent.
    pub relay_ports: Vec<u16>,
    /// What the node is to do.
    pub node: Config,
}

/// Names (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    trace();
    let told: VpnHandover = handover::read().context("handover")?;
    // A parent that was killed takes the node along: its TUN would go on without anybody who sets addresses.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("the parent's end")?;
    nix::sys::prctl::set_dumpable(false).context("memory")?;
    let report = sys::inherited(handover::REPORT).context("report")?;
    // One that was killed before sends no signal; its end of the way to it is closed.
    ensure!(!is_hung_up(&report).context("report")?, "the parent is gone");
    let guest = told.guest;
    let mut handover = take(told.node, report.try_clone().context("report")?)?;
    if guest {
        // By itself: the lock knows who asks and answers by who made a socket.
        if handover.config.dns.listen {
            handover.dns.push(names().context("names")?);
        }
        reach(&handover.config, &told.relay_ports)?.enter(Kernel::Pinned)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let Err(error) = runtime.block_on(casemate_vpn::node::run(handover, move || {
        let confined = if guest { confine::enter(Profile::Vpn) } else { Ok(()) };
        let done =
            confined.map_err(anyhow::Error::from).and_then(|()| Ok(report_ready_and_beat(report.into())?));
        if let Err(error) = done {
            tracing::error!(error = format!("{error:#}"), "not ready");
            #[expect(
                clippy::exit,
                reason = "a process that cannot be confined ends; there is nothing to unwind"
            )]
            std::process::exit(1);
        }
    }));
    // What still asks the parent is not waited for.
    runtime.shutdown_background();
    Err(error.into())
}

/// Whether nobody has the other end.
fn is_hung_up(socket: impl AsFd) -> nix::Result<bool> {
    // What is not asked for and said all the same: poll(2), `POLLHUP`.
    let mut watched = [PollFd::new(socket.as_fd(), PollFlags::empty())];
    poll(&mut watched, PollTimeout::ZERO)?;
    Ok(watched.iter().filter_map(PollFd::revents).any(|found| found.contains(PollFlags::POLLHUP)))
}

/// Where names are asked for, opened by this process.
fn names() -> std::io::Result<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind((NAMES_V4, DNS_PORT))?;
    let tcp = TcpListener::bind((NAMES_V4, DNS_PORT))?;
    udp.set_nonblocking(true)?;
    tcp.set_nonblocking(true)?;
    Ok((udp, tcp))
}

/// The agent, the login server, relays, resolvers, other nodes' names; peers have any UDP port. Relays at other ports than the document's
/// are out of reach, here as behind the egress lock.
fn reach(config: &Config, relay_ports: &[u16]) -> anyhow::Result<Reach> {
    Ok(tcp_ports(config, relay_ports)
        .context("login server: a port")?
        .into_iter()
        .fold(Reach::nothing().call(AGENT_SOCKET_DIRECTORY), Reach::connect_tcp)
        .bind_udp(config.port)
        .bind_udp(0)
        .send_udp_anywhere())
}

/// Each once.
fn tcp_ports(config: &Config, relay_ports: &[u16]) -> Option<BTreeSet<u16>> {
    let resolvers = config.dns.authenticated.iter().map(|resolver| resolver.address.port());
    let others = [login_port(&config.login_server.url)?, DNS_PORT];
    Some(relay_ports.iter().copied().chain(resolvers).chain(others).collect())
}

/// The port of a URL that the document's reader took.
pub(crate) fn login_port(url: &str) -> Option<u16> {
    let (default, rest) = match url.strip_prefix("https://") {
        Some(rest) => (443, rest),
        None => (80, url.strip_prefix("http://")?),
    };
    let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
    match authority.rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse().ok(),
        _ => Some(default),
    }
}

/// The descriptors, in the order that [`casemate_vpn::parent::Descriptors`] gives.
fn take(config: Config, report: std::os::fd::OwnedFd) -> anyhow::Result<Handover> {
    let mut numbers = handover::FIRST_EXTRA..;
    let mut next = |what: &str| {
        let number = numbers.next().context("descriptors")?;
        sys::inherited(number).with_context(|| format!("descriptor: {what}"))
    };
    let what = config.descriptors.clone();
    if what.queues.saturating_add(what.dns.len()).saturating_add(what.udp) > MAX_DESCRIPTORS {
        bail!("descriptors: expected at most {MAX_DESCRIPTORS}, found {what:?}");
    }
    let state = next("state")?;
    let status = if what.status { Some(UnixListener::from(next("status socket")?)) } else { None };
    let mut udp = Vec::new();
    for _ in 0..what.udp {
        udp.push(UdpSocket::from(next("UDP")?));
    }
    let mut dns = Vec::new();
    for _ in &what.dns {
        dns.push((UdpSocket::from(next("DNS over UDP")?), TcpListener::from(next("DNS over TCP")?)));
    }
    let mut tun = Vec::new();
    for _ in 0..what.queues {
        tun.push(next("TUN queue")?);
    }
    let registration = if what.registration {
        let file = File::from(next("registration")?);
        Some(serde_json::from_reader(BufReader::new(file)).context("registration")?)
    } else {
        None
    };
    Ok(Handover { config, state, requests: Requests::new(report), status, udp, dns, tun, registration })
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use serde_json::json;

    use super::{is_hung_up, login_port, tcp_ports};

    #[test]
    fn a_parent_that_is_gone_is_noticed_by_its_end_of_the_socket() {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        assert!(!is_hung_up(&ours).unwrap());
        drop(theirs);
        assert!(is_hung_up(&ours).unwrap());
    }

    #[test]
    fn only_the_documents_ports_are_connected_to() {
        let config = |url: &str, resolvers: serde_json::Value| {
            let dns = json!({
                "listen": true, "resolvers": [], "internal_only": true, "allowlist": [], "authenticated": resolvers
            });
            serde_json::from_value(json!({
                "login_server": { "url": url, "noise_key": null, "authkey": null, "plain_http": false },
                "hostname": "a", "prefixes": [], "derp_pins": {}, "require_policy": true, "expected_tag": null,
                "interface": "tailnet0", "port": 1, "mtu": 1280, "ipv6": false, "dns": dns, "roots": null,
                "keys": { "from": "random" }, "debug_use_derp_http": false,
                "descriptors": { "status": false, "udp": 0, "dns": [], "queues": 1 },
            }))
            .unwrap()
        };
        let ports = |url, resolvers, relays: &[u16]| {
            tcp_ports(&config(url, resolvers), relays).unwrap().into_iter().collect::<Vec<_>>()
        };
        assert_eq!(ports("https://192.0.2.1", json!([]), &[443]), [53, 443]);
        assert_eq!(ports("https://192.0.2.1:8443", json!([]), &[]), [53, 8443]);
        let quad9 = json!([{ "address": "9.9.9.9:853", "name": "dns.quad9.net" }]);
        assert_eq!(ports("https://hs.example:8443", quad9, &[443, 3340]), [53, 443, 853, 3340, 8443]);
    }

    #[test]
    fn the_port_of_a_login_server() {
        for (url, port) in [
            ("https://192.0.2.1", Some(443)),
            ("https://192.0.2.1:8443/", Some(8443)),
            ("http://192.0.2.1", Some(80)),
            ("http://192.0.2.1:8080", Some(8080)),
            ("https://[2001:db8::1]", Some(443)),
            ("https://headscale.example.com", Some(443)),
            ("https://headscale.example.com:8443", Some(8443)),
            ("ftp://192.0.2.1", None),
        ] {
            assert_eq!(login_port(url), port, "{url}");
        }
    }
}
