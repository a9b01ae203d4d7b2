//! Quotes, and what a certificate carries of them.

use casemate_measure::EventLog;
use casemate_verify::ratls::{Attestation, report_data_for_key};

use crate::tee::{Tee, TeeError};

/// What the host said about the VM, dstack's `vm_config`. Nothing reaches this version: an empty object claims nothing.
pub(crate) const VM_CONFIG: &str = "{}";

/// The TEE and the log that leads to its RTMR3.
#[derive(Debug)]
pub(crate) struct Evidence {
    tee: Box<dyn Tee>,
    events: EventLog,
}

impl Evidence {
    /// # Errors
    /// [`TeeError::Replay`] if RTMR3 is not what the log replays to.
    pub(crate) fn new(tee: Box<dyn Tee>, events: EventLog) -> Result<Self, TeeError> {
        let (expected, found) = (events.replay(), tee.rtmr3());
        if expected != found {
            return Err(TeeError::Replay { expected, found });
        }
        Ok(Self { tee, events })
    }

    pub(crate) fn tee(&self) -> &dyn Tee {
        &*self.tee
    }

    pub(crate) const fn events(&self) -> &EventLog {
        &self.events
    }

    /// The attestation that speaks for a public key: version 0, stripped log.
    pub(crate) fn for_key(&self, spki_der: &[u8]) -> Result<Vec<u8>, TeeError> {
        let report_data = report_data_for_key(spki_der);
        let quote = self.tee.quote(&report_data)?;
        let attestation =
            Attestation { quote, events: self.events.clone(), report_data, config: VM_CONFIG.to_owned() };
        Ok(attestation.encode_v0())
    }
}
