//! A host that is hostile with its disks: one that never answers, or nearly never, one that is shorter than it says, and disks
//! that change their size or go, while they are read and later.

use std::fs;
use std::time::Duration;

use casemate_measure::status::{Frame, Reason, Stage};

use crate::machine::{Ended, Machine, Options, qemu};
use crate::processes::{FAST, generic, long_share, share};

const VIRTIO: &str = "disable-legacy=on,iommu_platform=on";
/// A bus of its own, from which devices can be taken.
const PORT: &str = "-device pcie-root-port,id=rp,bus=pcie.0,addr=0x6,chassis=1,hotplug=on";

/// One more disk, called `second`, on that bus.
fn second(blockdev: &str) -> String {
    format!(
        "-blockdev node-name=second,{blockdev} -device virtio-blk-pci,id=second,drive=second,bus=rp,{VIRTIO}"
    )
}

/// The host share's content as a file that goes with cargo's folder.
fn file(name: &str, content: &[u8]) -> String {
    let path = crate::images::place(name);
    fs::write(&path, content).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The share is the second disk; the machine's own is empty.
fn on_second(extra: String, fast: bool) -> Options {
    let extra = if fast { format!("{FAST} {extra}") } else { extra };
    Options {
        mrconfigid: Some(share().1),
        extra: extra.leak(),
        company: true,
        before: PORT,
        // QEMU does not end before the last request has, and some never do.
        stop: Duration::from_secs(20),
        ..Options::default()
    }
}

/// A disk of which so many bytes a second come: a throttle's time is the machine's.
fn slow(name: &str, image: &[u8], bytes: &str) -> String {
    let path = file(name, image);
    format!(
        "-object throttle-group,id=slow{bytes} {}",
        second(&format!(
            "driver=throttle,throttle-group=slow,file.driver=raw,file.node-name=medium,file.file.driver=file,file.file.filename={path}"
        ))
    )
}

/// Off, while the document is measured, for one of these reasons.
fn refused(case: &str, machine: Machine, reasons: &[Reason]) -> Ended {
    let ended = machine.wait_end();
    let (wanted, last) =
        (reasons.iter().map(|reason| format!("{reason:?}")).collect::<Vec<_>>(), *ended.last());
    println!(
        "fault {case}: expected {} at \"{}\", off, found {:?} at \"{}\", exit status {}",
        wanted.join(" or "),
        Stage::Measure.words(),
        last.reason,
        last.stage.words(),
        ended.exit_status
    );
    assert!(reasons.contains(&last.reason), "{ended}");
    ended.assert_failed(Stage::Measure, last.reason);
    ended
}

fn wait_for_stage(machine: &Machine, stage: Stage) {
    let reached = || machine.frames().iter().any(|frame| frame.stage >= stage).then_some(());
    machine.wait(stage.words(), reached);
}

/// It answers the firmware, which would wait for it for ever, and then nobody any more.
#[test]
fn one_that_never_answers_is_the_end() {
    if !qemu() {
        return;
    }
    let never = slow("never.img", &share().0, "");
    let machine = Machine::switch_on(&generic(), on_second(never, true));
    wait_for_stage(&machine, Stage::Manifest);
    machine.monitor(
        "{\"execute\":\"qom-set\",\"arguments\":{\"path\":\"/objects/slow\",\"property\":\"limits\",\"value\":{\"bps-total\":1}}}\n",
    );
    refused("a disk that never answers", machine, &[Reason::Deadline, Reason::ShareReader]);
}

#[test]
fn one_that_is_too_slow_is_the_end() {
    if !qemu() {
        return;
    }
    let slow = slow("slow.img", &long_share().0, ",x-bps-total=32768");
    let machine = Machine::switch_on(&generic(), on_second(slow, true));
    refused("a disk that is too slow", machine, &[Reason::ShareReader]);
}

#[test]
fn one_that_is_shorter_than_its_file_system_is_refused() {
    if !qemu() {
        return;
    }
    let (mut image, bound) = share();
    // Boot sector and tables; the root directory and what is in it are beyond its end.
    image.truncate(8 << 10);
    let options = Options {
        share: Some(image),
        mrconfigid: Some(bound),
        extra: FAST,
        company: true,
        ..Options::default()
    };
    let machine = Machine::switch_on(&generic(), options);
    let ended = refused("a disk that is too short", machine, &[Reason::ShareRefused]);
    assert!(ended.console_says("host share: "), "{ended}");
}

/// Before somebody has begun to read it, or after.
#[test]
fn one_that_shrinks_or_goes_while_it_is_read_is_refused() {
    if !qemu() {
        return;
    }
    const EITHER: &[Reason] = &[Reason::ShareRefused, Reason::NoDocument];
    let slow = |name| slow(name, &long_share().0, ",x-bps-total=131072");
    let machine = Machine::switch_on(&generic(), on_second(slow("shrinks.img"), false));
    wait_for_stage(&machine, Stage::Measure);
    machine
        .monitor("{\"execute\":\"block_resize\",\"arguments\":{\"node-name\":\"medium\",\"size\":1024}}\n");
    refused("a disk that shrinks while it is read", machine, EITHER);

    let machine = Machine::switch_on(&generic(), on_second(slow("goes.img"), false));
    wait_for_stage(&machine, Stage::Measure);
    machine.monitor("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"second\"}}\n");
    refused("a disk that is taken away while it is read", machine, EITHER);
}

fn alive_after(machine: &Machine, what: &str, before: &Frame) -> Frame {
    machine.wait(what, || {
        machine
            .all_frames()
            .into_iter()
            .find(|frame| frame.reason == Reason::Alive && frame.sequence > before.sequence + 1)
    })
}

fn last(machine: &Machine) -> Frame {
    *machine.all_frames().last().unwrap()
}

/// Once the document is read nobody opens a disk any more.
#[test]
fn ones_that_change_later_change_nothing() {
    if !qemu() {
        return;
    }
    let (image, bound) = share();
    let path = file("later.img", &vec![0; 1 << 20]);
    let spare = format!("{FAST} {}", second(&format!("driver=raw,file.driver=file,file.filename={path}")));
    let options = Options {
        share: Some(image),
        mrconfigid: Some(bound),
        extra: spare.leak(),
        company: true,
        before: PORT,
        ..Options::default()
    };
    let machine = Machine::switch_on(&generic(), options);
    machine.wait_ready();
    for size in [0_u64, 1 << 40, 512] {
        let before = last(&machine);
        let resize = format!("{{\"node-name\":\"second\",\"size\":{size}}}");
        machine.monitor(&format!("{{\"execute\":\"block_resize\",\"arguments\":{resize}}}\n"));
        alive_after(&machine, "a frame after the disk's size changed", &before);
    }
    println!("fault a disk that changes its size: expected Alive, found Alive");
    let before = last(&machine);
    machine.monitor("{\"execute\":\"device_del\",\"arguments\":{\"id\":\"second\"}}\n");
    alive_after(&machine, "a frame after a disk was taken away", &before);
    println!("fault a disk that is taken away: expected Alive, found Alive");
    // Those of the shape, network device and disk, are on the root bus, from which QEMU takes nothing.
    for number in [1, 2] {
        let device = format!("{{\"id\":\"/machine/peripheral-anon/device[{number}]\"}}");
        let refused =
            machine.try_monitor(&format!("{{\"execute\":\"device_del\",\"arguments\":{device}}}\n"));
        let why = refused.unwrap_err();
        assert!(why.contains("does not support hotplugging"), "{why}");
        println!("fault a device of the shape taken away: expected that QEMU refuses, found {why}");
    }
    machine.wait_healthy();
    machine.power_off().assert_orderly();
}
