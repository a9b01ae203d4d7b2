//! The demo's image: it boots, says what it is, and goes in order; under both firmwares; and it is small.

use std::collections::BTreeSet;
use std::fs;

use casemate_measure::status::{Flavour, Reason, Stage};
use casemate_qemu::shape::Firmware;
use serde_json::Value;

use crate::console::process;
use crate::images::Image;
use crate::machine::{Ended, Machine, Options, qemu};

/// What the design promises for kernel and initramfs together, in bytes.
const SIZE: u64 = 24_000_000;

#[test]
fn it_gets_ready_and_powers_off_in_order() {
    if !qemu() {
        return;
    }
    let machine = Machine::switch_on(Image::demo(), Options::default());
    machine.wait_ready();
    machine.wait_healthy();
    let status = machine.wait_status("a status document with processes", |status| {
        status["processes"].as_array().is_some_and(|all| !all.is_empty())
    });
    assert_eq!(status["egress"]["locked"], true, "{status}");
    assert_eq!(status["egress"]["mode"], "internal-only", "{status}");
    assert_eq!(status["tee"], "simulator", "{status}");
    assert_eq!(status["vpn"]["mode"], "direct", "{status}");
    let processes = status["processes"].as_array().unwrap();
    assert!(processes.iter().all(|process| process["name"] != "vpn"), "{status}");
    assert_namespaces(&status);

    let ended = machine.power_off();
    ended.assert_orderly();
    assert!(ended.console_says("powered off in order"), "{ended}");
    assert_frames(&ended);
}

#[test]
fn it_gets_ready_under_the_pinned_ovmf() {
    if !qemu() {
        return;
    }
    let machine =
        Machine::switch_on(Image::demo(), Options { firmware: Firmware::Ovmf, ..Options::default() });
    machine.wait_ready();
    machine.wait_healthy();
    machine.power_off().assert_orderly();
}

#[test]
fn kernel_and_initramfs_are_small() {
    let size = |name: &str| fs::metadata(Image::demo().0.join(name)).unwrap().len();
    let (kernel, initramfs) = (size("bzImage"), size("initramfs.cpio.zst"));
    assert!(kernel > 0 && initramfs > 0);
    assert!(kernel + initramfs <= SIZE, "kernel {kernel}, initramfs {initramfs}: expected at most {SIZE}");
}

/// Each service has a network namespace of its own; our own processes have PID 1's.
fn assert_namespaces(status: &Value) {
    let own = status["network_namespace"].as_str().unwrap();
    assert!(own.starts_with("net:["), "{status}");
    let of = |name: &str| process(status, name)["network_namespace"].as_str().unwrap();
    for name in ["agent", "mesh", "dhcp"] {
        assert_eq!(of(name), own, "{name}: {status}");
    }
    let services = ["web", "probe"].map(of);
    assert!(services.iter().all(|one| one.starts_with("net:[")), "{status}");
    let all: BTreeSet<&str> = services.into_iter().chain([own]).collect();
    assert_eq!(all.len(), 3, "{status}");
}

/// One frame a stage, in order, without a gap that is not counted; then ready, asked to stop, off.
fn assert_frames(ended: &Ended) {
    assert!(ended.all_frames.is_sorted_by(|a, b| a.sequence < b.sequence), "{:?}", ended.all_frames);
    // How often it says that it is alive depends on how long it ran.
    let mut frames = ended.frames.clone();
    frames.retain(|frame| frame.reason != Reason::Alive);
    assert_eq!(ended.report.skipped_bytes, 0, "{ended}");
    assert!(frames.iter().all(|frame| frame.flavour == Flavour::Dev), "{frames:?}");
    assert!(frames.is_sorted_by(|a, b| a.sequence < b.sequence && a.uptime_ms <= b.uptime_ms), "{frames:?}");
    let end = [
        (Stage::Ready, Reason::Ready),
        (Stage::Shutdown, Reason::Stopping),
        (Stage::Shutdown, Reason::PoweredOff),
    ];
    let said: Vec<_> = frames.iter().map(|frame| (frame.stage, frame.reason)).collect();
    let (boot, after) = said.split_at(said.len() - end.len());
    assert_eq!(after, end, "{frames:?}");
    // What came before /sys and /dev were there could not be sent: the first frame counts it.
    let first = frames[0];
    assert!(first.stage <= Stage::Manifest, "{first:?}");
    assert_eq!(first.dropped, first.sequence, "{first:?}");
    assert_eq!(u32::from(first.stage.code()), first.sequence + 1, "{first:?}");
    let expected: Vec<_> = Stage::ALL
        .iter()
        .filter(|stage| (first.stage..Stage::Ready).contains(stage))
        .map(|stage| (*stage, Reason::Entered))
        .collect();
    assert_eq!(boot, expected, "{frames:?}");
    assert_eq!(ended.last().dropped, first.dropped, "nothing was dropped afterwards: {frames:?}");
}
