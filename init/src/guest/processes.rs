//! PID 1's children: started, watched, started again, stopped. PID 1 is the only one that waits for them.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::cgroup::Leaf;
use super::memory;
use super::power::uptime;
use crate::log::{self, Output};
use crate::status;
use crate::supervise::{Exit, Next, Restarts};
use crate::sys::{self, Namespaces, Spawn};

/// How a process is started, each time anew.
#[derive(Debug)]
pub(super) struct Recipe {
    /// In logs and status.
    pub(super) name: String,
    /// `argv[0]`.
    pub(super) role: &'static std::ffi::CStr,
    /// JSON for descriptor 3.
    pub(super) handover: Vec<u8>,
    /// Descriptors from 5 on; they outlive restarts.
    pub(super) extra: Vec<OwnedFd>,
    /// uid before the exec.
    pub(super) uid: Option<u32>,
    /// Its namespaces.
    pub(super) namespaces: Namespaces,
    /// Its cgroup.
    pub(super) leaf: Leaf,
    /// When it is started again.
    pub(super) restarts: Restarts,
}

#[derive(Debug)]
struct Process {
    recipe: Recipe,
    state: State,
    output: Output,
    report: Option<File>,
    ready: bool,
    last_exit: Option<Exit>,
    /// When it was last measured.
    memory: Option<status::Memory>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running { pid: Pid, since: Duration },
    Waiting { until: Duration },
    Done,
}

/// Something that happened to a process.
#[derive(Debug)]
pub(super) enum Happening {
    /// Bytes on its report descriptor.
    Reported {
        /// Which.
        name: String,
        /// What it wrote; at most [`REPORT_MAX`].
        bytes: Vec<u8>,
    },
    /// It ended.
    Ended {
        /// How.
        exit: Exit,
        /// Whether it is started again.
        again: bool,
    },
}

/// The longest report in one read: a lease is 16 bytes, readiness is one.
pub(super) const REPORT_MAX: usize = 64;

/// All of them.
#[derive(Debug)]
pub(super) struct Processes {
    binary: File,
    null: File,
    list: Vec<Process>,
    /// Of processes that are not started yet, and of those that are forgotten.
    outputs: Vec<Output>,
    stopping: bool,
}

impl Processes {
    /// None yet.
    pub(super) fn new() -> io::Result<Self> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        Ok(Self {
            binary: File::open("/proc/self/exe")?,
            null,
            list: Vec::new(),
            outputs: Vec::new(),
            stopping: false,
        })
    }

    /// Starts one, for as long as the machine runs.
    pub(super) fn start(&mut self, recipe: Recipe) -> io::Result<()> {
        let output = self.output(&recipe.name)?;
        let mut process = Process {
            recipe,
            state: State::Done,
            output,
            report: None,
            ready: false,
            last_exit: None,
            memory: None,
        };
        launch(&self.binary, &self.null, &mut process)?;
        self.list.push(process);
        Ok(())
    }

    /// The output that was prepared for a process, or a new one.
    fn output(&mut self, name: &str) -> io::Result<Output> {
        match self.outputs.iter().position(|output| output.name() == name) {
            Some(found) => Ok(self.outputs.swap_remove(found)),
            None => Output::new(name),
        }
    }

    /// The log rings, to be read only, with their names: PID 1's own, that of every process so far, and those of some that
    /// come later.
    pub(super) fn logs(&mut self, later: &[&str]) -> io::Result<Vec<(String, OwnedFd)>> {
        for name in later {
            let output = self.output(name)?;
            self.outputs.push(output);
        }
        let outputs = self.list.iter().map(|process| &process.output).chain(&self.outputs);
        let rings = outputs.map(|output| Ok((output.name().to_owned(), output.reader()?)));
        std::iter::once(Ok((log::OWN.to_owned(), log::own_reader()?))).chain(rings).collect()
    }

    /// What the rings have counted.
    pub(super) fn log_counts(&self) -> Vec<status::Log> {
        let outputs = self.list.iter().map(|process| &process.output).chain(&self.outputs);
        let rings =
            outputs.map(|output| status::Log { name: output.name().to_owned(), counts: output.counts() });
        std::iter::once(status::Log { name: log::OWN.to_owned(), counts: log::own_counts() })
            .chain(rings)
            .collect()
    }

    /// Whether it has said that it is ready, in this run of it.
    pub(super) fn is_ready(&self, name: &str) -> bool {
        self.list.iter().any(|process| process.recipe.name == name && process.ready)
    }

    /// How it ended, once nothing of it runs any more and it is not started again.
    pub(super) fn ended(&self, name: &str) -> Option<Exit> {
        let process = self.list.iter().find(|process| process.recipe.name == name)?;
        let over = process.state == State::Done && process.recipe.leaf.is_empty();
        process.last_exit.filter(|_| over)
    }

    /// Forgets one that has ended, with its descriptors and its cgroup. What it said is kept.
    pub(super) fn forget(&mut self, name: &str) -> io::Result<()> {
        let Some(at) = self.list.iter().position(|process| process.recipe.name == name) else {
            return Ok(());
        };
        let mut process = self.list.remove(at);
        process.output.drain();
        self.outputs.push(process.output);
        process.recipe.leaf.remove()
    }

    /// What [`Processes::after_poll`] needs polled, in its order.
    pub(super) fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let outputs = self.list.iter().filter_map(|p| p.output.watched());
        let reports = self.list.iter().filter_map(|p| p.report.as_ref().map(File::as_fd));
        outputs.chain(reports)
    }

    /// Reads what the processes wrote, and reaps. Descriptors do not block, so all are tried.
    pub(super) fn after_poll(&mut self, happenings: &mut Vec<Happening>) {
        for process in &mut self.list {
            process.output.drain();
            read_report(process, happenings);
        }
        self.reap(happenings);
    }

    /// The single owner of `wait`: children of ours, and orphans that the kernel gave us.
    fn reap(&mut self, happenings: &mut Vec<Happening>) {
        loop {
            let (pid, exit) = match waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Exit::Signal(signal as i32)),
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
                Ok(_) | Err(_) => continue,
            };
            let now = uptime();
            let stopping = self.stopping;
            for process in &mut self.list {
                let State::Running { pid: running, since } = process.state else { continue };
                if running != pid {
                    continue;
                }
                // What it left behind must not meet its successor.
                if let Err(error) = process.recipe.leaf.kill() {
                    log::print("casemate", &format!("{}: cgroup.kill: {error}", process.recipe.name));
                }
                read_report(process, happenings);
                process.report = None;
                process.ready = false;
                process.last_exit = Some(exit);
                process.state = match process.recipe.restarts.ended(exit, since, now) {
                    Next::RestartAt(until) if !stopping => State::Waiting { until },
                    Next::RestartAt(_) | Next::Stay => State::Done,
                };
                log::print("casemate", &format!("{} ended with {exit}", process.recipe.name));
                let again = matches!(process.state, State::Waiting { .. });
                happenings.push(Happening::Ended { exit, again });
            }
        }
    }

    /// Starts what is due again.
    pub(super) fn restart_due(&mut self) {
        let now = uptime();
        for process in &mut self.list {
            let due = matches!(process.state, State::Waiting { until } if until <= now);
            if !due || !process.recipe.leaf.is_empty() {
                continue;
            }
            match launch(&self.binary, &self.null, process) {
                Ok(()) => process.recipe.restarts.started_again(),
                Err(error) => {
                    log::print(
                        "casemate",
                        &format!("{}: could not be started: {error}", process.recipe.name),
                    );
                    let again = process.recipe.restarts.ended(Exit::Code(127), now, now);
                    process.state = match again {
                        Next::RestartAt(until) => State::Waiting { until },
                        Next::Stay => State::Done,
                    };
                }
            }
        }
    }

    /// When the next restart is due.
    pub(super) fn next_restart(&self) -> Option<Duration> {
        let times = self.list.iter().filter_map(|process| match process.state {
            State::Waiting { until } => Some(until),
            State::Running { .. } | State::Done => None,
        });
        times.min()
    }

    /// From now on nothing is started again.
    pub(super) fn begin_stop(&mut self) {
        self.stopping = true;
        for process in &mut self.list {
            if matches!(process.state, State::Waiting { .. }) {
                process.state = State::Done;
            }
        }
    }

    /// Asks processes to end.
    pub(super) fn terminate(&self, which: impl Fn(&str) -> bool) {
        for process in self.list.iter().filter(|process| which(&process.recipe.name)) {
            if let State::Running { pid, .. } = process.state {
                // It may have ended meanwhile.
                _ = kill(pid, Signal::SIGTERM);
            }
        }
    }

    /// Ends them.
    pub(super) fn kill(&self, which: impl Fn(&str) -> bool) {
        for process in self.list.iter().filter(|process| which(&process.recipe.name)) {
            if let Err(error) = process.recipe.leaf.kill() {
                log::print("casemate", &format!("{}: cgroup.kill: {error}", process.recipe.name));
            }
        }
    }

    /// Whether any of them runs.
    pub(super) fn any_running(&self, which: impl Fn(&str) -> bool) -> bool {
        self.list.iter().any(|p| which(&p.recipe.name) && matches!(p.state, State::Running { .. }))
    }

    /// Looks how much memory each keeps, for [`Self::describe`].
    pub(super) fn measure_memory(&mut self) {
        for process in &mut self.list {
            process.memory = memory::of_all(&process.recipe.leaf.members());
        }
    }

    /// For the status document.
    pub(super) fn describe(&self) -> Vec<status::Process> {
        let pid = |process: &Process| match process.state {
            State::Running { pid, .. } => pid.as_raw(),
            State::Waiting { .. } | State::Done => 0,
        };
        let one = |process: &Process| status::Process {
            name: process.recipe.name.clone(),
            pid: pid(process),
            network_namespace: network_namespace(pid(process)),
            restarts: process.recipe.restarts.total(),
            last_exit: process.last_exit.map(|exit| exit.to_string()),
            memory: process.memory,
        };
        self.list.iter().map(one).collect()
    }
}

/// What /proc says; `None` for a process that does not run.
pub(super) fn network_namespace(pid: i32) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

fn read_report(process: &mut Process, happenings: &mut Vec<Happening>) {
    let Some(report) = &mut process.report else { return };
    let mut buffer = [0; REPORT_MAX];
    match report.read(&mut buffer) {
        Ok(0) => process.report = None,
        Ok(length) => {
            process.ready = true;
            let bytes = buffer.get(..length).unwrap_or_default().to_vec();
            happenings.push(Happening::Reported { name: process.recipe.name.clone(), bytes });
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        Err(_) => process.report = None,
    }
}

fn launch(binary: &File, null: &File, process: &mut Process) -> io::Result<()> {
    let recipe = &process.recipe;
    let output_end = process.output.connect()?;
    // Whole messages, so that a process cannot make PID 1 read half of one.
    let (report, report_end) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    sys::non_blocking(&report)?;
    let handover = sys::memfd("handover", &recipe.handover)?;
    let mut descriptors = vec![handover.as_fd(), report_end.as_fd()];
    descriptors.extend(recipe.extra.iter().map(OwnedFd::as_fd));
    let pid = sys::spawn(&Spawn {
        binary: binary.as_fd(),
        role: recipe.role,
        stdin: null.as_fd(),
        output: output_end.as_fd(),
        descriptors: &descriptors,
        cgroup: recipe.leaf.as_fd(),
        namespaces: recipe.namespaces,
        uid: recipe.uid,
    })?;
    process.state = State::Running { pid, since: uptime() };
    process.report = Some(File::from(report));
    process.ready = false;
    Ok(())
}
