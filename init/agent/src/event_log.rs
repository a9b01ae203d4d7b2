//! The event log as dstack's API shows it (dstack `cc-eventlog/src/tdx.rs`, 0.5.x).

use casemate_measure::EventLog;
use casemate_measure::event::RUNTIME_EVENT_TYPE;
use serde::Serialize;

use crate::tdx::BootEvent;

/// One event: of the firmware, RTMR0 to RTMR2, without a name; or of PID 1, RTMR3.
#[derive(Debug, Serialize)]
pub(crate) struct ApiEvent<'a> {
    imr: u8,
    event_type: u32,
    digest: String,
    event: &'a str,
    #[serde(serialize_with = "hex::serde::serialize")]
    event_payload: &'a [u8],
}

/// How much of the events is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `GetQuote` since 0.5.6: of the firmware's events only the digest, as nothing binds their data; of PID 1's no digest,
    /// so that nobody replays one that the payload does not make.
    Stripped,
    /// `Info`.
    Whole,
}

/// The log in that form, the firmware's events first.
pub(crate) fn api_events<'a>(boot: &'a [BootEvent], log: &'a EventLog, form: Form) -> Vec<ApiEvent<'a>> {
    let whole = form == Form::Whole;
    let firmware = boot.iter().map(|event| ApiEvent {
        imr: event.rtmr,
        event_type: event.event_type,
        digest: event.digest.to_string(),
        event: "",
        event_payload: if whole { &event.payload } else { &[] },
    });
    let ours = log.events().iter().map(|event| ApiEvent {
        imr: 3,
        event_type: RUNTIME_EVENT_TYPE,
        digest: if whole { event.digest().to_string() } else { String::new() },
        event: &event.event,
        event_payload: &event.payload,
    });
    firmware.chain(ours).collect()
}
