//! What differs, and why.

use casemate_measure::log::Diff;
use casemate_measure::log::diff::{Compared, Name, Verdict, diff};
use casemate_measure::tdx::{Alternative, EventType};

use super::*;

fn of(diff: &Diff, rtmr: Rtmr) -> &Compared {
    diff.registers.iter().find(|compared| compared.register == Name::Rtmr(rtmr)).unwrap()
}

fn quote_alone() -> Log {
    read(&json!({ "quote": report()["quote"] }))
}

/// The expected machine with another digest of some events.
fn with(changes: &[(&str, u8)]) -> Expected {
    let mut other = expected();
    for event in &mut other.events {
        if let Some((_, byte)) = changes.iter().find(|(name, _)| *name == event.name) {
            event.digest = Digest::Known(Register([*byte; 48]));
        }
    }
    other
}

/// A TD HOB of 2 GiB (dstack reference 5.2); the recorded machine has 64 GiB.
const TD_HOB_2_GIB: &str =
    "0b8772e5b0b41b83e6044a68397e02f49fb47066b4fbe4917ea2c45c64f323fdacbb37948f821ebaf8bc9c938ba8a749";

fn of_two_gib() -> Expected {
    let mut small = expected();
    let hob = &mut small.events[0];
    assert!(hob.name.contains("TdxTable"));
    hob.name = "TD HOB".to_owned();
    hob.digest = Digest::Known(Register::from_hex(TD_HOB_2_GIB).unwrap());
    small
}

fn of_sixty_four_gib() -> Expected {
    let mut large = expected();
    large.events[0].name = "TD HOB".to_owned();
    large
}

#[test]
fn what_is_as_expected_is_equal_with_and_without_a_log() {
    for actual in [read(&report()), read(&stripped(report())), quote_alone()] {
        let diff = diff(&expected(), &actual);
        assert!(diff.is_equal());
        assert!(diff.registers.iter().all(|compared| compared.differences.is_empty()));
    }
    // A log alone does not say what MRTD is: not equal.
    let list = diff(&expected(), &read(&report()["event_log"]));
    assert_eq!(list.registers[0].verdict, Verdict::Absent);
    assert!(list.registers[1..].iter().all(|compared| compared.verdict == Verdict::Equal));
    assert!(!list.is_equal());
    // A quote alone says nothing that a log would.
    assert_eq!(diff(&expected(), &quote_alone()).replay, None);
}

#[test]
fn the_first_event_that_differs_is_named_for_every_bit() {
    let expected = expected();
    for number in 0..28 {
        for field in ["digest", "event_payload"] {
            let mut changed = report();
            let digits = events(&mut changed)[number][field].as_str().unwrap().to_owned();
            if digits.is_empty() {
                continue;
            }
            events(&mut changed)[number][field] = json!(flipped(&digits, 2));
            // Of the log alone, as a machine would be that really has it so.
            let diff = diff(&expected, &read(&changed["event_log"]));
            let runtime = expected.events[number].rtmr == Rtmr::Rtmr3;
            let named: Vec<_> = diff
                .registers
                .iter()
                .flat_map(|compared| &compared.differences)
                .map(|difference| difference.found.as_ref().unwrap().place.event)
                .collect();
            let changes = runtime == (field == "event_payload");
            assert_eq!(named, if changes { vec![number] } else { vec![] }, "event {number}, {field}");
            let of = of(&diff, expected.events[number].rtmr);
            assert_eq!(of.verdict, if changes { Verdict::Differs } else { Verdict::Equal });
            if changes {
                let first = &of.differences[0];
                assert_eq!(first.expected.as_ref(), Some(&expected.events[number]));
                // Of constants, and of what an app extended, nobody can say what they depend on.
                let constant = matches!(expected.events[number].event_type.0, 4 | 0x8000_0007);
                let of_the_app = expected.events[number].name == "LIUM_MINER_HOTKEY";
                assert_eq!(first.depends_on.is_none(), constant || of_the_app, "event {number}");
            }
        }
    }
}

#[test]
fn the_input_that_explains_a_difference_is_named() {
    let mut expected = of_two_gib();
    let others = [("memory 4 GiB", with(&[("ACPI DATA", 9)])), ("memory 64 GiB", of_sixty_four_gib())];
    expected.alternatives = others.map(|(label, other)| Alternative::new(label, &expected, &other)).to_vec();
    // Only what changes is kept.
    assert!(expected.alternatives[1].events.iter().all(|event| event.rtmr == Rtmr::Rtmr0));
    for actual in [read(&report()), quote_alone()] {
        let diff = diff(&expected, &actual);
        assert!(!diff.is_equal());
        let rtmr0 = of(&diff, Rtmr::Rtmr0);
        assert_eq!(rtmr0.verdict, Verdict::Differs);
        assert_eq!(rtmr0.explained_by, ["memory 64 GiB"]);
        assert_eq!(of(&diff, Rtmr::Rtmr1).verdict, Verdict::Equal);
        if diff.replay.is_some() {
            let [hob] = rtmr0.differences.as_slice() else { panic!("{:?}", rtmr0.differences) };
            assert_eq!((hob.nth, hob.explained_by.as_slice()), (0, ["memory 64 GiB".to_owned()].as_slice()));
            assert_eq!(hob.depends_on, None);
        }
    }
    // Nobody gave an alternative: in words.
    expected.alternatives.clear();
    let diff = diff(&expected, &read(&report()));
    let hob = &of(&diff, Rtmr::Rtmr0).differences[0];
    assert_eq!(hob.depends_on, Some("the memory size, and where the firmware has its sections"));
    assert_eq!(of(&diff, Rtmr::Rtmr0).explained_by, [""; 0]);
}

#[test]
fn two_inputs_at_once_are_found_in_a_quote_alone() {
    // The machine is the recorded one; expected are other memory and another kernel command line and boot order.
    let mut expected = with(&[("SecureBoot", 1), ("Boot0000", 2), ("LOADED_IMAGE::LoadOptions", 3)]);
    let alternative = |label: &str, changes: &[(&str, u8)], expected: &Expected| {
        Alternative::new(label, expected, &with(changes))
    };
    let rest = [("LOADED_IMAGE::LoadOptions", 3_u8)];
    expected.alternatives = vec![
        alternative("one", &[&rest[..], &[("Boot0000", 2)]].concat(), &expected),
        alternative("another", &[&rest[..], &[("SecureBoot", 1)]].concat(), &expected),
        alternative("a third", &[&rest[..], &[("SecureBoot", 1), ("Boot0000", 7)]].concat(), &expected),
        alternative("the line", &[("SecureBoot", 1), ("Boot0000", 2)], &expected),
    ];
    let found = diff(&expected, &quote_alone());
    assert_eq!(of(&found, Rtmr::Rtmr0).explained_by, ["one and another"]);
    assert_eq!(of(&found, Rtmr::Rtmr2).explained_by, ["the line"]);
    // With the log, each event has its own.
    let found = diff(&expected, &read(&report()));
    let named: Vec<_> = of(&found, Rtmr::Rtmr0)
        .differences
        .iter()
        .map(|difference| (difference.nth, difference.explained_by.clone()))
        .collect();
    assert_eq!(named, [(2, vec!["one".to_owned()]), (12, vec!["another".to_owned()])]);
}

#[test]
fn another_page_order_explains_another_mrtd() {
    let mut expected = expected();
    let other = expected.clone();
    expected.mrtd = Register([1; 48]);
    expected.alternatives = vec![Alternative::new("pages added in two passes", &expected, &other)];
    let diff = diff(&expected, &quote_alone());
    assert_eq!((diff.registers[0].register, diff.registers[0].verdict), (Name::Mrtd, Verdict::Differs));
    assert_eq!(diff.registers[0].explained_by, ["pages added in two passes"]);
    assert!(!diff.is_equal());
}

#[test]
fn mrconfigid_is_judged_where_it_is_expected() {
    let mut expected = expected();
    expected.mrconfigid = Some(casemate_measure::MrConfigId::ZERO);
    assert!(diff(&expected, &quote_alone()).is_equal());
    expected.mrconfigid = Some(casemate_measure::MrConfigId([1; 48]));
    let found = diff(&expected, &quote_alone());
    let [_, id, ..] = found.registers.as_slice() else { panic!("no register") };
    assert_eq!((id.register, id.verdict), (Name::MrConfigId, Verdict::Differs));
}

/// What is not pinned is never taken from the log under test.
#[test]
fn an_event_that_is_not_pinned_is_never_equal() {
    let mut expected = expected();
    let acpi: Vec<_> = expected.events.iter().filter(|event| event.name == "ACPI DATA").cloned().collect();
    for event in &mut expected.events {
        if event.name == "ACPI DATA" {
            event.digest = Digest::Unpinned;
        }
    }
    let found = diff(&expected, &read(&report()));
    let rtmr0 = of(&found, Rtmr::Rtmr0);
    assert_eq!((rtmr0.verdict, rtmr0.expected), (Verdict::Unpinned, None));
    assert!(!found.is_equal());
    let shown: Vec<_> =
        rtmr0.unpinned.iter().map(|event| Digest::Known(event.found.as_ref().unwrap().digest)).collect();
    assert_eq!(shown, acpi.iter().map(|event| event.digest).collect::<Vec<_>>());
    assert_eq!(of(&diff(&expected, &quote_alone()), Rtmr::Rtmr0).verdict, Verdict::Unpinned);
    // Another event differs, or the log leads elsewhere: then it differs all the same.
    for (number, field) in [(0, "digest"), (9, "digest")] {
        let mut changed = report();
        let digits = events(&mut changed)[number][field].as_str().unwrap().to_owned();
        events(&mut changed)[number][field] = json!(flipped(&digits, 3));
        assert_eq!(of(&diff(&expected, &read(&changed)), Rtmr::Rtmr0).verdict, Verdict::Differs);
    }
}

#[test]
fn events_that_are_missing_added_or_of_another_kind_end_the_comparison() {
    let expected = expected();
    let against = |change: &dyn Fn(&mut Vec<Value>)| {
        let mut report = report();
        change(events(&mut report));
        diff(&expected, &read(&report["event_log"]))
    };
    let missing = against(&|events| drop(events.remove(1)));
    let [first] = of(&missing, Rtmr::Rtmr0).differences.as_slice() else { panic!("not one") };
    assert_eq!((first.nth, first.found.as_ref().unwrap().event_type), (1, EventType(0x8000_0001)));
    let short = against(&|events| drop(events.pop()));
    let [last] = of(&short, Rtmr::Rtmr3).differences.as_slice() else { panic!("not one") };
    assert_eq!((last.nth, &last.found), (7, &None));
    let long = against(&|events| events.push(events[20].clone()));
    let [more] = of(&long, Rtmr::Rtmr3).differences.as_slice() else { panic!("not one") };
    assert_eq!((more.nth, &more.expected), (8, &None));
}

#[test]
fn a_log_that_does_not_lead_to_its_quote_is_not_equal_even_if_the_quote_is() {
    let mut changed = report();
    let digits = events(&mut changed)[0]["digest"].as_str().unwrap().to_owned();
    events(&mut changed)[0]["digest"] = json!(flipped(&digits, 0));
    let found = diff(&expected(), &read(&changed));
    let rtmr0 = of(&found, Rtmr::Rtmr0);
    assert_eq!((rtmr0.verdict, rtmr0.differences.len()), (Verdict::Equal, 1));
    assert!(!found.is_equal());
}

/// systemd's stub measures texts, and logs them: `EV_IPL` with UTF-16LE.
#[test]
fn a_text_that_the_digest_is_of_is_shown() {
    let line: Vec<u8> = "console=ttyS0\0".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let bytes = |payload: &[u8], digest: Register| {
        [&CCEL[..CCEL_HEADER], &record(3, 0xd, &digest.0, payload)].concat()
    };
    let text = |payload: &[u8], digest: Register| {
        let log = log::read("FILE", &bytes(payload, digest)).unwrap();
        let found = diff(&expected(), &log);
        of(&found, Rtmr::Rtmr2).differences[0].found.clone().unwrap().text
    };
    assert_eq!(text(&line, Register::digest(&line)), Some("console=ttyS0".to_owned()));
    assert_eq!(text(b"quiet\0", Register::digest(b"quiet\0")), Some("quiet".to_owned()));
    assert_eq!(text(&line, Register([1; 48])), None);
    assert_eq!(text(b"\x1b[2J", Register::digest(b"\x1b[2J")), None);
}

#[test]
fn an_expectation_is_written_and_read_as_the_same() {
    let mut expected = expected();
    expected.alternatives = vec![Alternative::new("memory 2 GiB", &expected, &of_two_gib())];
    expected.events[1].digest = Digest::Unpinned;
    let json = serde_json::to_value(&expected).unwrap();
    assert_eq!(
        (&json["version"], &json["rtmr0"], &json["rtmr3"]),
        (&json!(1), &Value::Null, &json!(REAL[4]))
    );
    let read = |json: &Value| Expected::read("FILE", json.to_string().as_bytes());
    assert_eq!(read(&json), Ok(expected.clone()));
    let refused = |field: &str, value: Value| {
        let mut json = json.clone();
        json[field] = value;
        read(&json).unwrap_err().to_string()
    };
    assert!(refused("version", json!(2)).contains("version: expected 1, found 2"));
    assert!(refused("rtmr3", json!(REAL[1])).contains(&format!("rtmr3: expected {} by its events", REAL[4])));
    assert!(refused("rtmr0", json!(REAL[1])).contains("rtmr0: expected null (not pinned) by its events"));
    assert!(refused("rtmr1", Value::Null).contains("found null (not pinned)"));
    assert!(refused("\u{1b}", json!(1)).contains("unknown field `\\u{1b}`"));
    assert!(expected.is_unpinned(Rtmr::Rtmr0) && expected.launch().is_none());
}
