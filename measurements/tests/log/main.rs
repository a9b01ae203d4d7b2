//! Event logs: every form, their replay, and their comparison with what is expected.
#![expect(clippy::unwrap_used, reason = "a test that cannot make its input has failed")]

mod compare;
mod forms;
mod hostile;
mod replays;
mod rtmr3;

use casemate_measure::Register;
use casemate_measure::log::{self, Log};
use casemate_measure::tdx::{Digest, Event, Expected, Rtmr};
use serde_json::{Value, json};

/// As the kernel shows it, less the padding.
const CCEL: &[u8] = include_bytes!("../fixtures/ccel.bin");
/// Bytes of a CCEL's first event, which says the format.
const CCEL_HEADER: usize = 65;

/// A dstack VM's quote and log.
fn report() -> Value {
    serde_json::from_str(include_str!("../fixtures/dstack_quote_report.json")).unwrap()
}

/// The registers in its quote (dstack reference, appendix A).
const REAL: [&str; 5] = [
    "b24d3b24e9e3c16012376b52362ca09856c4adecb709d5fac33addf1c47e193da075b125b6c364115771390a5461e217",
    "2e3843265f8ecdd4e2282694747f6f2f111605c33f2a8882f5734ee6f3a6ce63d8f34aeef06093dcda76fa5f9d33d8d6",
    "a1b79d76021970f57c45c4a7c395f780bab37011a4df27fe44e8559bd1abb4d6e52f12f866d1d08405448eb797a5970f",
    "1e31b59d605df7ee8160cf7966be9bafa6d0e1905de7e09695a24cd9748e71a603a51fae1297619fa0c30517addbcd07",
    "0f787c3877f3e95095d5a4d13dd0fe0233803b30120d8469866719dc28f519ce021fe1e53459121e7a5a4443147185a8",
];

fn real(register: usize) -> Register {
    Register::from_hex(REAL[register]).unwrap()
}

fn events(report: &mut Value) -> &mut Vec<Value> {
    report["event_log"].as_array_mut().unwrap()
}

/// As `GetQuote` answers since 0.5.6.
fn stripped(mut report: Value) -> Value {
    for event in events(&mut report) {
        let field = if event["imr"] == 3 { "digest" } else { "event_payload" };
        event[field] = json!("");
    }
    report
}

fn read(value: &Value) -> Log {
    log::read("FILE", value.to_string().as_bytes()).unwrap()
}

fn refused(bytes: impl AsRef<[u8]>) -> String {
    log::read("FILE", bytes.as_ref()).unwrap_err().to_string()
}

/// One hex digit changed in its lowest bit.
fn flipped(digits: &str, at: usize) -> String {
    let mut bytes = hex::decode(digits).unwrap();
    bytes[at] ^= 1;
    hex::encode(bytes)
}

/// What the real machine should show, taken from its own log: for tests only.
fn expected() -> Expected {
    let log = read(&report());
    let replay = log::replay(&log);
    let event = |(number, event): (usize, &log::replay::Judged)| Event {
        rtmr: event.rtmr,
        event_type: event.event_type,
        name: event.name.clone().unwrap_or_else(|| format!("event {number}")),
        digest: Digest::Known(event.digest),
        origin: format!("the recorded event {number}"),
    };
    let expected = Expected {
        mrtd: real(0),
        mrconfigid: None,
        os_image_hash: None,
        mr_system: None,
        mr_aggregated: None,
        events: replay.events.iter().enumerate().map(event).collect(),
        alternatives: Vec::new(),
    };
    for (nth, rtmr) in Rtmr::ALL.into_iter().enumerate() {
        assert_eq!(expected.register(rtmr), Some(real(nth + 1)));
    }
    expected
}

/// A record of a CCEL with SHA-384 alone.
fn record(index: u32, event_type: u32, digest: &[u8; 48], data: &[u8]) -> Vec<u8> {
    let head = [index, event_type, 1].map(u32::to_le_bytes).concat();
    let length = u32::try_from(data.len()).unwrap().to_le_bytes();
    [&head[..], &[0x0c, 0], digest, &length, data].concat()
}
