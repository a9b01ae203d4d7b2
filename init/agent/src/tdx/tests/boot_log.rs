use super::*;
use crate::tdx::boot_log::read;

/// As the kernel shows it, less the padding.
const CCEL: &[u8] = include_bytes!("../../../tests/fixtures/ccel.bin");
/// Its replay, computed by Python's hashlib.
const CCEL_RTMR0: &str =
    "274c2344116db7c663470693b5ba62b8621eac28cb41d2f816ddf188f9f423f900a1c44d32386fd3c993dc814e62af9d";
const CCEL_RTMR1: &str =
    "bdcf4ee0f7fdfe7c73fbb19ded73193aee23a6726b86d3b282ea097cf4c9ed7a0db21b5c1ccd513e410d90e310836b26";
/// Bytes of the first event, which says the format.
const HEADER: usize = 65;

fn ccel_launch() -> LaunchRegisters {
    LaunchRegisters {
        rtmr0: Register::from_hex(CCEL_RTMR0).unwrap(),
        rtmr1: Register::from_hex(CCEL_RTMR1).unwrap(),
        ..LaunchRegisters::ZERO
    }
}

fn padded(log: &[u8]) -> Vec<u8> {
    let mut padded = log.to_vec();
    padded.resize(64 << 10, 0xff);
    padded
}

fn event(index: u32, event_type: u32, digest: &[u8; 48], data: &[u8]) -> Vec<u8> {
    let head = [index, event_type, 1].map(u32::to_le_bytes).concat();
    let length = u32::try_from(data.len()).unwrap().to_le_bytes();
    [&head[..], &[0x0c, 0], digest, &length, data].concat()
}

/// The firmware's events of the recorded report, in the format of a CCEL.
pub(super) fn recorded_log() -> Vec<u8> {
    let events = recorded().event_log.into_iter().filter(|event| event.imr < 3);
    let encoded: Vec<u8> = events
        .flat_map(|e| event(u32::from(e.imr) + 1, e.event_type, &e.digest.0, &e.event_payload))
        .collect();
    padded(&[&CCEL[..HEADER], &encoded].concat())
}

#[test]
fn recorded_logs_replay_to_their_registers() {
    for log in [CCEL.to_vec(), padded(CCEL)] {
        let events = read(&log, &ccel_launch()).unwrap();
        assert_eq!(events.len(), 18);
        assert_eq!((events[0].rtmr, events[0].event_type), (0, 0x8000_000b));
        assert!(events[0].payload.starts_with(b"\x09TdxTable\0"));
        let last = events.last().unwrap();
        assert_eq!((last.rtmr, last.event_type), (1, 0x8000_0007));
        assert_eq!(last.payload, b"Exit Boot Services Returned with Success");
    }
    let recorded = recorded();
    let events = read(&recorded_log(), &report_of(&recorded.quote).launch()).unwrap();
    let known: Vec<_> = recorded.event_log.iter().filter(|event| event.imr < 3).collect();
    assert_eq!(events.len(), 20);
    for (event, known) in events.iter().zip(known) {
        assert_eq!((event.rtmr, event.event_type, event.digest), (known.imr, known.event_type, known.digest));
        assert_eq!(event.payload, known.event_payload);
    }
}

#[test]
fn a_log_that_leads_elsewhere_is_refused() {
    let error = read(CCEL, &report_of(OTHER_QUOTE).launch()).unwrap_err().to_string();
    assert!(error.starts_with("CCEL: RTMR0 by replay: expected "), "{error}");
    for (register, name) in [(1, "RTMR1"), (2, "RTMR2")] {
        let mut launch = ccel_launch();
        let slot = if register == 1 { &mut launch.rtmr1 } else { &mut launch.rtmr2 };
        slot.0[0] ^= 1;
        let error = read(CCEL, &launch).unwrap_err().to_string();
        assert!(error.starts_with(&format!("CCEL: {name} by replay: expected ")), "{error}");
    }
    // No log is none; it is not one that leads nowhere.
    assert_eq!(read(&[], &ccel_launch()).unwrap(), []);
    assert!(read(&padded(&CCEL[..HEADER]), &ccel_launch()).is_err());
}

#[test]
fn every_truncation_is_refused() {
    for length in 1..CCEL.len() {
        assert!(read(&CCEL[..length], &ccel_launch()).is_err(), "{length}");
    }
}

#[test]
fn every_changed_byte_that_counts_is_refused() {
    let events = read(CCEL, &ccel_launch()).unwrap();
    let mut accepted = 0;
    for at in 0..CCEL.len() {
        let mut log = CCEL.to_vec();
        log[at] ^= 0x01;
        // What changes neither digests nor their order nor lengths: data, types, and words of the header.
        let Ok(found) = read(&log, &ccel_launch()) else { continue };
        accepted += 1;
        let digests = |list: &[BootEvent]| list.iter().map(|e| (e.rtmr, e.digest)).collect::<Vec<_>>();
        assert_eq!(digests(&found), digests(&events), "{at}");
    }
    let data: usize = events.iter().map(|event| event.payload.len()).sum();
    // Four bytes of a type each (but the change that makes none NO_ACTION), and of the header register, SHA-1 digest and
    // versions, and its vendor's length, which nothing follows.
    assert_eq!(accepted, data + 18 * 4 + 4 + 20 + 8 + 1);
}

#[test]
fn what_an_event_may_not_say() {
    let zero = LaunchRegisters::ZERO;
    let with = |event: &[u8]| read(&padded(&[&CCEL[..HEADER], event].concat()), &zero);
    let good = event(1, 8, &[7; 48], b"x");
    let error = |event: &[u8]| with(event).unwrap_err().to_string();
    assert!(error(&good).starts_with("CCEL: RTMR0 by replay: "));
    // An event that extends nothing is read over.
    assert_eq!(with(&event(9, 3, &[7; 48], b"x")).unwrap(), []);
    for index in [0, 4, 5, 0x8000_0001] {
        let found = error(&event(index, 8, &[7; 48], b"x"));
        let end = format!("expected 1 to 3 (RTMR0 to RTMR2), found {index}");
        assert!(found.starts_with("CCEL: register before byte ") && found.ends_with(&end), "{found}");
    }
    let patched = |at: usize, value: u8| {
        let mut event = good.clone();
        event[at] = value;
        error(&event)
    };
    assert!(patched(8, 2).ends_with("expected 1, found 2"));
    assert!(patched(8, 0).ends_with("expected 1, found 0"));
    assert!(patched(12, 0x0b).ends_with("expected 12, found 11"));
    assert!(patched(65, 0xff).contains("event data before byte "));
    let many: Vec<u8> = (0..513).flat_map(|_| event(1, 8, &[7; 48], b"")).collect();
    assert_eq!(error(&many), "CCEL: expected at most 512 events, found more");
    let long = read(&vec![0; BOOT_LOG_MAX + 1], &zero).unwrap_err().to_string();
    assert_eq!(long, "CCEL: expected at most 262144 bytes, found 262145");
}
