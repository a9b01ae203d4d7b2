//! Policies that the command writes.

use casemate_measure::tdx::{Digest, Event, EventType, Expected, Rtmr};

use super::*;

#[test]
fn a_policy_of_an_unmeasured_image_is_not_written() {
    let desk = Desk::new();
    desk.file("registers.json", serde_json::to_vec(&LaunchRegisters::ZERO).unwrap());
    let document = desk.file("app-compose.json", DOCUMENT);
    let folder = desk.folder.path();
    let output =
        run(["policy".as_ref(), "--image".as_ref(), folder, "--document".as_ref(), document.as_path()]);
    assert_eq!(output.status.code(), Some(64));
    let said = text(&output.stderr);
    assert!(
        said.contains("registers.json: images[0].rtmr2: expected a measured register, found zero"),
        "{said}"
    );
}

fn event(rtmr: Rtmr) -> Event {
    Event {
        rtmr,
        event_type: EventType::DSTACK_RUNTIME,
        name: "kernel".into(),
        digest: Digest::Known(Register([7; 48])),
        origin: "a test".into(),
    }
}

fn expected(events: Vec<Event>) -> Expected {
    Expected {
        mrtd: Register([1; 48]),
        mrconfigid: None,
        os_image_hash: None,
        mr_system: None,
        mr_aggregated: None,
        events,
        alternatives: Vec::new(),
    }
}

/// The output of `cargo measure image --json` gives a policy that a real TD can meet; the directory's registers alone do not.
#[test]
fn a_policy_takes_what_was_computed_for_a_machine() {
    let desk = Desk::new();
    let document = desk.file("app-compose.json", DOCUMENT);
    let write = |expected: &Expected| {
        let file = desk.file("expected.json", serde_json::to_vec(expected).unwrap());
        run(["policy".as_ref(), "--expected".as_ref(), file.as_path(), "--document".as_ref(), &document])
    };
    let all = expected(vec![event(Rtmr::Rtmr0), event(Rtmr::Rtmr1), event(Rtmr::Rtmr2)]);
    let output = write(&all);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
    let policy: Value = serde_json::from_slice(&output.stdout).unwrap();
    let register = Register::ZERO.extended(&Register([7; 48])).to_string();
    let image = &policy["images"][0];
    assert_eq!((&image["mrtd"], &image["rtmr2"]), (&json!("01".repeat(48)), &json!(register)));

    // Without the kernel's register: written, with a warning.
    let output = write(&expected(vec![event(Rtmr::Rtmr2)]));
    assert_eq!(output.status.code(), Some(0));
    assert!(
        text(&output.stderr).contains("RTMR1 not measured: this policy can trust the simulated TEE only")
    );
    // With an event that nobody could say: not written.
    let unpinned = Event { digest: Digest::Unpinned, ..event(Rtmr::Rtmr1) };
    let output = write(&expected(vec![unpinned, event(Rtmr::Rtmr2)]));
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).contains("RTMR1"), "{}", text(&output.stderr));

    desk.file("registers.json", serde_json::to_vec(&rtmr2_alone()).unwrap());
    let folder = desk.folder.path();
    let output =
        run(["policy".as_ref(), "--image".as_ref(), folder, "--document".as_ref(), document.as_path()]);
    assert_eq!(output.status.code(), Some(0));
    assert!(text(&output.stderr).contains("MRTD and RTMR1 not measured"), "{}", text(&output.stderr));
}

fn rtmr2_alone() -> LaunchRegisters {
    image()
}

/// The README's example is a policy.
#[test]
fn the_readme_shows_a_policy() {
    let readme = include_str!("../../../README.md");
    let section = readme.split("## Policy file").nth(1).unwrap();
    let example = section.split("```json").nth(1).unwrap().split("```").next().unwrap();
    let value: Value = serde_json::from_str(example).unwrap();
    let policy = casemate_verify::Policy::from_json("README.md", example.as_bytes(), None).unwrap();
    // And shows every key that a policy can have.
    let known = serde_json::to_value(&policy).unwrap();
    for key in known.as_object().unwrap().keys() {
        assert!(value.get(key).is_some() || key == "kms", "{key} is missing in the example");
        assert!(section.contains(&format!("| `{key}")), "{key} is missing in the table");
    }
    for part in ["tcb", "freshness"] {
        for key in known[part].as_object().unwrap().keys() {
            assert!(section.contains(&format!("`{part}.{key}`")), "{part}.{key} is missing in the table");
        }
    }
}
