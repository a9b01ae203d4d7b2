//! The event log as dstack's API shows it (dstack `cc-eventlog/src/tdx.rs`, 0.5.x).

use casemate_measure::EventLog;
use casemate_measure::event::RUNTIME_EVENT_TYPE;
use serde::Serialize;

/// One event of RTMR3. The simulated TEE has no log for RTMR0 to RTMR2, and a TDX log of theirs comes with that backend.
#[derive(Debug, Serialize)]
pub(crate) struct ApiEvent<'a> {
    imr: u32,
    event_type: u32,
    digest: String,
    event: &'a str,
    #[serde(serialize_with = "hex::serde::serialize")]
    event_payload: &'a [u8],
}

/// Whether events carry their digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Digests {
    /// `GetQuote` since 0.5.6: empty, so that nobody replays a digest that the payload does not make.
    Stripped,
    /// `Info`.
    Present,
}

/// The log in that form.
pub(crate) fn api_events(log: &EventLog, digests: Digests) -> Vec<ApiEvent<'_>> {
    let shown = |event: &casemate_measure::RuntimeEvent| match digests {
        Digests::Stripped => String::new(),
        Digests::Present => event.digest().to_string(),
    };
    log.events()
        .iter()
        .map(|event| ApiEvent {
            imr: 3,
            event_type: RUNTIME_EVENT_TYPE,
            digest: shown(event),
            event: &event.event,
            event_payload: &event.payload,
        })
        .collect()
}
