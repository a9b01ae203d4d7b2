//! The TEE as the agent sees it.

use std::fmt;

use casemate_measure::{EventLog, LaunchRegisters, Register};

use crate::handover::TeeHandover;
use crate::tdx::{BootEvent, Device, Paths, TdxError, TdxTee};

/// Which TEE it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TeeKind {
    /// Intel TDX.
    Tdx,
    /// The simulated TEE of the development image: its keys are published, its evidence proves nothing.
    #[cfg(feature = "simulator")]
    Simulator,
}

/// Registers and quotes.
pub trait Tee: fmt::Debug + Send + Sync {
    /// Which TEE it is.
    fn kind(&self) -> TeeKind;

    /// What the VM showed at launch.
    fn launch(&self) -> LaunchRegisters;

    /// What the host said of the VM's owner at launch.
    fn owner(&self) -> Owner {
        Owner::ZERO
    }

    /// RTMR3 at the end of the boot. PID 1 extends it before the agent starts, and nobody does afterwards.
    fn rtmr3(&self) -> Register;

    /// The firmware's events, which replay to RTMR0, RTMR1 and RTMR2; empty if nobody kept them.
    fn boot_events(&self) -> &[BootEvent] {
        &[]
    }

    /// A TDX quote over the registers and these 64 bytes. On hardware it takes a second or more, 30 at most for the
    /// kernel alone, and only one is made at a time.
    ///
    /// # Errors
    /// If the TEE does not answer, or its quote is not over these bytes and registers.
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, TeeError>;
}

/// MROWNER and MROWNERCONFIG.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// MROWNER.
    pub id: Register,
    /// MROWNERCONFIG.
    pub config: Register,
}

impl Owner {
    /// Nobody said anything.
    pub const ZERO: Self = Self { id: Register::ZERO, config: Register::ZERO };
}

/// Why the TEE did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TeeError {
    /// RTMR3 is not what the event log replays to: then no verifier would believe the log.
    #[error("RTMR3: expected {expected} by replay of the event log, found {found}")]
    Replay {
        /// By replay.
        expected: Register,
        /// In the register.
        found: Register,
    },
    /// TDX.
    #[error(transparent)]
    Tdx(#[from] TdxError),
    /// A built-in key or certificate of the simulator cannot be used.
    #[cfg(feature = "simulator")]
    #[error("simulated TEE: {0}")]
    Simulator(&'static str),
}

impl TeeHandover {
    /// Opens the TEE of a boot that extended these events. A real TEE has them in its register already; the simulated
    /// one, which lives in each process anew, gets there by extending.
    ///
    /// # Errors
    /// If the TEE cannot be used.
    #[cfg_attr(
        not(feature = "simulator"),
        expect(unused_variables, reason = "only the simulated TEE needs the events")
    )]
    pub fn open(&self, events: &EventLog) -> Result<Box<dyn Tee>, TeeError> {
        match self {
            Self::Tdx { root, boot_log } => {
                let device = Device::new(Paths::under(root));
                Ok(Box::new(TdxTee::open(device, boot_log)?))
            }
            #[cfg(feature = "simulator")]
            Self::Simulator { launch } => {
                let mut tee = crate::simulator::SimulatedTee::new(*launch)?;
                events.events().iter().for_each(|event| tee.extend(&event.digest()));
                Ok(Box::new(tee))
            }
        }
    }
}
