//! What a log leads to, and what is proven of each event.

use casemate_measure::log::replay::{Cause, Comparison, Payload, Remark, Standing};
use casemate_measure::{DigestVersion, RuntimeEvent};

use super::*;

fn comparison(report: &Value, rtmr: Rtmr) -> Comparison {
    log::replay(&read(report)).register(rtmr).unwrap().comparison.clone()
}

#[test]
fn a_real_log_replays_to_all_four_registers_whole_and_stripped() {
    for (report, bound) in [(report(), 12), (stripped(report()), 0)] {
        let replay = log::replay(&read(&report));
        assert!(replay.holds());
        for (nth, replayed) in replay.registers.iter().enumerate() {
            assert_eq!((replayed.register, &replayed.comparison), (real(nth + 1), &Comparison::Equal));
        }
        assert!(replay.events.iter().all(log::replay::Judged::is_ok));
        let count = |payload| replay.events.iter().filter(|event| event.payload == payload).count();
        assert_eq!(count(Payload::Computed), 8);
        // Variables, separators and actions; not the TD HOB, the CFV, ACPI, the kernel and what its stub measured.
        assert_eq!(count(Payload::Bound), bound);
        assert_eq!(count(Payload::Empty) + count(Payload::Unbound), 20 - bound);
    }
    let whole = log::replay(&read(&report()));
    let names: Vec<_> =
        whole.of(Rtmr::Rtmr0).map(|event| event.name.as_deref().unwrap_or_default()).collect();
    assert_eq!(names[2..7], ["SecureBoot", "PK", "KEK", "db", "dbx"]);
    assert_eq!(names[8..], ["ACPI DATA", "ACPI DATA", "ACPI DATA", "BootOrder", "Boot0000"]);
    let names: Vec<_> = whole.of(Rtmr::Rtmr2).map(|event| event.name.as_deref().unwrap()).collect();
    assert_eq!(names, ["LOADED_IMAGE::LoadOptions", "Linux initrd"]);
}

#[test]
fn a_real_ccel_replays_as_pythons_hashlib_has_it() {
    let replay = log::replay(&log::read("FILE", CCEL).unwrap());
    let registers: Vec<_> = replay.registers.iter().map(|replayed| replayed.register.to_string()).collect();
    assert_eq!(
        registers[..2],
        [
            "274c2344116db7c663470693b5ba62b8621eac28cb41d2f816ddf188f9f423f900a1c44d32386fd3c993dc814e62af9d",
            "bdcf4ee0f7fdfe7c73fbb19ded73193aee23a6726b86d3b282ea097cf4c9ed7a0db21b5c1ccd513e410d90e310836b26"
        ]
    );
    assert!(replay.registers[2..].iter().all(|replayed| replayed.register.is_zero()));
    // Nobody says what the registers hold: so nothing is proven, and nothing is ok.
    assert!(replay.registers.iter().all(|replayed| replayed.comparison == Comparison::Unknown));
    assert!(replay.events.iter().all(|event| event.standing == Standing::Unproven && !event.is_ok()));
    assert!(replay.holds());
}

/// One bit in any digest or payload. Replay points at the event where the log itself says what the digest is of; where it
/// does not, at the register, and comparing with the expected events points at the event (`compare`).
#[test]
fn one_bit_anywhere_is_pointed_at() {
    let clean = log::replay(&read(&report()));
    for (number, known) in clean.events.iter().enumerate() {
        for field in ["digest", "event_payload"] {
            let digits = events(&mut report())[number][field].as_str().unwrap().to_owned();
            for at in [0, digits.len() / 4, (digits.len() / 2).saturating_sub(1)] {
                if digits.is_empty() {
                    continue;
                }
                let mut report = report();
                events(&mut report)[number][field] = json!(flipped(&digits, at));
                let replay = log::replay(&read(&report));
                let what = format!("event {number}, {field}, byte {at}");
                let marked: Vec<_> = replay.contradictions().map(|event| event.place.event).collect();
                let differ: Vec<_> = replay
                    .registers
                    .iter()
                    .filter(|replayed| replayed.comparison != Comparison::Equal)
                    .map(|replayed| replayed.rtmr)
                    .collect();
                let changes_register = match known.payload {
                    Payload::Computed => field == "event_payload",
                    _ => field == "digest",
                };
                assert_eq!(differ, if changes_register { vec![known.rtmr] } else { vec![] }, "{what}");
                // In a boot variable only the value counts: its GUID and name are not measured.
                let outside_value = known.event_type.0 == 0x8000_0002 && field == "event_payload" && at < 40;
                match known.payload {
                    Payload::Computed => assert_eq!(marked, [number], "{what}"),
                    Payload::Bound if !outside_value => assert_eq!(marked, [number], "{what}"),
                    _ => {}
                }
                assert_eq!(replay.holds(), differ.is_empty() && marked.is_empty(), "{what}");
                // What is not the register's is never ok.
                let judged = &replay.events[number];
                assert!(!judged.is_ok() || known.payload == Payload::Unbound || outside_value, "{what}");
                assert!(!judged.is_ok() || judged.payload == Payload::Unbound || outside_value, "{what}");
            }
        }
    }
}

#[test]
fn a_false_payload_under_true_digests_is_told_from_a_false_digest() {
    let mut changed = report();
    let payload = events(&mut changed)[22]["event_payload"].as_str().unwrap().to_owned();
    events(&mut changed)[22]["event_payload"] = json!(flipped(&payload, 0));
    let Comparison::Differs { register, cause } = comparison(&changed, Rtmr::Rtmr3) else { panic!("equal") };
    assert_eq!((register, cause), (real(4), Some(Cause::Payload)));
    let replay = log::replay(&read(&changed));
    let Remark::Digest { found, computed } = &replay.events[22].remarks[0] else { panic!("no digest") };
    assert_ne!(found, computed);

    // Without the digests nobody can say which event it is.
    events(&mut changed)[22]["digest"] = json!("");
    let found = comparison(&changed, Rtmr::Rtmr3);
    let events = |report: &Value| match comparison(report, Rtmr::Rtmr3) {
        Comparison::Differs { cause, .. } => cause,
        other => panic!("{other:?}"),
    };
    assert!(matches!(found, Comparison::Differs { .. }));
    assert_eq!(events(&stripped(changed)), None);
}

#[test]
fn events_behind_the_register_are_never_ok() {
    let more =
        json!({ "imr": 3, "event_type": 134_217_729, "digest": "", "event": "late", "event_payload": "" });
    for rtmr in 0..4 {
        let mut report = report();
        let last = events(&mut report).iter().rposition(|event| event["imr"] == rtmr).unwrap();
        let mut added = events(&mut report)[last].clone();
        if rtmr == 3 {
            added = more.clone();
        }
        events(&mut report).insert(last + 1, added);
        let replay = log::replay(&read(&report));
        let register = Rtmr::from_index(rtmr).unwrap();
        let count = replay.register(register).unwrap().events;
        let Comparison::Differs { cause, .. } = &replay.register(register).unwrap().comparison else {
            panic!("equal")
        };
        assert_eq!(*cause, Some(Cause::Prefix(count - 1)));
        let beyond: Vec<_> =
            replay.events.iter().filter(|event| !event.is_ok()).map(|event| event.place.event).collect();
        assert_eq!(beyond, [last + 1]);
        assert_eq!(replay.events[last + 1].standing, Standing::Beyond);
        assert!(!replay.holds());
    }
    // One that is missing: nothing of that register is proven.
    let mut short = report();
    events(&mut short).remove(3);
    let replay = log::replay(&read(&short));
    assert!(replay.of(Rtmr::Rtmr0).all(|event| event.standing == Standing::Unproven));
    assert!(replay.of(Rtmr::Rtmr1).all(|event| event.standing == Standing::Quoted));
    // A register that is zero has no event.
    let mut zero = report();
    let quote = zero["quote"].as_str().unwrap().to_owned();
    zero["quote"] = json!(format!("{}{}{}", &quote[..1040], "0".repeat(96), &quote[1136..]));
    let replay = log::replay(&read(&zero));
    let Comparison::Differs { cause, .. } = &replay.register(Rtmr::Rtmr3).unwrap().comparison else {
        panic!("equal")
    };
    assert_eq!(*cause, Some(Cause::Prefix(0)));
    assert!(replay.of(Rtmr::Rtmr3).all(|event| event.standing == Standing::Beyond));
}

#[test]
fn what_the_agent_states_is_not_what_a_quote_says() {
    let tcb_info = json!({
        "mrtd": REAL[0], "rtmr0": REAL[1], "rtmr1": REAL[2], "rtmr2": REAL[3], "rtmr3": REAL[4],
        "event_log": report()["event_log"],
    });
    let replay = log::replay(&read(&tcb_info));
    assert!(replay.holds());
    assert!(replay.events.iter().all(|event| event.standing == Standing::Stated && !event.is_ok()));
}

/// Digest by Python's hashlib over `{"name":"compose-hash","payload":"abcd","type":134217729}` (dstack reference 4.1).
#[test]
fn version_two_digests_a_canonical_object() {
    let event = RuntimeEvent::new("compose-hash", [0xab, 0xcd]);
    assert_eq!(event.preimage_v2(), r#"{"name":"compose-hash","payload":"abcd","type":134217729}"#);
    let digest = event.digest_of(DigestVersion::V2);
    assert_eq!(
        digest.to_string(),
        "9dde1673f544faa94b921825209593ddde08d0baf9cd6990175dffaf3081f1bb10311d56de189491feb33842a050ad7b"
    );
    // RFC 8785 section 3.2.2.2: these escapes, these spellings, and everything else as it is.
    let odd = RuntimeEvent::new("\u{8}\t\n\u{c}\r\"\\/\u{0}\u{1f}\u{7f}\u{20ac}\u{1d11e}", []);
    let name = "\\b\\t\\n\\f\\r\\\"\\\\/\\u0000\\u001f\u{7f}\u{20ac}\u{1d11e}";
    assert_eq!(odd.preimage_v2(), format!(r#"{{"name":"{name}","payload":"","type":134217729}}"#));

    let logged = |digest: &str, preimage: &str, version: Value| {
        let event = json!({
            "imr": 3, "event_type": 134_217_729, "digest": digest, "event": "compose-hash",
            "event_payload": "abcd", "version": version, "preimage": preimage,
        });
        log::replay(&read(&json!([event]))).events.remove(0)
    };
    let preimage = hex::encode(event.preimage_v2());
    let good = logged(&digest.to_string(), &preimage, json!(2));
    assert_eq!((good.digest, good.remarks.as_slice()), (digest, [].as_slice()));
    assert_eq!(logged("", &preimage, json!(2)).digest, digest);
    let first = logged("", &preimage, json!(1));
    assert_eq!(first.digest, event.digest());
    let other = logged(&digest.to_string(), &flipped(&preimage, 0), json!(2));
    assert!(matches!(other.remarks.as_slice(), [Remark::Preimage { .. }]));
    let wrong = logged(&event.digest().to_string(), &preimage, json!(2));
    assert!(matches!(wrong.remarks.as_slice(), [Remark::Digest { .. }]));
    // Without a version it is the first.
    let absent =
        json!([{ "imr": 3, "event_type": 134_217_729, "event": "compose-hash", "event_payload": "abcd" }]);
    assert_eq!(log::replay(&read(&absent)).events[0].digest, event.digest());
}

/// Version 1 puts a colon between name and payload, and a name may have one, too.
#[test]
fn a_name_with_a_colon_is_marked() {
    let event = |name: &str, payload: &[u8], version: u32| {
        let payload = hex::encode(payload);
        json!({ "imr": 3, "event_type": 134_217_729, "event": name, "event_payload": payload, "version": version })
    };
    let one = log::replay(&read(&json!([event("app-id:x", b"y", 1)]))).events.remove(0);
    let other = log::replay(&read(&json!([event("app-id", b"x:y", 1)]))).events.remove(0);
    assert_eq!(one.digest, other.digest);
    assert_eq!(
        (one.remarks.as_slice(), other.remarks.as_slice()),
        ([Remark::Colon].as_slice(), [].as_slice())
    );
    let second = log::replay(&read(&json!([event("app-id:x", b"y", 2)]))).events.remove(0);
    assert_eq!(second.remarks, []);
}

/// Nobody can recompute a digest over a name that the log does not have.
#[test]
fn a_ccel_has_no_runtime_events() {
    let event = record(4, 0x0800_0001, &[7; 48], b"app-id");
    let log = log::read("FILE", &[&CCEL[..CCEL_HEADER], &event].concat()).unwrap();
    let replay = log::replay(&log);
    assert_eq!(replay.events[0].digest, Register([7; 48]));
    assert_eq!(
        (replay.events[0].payload, replay.events[0].remarks.as_slice()),
        (Payload::Unbound, [].as_slice())
    );
}
