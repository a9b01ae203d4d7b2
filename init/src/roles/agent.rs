//! The guest agent's process.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use super::{report_ready, trace};
use crate::handover;
use crate::layout::AGENT_SOCKET;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    trace();
    let told: casemate_agent::Handover = handover::read().context("handover")?;
    casemate_agent::run(told, Path::new(AGENT_SOCKET), || {
        if let Err(error) = report_ready() {
            tracing::error!(%error, "could not report readiness");
        }
    })?;
    Ok(ExitCode::SUCCESS)
}
