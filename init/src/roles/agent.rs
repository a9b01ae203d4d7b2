//! The guest agent's process.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use super::{ready, trace};
use crate::confine::{Kernel, Profile, Reach};
use crate::handover;
use crate::layout::{AGENT_SOCKET, AGENT_SOCKET_DIRECTORY};

pub(super) fn run() -> anyhow::Result<ExitCode> {
    trace();
    let told: casemate_agent::Handover = handover::read().context("handover")?;
    let own = Reach::nothing().sockets_in(AGENT_SOCKET_DIRECTORY);
    told.tee.files().into_iter().fold(own, Reach::read_write).enter(Kernel::Pinned)?;
    casemate_agent::run(told, Path::new(AGENT_SOCKET), || ready(Profile::Agent))?;
    Ok(ExitCode::SUCCESS)
}
