//! The machines of the table: what is ordered to break in them breaks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use casemate_image::assemble::InitBinary;
use casemate_image::io::compile::Compiler;
use casemate_image::progress::Progress;
use casemate_measure::image::Flavor;
use casemate_measure::status::{Frame, Reason};
use casemate_measure::{ComposeHash, MrConfigId};
use casemate_qemu::share::Share;

use crate::images::{self, Image};
use crate::judge::{self, Expected, Faults, Said, judge};
use crate::machine::{Ended, Machine, Options, PATIENCE, qemu};
use crate::table::{PROCESSES, Row, UNLOCKED, WEAKENED};

/// Nobody listens at the time server: it is the host itself, as the user network shows it.
const DOCUMENT: &str = r#"{
  "manifest_version": 2, "name": "faults", "runner": "casemate", "key_provider": "none", "secure_time": false,
  "casemate": {
    "version": 1, "role": "node", "node": { "name": "faults", "type": "test" },
    "time": { "nts": [{ "address": "10.0.2.2:4460", "name": "nts.example" }] },
    "network": { "mode": "dhcp" }, "vpn": { "mode": "direct" }, "egress": { "mode": "internal-only" },
    "mesh": {
      "backends": [{ "listen": 443, "kind": "http", "to": "web:8000", "allow": ["any"] }],
      "verify": "quote", "images": ["same"]
    },
    "services": [
      {
        "name": "web", "rootfs": "web", "uid": 1000, "ports": [8000], "restart": "always",
        "exec": ["/bin/httpd", "-f", "-p", "8000", "-h", "/www"]
      },
      {
        "name": "probe", "rootfs": "web", "uid": 1001, "ports": [8001], "restart": "always",
        "exec": ["/bin/sleep", "1000000"]
      },
      { "name": "crash", "rootfs": "web", "uid": 1002, "restart": "always", "exec": ["/bin/false"] },
      {
        "name": "hungry", "rootfs": "web", "uid": 1003, "restart": "always", "memory_max": "8M",
        "exec": ["/bin/busybox", "tail", "/dev/zero"]
      }
    ]
  }
}"#;

/// Guest time passes as fast as QEMU can count instructions, and at once where the guest waits.
pub(crate) const FAST: &str = "-icount shift=3,sleep=off";

/// An init that breaks on order.
fn init() -> &'static InitBinary {
    static INIT: LazyLock<InitBinary> = LazyLock::new(|| {
        let (flavor, danger, epoch) = (Flavor::Dev, Some("danger-faults"), images::lock().epoch);
        let compiler = Compiler { workspace: images::workspace(), flavor, danger, jobs: None, epoch };
        compiler.compile(&Progress::silent()).unwrap()
    });
    &INIT
}

/// With that init.
pub(crate) fn image() -> Image {
    static IMAGE: LazyLock<Image> = LazyLock::new(|| {
        let document = images::place("faults.app-compose.json");
        std::fs::write(&document, DOCUMENT).unwrap();
        Image::build_with("faults", Flavor::Dev, Some(&document), &[("web", images::busybox())], init())
    });
    IMAGE.clone()
}

/// The same without a document.
pub(crate) fn generic() -> Image {
    static IMAGE: LazyLock<Image> = LazyLock::new(|| {
        Image::build_with("faults-generic", Flavor::Dev, None, &[("web", images::busybox())], init())
    });
    IMAGE.clone()
}

/// The document on a host share, and what binds it.
pub(crate) fn share() -> (Vec<u8>, MrConfigId) {
    share_of(DOCUMENT.into())
}

/// Nearly as long as a document may be, so that reading it takes some time.
pub(crate) fn long_share() -> (Vec<u8>, MrConfigId) {
    share_of([DOCUMENT.as_bytes(), &vec![b' '; 3 << 20]].concat())
}

fn share_of(document: Vec<u8>) -> (Vec<u8>, MrConfigId) {
    let bound = MrConfigId::v1(&ComposeHash::of(&document));
    (Share { document, sys_config: None, instance_info: None }.image().unwrap(), bound)
}

/// Orders for the guest, as QEMU is told them.
pub(crate) fn orders<'a>(faults: impl Iterator<Item = &'a str>) -> String {
    faults.fold(String::new(), |all, fault| format!("{all} -smbios type=11,value=casemate.fault={fault}"))
}

fn run(row: &Row) -> Ended {
    let faults = row.faults.iter().map(|(fault, _)| *fault).filter(|fault| !fault.starts_with('('));
    let extra = format!("{}{}", if row.waits { FAST } else { "" }, orders(faults));
    let mut options = Options { extra: extra.leak(), company: true, ..Options::default() };
    let image = if row.shared {
        let (share, bound) = long_share();
        options = Options { share: Some(share), mrconfigid: Some(bound), ..options };
        generic()
    } else {
        image()
    };
    let machine = Machine::switch_on(&image, options);
    let has_run = |frames: &[Frame]| {
        let ready = frames.iter().find(|frame| frame.reason == Reason::Ready)?;
        (frames.last()?.uptime_ms >= ready.uptime_ms + row.runs * 1000).then_some(())
    };
    // Guest time is faster than the host's, but not always by much.
    let limit = PATIENCE + Duration::from_secs(row.runs);
    if is_off(row) {
        return machine.wait_end_unless(limit, |frames| has_run(frames).is_some());
    }
    machine.wait_ready();
    machine.wait_within(limit, "time to pass", || has_run(&machine.all_frames()));
    machine.power_off()
}

fn is_off(row: &Row) -> bool {
    row.faults.iter().any(|(_, expected)| matches!(expected, Expected::Off(..)))
}

/// Who is not ready in a machine in which nothing else is wrong: `crash` and `hungry`, which fail, and the time client, which
/// has no answer.
pub(crate) const NOT_READY: u64 = 3;

/// What is wrong with a machine that goes on, beside what is judged fault by fault.
fn wrong_with_the_rest(row: &Row, said: &Said) -> Option<String> {
    let most = NOT_READY + row.not_ready;
    let last = said.frames.last().map(|frame| frame.reason);
    let alive = said.frames.iter().rfind(|frame| frame.reason == Reason::Alive);
    let missing = alive.map(|frame| frame.detail);
    let good = last == Some(Reason::PoweredOff)
        && said.exit_status == 0
        && missing.is_some_and(|missing| missing <= most);
    let found = format!("{last:?}, exit status {}, {missing:?} not ready", said.exit_status);
    (!good).then(|| format!("expected all but {most} ready again and an orderly end, found {found}"))
}

/// What was said must be told from what was not: the judge, with what this machine really said and wrong expectations, and with
/// right expectations and what it really said but for the frames that they are about.
fn accepts_what_is_wrong(all: Faults, said: &Said) -> Vec<String> {
    let mut accepted = Vec::new();
    for (number, (fault, expected)) in all.iter().enumerate() {
        for wrong in judge::wrong(*expected) {
            let mut faults = all.to_vec();
            faults[number].1 = wrong;
            if judge(number, &faults, said).is_ok() {
                accepted.push(format!("fault {fault}: {wrong:?} would pass, too"));
            }
        }
        for (weaker, what) in judge::weakened(fault, *expected, said) {
            if judge(number, all, &weaker).is_ok() {
                accepted.push(format!("fault {fault}: it would pass {what}"));
            }
        }
    }
    accepted
}

/// A line for each fault that was followed by what must follow, and what is wrong with the others, or with the judge.
pub(crate) fn judged(faults: Faults, said: &Said) -> (Vec<String>, Vec<String>) {
    let (mut lines, mut wrong) = (Vec::new(), Vec::new());
    for number in 0..faults.len() {
        match judge(number, faults, said) {
            Ok(line) => lines.push(line),
            Err(line) => wrong.push(line),
        }
    }
    if wrong.is_empty() {
        wrong.extend(accepts_what_is_wrong(faults, said));
    }
    (lines, wrong)
}

/// Everything that is wrong with a row, and the lines that say what is not.
fn check(row: &Row) -> (Vec<String>, Vec<String>) {
    let ended = run(row);
    let said = Said::from(&ended);
    let (lines, mut wrong) = judged(row.faults, &said);
    if !is_off(row) {
        wrong.extend(wrong_with_the_rest(row, &said).map(|what| format!("{}: {what}", row.machine)));
    }
    if let Some(last) = wrong.last_mut() {
        last.push_str(&format!("\n{}: {ended}\n{}", row.machine, judge::frames(&said)));
    }
    (lines, wrong)
}

/// The rows, as many at a time as there are processors, but in order. They are judged by the time in their machines.
#[test]
fn each_ends_in_its_documented_rule() {
    if !qemu() {
        return;
    }
    // Built once, before anybody is in a hurry.
    drop((image(), generic()));
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    let work = || {
        while let Some(row) = PROCESSES.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (lines, more) = check(row);
            lines.iter().for_each(|line| println!("{line}"));
            more.iter().for_each(|line| println!("{line}: NOT SO"));
            wrong.lock().unwrap().extend(more);
        }
    };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(MACHINES);
    std::thread::scope(|scope| (0..workers).for_each(|_| drop(scope.spawn(work))));
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// How many machines at most run at a time: each is half a gigabyte.
const MACHINES: usize = 4;

/// The rule "off if the lock does not read back" is taken out of a machine, and then the lock is deleted.
#[test]
fn a_machine_that_is_weaker_than_its_rule_fails() {
    if !qemu() {
        return;
    }
    let ended = run(&WEAKENED);
    let said = Said::from(&ended);
    for number in 0..WEAKENED.faults.len() {
        // Both were carried out, and nothing followed: that is what is wrong with it.
        judge(number, WEAKENED.faults, &said).unwrap_or_else(|line| panic!("{line}: {ended}"));
    }
    let line = judge(0, &[UNLOCKED], &said).unwrap_err();
    println!("{line}: as it must be where the rule is weakened");
}
