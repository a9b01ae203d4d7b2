//! The time client's process: it asks the named servers, and answers PID 1 in messages of one fixed size.

use std::os::fd::AsRawFd as _;
use std::process::ExitCode;

use anyhow::Context as _;
use nix::sys::socket::{MsgFlags, send};
use rustls::RootCertStore;

use super::trace;
use crate::confine::{self, Kernel, Profile, Reach};
use crate::time::{self, Client, Handover, NTP_PORT};
use crate::{handover, sys};

pub(super) fn run() -> anyhow::Result<ExitCode> {
    trace();
    let told: Handover = handover::read().context("handover")?;
    let report = sys::inherited(handover::REPORT).context("report")?;
    // Nothing in the document adds a root: who can name a server cannot also say who may vouch for it.
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    reach(&told).enter(Kernel::Pinned)?;
    let client = Client::new(&told, roots)?;
    sys::give_back_pages().context("pages to give back")?;
    // Before the first byte of a server.
    confine::enter(Profile::Time)?;
    match time::run(client, |agreed| {
        send(report.as_raw_fd(), &agreed.encode(), MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    })? {}
}

/// The named servers' ports, on whatever hosts the egress lock leaves: no file, and nothing to listen on.
fn reach(told: &Handover) -> Reach {
    let ports = told.servers.iter().map(|server| server.address.port());
    ports.fold(Reach::nothing().bind_udp(0).send_udp(NTP_PORT), Reach::connect_tcp)
}
