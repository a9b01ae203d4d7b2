//! From `image --json` to `diff`, over the log of a machine that is made here.

use casemate_measure::tdx::rtmr3::{events_after_parsing, events_before_parsing};
use casemate_measure::tdx::{Digest, Expected, Rtmr};
use casemate_measure::{InstanceId, MeasuredConfig, Platform};
use serde_json::{Value, json};

use crate::directory::Directory;
use crate::{DOCUMENT, INSTANCE, measure, printed};

fn expected(directory: &Directory) -> String {
    let acpi = directory.argument("acpi.json");
    let with = ["--json", "--acpi", &acpi, "--document", DOCUMENT, "--instance-id", INSTANCE];
    printed(directory.path(), &with)
}

/// What an agent of a machine answers that is exactly as expected: registers and log.
fn answer(expected: &str) -> Value {
    let expected = Expected::read("expected.json", expected.as_bytes()).unwrap();
    let document = std::fs::read(DOCUMENT).unwrap();
    let config = MeasuredConfig::parse(DOCUMENT, &document, Platform::Appliance).unwrap();
    let id = InstanceId::from_hex(INSTANCE).unwrap();
    let before = events_before_parsing(&config.compose_hash(), &config.app_id());
    let after = events_after_parsing(Some(&id), config.key_provider());
    // The digest of a runtime event is made of its payload: of ours, not of what is expected.
    let mut runtime = before.iter().chain(&after);
    let event = |event: &casemate_measure::tdx::Event| {
        let Digest::Known(digest) = event.digest else { panic!("{} is not pinned", event.name) };
        let (name, payload) = if event.rtmr == Rtmr::Rtmr3 {
            let runtime = runtime.next().unwrap();
            (runtime.event.clone(), hex::encode(&runtime.payload))
        } else {
            (String::new(), String::new())
        };
        json!({
            "imr": event.rtmr.index(), "event_type": event.event_type.0, "digest": digest.to_string(),
            "event": name, "event_payload": payload,
        })
    };
    let events: Vec<Value> = expected.events.iter().map(event).collect();
    let [rtmr0, rtmr1, rtmr2, rtmr3] =
        Rtmr::ALL.map(|rtmr| expected.register(rtmr).map(|register| register.to_string()));
    json!({ "tcb_info": {
        "mrtd": expected.mrtd.to_string(),
        "rtmr0": rtmr0, "rtmr1": rtmr1, "rtmr2": rtmr2, "rtmr3": rtmr3, "event_log": events,
    } })
}

#[test]
fn a_machine_that_is_as_expected_is_equal() {
    let directory = Directory::new();
    let expected = expected(&directory);
    // The registers are there for readers that do not fold.
    let json: Value = serde_json::from_str(&expected).unwrap();
    for register in ["mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrconfigid"] {
        assert_eq!(json[register].as_str().map(str::len), Some(96), "{register}");
    }
    let mut without_mrconfigid = json.clone();
    // An agent does not state it: it cannot be equal.
    without_mrconfigid.as_object_mut().unwrap().remove("mrconfigid");
    directory.write("expected.json", without_mrconfigid.to_string());
    directory.write("answer.json", answer(&expected).to_string());
    let (of_expected, of_answer) = (directory.argument("expected.json"), directory.argument("answer.json"));
    let (status, out, err) = measure(&["diff", &of_expected, &of_answer]);
    assert_eq!((status, err.as_str()), (Some(0), ""), "{out}");
    for register in ["MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3"] {
        assert!(out.contains(&format!("{register:<11}equal\n")), "{out}");
    }
    assert!(out.ends_with("result     equal\n"), "{out}");
    directory.write("expected.json", expected);
    let (status, out, _) = measure(&["diff", &of_expected, &of_answer]);
    assert_eq!(status, Some(1));
    assert!(out.contains("MRCONFIGID not in the file\n"), "{out}");
}

/// The machine is another than was expected in one input: which event differs is said, and what explains it.
#[test]
fn the_input_that_differs_is_named() {
    let expected_directory = Directory::new();
    expected_directory.write("expected.json", expected(&expected_directory));
    let of_expected = expected_directory.argument("expected.json");
    let cases = [
        (
            ("shape.json", r#"{"memory_mib": 4096, "cpus": 2, "qemu": "10.0.13"}"#),
            "RTMR0      DIFFERS\n",
            "TD HOB (0x8000000b)",
            "because  memory 4096 MiB\n",
        ),
        (
            ("shape.json", r#"{"memory_mib": 2048, "cpus": 4, "qemu": "10.0.13"}"#),
            "RTMR0      DIFFERS\n",
            "etc/table-loader (0x0000000a)",
            "because  ACPI tables of QEMU 10.0.13 (casemate cpus=4 memory=2048M)\n",
        ),
        (
            ("shape.json", r#"{"memory_mib": 2048, "cpus": 2, "qemu": "10.0.13", "page_order": "two-pass"}"#),
            "MRTD       DIFFERS\n",
            "",
            "because  pages measured in two passes (QEMU before 9.0)\n",
        ),
        (
            (
                "shape.json",
                r#"{"memory_mib": 2048, "cpus": 2, "qemu": "10.0.13", "setup_header": "patched"}"#,
            ),
            "RTMR1      DIFFERS\n",
            "kernel (0x80000003)",
            "because  a QEMU that fills in the kernel's setup header\n",
        ),
        (
            ("cmdline", "quiet panic=-1 init=/bin/sh"),
            "RTMR2      DIFFERS\n",
            "LOADED_IMAGE::LoadOptions (0x00000006)",
            "depends on the command line\n",
        ),
        (
            ("initramfs.cpio.zst", "another"),
            "RTMR2      DIFFERS\n",
            "Linux initrd (0x00000006)",
            "depends on the initramfs file\n",
        ),
    ];
    for ((file, content), register, event, why) in cases {
        let actual = Directory::new();
        actual.write(file, content);
        let answer = answer(&expected(&actual)).to_string();
        actual.write("answer.json", answer);
        let (status, out, err) = measure(&["diff", &of_expected, &actual.argument("answer.json")]);
        assert_eq!((status, err.as_str()), (Some(1), ""), "{content}: {out}");
        for words in [register, event, why, "result     not equal\n"] {
            assert!(out.contains(words), "{words:?}: {out}");
        }
        assert_eq!(out.matches("DIFFERS").count(), 1, "{content}: {out}");
        assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    }
}
