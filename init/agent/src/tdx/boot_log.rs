//! The firmware's event log, CCEL, as this machine may have one: `casemate_measure` reads it, and here it must replay to the
//! registers.

use casemate_measure::log::ccel;
use casemate_measure::tdx::Rtmr;
use casemate_measure::{LaunchRegisters, Register};

use super::error::TdxError;

pub use ccel::MAX_BYTES as BOOT_LOG_MAX;

/// One event of RTMR0 to RTMR2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootEvent {
    /// 0 to 2.
    pub rtmr: u8,
    /// TCG event type.
    pub event_type: u32,
    /// What was extended.
    pub digest: Register,
    /// The event's data; nothing says that the digest is theirs.
    pub payload: Vec<u8>,
}

/// Reads a log and compares its replay with the registers. An empty log is none.
///
/// # Errors
/// Another format, no SHA-384 digests, an event of another register than RTMR0 to RTMR2, a length that leads out of the log,
/// or another replay.
pub(super) fn read(log: &[u8], launch: &LaunchRegisters) -> Result<Vec<BootEvent>, TdxError> {
    if log.is_empty() {
        return Ok(Vec::new());
    }
    let events = boot_events(log)?;
    let replayed = events.iter().fold([Register::ZERO; 3], |mut registers, event| {
        if let Some(register) = registers.get_mut(usize::from(event.rtmr)) {
            *register = register.extended(&event.digest);
        }
        registers
    });
    let found = [("RTMR0", launch.rtmr0), ("RTMR1", launch.rtmr1), ("RTMR2", launch.rtmr2)];
    for (replayed, (name, register)) in replayed.iter().zip(found) {
        if *replayed != register {
            let what = format!("CCEL: {name} by replay");
            return Err(TdxError::unexpected(what, register, replayed));
        }
    }
    Ok(events)
}

/// Reads a log's events, whatever they replay to. Stricter than a log may be: index 0 is MRTD, which nothing extends after
/// launch; 4 is RTMR3, which nothing extends before us.
///
/// # Errors
/// Another format, no SHA-384 digests, an event of another register, a length that leads out of the log.
pub fn boot_events(log: &[u8]) -> Result<Vec<BootEvent>, TdxError> {
    let mut events = Vec::new();
    for record in ccel::records(log)? {
        if !record.extends() {
            continue;
        }
        let rtmr = record.index.checked_sub(1).and_then(Rtmr::from_index);
        let Some(rtmr @ (Rtmr::Rtmr0 | Rtmr::Rtmr1 | Rtmr::Rtmr2)) = rtmr else {
            return Err(record.wrong_index("1 to 3 (RTMR0 to RTMR2)").into());
        };
        events.push(BootEvent {
            rtmr: rtmr.index(),
            event_type: record.event_type,
            digest: record.digest,
            payload: record.data.to_vec(),
        });
    }
    Ok(events)
}
