//! Logs that somebody made to hurt: a named error or a log, never a panic.

use casemate_measure::log::diff::diff;
use proptest::prelude::*;

use super::*;

/// Reads, replays and compares; whatever comes of it is bounded by the bytes, and printable.
fn judge(bytes: &[u8]) {
    match log::read("FILE", bytes) {
        Ok(log) => {
            let payload: usize = log.events.iter().map(|event| event.payload.len()).sum();
            assert!(payload <= bytes.len());
            let replay = log::replay(&log);
            assert_eq!(replay.events.len(), log.events.len());
            let ok = replay.events.iter().filter(|event| event.is_ok()).count();
            assert!(ok == 0 || log.registers.is_some());
            let found = diff(&expected(), &log);
            serde_json::to_string(&(replay, found)).unwrap();
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("FILE: "), "{text:?}");
            assert!(text.len() < 2048 && !text.chars().any(char::is_control), "{text:?}");
        }
    }
}

/// Some bytes changed, cut out or put in.
fn mutated(seed: &[u8]) -> impl Strategy<Value = Vec<u8>> {
    let seed = seed.to_vec();
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..4_u8, 0..9_usize);
    prop::collection::vec(change, 1..5).prop_map(move |changes| {
        let mut bytes = seed.clone();
        for (at, byte, kind, length) in changes {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            let end = bytes.len().min(at + length);
            match kind {
                0 => bytes[at] = byte,
                1 => bytes[at] ^= 1 << (byte & 7),
                2 => drop(bytes.drain(at..end)),
                _ => drop(bytes.splice(at..at, vec![byte; length])),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        judge(&bytes);
    }

    #[test]
    fn a_ccel_with_changes(bytes in mutated(CCEL)) {
        judge(&bytes);
    }

    #[test]
    fn a_ccel_header_with_any_records(rest in prop::collection::vec(any::<u8>(), 0..512)) {
        judge(&[&CCEL[..CCEL_HEADER], &rest].concat());
    }

    #[test]
    fn records_that_name_any_length(index in 0..6_u32, length in any::<u32>()) {
        let mut bytes = [&CCEL[..CCEL_HEADER], &record(index, 4, &[7; 48], b"x")].concat();
        let at = bytes.len() - 5;
        bytes.splice(at..at + 4, length.to_le_bytes());
        judge(&bytes);
    }

    #[test]
    fn a_report_with_changes(bytes in mutated(report().to_string().as_bytes())) {
        judge(&bytes);
    }

    #[test]
    fn a_small_log_with_changes(bytes in mutated(
        br#"[{"imr":3,"event_type":134217729,"digest":"","event":"app-id","event_payload":"0102","version":2,"preimage":"7b"}]"#
    )) {
        judge(&bytes);
    }

    #[test]
    fn lines_with_changes(bytes in mutated(b"{\"event\":\"app-id\",\"payload\":\"AQI=\"}\n{\"event\":\"x\",\"payload\":\"\",\"version\":2}\n")) {
        judge(&bytes);
    }

    /// Nothing that is not the quote's is ok, whatever the digests say.
    #[test]
    fn no_other_digest_is_ok(number in 0..20_usize, digest in prop::array::uniform32(any::<u8>())) {
        let mut report = report();
        let digits = format!("{}{}", hex::encode(digest), "00".repeat(16));
        let rtmr = events(&mut report)[number]["imr"].clone();
        events(&mut report)[number]["digest"] = json!(digits);
        let replay = log::replay(&read(&report));
        prop_assert!(!replay.holds());
        for event in replay.events.iter().filter(|event| json!(event.rtmr.index()) == rtmr) {
            prop_assert!(!event.is_ok());
        }
    }
}

#[test]
fn deep_and_long_json_ends() {
    for text in [
        "[".repeat(1 << 20),
        r#"{"event_log":"#.repeat(1 << 18),
        format!("{{\"event_log\":{}", "[".repeat(1 << 20)),
        format!("[{}]", "0,".repeat(1 << 20)),
        format!("{{\"event\":\"a\",\"payload\":\"\"}}\n{}", "[".repeat(1 << 20)),
    ] {
        judge(text.as_bytes());
    }
}

#[test]
fn what_a_log_says_is_shown_short_and_escaped() {
    let long = "\u{1b}".repeat(5000);
    let mut report = report();
    events(&mut report)[0]["digest"] = json!(long);
    let error = refused(report.to_string());
    assert!(error.contains("found \\\"\\u{1b}") && error.len() < 1200, "{error}");
}
