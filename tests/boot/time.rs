//! The clock: never before the image's epoch, and what happens when a document insists on an authenticated time that no
//! server gives. That one is given, by real servers, is tested in `init/tests`: a guest trusts no root of a test's.

use casemate_measure::status::{Reason, Stage};

use crate::console::process;
use crate::images::{Image, lock};
use crate::machine::{Machine, Options, qemu};

/// Names a server where nobody listens: the host itself, as the user network shows it.
fn document(name: &str, secure_time: &str) -> String {
    format!(
        r#"{{
  "manifest_version": 2, "name": "boot-{name}", "runner": "casemate", "key_provider": "none", {secure_time}
  "casemate": {{
    "version": 1, "role": "node", "node": {{ "name": "time", "type": "test" }},
    "time": {{ "nts": [{{ "address": "10.0.2.2:4460", "name": "nts.example" }}] }},
    "network": {{ "mode": "dhcp" }}, "vpn": {{ "mode": "direct" }}, "egress": {{ "mode": "internal-only" }},
    "mesh": {{ "backends": [], "verify": "quote", "images": ["same"] }},
    "services": [{{
      "name": "clock", "rootfs": "probe", "uid": 1000, "restart": "always",
      "exec": ["/bin/sh", "-c", "echo it is $(date +%s) s; exec sleep 100000"]
    }}]
  }}
}}"#
    )
}

/// Guest time passes as fast as QEMU can count instructions, and at once where the guest waits: the stage has 120 s.
const FAST: &str = "-icount shift=3,sleep=off";

#[test]
fn without_the_time_that_the_document_asks_for_nothing_runs() {
    if !qemu() {
        return;
    }
    // dstack's default: absent is true.
    let image = Image::of("time-required", &document("time-required", ""));
    let ended = Machine::switch_on(&image, Options { extra: FAST, ..Options::default() }).wait_end();
    ended.assert_failed(Stage::Time, Reason::NoTime);
    assert!(ended.console_says("no time from a server"), "{ended}");
    let later = [Stage::Agent, Stage::Services, Stage::Mesh, Stage::Ready];
    assert!(ended.frames.iter().all(|frame| !later.contains(&frame.stage)), "{ended}");
    assert!(!ended.console_says("it is "), "{ended}");
}

/// The host says 2001; the document names a server, and does not insist on it.
#[test]
fn without_the_time_that_the_document_would_like_it_is_the_hosts_and_not_before_the_epoch() {
    const HOSTS_CLOCK: &str = "-rtc base=2001-01-01T00:00:00";
    if !qemu() {
        return;
    }
    let image = Image::of("time-wished", &document("time-wished", "\"secure_time\": false,"));
    let machine = Machine::switch_on(&image, Options { extra: HOSTS_CLOCK, ..Options::default() });
    machine.wait_ready();
    let status = machine.wait_status("a status with processes", |status| {
        status["processes"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == "time"))
    });
    let epoch = u64::from(lock().epoch);
    let time = &status["time"];
    assert_eq!(time["source"], "host (unauthenticated)", "{time}");
    assert_eq!((&time["state"], &time["required"]), (&"unsynchronised".into(), &false.into()), "{time}");
    assert_eq!((&time["floor"], &time["floor_from"]), (&epoch.into(), &"image".into()), "{time}");
    assert_eq!(time["last_sync"], serde_json::Value::Null, "{time}");
    let client = process(&status, "time");
    assert!(client["pid"] != 0 && client["restarts"] == 0, "it goes on asking: {status}");
    let said = machine.wait("the clock's service", || {
        let says = |line: String| line.split_once("it is ")?.1.split_once(" s")?.0.parse::<u64>().ok();
        machine.console().into_iter().find_map(says)
    });
    // The machine is up for less than that.
    assert!((epoch..epoch + 600).contains(&said), "{said} and not {epoch}");
    let ended = machine.power_off();
    ended.assert_orderly();
    assert!(ended.console_says("it is the host's until there is one"), "{ended}");
    assert!(ended.console_says("connect by TCP"), "confined, it still reaches out: {ended}");
}
