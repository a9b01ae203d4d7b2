//! Faults on order, for `tests/fault` alone (feature `danger-faults`): SMBIOS type 11 strings say what breaks, and when.
//!
//! ```text
//! casemate.fault=ACTION:TARGET@STAGE[+SECONDS]
//!
//! kill, syscall, stop      SIGKILL, SIGSYS, SIGSTOP to a process: its name, or NAME/workload for what a service's shim started
//! freeze, starve           the cgroup of a process frozen, or held to a thousandth of a processor, from then on
//! fill:PATH                a file in that directory, until there is no more room
//! hang:pid1, panic:pid1    PID 1 does nothing any more, or panics
//! STAGE                    links, address, time, agent, services, mesh, ready
//! ```

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_measure::status::Stage;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{CGROUPS, Guest, power};

/// SMBIOS type 11, the first structure (drivers/firmware/dmi-sysfs.c).
const OEM_STRINGS: &str = "/sys/firmware/dmi/entries/11-0/raw";

/// What is still to break.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pending: Option<Vec<Fault>>,
    stage: Option<(Stage, Duration)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Fault {
    text: String,
    action: Action,
    stage: Stage,
    after: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Signal(Signal, String),
    Freeze(String),
    Starve(String),
    Fill(PathBuf),
    Hang,
    Panic,
}

impl Fault {
    fn parse(text: &str) -> Option<Self> {
        let (action, when) = text.split_once('@')?;
        let (action, target) = action.split_once(':')?;
        let (stage, after) = when.split_once('+').unwrap_or((when, "0"));
        let target = target.to_owned();
        let action = match (action, target.as_str()) {
            ("kill", _) => Action::Signal(Signal::SIGKILL, target),
            ("syscall", _) => Action::Signal(Signal::SIGSYS, target),
            ("stop", _) => Action::Signal(Signal::SIGSTOP, target),
            ("freeze", _) => Action::Freeze(target),
            ("starve", _) => Action::Starve(target),
            ("fill", _) => Action::Fill(target.into()),
            ("hang", "pid1") => Action::Hang,
            ("panic", "pid1") => Action::Panic,
            _ => return None,
        };
        let stage = match stage {
            "links" => Stage::Links,
            "address" => Stage::Address,
            "time" => Stage::Time,
            "agent" => Stage::Agent,
            "services" => Stage::Services,
            "mesh" => Stage::Mesh,
            "ready" => Stage::Ready,
            _ => return None,
        };
        Some(Self { text: text.to_owned(), action, stage, after: Duration::from_secs(after.parse().ok()?) })
    }
}

/// What the host ordered. A test that spells it wrong is to fail: the machine ends in a panic.
fn ordered() -> Vec<Fault> {
    let raw = fs::read(OEM_STRINGS).unwrap_or_default();
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
        pending.retain(|fault| {
            let due = fault.stage == self.stage && since >= fault.after;
            let done = due && self.carry_out(&fault.action);
            if done {
                crate::log::print("casemate", &format!("fault {} carried out", fault.text));
            }
            !done
        });
        self.faults.pending = Some(pending);
    }

    fn carry_out(&self, action: &Action) -> bool {
        match action {
            Action::Signal(signal, target) => {
                self.victim(target).is_some_and(|pid| kill(pid, *signal).is_ok())
            }
            Action::Freeze(target) => write(target, "cgroup.freeze", "1"),
            // The kernel's smallest share: 1 ms in each second.
            Action::Starve(target) => write(target, "cpu.max", "1000 1000000"),
            Action::Fill(directory) => fill(directory),
            Action::Hang => loop {
                std::thread::sleep(Duration::from_secs(3600));
            },
            Action::Panic => panic!("as ordered"),
        }
    }

    fn victim(&self, target: &str) -> Option<Pid> {
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

fn cgroup(name: &str) -> Option<PathBuf> {
    let names = [name.to_owned(), format!("service-{name}")];
    names.map(|name| Path::new(CGROUPS).join(name)).into_iter().find(|path| path.is_dir())
}

fn write(name: &str, file: &str, text: &str) -> bool {
    cgroup(name).is_some_and(|path| fs::write(path.join(file), text).is_ok())
}

fn fill(directory: &Path) -> bool {
    let Ok(mut file) = File::create(directory.join("fill")) else { return false };
    for size in [64 << 10, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
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
        assert_eq!(Fault::parse("fill:/run@links").unwrap().action, Action::Fill("/run".into()));
        for bad in [
            "",
            "kill:web",
            "kill@ready",
            "hang:web@ready",
            "burn:web@ready",
            "kill:web@x",
            "kill:web@ready+x",
        ] {
            assert_eq!(Fault::parse(bad), None, "{bad:?}");
        }
    }
}
