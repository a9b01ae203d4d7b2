//! The TEE as the agent sees it.

use std::fmt;

use casemate_measure::{EventLog, LaunchRegisters, Register};

use crate::handover::TeeHandover;

/// Which TEE it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TeeKind {
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

    /// RTMR3 as it is now.
    fn rtmr3(&self) -> Register;

    /// Extends RTMR3. PID 1 does so during boot; the agent offers it to nobody.
    ///
    /// # Errors
    /// If the TEE refuses.
    fn extend(&mut self, digest: &Register) -> Result<(), TeeError>;

    /// A TDX quote (version 4) over the registers and these 64 bytes.
    ///
    /// # Errors
    /// If the TEE does not answer.
    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, TeeError>;
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
        expect(
            unused_variables,
            reason = "only the simulated TEE needs the events, and no other TEE is here yet"
        )
    )]
    pub fn open(&self, events: &EventLog) -> Result<Box<dyn Tee>, TeeError> {
        match *self {
            #[cfg(feature = "simulator")]
            Self::Simulator { launch } => {
                let mut tee = crate::simulator::SimulatedTee::new(launch)?;
                events.events().iter().try_for_each(|event| tee.extend(&event.digest()))?;
                Ok(Box::new(tee))
            }
        }
    }
}
