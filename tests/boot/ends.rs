//! Guests that end otherwise than ours do, under a real kernel: what the host makes of them. How a machine without a
//! kernel ends is in `qemu/tests/command.rs`, one with a cut initramfs in `tampered`.

use std::time::Duration;

use casemate_image::cpio::Writer;
use casemate_image::tree::Node;
use casemate_measure::status::{Flavour, Frame, Reason, Stage};

use crate::images::{self, Image};
use crate::machine::{Ended, Machine, Options, qemu};

fn frame(stage: Stage, reason: Reason) -> [u8; 64] {
    let frame = Frame {
        flavour: Flavour::Dev,
        stage,
        reason,
        sequence: 0,
        dropped: 0,
        uptime_ms: 1,
        detail: 0,
        digest: [0; 32],
    };
    frame.encode()
}

/// A machine whose PID 1 writes these bytes to the status port and then ends so (`tiny_init.c`).
fn tiny(name: &str, say: &[u8], end: &str, options: Options) -> Ended {
    let base = Image::tiny();
    let mut writer = Writer::new(images::lock().epoch);
    for (path, node) in [
        ("dev", Node::Directory),
        ("say", Node::plain(say)),
        ("end", Node::plain(end.as_bytes())),
        ("init", Node::executable(images::tiny_init())),
    ] {
        writer.member(path, &node).unwrap();
    }
    let initramfs = zstd::encode_all(&writer.finish().unwrap()[..], 3).unwrap();
    Machine::switch_on(&base.with_initramfs(&format!("ends-{name}"), &initramfs), options).wait_for_its_end()
}

fn assert_ends(ended: &Ended, status: u8, says: &[&str]) {
    assert_eq!(ended.exit_status, status, "{ended}");
    let words = &ended.report.ended.as_ref().unwrap().words;
    for part in says {
        assert!(words.contains(part), "expected {part:?}: {words}");
    }
}

#[test]
fn a_kernel_panic() {
    if qemu() {
        let ended = tiny("panic", &frame(Stage::Lock, Reason::Entered), "p", Options::default());
        // kernel/exit.c: do_exit of the init process.
        let says = [
            "kernel panicked",
            "stage \"egress lock\"",
            "Kernel panic - not syncing: Attempted to kill init!",
        ];
        assert_ends(&ended, 13, &says);
    }
}

#[test]
fn a_power_off_without_a_reason() {
    if qemu() {
        let ended = tiny("vanished", &frame(Stage::Lock, Reason::Entered), "o", Options::default());
        assert_ends(&ended, 5, &["without saying why", "stage \"egress lock\""]);
    }
}

#[test]
fn a_failure_in_its_own_words() {
    if qemu() {
        let ended = tiny("failed", &frame(Stage::Lock, Reason::LockFailed), "p", Options::default());
        assert_ends(&ended, Reason::LockFailed.code(), &["egress lock", Reason::LockFailed.words()]);
    }
}

#[test]
fn garbage_on_the_status_port() {
    if qemu() {
        let mut garbage = frame(Stage::Lock, Reason::Entered);
        garbage[4] = 0xff;
        // What is shorter than a frame could still become one: so much more of it is no frame for certain.
        let garbage = [&garbage[..], &[0x1b; 100]].concat();
        let ended = tiny("garbage", &garbage, "o", Options::default());
        assert_ends(&ended, 16, &["bytes on its status port are no status frame"]);
        assert!(ended.report.skipped_bytes > 64, "{ended}");
    }
}

#[test]
fn silence_after_ready() {
    if qemu() {
        let options = Options { alive: Some(Duration::from_secs(3)), ..Options::default() };
        let ended = tiny("hung", &frame(Stage::Ready, Reason::Ready), "h", options);
        assert_ends(&ended, 15, &["no sign of life for 3 s", "ready"]);
    }
}
