//! TDX hardware.

use casemate_agent::TeeHandover;
use casemate_agent::tdx::{Device, Paths, Registers, TdxError};
use casemate_measure::status::Reason;
use casemate_measure::{LaunchRegisters, Register};

use super::access;
use crate::boot::Failure;
use crate::layout::AGENT_UID;

/// A TD, as PID 1 uses it.
#[derive(Debug)]
pub(in crate::guest) struct TdxGuest {
    device: Device,
    registers: Registers,
}

impl TdxGuest {
    /// Looks for the TDX guest driver's device; if it is there, the TEE must answer, and the agent gets its way to it.
    pub(super) fn find(paths: Paths) -> Result<Option<Self>, Failure> {
        if !paths.device().exists() {
            return Ok(None);
        }
        let tdx = Self::ask(Device::new(paths))?;
        let paths = tdx.device.paths();
        access::mount_configfs(paths)?;
        access::make_report(paths)?;
        access::grant(paths, AGENT_UID)?;
        tdx.device.check_provider().map_err(|error| silent(&error))?;
        Ok(Some(tdx))
    }

    /// A TEE that answers, whose registers agree wherever they are read, and whose RTMR3 nobody has touched.
    pub(super) fn ask(device: Device) -> Result<Self, Failure> {
        let registers = device.registers().map_err(|error| silent(&error))?;
        if registers.is_debug() && !cfg!(feature = "dev") {
            return Err(Failure::new(Reason::TeeDebug, "TD attributes: expected DEBUG clear, found it set"));
        }
        let launch = registers.launch;
        for (index, reported) in (0..).zip([launch.rtmr0, launch.rtmr1, launch.rtmr2, registers.rtmr3]) {
            let found = device.rtmr(index).map_err(|error| silent(&error))?;
            if found != reported {
                let text = format!("RTMR{index}: expected {reported} as the TDREPORT says, found {found}");
                return Err(Failure::new(Reason::TeeSilent, text));
            }
        }
        if !registers.rtmr3.is_zero() {
            let text = format!("RTMR3: expected zero before the first event, found {}", registers.rtmr3);
            return Err(Failure::new(Reason::TeeSilent, text));
        }
        Ok(Self { device, registers })
    }

    /// Extends RTMR3 and reads it back.
    pub(super) fn extend(&mut self, digest: &Register) -> Result<(), Failure> {
        let extended = self.device.extend_rtmr3(digest).map_err(|e| failure(Reason::ExtendFailed, &e))?;
        let expected = self.registers.rtmr3.extended(digest);
        if extended != expected {
            let text = format!("RTMR3: expected {expected}, found {extended}: somebody else extended it");
            return Err(Failure::new(Reason::ExtendFailed, text));
        }
        self.registers.rtmr3 = extended;
        Ok(())
    }

    pub(super) const fn launch(&self) -> LaunchRegisters {
        self.registers.launch
    }

    /// What the agent needs to quote. The firmware's log goes with it unread: only root may open it, and whoever wrote it
    /// shall not be parsed by PID 1.
    pub(super) fn handover(&self) -> Result<TeeHandover, Failure> {
        let boot_log = self.device.boot_log().map_err(|e| failure(Reason::AgentFailed, &e))?;
        Ok(TeeHandover::Tdx { root: self.device.paths().root().to_owned(), boot_log })
    }
}

fn silent(error: &TdxError) -> Failure {
    failure(Reason::TeeSilent, error)
}

fn failure(reason: Reason, error: &TdxError) -> Failure {
    let detail = error.errno().and_then(|errno| u64::try_from(errno).ok()).unwrap_or(0);
    Failure::new(reason, error.to_string()).numbered(detail)
}
