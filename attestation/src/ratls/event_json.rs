//! The JSON event log of the older certificate form (dstack reference 4.3).

use casemate_measure::event::RUNTIME_EVENT_TYPE;
use casemate_measure::{EventLog, RuntimeEvent};
use serde::Deserialize;

use super::MAX_ATTESTATION;
use crate::error::EvidenceError;

#[derive(Deserialize)]
struct JsonEvent {
    imr: u32,
    event_type: u32,
    event: String,
    event_payload: String,
    /// Absent or 1: the only form whose digest this version computes.
    version: Option<u32>,
}

/// RTMR3's runtime events, in order. The digests in the log are never read: replay computes its own.
pub(super) fn decode(json: &[u8]) -> Result<EventLog, EvidenceError> {
    const WHAT: &str = "event log";
    if json.len() > MAX_ATTESTATION {
        return Err(EvidenceError::TooLarge { what: WHAT, limit: MAX_ATTESTATION, found: json.len() });
    }
    let events: Vec<JsonEvent> = serde_json::from_slice(json)
        .map_err(|error| EvidenceError::malformed(WHAT, "a JSON array of events", error))?;
    let runtime = events.into_iter().enumerate().filter(|(_, event)| event.imr == 3).map(|(index, event)| {
        if event.event_type != RUNTIME_EVENT_TYPE {
            return Err(EvidenceError::malformed(
                format!("event log: [{index}].event_type"),
                RUNTIME_EVENT_TYPE.to_string(),
                event.event_type,
            ));
        }
        if let Some(version @ (0 | 2..)) = event.version {
            return Err(EvidenceError::NotImplemented {
                what: format!("event log: [{index}].version {version}"),
            });
        }
        let payload = hex::decode(&event.event_payload).map_err(|error| {
            EvidenceError::malformed(format!("event log: [{index}].event_payload"), "hex digits", error)
        })?;
        Ok(RuntimeEvent::new(event.event, payload))
    });
    Ok(EventLog::new(runtime.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_rtmr3_only() {
        let json = br#"[{"imr":0,"event_type":1,"digest":"aa","event":"","event_payload":"zz"},
            {"imr":3,"event_type":134217729,"digest":"","event":"app-id","event_payload":"0102"}]"#;
        assert_eq!(decode(json).unwrap().events(), [RuntimeEvent::new("app-id", [1, 2])]);
    }

    #[test]
    fn bad_logs_are_refused_with_their_place() {
        let error = |json: &str| decode(json.as_bytes()).unwrap_err().to_string();
        assert!(error("{}").starts_with("event log: expected a JSON array of events, found"));
        assert_eq!(
            error(r#"[{"imr":3,"event_type":5,"event":"","event_payload":""}]"#),
            "event log: [0].event_type: expected 134217729, found 5"
        );
        assert!(
            error(r#"[{"imr":3,"event_type":134217729,"event":"","event_payload":"0"}]"#)
                .starts_with("event log: [0].event_payload: expected hex digits")
        );
        assert_eq!(
            error(r#"[{"imr":3,"event_type":134217729,"event":"","event_payload":"","version":2}]"#),
            "not implemented in this version: event log: [0].version 2"
        );
    }
}
