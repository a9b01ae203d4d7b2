//! What the package `measurements` reads.

use casemate_measure::event::RUNTIME_EVENT_TYPE;
use casemate_measure::log::replay::Comparison;
use casemate_measure::log::{self, Log, ccel as firmware_log};
use casemate_measure::manifest::InitramfsManifest;
use casemate_measure::mr_config::{Measured, check};
use casemate_measure::status::{FRAME_LEN, Frame};
use casemate_measure::{
    AppId, ComposeHash, DigestVersion, InstanceId, KeyProvider, LaunchRegisters, MeasuredConfig, Platform,
    smbios as strings,
};

use crate::Verdict;

/// What is read is written as strings that are read as the same.
pub(crate) fn smbios(raw: &[u8]) -> Verdict {
    let Ok(registers) = strings::registers(raw) else { return Verdict::Refused };
    // A structure of type 11 with a header of 5 bytes (DMTF DSP0134 section 7.12).
    let mut written = vec![11, 5, 0, 0, 5];
    for string in strings::strings(&registers) {
        written.extend_from_slice(string.as_bytes());
        written.push(0);
    }
    written.push(0);
    assert_eq!(strings::registers(&written), Ok(registers));
    Verdict::accepted(registers != LaunchRegisters::ZERO)
}

/// A document that is accepted is one JSON document with this hash; a refusal is one printable line of bounded length.
pub(crate) fn document(bytes: &[u8]) -> Verdict {
    let mut accepted = false;
    for platform in [Platform::Appliance, Platform::Container] {
        match MeasuredConfig::parse("FILE", bytes, platform) {
            Ok(config) => {
                accepted = true;
                assert_eq!(config.compose_hash(), ComposeHash::of(bytes));
                assert!(
                    serde_json::from_slice::<serde_json::Value>(bytes).is_ok(),
                    "another reader finds no JSON"
                );
                assert_eq!(MeasuredConfig::parse("FILE", bytes, platform), Ok(config));
            }
            Err(error) => check_refusal(&error.to_string()),
        }
    }
    Verdict::accepted(accepted)
}

/// The text reaches consoles and logs.
pub(crate) fn check_refusal(text: &str) {
    assert!(text.starts_with("FILE: ") || text.starts_with("FILE"), "names no file: {text:?}");
    assert!(!text.chars().any(char::is_control), "control characters: {text:?}");
    assert!(text.len() <= 4096, "{} bytes of message", text.len());
}

/// What is accepted says what was measured, as another reader of JSON finds it.
pub(crate) fn mr_config(document: &[u8]) -> Verdict {
    let measured = Measured {
        compose_hash: &ComposeHash([0x22; 32]),
        app_id: &AppId([0x11; 20]),
        key_provider: &KeyProvider::None,
        instance_id: &InstanceId([0x44; 20]),
    };
    if let Err(error) = check(document, &measured) {
        let text = error.to_string();
        assert!(!text.chars().any(char::is_control), "control characters: {text:?}");
        assert!(text.len() <= 4096, "{} bytes of message", text.len());
        return Verdict::Refused;
    }
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(document) else {
        panic!("another reader finds no JSON")
    };
    let word = |name: &str| value.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
    assert!(word("compose_hash").eq_ignore_ascii_case(&measured.compose_hash.to_string()));
    assert_eq!(word("key_provider"), "none");
    Verdict::Accepted
}

/// What is read is written, with SHA-384 alone, as a log that is read as the same.
pub(crate) fn ccel(bytes: &[u8]) -> Verdict {
    let records = match firmware_log::records(bytes) {
        Ok(records) => records,
        Err(error) => {
            check_printable(&error.to_string());
            return Verdict::Refused;
        }
    };
    // `TCG_EfiSpecIDEvent` inside a `TCG_PCClientPCREvent`, with one algorithm (TCG PFP 1.05 section 10).
    let mut written = [1_u32, 3].map(u32::to_le_bytes).concat();
    written.extend([0; 20]);
    written.extend(33_u32.to_le_bytes());
    written.extend(b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x01\0\0\0\x0c\0\x30\0\0");
    for record in &records {
        written.extend([record.index, record.event_type, 1].map(u32::to_le_bytes).concat());
        written.extend([0x0c, 0]);
        written.extend(record.digest.0);
        written.extend(u32::try_from(record.data.len()).unwrap_or(u32::MAX).to_le_bytes());
        written.extend(record.data);
    }
    assert!(written.len() <= bytes.len() + 65, "{} events of {} bytes", records.len(), bytes.len());
    if written.len() <= firmware_log::MAX_BYTES {
        let again =
            firmware_log::records(&written).unwrap_or_else(|error| panic!("written, but not read: {error}"));
        let seen = |records: &[firmware_log::Record<'_>]| {
            let facts = |r: &firmware_log::Record<'_>| (r.index, r.event_type, r.digest, r.data.to_vec());
            records.iter().map(facts).collect::<Vec<_>>()
        };
        assert_eq!(seen(&again), seen(&records));
    }
    Verdict::accepted(!records.is_empty())
}

/// What is read is written as a list that is read as the same, and leads to the same registers with and without digests.
pub(crate) fn event_log(bytes: &[u8]) -> Verdict {
    let read = match log::read("FILE", bytes) {
        Ok(read) => read,
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("FILE: "), "names no file: {text:?}");
            check_printable(&text);
            return Verdict::Refused;
        }
    };
    let replay = log::replay(&read);
    assert_eq!(replay.events.len(), read.events.len());
    if read.registers.is_none() {
        assert!(replay.registers.iter().all(|register| register.comparison == Comparison::Unknown));
        assert!(!replay.events.iter().any(log::replay::Judged::is_ok));
    }
    // A CCEL has no names: dstack's type is no runtime event there, and would be one in JSON.
    let nameless = |event: &log::Logged| event.event_type.0 == RUNTIME_EVENT_TYPE && event.name.is_none();
    if read.events.iter().any(nameless) {
        return Verdict::Accepted;
    }
    for stripped in [false, true] {
        let list = as_list(&read, stripped);
        let again = log::read("FILE", list.as_bytes())
            .unwrap_or_else(|error| panic!("written, but not read: {error}"));
        assert_eq!(again.events.len(), read.events.len());
        for (again, before) in log::replay(&again).registers.iter().zip(&replay.registers) {
            assert_eq!(again.register, before.register, "stripped: {stripped}");
        }
    }
    Verdict::accepted(!read.events.is_empty() || read.registers.is_some())
}

/// As dstack writes it; without what can be recomputed.
fn as_list(log: &Log, stripped: bool) -> String {
    let event = |event: &log::Logged| {
        let runtime = event.runtime().is_some();
        let payload = if stripped && !runtime { &[][..] } else { &event.payload };
        let digest = event.digest.filter(|_| !(stripped && runtime));
        serde_json::json!({
            "imr": event.rtmr.index(),
            "event_type": event.event_type.0,
            "digest": digest.map(|digest| digest.to_string()).unwrap_or_default(),
            "event": event.name.clone().unwrap_or_default(),
            "event_payload": payload.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            "version": if event.version == DigestVersion::V2 { 2 } else { 1 },
        })
    };
    serde_json::Value::Array(log.events.iter().map(event).collect()).to_string()
}

/// One line for a terminal.
pub(crate) fn check_printable(text: &str) {
    assert!(!text.chars().any(char::is_control), "control characters: {text:?}");
    assert!(text.len() <= 4096, "{} bytes of message", text.len());
}

/// A manifest that is read is written as a trailer that is read as the same.
pub(crate) fn trailer(binary: &[u8]) -> Verdict {
    let Ok(manifest) = InitramfsManifest::from_init(binary) else { return Verdict::Refused };
    let written = manifest.trailer().unwrap_or_else(|error| panic!("read, but not written: {error}"));
    match InitramfsManifest::from_init(&written) {
        Ok(again) => assert_eq!(again, manifest),
        Err(error) => panic!("written, but not read: {error}"),
    }
    Verdict::accepted(!manifest.members.is_empty())
}

/// A frame has exactly one encoding.
pub(crate) fn status_frame(bytes: &[u8]) -> Verdict {
    let Some(bytes) = bytes.first_chunk::<FRAME_LEN>() else { return Verdict::Refused };
    let Some(frame) = Frame::decode(bytes) else { return Verdict::Refused };
    assert_eq!(frame.encode(), *bytes);
    Verdict::Accepted
}
