//! What one program writes, another reads back as it was; what nobody wrote is refused and never panics.
#![expect(clippy::unwrap_used, reason = "a test that cannot make its input has failed")]

use std::collections::BTreeMap;

use casemate_measure::manifest::{InitramfsManifest, MAGIC, Member, ModuleGroup, TrailerError};
use casemate_measure::status::{FRAME_LEN, Flavour, Frame, Reason, Stage};
use casemate_measure::{LaunchRegisters, MeasuredConfig, MrConfigId, Platform, Register, smbios};
use proptest::prelude::*;

fn frame() -> impl Strategy<Value = Frame> {
    (
        prop::bool::ANY,
        prop::sample::select(Stage::ALL),
        prop::sample::select(Reason::ALL),
        any::<(u32, u32, u64, u64, [u8; 32])>(),
    )
        .prop_map(|(dev, stage, reason, (sequence, dropped, uptime_ms, detail, digest))| Frame {
            flavour: if dev { Flavour::Dev } else { Flavour::Prod },
            stage,
            reason,
            sequence,
            dropped,
            uptime_ms,
            detail,
            digest,
        })
}

fn register() -> impl Strategy<Value = [u8; 48]> {
    prop_oneof![
        Just([0; 48]),
        prop::array::uniform32(any::<u8>()).prop_map(|half| { std::array::from_fn(|i| half[i % 32]) })
    ]
}

fn registers() -> impl Strategy<Value = LaunchRegisters> {
    (register(), register(), register(), register(), register()).prop_map(|(a, b, c, d, e)| LaunchRegisters {
        mrtd: Register(a),
        rtmr0: Register(b),
        rtmr1: Register(c),
        rtmr2: Register(d),
        mrconfigid: MrConfigId(e),
    })
}

fn member() -> impl Strategy<Value = Member> {
    prop_oneof![
        (0..0o10000_u32).prop_map(|mode| Member::Directory { mode }),
        (0..0o10000_u32, any::<u64>(), any::<[u8; 32]>()).prop_map(|(mode, size, sha256)| Member::File {
            mode,
            size,
            sha256
        }),
        ".{0,40}".prop_map(|target| Member::Symlink { target }),
    ]
}

/// A type 11 structure as SMBIOS has it (DSP0134 section 6.1.3): header, strings with NUL, and one NUL more.
fn structure(strings: &[String]) -> Vec<u8> {
    let mut raw = vec![11, 5, 0, 1, u8::try_from(strings.len()).unwrap()];
    for string in strings {
        raw.extend_from_slice(string.as_bytes());
        raw.push(0);
    }
    raw.push(0);
    raw
}

proptest! {
    #[test]
    fn frames(frame in frame()) {
        prop_assert_eq!(Frame::decode(&frame.encode()), Some(frame));
    }

    #[test]
    fn any_bytes_as_a_frame(bytes in prop::collection::vec(any::<u8>(), FRAME_LEN)) {
        let bytes: [u8; FRAME_LEN] = bytes.try_into().unwrap();
        prop_assert!(Frame::decode(&bytes).is_none_or(|frame| frame.encode() == bytes));
    }

    #[test]
    fn a_bent_frame_head(frame in frame(), at in 0..8_usize, value: u8) {
        let mut bytes = frame.encode();
        bytes[at] = value;
        prop_assert!(Frame::decode(&bytes).is_none_or(|frame| frame.encode() == bytes));
    }

    #[test]
    fn launch_registers(registers in registers()) {
        let strings = smbios::strings(&registers);
        prop_assert_eq!(smbios::registers(&structure(&strings)), Ok(registers));
        let json = serde_json::to_vec(&registers).unwrap();
        prop_assert_eq!(serde_json::from_slice::<LaunchRegisters>(&json).unwrap(), registers);
    }

    #[test]
    fn any_bytes_as_an_smbios_structure(raw in prop::collection::vec(any::<u8>(), 0..300)) {
        drop(smbios::registers(&raw));
    }

    #[test]
    fn manifests(members in prop::collection::btree_map(".{0,40}", member(), 0..20), elf in prop::collection::vec(any::<u8>(), 0..200)) {
        let manifest = InitramfsManifest { members };
        let mut init = elf;
        init.extend(manifest.trailer().unwrap());
        prop_assert_eq!(InitramfsManifest::from_init(&init).unwrap(), manifest);
    }

    #[test]
    fn any_bytes_as_an_init(mut init in prop::collection::vec(any::<u8>(), 0..300), length in 0..400_u64, magic: bool) {
        if magic {
            init.extend(length.to_le_bytes());
            init.extend(MAGIC);
        }
        prop_assert!(InitramfsManifest::from_init(&init).is_err());
    }

    #[test]
    fn any_text_as_a_document(text in r#"[\[\]{}:,"a0\\ u6-]{0,60}"#) {
        prop_assert!(MeasuredConfig::parse("x", text.as_bytes(), Platform::Appliance).is_err());
    }

    /// One byte changed anywhere: refused, or another document with another hash; never a panic.
    #[test]
    fn a_bent_document(at: prop::sample::Index, value: u8) {
        let whole = include_bytes!("../../configs/node.app-compose.json");
        let mut bent = whole.to_vec();
        let at = at.index(bent.len());
        bent[at] = value;
        let right = MeasuredConfig::parse("x", whole, Platform::Appliance).unwrap();
        if let Ok(config) = MeasuredConfig::parse("x", &bent, Platform::Appliance) {
            prop_assert_eq!(config.compose_hash() == right.compose_hash(), bent == whole);
        }
    }
}

#[test]
fn codes_are_told_apart() {
    for (i, stage) in Stage::ALL.iter().enumerate() {
        assert_eq!(Stage::ALL.iter().position(|s| s.code() == stage.code()), Some(i));
        assert_eq!(Stage::from_code(stage.code()), Some(*stage));
    }
    for (i, reason) in Reason::ALL.iter().enumerate() {
        assert_eq!(Reason::ALL.iter().position(|r| r.code() == reason.code()), Some(i));
        assert_eq!(Reason::from_code(reason.code()), Some(*reason));
    }
    assert!(Reason::LockFailed.is_failure() && !Reason::Restarting.is_failure());
    for group in [ModuleGroup::Tee, ModuleGroup::Share, ModuleGroup::Lock, ModuleGroup::Late] {
        assert_eq!(ModuleGroup::from_word(group.word()), Some(group));
    }
}

#[test]
fn smbios_strings_of_a_hostile_host() {
    let zero = "00".repeat(48);
    let one = "01".repeat(48);
    let read = |strings: &[&str]| {
        smbios::registers(&structure(&strings.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()))
    };
    let rtmr2 = |value: &str| format!("casemate:rtmr2={value}");
    assert_eq!(read(&["other:rtmr2=1", "free text"]), Ok(LaunchRegisters::ZERO));
    assert_eq!(read(&[&rtmr2(&one)]).unwrap().rtmr2, Register([1; 48]));
    for strings in [
        vec![rtmr2(&one), rtmr2(&one)],
        vec![rtmr2(&zero), rtmr2(&one)],
        vec![rtmr2("01")],
        vec!["casemate:rtmr3=".to_owned() + &one],
        vec!["casemate:rtmr2".to_owned()],
    ] {
        let strings: Vec<_> = strings.iter().map(String::as_str).collect();
        assert!(read(&strings).is_err(), "{strings:?}");
    }
}

#[test]
fn a_trailer_that_does_not_fit_is_named() {
    let mut init = vec![0; 10];
    assert!(matches!(InitramfsManifest::from_init(&init), Err(TrailerError::NoMagic)));
    init.extend(u64::MAX.to_le_bytes());
    init.extend(MAGIC);
    assert!(matches!(InitramfsManifest::from_init(&init), Err(TrailerError::Length(u64::MAX))));
    let mut unknown = br#"{"members":{},"more":1}"#.to_vec();
    let length = unknown.len() as u64;
    unknown.extend(length.to_le_bytes());
    unknown.extend(MAGIC);
    assert!(matches!(InitramfsManifest::from_init(&unknown), Err(TrailerError::Json(_))));
    let empty = InitramfsManifest { members: BTreeMap::new() };
    assert_eq!(InitramfsManifest::from_init(&empty.trailer().unwrap()).unwrap(), empty);
}
