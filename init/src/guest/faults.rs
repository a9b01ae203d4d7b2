//! Faults on order, for `tests/fault` alone (feature `danger-faults`): SMBIOS type 11 strings say what breaks, and when.
//!
//! ```text
//! casemate.fault=ACTION:TARGET@STAGE[+SECONDS][#SECTORS]
//!
//! kill, syscall, stop      SIGKILL, SIGSYS, SIGSTOP to a process: its name, NAME/workload for what a service's shim started, or
//!                          pid1, which the kernel lets none of them reach
//! term, int                SIGTERM, SIGINT, in the same way
//! freeze, starve           the cgroup of a process frozen, or held to a thousandth of a processor, from then on
//! squeeze                  the cgroup of a process gets a memory limit that it is beyond, for as long as that takes
//! hurry                    from then on a process waits before each restart as before the first
//! fill:PATH                a file in that directory, until there is no more room
//! look:PATH                a line about that file: whether it is whole JSON, and how old
//! unlock:inet              the lock's table is deleted in its owner's name: nothing is filtered any more
//! weaken:lock              nobody looks at the lock any more
//! hang:pid1, panic:pid1    PID 1 does nothing any more, or panics
//! STAGE                    as in STAGES
//! SECTORS                  once the disk with the serial number "orders" is that long: the host makes it longer when it is time
//! ```

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use casemate_measure::status::Stage;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{CGROUPS, Guest, power};

mod unlock;

/// The SMBIOS table as the firmware made it (drivers/firmware/dmi_scan.c): there as soon as /sys is.
const SMBIOS: &str = "/sys/firmware/dmi/tables/DMI";

/// The disk by whose length the host says when, as it says its serial number itself.
const ORDERS: &str = "orders";

/// From the first stage that begins with /sys mounted.
const STAGES: [(&str, Stage); 16] = [
    ("manifest", Stage::Manifest),
    ("sysctls", Stage::Sysctls),
    ("entropy", Stage::Entropy),
    ("tee", Stage::Tee),
    ("measure", Stage::Measure),
    ("document", Stage::Document),
    ("lock", Stage::Lock),
    ("modules", Stage::Modules),
    ("links", Stage::Links),
    ("address", Stage::Address),
    ("time", Stage::Time),
    ("agent", Stage::Agent),
    ("services", Stage::Services),
    ("mesh", Stage::Mesh),
    ("ready", Stage::Ready),
    ("shutdown", Stage::Shutdown),
];

/// What is still to break.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pending: Option<Vec<Fault>>,
    /// The length of the disk with orders, in sectors, once it was found.
    length: Option<PathBuf>,
    stage: Option<(Stage, Duration)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    text: String,
    action: Action,
    stage: Stage,
    after: Duration,
    sectors: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Signal(Signal, String),
    Freeze(String),
    Starve(String),
    Squeeze(String),
    Hurry(String),
    Fill(PathBuf),
    Look(PathBuf),
    Unlock,
    WeakenLock,
    Hang,
    Panic,
}

impl Fault {
    fn parse(text: &str) -> Option<Self> {
        let (action, when) = text.split_once('@')?;
        let (action, target) = action.split_once(':')?;
        let (when, sectors) = when.split_once('#').unwrap_or((when, "0"));
        let (stage, after) = when.split_once('+').unwrap_or((when, "0"));
        let target = target.to_owned();
        let action = match (action, target.as_str()) {
            ("kill", _) => Action::Signal(Signal::SIGKILL, target),
            ("syscall", _) => Action::Signal(Signal::SIGSYS, target),
            ("stop", _) => Action::Signal(Signal::SIGSTOP, target),
            ("term", _) => Action::Signal(Signal::SIGTERM, target),
            ("int", _) => Action::Signal(Signal::SIGINT, target),
            ("freeze", _) => Action::Freeze(target),
            ("starve", _) => Action::Starve(target),
            ("squeeze", _) => Action::Squeeze(target),
            ("hurry", _) => Action::Hurry(target),
            ("fill", _) => Action::Fill(target.into()),
            ("look", _) => Action::Look(target.into()),
            ("unlock", "inet") => Action::Unlock,
            ("weaken", "lock") => Action::WeakenLock,
            ("hang", "pid1") => Action::Hang,
            ("panic", "pid1") => Action::Panic,
            _ => return None,
        };
        let (_, stage) = STAGES.into_iter().find(|(name, _)| *name == stage)?;
        let after = Duration::from_secs(after.parse().ok()?);
        Some(Self { text: text.to_owned(), action, stage, after, sectors: sectors.parse().ok()? })
    }
}

/// What the host ordered. A test that spells it wrong is to fail: the machine ends in a panic.
fn ordered() -> Vec<Fault> {
    let raw = fs::read(SMBIOS).unwrap_or_default();
    let texts = raw.split(|byte| *byte == 0).filter_map(|text| std::str::from_utf8(text).ok());
    let texts = texts.filter_map(|text| text.split_once("casemate.fault=").map(|(_, order)| order));
    let read = |text| match Fault::parse(text) {
        Some(fault) => fault,
        None => panic!("no such fault: {text}"),
    };
    texts.map(read).collect()
}

impl Guest {
    /// Carries out what is due. What has no process to hit yet is tried again.
    pub(super) fn break_what_is_due(&mut self) {
        let now = power::uptime();
        if self.faults.stage.is_none_or(|(stage, _)| stage != self.stage) {
            self.faults.stage = Some((self.stage, now));
        }
        let since = self.faults.stage.map_or(Duration::ZERO, |(_, entered)| now.saturating_sub(entered));
        let mut pending = self.faults.pending.take().unwrap_or_else(ordered);
        let length = if pending.iter().any(|fault| fault.sectors > 0) { self.faults.length() } else { 0 };
        pending.retain(|fault| {
            let due = fault.stage == self.stage && since >= fault.after && length >= fault.sectors;
            !(due && self.carry_out(fault))
        });
        self.faults.pending = Some(pending);
    }

    /// Whether it was; a line says so, and when, by the clock of the status frames.
    fn carry_out(&mut self, fault: &Fault) -> bool {
        let say = || {
            let ms = power::uptime().as_millis();
            crate::log::print("casemate", &format!("fault {} carried out at {ms} ms", fault.text));
        };
        // What follows must not come before the line's time.
        let at = power::uptime().as_millis();
        let done = match &fault.action {
            Action::Signal(signal, target) => {
                self.victim(target).is_some_and(|pid| kill(pid, *signal).is_ok())
            }
            Action::Freeze(target) => write(target, "cgroup.freeze", "1"),
            // The kernel's smallest share: 1 ms in each second.
            Action::Starve(target) => write(target, "cpu.max", "1000 1000000"),
            Action::Squeeze(target) => squeeze(target),
            Action::Hurry(target) => self.processes.as_mut().is_some_and(|all| all.hurry(target)),
            Action::Fill(directory) => fill(directory),
            Action::Look(path) => look(path),
            Action::Unlock => unlock::delete(),
            // Its socket stays open, so that the tables keep their owner.
            Action::WeakenLock => self.lock.take().map(|lock| Box::leak(Box::new(lock))).is_some(),
            Action::Hang => {
                say();
                loop {
                    std::thread::sleep(Duration::from_secs(3600));
                }
            }
            Action::Panic => {
                say();
                panic!("as ordered")
            }
        };
        if done {
            crate::log::print("casemate", &format!("fault {} carried out at {at} ms", fault.text));
        }
        done
    }

    fn victim(&self, target: &str) -> Option<Pid> {
        if target == "pid1" {
            return Some(Pid::this());
        }
        let (name, workload) = match target.split_once('/') {
            Some((name, "workload")) => (name, true),
            _ => (target, false),
        };
        let all = self.processes.as_ref()?.describe();
        let main = all.iter().find(|process| process.name == name).map(|process| process.pid)?;
        if !workload {
            return (main != 0).then(|| Pid::from_raw(main));
        }
        let members = fs::read_to_string(cgroup(name)?.join("cgroup.procs")).ok()?;
        let other = members.lines().filter_map(|pid| pid.parse().ok()).find(|pid| *pid != main)?;
        Some(Pid::from_raw(other))
    }
}

impl Faults {
    /// In sectors; 0 as long as there is no such disk.
    fn length(&mut self) -> u64 {
        if self.length.is_none() {
            let disks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
            let is_it = |disk: &PathBuf| {
                fs::read_to_string(disk.join("serial")).is_ok_and(|serial| serial.trim_end() == ORDERS)
            };
            self.length = disks.map(|disk| disk.path()).find(is_it).map(|disk| disk.join("size"));
        }
        let text = self.length.as_ref().and_then(|path| fs::read_to_string(path).ok());
        text.and_then(|text| text.trim_end().parse().ok()).unwrap_or(0)
    }
}

fn cgroup(name: &str) -> Option<PathBuf> {
    let names = [name.to_owned(), format!("service-{name}")];
    names.map(|name| Path::new(CGROUPS).join(name)).into_iter().find(|path| path.is_dir())
}

fn write(name: &str, file: &str, text: &str) -> bool {
    cgroup(name).is_some_and(|path| fs::write(path.join(file), text).is_ok())
}

/// The kernel kills before the first of the writes is done (mm/memcontrol.c, `memory_max_write`).
fn squeeze(name: &str) -> bool {
    /// Less than anything has that runs, in bytes.
    const LEAST: &str = "65536";
    let Some(limit) = cgroup(name).and_then(|path| fs::read_to_string(path.join("memory.max")).ok()) else {
        return false;
    };
    write(name, "memory.max", LEAST) && write(name, "memory.max", limit.trim_end())
}

fn fill(directory: &Path) -> bool {
    let Ok(mut file) = File::create(directory.join("fill")) else { return false };
    for size in [64 << 10, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    true
}

fn look(path: &Path) -> bool {
    let line = match (fs::read(path), fs::metadata(path).and_then(|meta| meta.modified())) {
        (Ok(bytes), Ok(written)) => {
            let whole = serde_json::from_slice::<serde_json::Value>(&bytes).is_ok();
            let age = SystemTime::now().duration_since(written).unwrap_or_default().as_secs();
            format!("{}, {age} s old", if whole { "whole" } else { "not whole" })
        }
        _ => "absent".to_owned(),
    };
    crate::log::print("casemate", &format!("look at {}: {line}", path.display()));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read() {
        let read = Fault::parse("kill:web/workload@ready+70").unwrap();
        assert_eq!(read.action, Action::Signal(Signal::SIGKILL, "web/workload".into()));
        assert_eq!((read.stage, read.after), (Stage::Ready, Duration::from_secs(70)));
        let read = Fault::parse("squeeze:vpn@ready+2#14").unwrap();
        assert_eq!((read.after, read.sectors), (Duration::from_secs(2), 14));
        assert_eq!(Fault::parse("hurry:vpn@ready#3").unwrap().action, Action::Hurry("vpn".into()));
        assert_eq!(Fault::parse("fill:/run@links").unwrap().action, Action::Fill("/run".into()));
        assert_eq!(Fault::parse("unlock:inet@ready+5").unwrap().action, Action::Unlock);
        assert_eq!(Fault::parse("panic:pid1@manifest").unwrap().stage, Stage::Manifest);
        for bad in [
            "",
            "kill:web",
            "kill@ready",
            "hang:web@ready",
            "burn:web@ready",
            "kill:web@x",
            "kill:web@mounts",
            "kill:web@ready+x",
            "kill:web@ready#x",
            "kill:web@ready#1+1",
            "unlock:netdev@ready",
            "weaken:web@ready",
        ] {
            assert_eq!(Fault::parse(bad), None, "{bad:?}");
        }
    }
}
