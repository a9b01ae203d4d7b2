//! PID 1's children: started, watched, started again, stopped. PID 1 is the only one that waits for them.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use casemate_vpn::parent::message::Message;
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::cgroup::Leaf;
use super::memory;
use super::power::uptime;
use crate::handover::{HEARTBEAT, KILLED, Proven, READY};
use crate::log::{self, Budget, Output};
use crate::supervise::{Awake, Exit, Next, Restarts, SILENCE, START_LIMIT};
use crate::sys::{self, Namespaces, Spawn};
use crate::{health, roles, status};

#[cfg(feature = "danger-faults")]
mod hurry;
#[cfg(test)]
mod tests;

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
    /// How it shows that it does what it is there for.
    pub(super) health: Health,
}

/// How a process shows, once it is ready, that it does what it is there for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It says so again and again; one that stops is ended.
    Heartbeat,
    /// The same, and between its beats it reports what PID 1 takes in; the first such report is its readiness.
    Reports,
    /// It listens; one that does not is left alone, and the status document says so.
    Ports {
        /// On these TCP ports.
        ports: Vec<u16>,
        /// At this address of its own.
        address: Ipv4Addr,
    },
    /// Not at all.
    Unknown,
}

#[derive(Debug)]
struct Process {
    recipe: Recipe,
    state: State,
    output: Output,
    report: Option<File>,
    /// How many messages PID 1 still reads of it now.
    reports: Budget,
    /// When it was last heard of, or started, in time that PID 1 was awake.
    heard: Duration,
    /// Of a service: what its first process said that the workload died of, in this run.
    killed: Option<u8>,
    /// Kills for memory that its cgroup had counted before this run.
    oom_kills_before: u64,
    listening: Option<String>,
    last_exit: Option<Exit>,
    /// When it was last measured.
    memory: Option<status::Memory>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// `hung`: it was ended for its silence, and is about to be gone.
    Running {
        pid: Pid,
        since: Duration,
        ready: bool,
        hung: bool,
    },
    Waiting {
        until: Duration,
    },
    Stopped,
    Failed,
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
        /// Which.
        name: String,
        /// How.
        exit: Exit,
        /// What follows; nothing, when everything is being stopped.
        next: Option<Next>,
    },
}

/// The longest report in one read, and one byte more, so that one that is too long is no other: the VPN process's word on its
/// network; a lease is 16 bytes, readiness and heartbeats are one.
pub(super) const REPORT_MAX: usize = casemate_vpn::parent::message::LONGEST + 1;

/// How many messages of one process PID 1 reads in a second: each is a turn of its loop, a bad one a line of its log, a lease
/// a change to the lock and the link. Readiness, a beat each 5 s and a renewal now and then are far below.
const REPORTS: usize = 8;

/// All of them.
#[derive(Debug)]
pub(super) struct Processes {
    binary: File,
    null: File,
    list: Vec<Process>,
    /// Of processes that are not started yet, and of those that are forgotten.
    outputs: Vec<Output>,
    awake: Awake,
    stopping: bool,
}

impl Processes {
    /// None yet.
    pub(super) fn new() -> io::Result<Self> {
        Self::of(File::open("/proc/self/exe")?)
    }

    /// None yet; each will be this program.
    fn of(binary: File) -> io::Result<Self> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        Ok(Self {
            binary,
            null,
            list: Vec::new(),
            outputs: Vec::new(),
            awake: Awake::default(),
            stopping: false,
        })
    }

    /// Starts one, for as long as the machine runs.
    pub(super) fn start(&mut self, recipe: Recipe) -> io::Result<()> {
        let output = self.output(&recipe.name)?;
        let mut process = Process {
            recipe,
            state: State::Stopped,
            output,
            report: None,
            reports: Budget::new(REPORTS),
            heard: Duration::ZERO,
            killed: None,
            oom_kills_before: 0,
            listening: None,
            last_exit: None,
            memory: None,
        };
        launch(&self.binary, &self.null, &mut process, self.awake.total())?;
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

    /// Says something to one that runs. One that does not read it, or is gone, does not need it.
    pub(super) fn answer(&self, name: &str, bytes: &[u8]) {
        let process = self.list.iter().find(|process| process.recipe.name == name);
        if let Some(mut report) = process.and_then(|process| process.report.as_ref()) {
            drop(report.write(bytes));
        }
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
        self.list.iter().any(|process| process.recipe.name == name && process.is_ready())
    }

    /// How many that should be ready are not: one that did its work is not missed.
    pub(super) fn missing(&self) -> u64 {
        let missing = |process: &&Process| process.state != State::Stopped && !process.is_ready();
        self.list.iter().filter(missing).count() as u64
    }

    /// How it ended, once nothing of it runs any more and it is not started again.
    pub(super) fn ended(&self, name: &str) -> Option<Exit> {
        let process = self.list.iter().find(|process| process.recipe.name == name)?;
        let over = process.state == State::Stopped && process.recipe.leaf.is_empty();
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
        outputs.chain(self.list.iter().filter_map(Process::watched))
    }

    /// Reads what the processes wrote, ends who hangs, and reaps. Descriptors do not block, so all are tried.
    pub(super) fn after_poll(&mut self, happenings: &mut Vec<Happening>) {
        let awake = self.awake.turn(uptime());
        for process in &mut self.list {
            process.output.drain();
            process.read_report(awake, happenings);
            process.end_if_silent(awake);
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
            let (awake, stopping) = (self.awake.total(), self.stopping);
            for process in &mut self.list {
                if matches!(process.state, State::Running { pid: running, .. } if running == pid) {
                    while process.read_report(awake, happenings) {}
                    happenings.push(process.ended(exit, stopping));
                }
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
            match launch(&self.binary, &self.null, process, self.awake.total()) {
                Ok(()) => process.recipe.restarts.started_again(),
                Err(error) => {
                    log::print(
                        "casemate",
                        &format!("{}: could not be started: {error}", process.recipe.name),
                    );
                    process.state = State::after(process.recipe.restarts.ended(Exit::Code(127), now, now));
                }
            }
        }
    }

    /// When the next restart is due.
    pub(super) fn next_restart(&self) -> Option<Duration> {
        let times = self.list.iter().filter_map(|process| match process.state {
            State::Waiting { until } => Some(until),
            State::Running { .. } | State::Stopped | State::Failed => None,
        });
        times.min()
    }

    /// Looks whether the services listen where their document says.
    pub(super) fn look_at_ports(&mut self) {
        for process in &mut self.list {
            let Health::Ports { ports, address } = &process.recipe.health else { continue };
            process.listening = match process.state {
                State::Running { pid, ready: true, .. } => {
                    Some(health::words(Path::new("/proc"), pid.as_raw(), *address, ports))
                }
                _ => None,
            };
        }
    }

    /// From now on nothing is started again.
    pub(super) fn begin_stop(&mut self) {
        self.stopping = true;
        for process in &mut self.list {
            if matches!(process.state, State::Waiting { .. }) {
                process.state = State::Stopped;
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

    /// Ends them, stopped or frozen as they may be.
    pub(super) fn kill(&self, which: impl Fn(&str) -> bool) {
        self.list.iter().filter(|process| which(&process.recipe.name)).for_each(Process::kill);
    }

    /// Whether any of them runs.
    pub(super) fn any_running(&self, which: impl Fn(&str) -> bool) -> bool {
        self.list.iter().any(|p| which(&p.recipe.name) && matches!(p.state, State::Running { .. }))
    }

    /// Looks how much memory each keeps, for [`Self::describe`].
    pub(super) fn measure_memory(&mut self) {
        for process in &mut self.list {
            process.memory = process.kept();
        }
    }

    /// For the status document.
    pub(super) fn describe(&self) -> Vec<status::Process> {
        self.list.iter().map(|process| process.describe(self.awake.total())).collect()
    }
}

impl State {
    const fn after(next: Next) -> Self {
        match next {
            Next::RestartAt(until) => Self::Waiting { until },
            Next::Stay => Self::Stopped,
            Next::GiveUp => Self::Failed,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Running { ready: true, .. } => "ready",
            Self::Running { ready: false, .. } => "starting",
            Self::Waiting { .. } => "waiting",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
        }
    }
}

impl Health {
    const fn beats(&self) -> bool {
        matches!(self, Self::Heartbeat | Self::Reports)
    }
}

impl Process {
    const fn is_ready(&self) -> bool {
        matches!(self.state, State::Running { ready: true, .. })
    }

    /// Of a service PID 1 reads one number, which its kernel keeps anyway: whoever has thousands of processes with tens of
    /// thousands of mappings each would have PID 1 walk them all.
    fn kept(&self) -> Option<status::Memory> {
        let State::Running { pid, .. } = self.state else { return None };
        if self.recipe.namespaces == Namespaces::Service {
            return self.recipe.leaf.memory_current().map(memory::charged);
        }
        memory::of(pid.as_raw())
    }

    fn kill(&self) {
        if let Err(error) = self.recipe.leaf.kill() {
            log::print("casemate", &format!("{}: cgroup.kill: {error}", self.recipe.name));
        }
    }

    /// Its reports, unless it has used up its share of PID 1's time.
    fn watched(&self) -> Option<BorrowedFd<'_>> {
        self.report.as_ref().filter(|_| self.reports.left(milliseconds(uptime())) > 0).map(File::as_fd)
    }

    /// Reads one message; whether there was one. A heartbeat is no happening: PID 1 only needs to have heard it.
    fn read_report(&mut self, awake: Duration, happenings: &mut Vec<Happening>) -> bool {
        let now = milliseconds(uptime());
        let Some(report) = self.report.as_mut().filter(|_| self.reports.left(now) > 0) else {
            return false;
        };
        let mut buffer = [0; REPORT_MAX];
        match report.read(&mut buffer) {
            Ok(length @ 1..) => {
                self.reports.take(1, now);
                let bytes = buffer.get(..length).unwrap_or_default();
                if let [KILLED, signal] = bytes
                    && self.recipe.namespaces == Namespaces::Service
                {
                    self.killed = Some(*signal);
                    return true;
                }
                // Neither readiness nor a beat: whoever verifies may be stuck all the same.
                let of_the_mesh = self.recipe.role == roles::MESH && Proven::decode(bytes).is_some();
                let of_the_vpn = self.recipe.role == roles::VPN && Message::decode(bytes).is_ok();
                if of_the_mesh || of_the_vpn {
                    let (name, bytes) = (self.recipe.name.clone(), bytes.to_vec());
                    happenings.push(Happening::Reported { name, bytes });
                    return true;
                }
                let health = &self.recipe.health;
                let (is_readiness, is_told) = match bytes {
                    READY if *health == Health::Heartbeat => (true, false),
                    HEARTBEAT if health.beats() => (false, false),
                    _ if *health == Health::Heartbeat => {
                        let words = format!("{}: a report of no meaning", self.recipe.name);
                        log::print("casemate", &words);
                        return true;
                    }
                    _ => (true, true),
                };
                if let State::Running { ready, hung: false, .. } = &mut self.state {
                    *ready |= is_readiness;
                    // What comes before readiness does not put off its time limit; but who has nothing to report yet, because
                    // the network has nothing for it, is well.
                    if *ready || *health == Health::Reports {
                        self.heard = awake;
                    }
                }
                if is_told {
                    let (name, bytes) = (self.recipe.name.clone(), bytes.to_vec());
                    happenings.push(Happening::Reported { name, bytes });
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Ok(0) | Err(_) => {
                self.report = None;
                false
            }
        }
    }

    fn silence(&self, awake: Duration) -> Duration {
        awake.saturating_sub(self.heard)
    }

    /// One of our own whose event loop does not turn, or that never gets ready, serves nobody, and its successor may.
    fn end_if_silent(&mut self, awake: Duration) {
        let silence = self.silence(awake);
        let State::Running { ready, hung, .. } = &mut self.state else { return };
        let limit = if *ready { SILENCE } else { START_LIMIT };
        if !self.recipe.health.beats() || *hung || silence < limit {
            return;
        }
        (*ready, *hung) = (false, true);
        log::print("casemate", &format!("{}: silent for {} s", self.recipe.name, silence.as_secs()));
        self.kill();
    }

    /// Its main process ended: what it left behind must not meet its successor.
    fn ended(&mut self, exit: Exit, stopping: bool) -> Happening {
        if !self.recipe.leaf.is_empty() {
            self.kill();
        }
        let State::Running { since, hung, .. } = self.state else {
            return Happening::Ended { name: self.recipe.name.clone(), exit, next: None };
        };
        let exit = exit.of_workload(self.killed);
        let exit = exit.told_apart(self.recipe.leaf.oom_kills() > self.oom_kills_before, hung);
        self.report = None;
        self.listening = None;
        self.last_exit = Some(exit);
        let next = (!stopping).then(|| self.recipe.restarts.ended(exit, since, uptime()));
        self.state = next.map_or(State::Stopped, State::after);
        let name = self.recipe.name.clone();
        log::print("casemate", &format!("{name} ended with {exit}"));
        if self.state == State::Failed {
            log::print("casemate", &format!("{name} failed too often and stays down"));
        }
        Happening::Ended { name, exit, next }
    }

    fn describe(&self, awake: Duration) -> status::Process {
        let pid = match self.state {
            State::Running { pid, .. } => pid.as_raw(),
            State::Waiting { .. } | State::Stopped | State::Failed => 0,
        };
        let until_ms = match self.state {
            State::Waiting { until } => Some(milliseconds(until)),
            _ => None,
        };
        let heartbeat = (self.recipe.health.beats() && self.is_ready()).then(|| {
            // A beat that is a little late is not worth a line.
            match self.silence(awake) {
                silence if silence < SILENCE / 2 => "answering".into(),
                silence => format!("silent for {} s", silence.as_secs()),
            }
        });
        status::Process {
            name: self.recipe.name.clone(),
            pid,
            network_namespace: network_namespace(pid),
            state: self.state.words(),
            until_ms,
            restarts: self.recipe.restarts.total(),
            last_exit: self.last_exit.map(|exit| exit.to_string()),
            health: heartbeat.or_else(|| self.listening.clone()),
            oom_kills: self.recipe.leaf.oom_kills(),
            memory: self.memory,
        }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What /proc says; `None` for a process that does not run.
pub(super) fn network_namespace(pid: i32) -> Option<String> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
    Some(link.to_string_lossy().into_owned())
}

fn launch(binary: &File, null: &File, process: &mut Process, awake: Duration) -> io::Result<()> {
    let recipe = &process.recipe;
    let output_end = process.output.connect()?;
    // Whole messages, so that a process cannot make PID 1 read half of one.
    let (report, report_end) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
    sys::non_blocking(&report)?;
    if recipe.health == Health::Heartbeat {
        // A beat that finds no room is dropped: its event loop must not wait for PID 1.
        sys::non_blocking(&report_end)?;
    }
    let handover = sys::memfd("handover", &recipe.handover)?;
    let mut descriptors = vec![handover.as_fd(), report_end.as_fd()];
    descriptors.extend(recipe.extra.iter().map(OwnedFd::as_fd));
    process.oom_kills_before = recipe.leaf.oom_kills();
    let pid = sys::spawn(&Spawn {
        binary: binary.as_fd(),
        role: recipe.role,
        stdin: null.as_fd(),
        output: output_end.as_fd(),
        descriptors: &descriptors,
        cgroup: Some(recipe.leaf.as_fd()),
        namespaces: recipe.namespaces,
        uid: recipe.uid,
    })?;
    process.state = State::Running { pid, since: uptime(), ready: false, hung: false };
    process.report = Some(File::from(report));
    process.killed = None;
    process.heard = awake;
    Ok(())
}
