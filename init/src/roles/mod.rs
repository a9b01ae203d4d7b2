//! The guest's other processes: this same binary, executed again under another name.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::process::ExitCode;

use serde::{Deserialize, Serialize};

use crate::confine::{self, Profile};
use crate::handover;
use crate::sys;

mod agent;
mod dhcp;
mod mesh;
mod service;
mod share;
mod time;

pub use service::ServiceHandover;

/// `argv[0]` of the guest agent.
pub const AGENT: &CStr = c"casemate-agent";
/// `argv[0]` of the mesh proxy.
pub const MESH: &CStr = c"casemate-mesh";
/// `argv[0]` of the DHCP client.
pub const DHCP: &CStr = c"casemate-dhcp";
/// `argv[0]` of the time client.
pub const TIME: &CStr = c"casemate-time";
/// `argv[0]` of the first process of a service's namespaces.
pub const SERVICE: &CStr = c"casemate-service";

/// `argv[0]` of the process that reads the host share.
pub const SHARE: &CStr = c"casemate-share";

/// What PID 1 tells the process that reads the host share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareHandover {
    /// The disks' names, in the order of their descriptors: for errors.
    pub devices: Vec<String>,
}

/// What PID 1 tells the DHCP client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DhcpHandover {
    /// The link's hardware address.
    pub mac: [u8; 6],
}

/// Runs a role; `None` if the name is none.
pub fn run(name: &[u8]) -> Option<ExitCode> {
    let role: fn() -> anyhow::Result<ExitCode> = match name {
        name if name == AGENT.to_bytes() => agent::run,
        name if name == MESH.to_bytes() => mesh::run,
        name if name == DHCP.to_bytes() => dhcp::run,
        name if name == TIME.to_bytes() => time::run,
        name if name == SERVICE.to_bytes() => service::run,
        name if name == SHARE.to_bytes() => share::run,
        _ => return None,
    };
    let code = role().unwrap_or_else(|error| {
        // Standard error is PID 1's pipe.
        drop(writeln!(io::stderr(), "{error:#}"));
        ExitCode::FAILURE
    });
    Some(code)
}

/// The last step of a start: from here on only the profile's system calls, and PID 1 is told. A process that cannot be
/// confined, or cannot say so, ends.
fn ready(profile: Profile) {
    let done = confine::enter(profile).map_err(anyhow::Error::from).and_then(|()| Ok(report_ready()?));
    if let Err(error) = done {
        tracing::error!(error = format!("{error:#}"), "not ready");
        #[expect(
            clippy::exit,
            reason = "the callers that call this have no way to fail; there is nothing to unwind"
        )]
        std::process::exit(1);
    }
}

/// Tells PID 1 that this process is ready: one byte on the report descriptor, which closes. What only its start needed is
/// given back.
fn report_ready() -> io::Result<()> {
    sys::give_back_startup_pages()?;
    File::from(sys::inherited(handover::REPORT)?).write_all(b"R")
}

/// Plain lines on standard error: PID 1 adds the name, and there is no clock worth printing.
fn trace() {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_max_level(tracing::Level::INFO)
        .init();
}
