//! The DHCP client's process: it reads what the network sends, and answers PID 1 in messages of one fixed size.

use std::process::ExitCode;

use anyhow::Context as _;

use super::{DhcpHandover, trace};
use crate::confine::{self, Kernel, Profile, Reach};
use crate::{handover, net, sys};

pub(super) fn run() -> anyhow::Result<ExitCode> {
    trace();
    let told: DhcpHandover = handover::read().context("handover")?;
    let socket = sys::inherited(handover::FIRST_EXTRA).context("socket")?;
    let report = sys::inherited(handover::REPORT).context("report")?;
    let mut seed = [0; 32];
    sys::random(&mut seed, false).context("getrandom")?;
    sys::give_back_pages().context("pages to give back")?;
    Reach::nothing().send_udp(net::dhcp::SERVER_PORT).enter(Kernel::Pinned)?;
    confine::enter(Profile::Dhcp)?;
    match net::dhcp::child(socket, report, told.mac, seed)? {}
}
