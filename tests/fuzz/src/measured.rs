//! What the package `measurements` reads.

use casemate_measure::manifest::InitramfsManifest;
use casemate_measure::mr_config::{Measured, check};
use casemate_measure::status::{FRAME_LEN, Frame};
use casemate_measure::{
    AppId, ComposeHash, InstanceId, KeyProvider, LaunchRegisters, MeasuredConfig, Platform, smbios as strings,
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
fn check_refusal(text: &str) {
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
