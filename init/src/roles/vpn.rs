//! The VPN process.

use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use casemate_vpn::parent::{Config, Handover, Requests};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::{report_ready_and_beat, trace};
use crate::{handover, sys};

/// More than any node has: six DNS sockets and queues.
const MAX_DESCRIPTORS: usize = 64;

/// What the VPN process is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VpnHandover {
    /// Whether PID 1 is the parent: then the process confines itself.
    pub guest: bool,
    /// What the node is to do.
    pub node: Config,
}

pub(super) fn run() -> anyhow::Result<ExitCode> {
    trace();
    let told: VpnHandover = handover::read().context("handover")?;
    // A parent that was killed takes the node along: its TUN would go on without anybody who sets addresses.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("the parent's end")?;
    nix::sys::prctl::set_dumpable(false).context("memory")?;
    let report = sys::inherited(handover::REPORT).context("report")?;
    let handover = take(told.node, report.try_clone().context("report")?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let Err(error) = runtime.block_on(casemate_vpn::node::run(handover, move || {
        if let Err(error) = report_ready_and_beat(report.into()) {
            tracing::error!(%error, "could not report readiness");
        }
    }));
    Err(error.into())
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
    Ok(Handover { config, state, requests: Requests::new(report), status, udp, dns, tun })
}
