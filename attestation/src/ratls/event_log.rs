//! RTMR3's runtime events out of a log that may hold the firmware's, too.

use casemate_measure::EventLog;
use casemate_measure::log::{self, Log};
use casemate_measure::tdx::{EventType, Rtmr};

use crate::error::EvidenceError;

const WHAT: &str = "event log";

/// Reads an event log in whatever form it comes.
pub(crate) fn read(bytes: &[u8]) -> Result<Log, EvidenceError> {
    log::read(WHAT, bytes).map_err(|error| match error.problem {
        log::Problem::TooLong { limit, found, .. } => EvidenceError::TooLarge { what: WHAT, limit, found },
        problem => EvidenceError::malformed(WHAT, "a CCEL, or JSON of dstack's", problem),
    })
}

/// RTMR3's events, in order. The digests in the log are never read: replay computes its own.
pub(crate) fn runtime(log: &Log) -> Result<EventLog, EvidenceError> {
    let events = log.events.iter().filter(|event| event.rtmr == Rtmr::Rtmr3).map(|event| {
        event.runtime().ok_or_else(|| {
            let place = format!("event log: {}: event_type", event.place);
            EvidenceError::malformed(place, EventType::DSTACK_RUNTIME.0.to_string(), event.event_type.0)
        })
    });
    Ok(EventLog::new(events.collect::<Result<_, _>>()?))
}

/// The firmware's part of a log, if it has one.
pub(crate) fn firmware(mut log: Log) -> Option<Log> {
    log.events.retain(|event| event.rtmr != Rtmr::Rtmr3);
    (!log.events.is_empty()).then_some(log)
}

#[cfg(test)]
mod tests {
    use casemate_measure::RuntimeEvent;

    use super::*;

    #[test]
    fn rtmr3_and_the_firmwares_part_are_told_apart() {
        let digest = "aa".repeat(48);
        let json = format!(
            r#"[{{"imr":0,"event_type":1,"digest":"{digest}","event":"","event_payload":""}},
            {{"imr":3,"event_type":134217729,"digest":"","event":"app-id","event_payload":"0102"}}]"#
        );
        let log = read(json.as_bytes()).unwrap();
        assert_eq!(runtime(&log).unwrap().events(), [RuntimeEvent::new("app-id", [1, 2])]);
        let firmware = firmware(log).unwrap();
        assert_eq!(firmware.events.iter().map(|event| event.rtmr).collect::<Vec<_>>(), [Rtmr::Rtmr0]);
    }

    #[test]
    fn bad_logs_are_refused_with_their_place() {
        let error = |json: &str| {
            let refused = read(json.as_bytes()).and_then(|log| runtime(&log));
            refused.unwrap_err().to_string()
        };
        assert!(error("5").starts_with("event log: expected a CCEL, or JSON of dstack's, found"));
        let digest = "aa".repeat(48);
        assert_eq!(
            error(&format!(
                r#"[{{"imr":3,"event_type":5,"digest":"{digest}","event":"","event_payload":""}}]"#
            )),
            "event log: event 0: event_type: expected 134217729, found 5"
        );
        let long = vec![b'['; (8 << 20) + 1];
        assert_eq!(
            read(&long).unwrap_err().to_string(),
            "event log: expected at most 8388608 bytes, found 8388609"
        );
    }
}
