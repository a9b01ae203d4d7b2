//! The TEE as PID 1 uses it: registers, extending, and the agent's way to quotes.

use casemate_agent::TeeHandover;
use casemate_agent::tdx::Paths;
use casemate_measure::{LaunchRegisters, MrConfigId, Register};
use casemate_mesh::Trust;

use crate::boot::Failure;

mod access;
#[cfg(feature = "dev")]
mod simulated;
mod tdx;
#[cfg(test)]
mod tests;

/// The TEE of this machine. The production binary knows hardware only.
#[derive(Debug)]
pub(super) enum GuestTee {
    /// Intel TDX.
    Tdx(tdx::TdxGuest),
    /// The simulated TEE of the development image.
    #[cfg(feature = "dev")]
    Simulated(simulated::SimulatedGuest),
}

impl GuestTee {
    /// The hardware; without it a development image simulates one, and a production image has none.
    pub(super) fn find() -> Result<Self, Failure> {
        match tdx::TdxGuest::find(Paths::under("/"))? {
            Some(tdx) => Ok(Self::Tdx(tdx)),
            None => Self::without_hardware(),
        }
    }

    #[cfg(feature = "dev")]
    fn without_hardware() -> Result<Self, Failure> {
        simulated::SimulatedGuest::find().map(Self::Simulated)
    }

    #[cfg(not(feature = "dev"))]
    fn without_hardware() -> Result<Self, Failure> {
        Err(Failure::new(casemate_measure::status::Reason::NoTee, "no TDX: there is no /dev/tdx_guest"))
    }

    /// Extends RTMR3.
    pub(super) fn extend(&mut self, digest: &Register) -> Result<(), Failure> {
        match self {
            Self::Tdx(tdx) => tdx.extend(digest),
            #[cfg(feature = "dev")]
            Self::Simulated(_) => Ok(()),
        }
    }

    /// MRCONFIGID.
    pub(super) const fn mr_config_id(&self) -> MrConfigId {
        self.launch().mrconfigid
    }

    /// The registers at launch.
    pub(super) const fn launch(&self) -> LaunchRegisters {
        match self {
            Self::Tdx(tdx) => tdx.launch(),
            #[cfg(feature = "dev")]
            Self::Simulated(simulated) => simulated.launch(),
        }
    }

    /// What the agent needs to quote.
    pub(super) fn handover(&self) -> Result<TeeHandover, Failure> {
        match self {
            Self::Tdx(tdx) => tdx.handover(),
            #[cfg(feature = "dev")]
            Self::Simulated(simulated) => Ok(TeeHandover::Simulator { launch: simulated.launch() }),
        }
    }

    /// Whose root the mesh trusts: the simulator's exactly when our own TEE is one.
    pub(super) const fn trust(&self) -> Trust {
        match self {
            Self::Tdx(_) => Trust::Intel,
            #[cfg(feature = "dev")]
            Self::Simulated(_) => Trust::Simulator,
        }
    }

    /// `tee` and `trust` of the status document.
    pub(super) const fn words(&self) -> (&'static str, &'static str) {
        match self {
            Self::Tdx(_) => ("tdx", "intel"),
            #[cfg(feature = "dev")]
            Self::Simulated(_) => ("simulator", "simulator"),
        }
    }
}
