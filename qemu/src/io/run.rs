//! Runs one machine from power-on to its end: a poll loop around [`Watch`].

use std::fs::File;
use std::io::{ErrorKind, Read, Seek as _, SeekFrom, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use casemate_measure::status::Frame;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{setsockopt, sockopt};

use crate::argv::{BootFiles, Channel, Wiring, argv};
use crate::error::Error;
use crate::host::Choice;
use crate::outcome::Outcome;
use crate::qmp::{self, MessageStream};
use crate::report::{Ended, LastFrame, Report};
use crate::rundir::{Claim, RunDir};
use crate::shape::{Forward, Network, VmShape};
use crate::status_stream::{Item, StatusStream};
use crate::text::printable;
use crate::watch::{Action, Event, Limits, Phase, Watch};

/// How often the clock is looked at when nothing happens.
const TICK_MS: u16 = 100;
/// Signals that a fault of QEMU's own raises: then it failed, and nobody killed it.
const OWN_FAULTS: [i32; 7] = [
    Signal::SIGILL as i32,
    Signal::SIGTRAP as i32,
    Signal::SIGABRT as i32,
    Signal::SIGBUS as i32,
    Signal::SIGFPE as i32,
    Signal::SIGSEGV as i32,
    Signal::SIGSYS as i32,
];
/// How much of the console is searched for the kernel's last words, in bytes from the end.
const CONSOLE_TAIL: u64 = 64 << 10;
/// How much of QEMU's own log is repeated when it fails, in bytes from the end.
const LOG_TAIL: usize = 800;

/// A machine about to be switched on.
#[derive(Debug)]
pub struct Launch {
    /// QEMU's program.
    pub program: String,
    /// The machine. Forwards with host port 0 were replaced ([`settle_ports`]).
    pub shape: VmShape,
    /// The image's files.
    pub files: BootFiles,
    /// What runs it, and why; for the report.
    pub choice: Choice,
    /// Where it runs.
    pub claim: Claim,
    /// Where its frames are dumped, if they are.
    pub pcap: Option<PathBuf>,
    /// The bytes of the host share's block device ([`crate::share::Share::image`]), if it has one.
    pub share: Option<Vec<u8>>,
    /// How long it may take.
    pub limits: Limits,
    /// Whether anybody reads the status port. If not, it has a buffer as small as the kernel makes one.
    pub status_read: bool,
}

/// What a run tells its caller while it goes on.
pub trait Observer {
    /// The guest sent a frame.
    fn frame(&mut self, _: &Frame) {}
    /// The guest got to another stage.
    fn progress(&mut self, since_start: Duration, frame: &Frame);
    /// Something worth a line.
    fn note(&mut self, line: &str);
    /// The guest is ready, or (status unread) switched on.
    fn ready(&mut self, report: &Report);
}

/// Replaces host port 0 by a port that is free now.
///
/// # Errors
/// If none can be had on that address.
pub fn settle_ports(network: &mut Network) -> Result<(), Error> {
    let Network::User(forwards) = network else { return Ok(()) };
    for Forward { host, .. } in forwards.iter_mut().filter(|forward| forward.host.port() == 0) {
        let listener = TcpListener::bind(*host).and_then(|listener| listener.local_addr());
        host.set_port(listener.map_err(Error::system("finding a free port"))?.port());
    }
    Ok(())
}

/// Blocks SIGINT, SIGTERM and SIGHUP for this thread and gives them as a descriptor.
///
/// # Errors
/// What the kernel says.
pub fn signals() -> Result<SignalFd, Error> {
    let mut set = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| set.add(signal));
    set.thread_block().map_err(Error::system("blocking signals"))?;
    SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
        .map_err(Error::system("signalfd"))
}

/// Runs the machine to its end. QEMU ends with the thread that calls this, however that ends.
///
/// # Errors
/// Only what keeps us from running or watching it; how the guest ends is the [`Outcome`].
pub fn run(
    launch: &Launch,
    signals: Option<&SignalFd>,
    observer: &mut dyn Observer,
) -> Result<Outcome, Error> {
    let mut machine = Machine::start(launch)?;
    let result = machine.live(launch, signals, observer);
    // Whatever happened to us, QEMU does not stay behind.
    if !matches!(machine.child.try_wait(), Ok(Some(_))) {
        let ended = machine.child.kill().and_then(|()| machine.child.wait());
        ended.map_err(Error::system("ending QEMU"))?;
    }
    result
}

struct Machine {
    begin: Instant,
    child: Child,
    status: Option<UnixStream>,
    /// Kept open and never read when the status port is to be unread.
    _unread: Option<UnixStream>,
    control: Option<UnixStream>,
    watch: Watch,
    frames: StatusStream,
    messages: MessageStream,
    report: Report,
}

impl Machine {
    fn start(launch: &Launch) -> Result<Self, Error> {
        let dir = &launch.claim.dir;
        let (status, qemu_status) = socketpair()?;
        let (mut control, qemu_control) = socketpair()?;
        // At once, and not when the greeting comes: events are sent only from then on, and none must be missed.
        control.write_all(qmp::CAPABILITIES.as_bytes()).map_err(Error::system("QEMU's monitor"))?;
        if !launch.status_read {
            setsockopt(&qemu_status, sockopt::SndBuf, &0).map_err(Error::system("SO_SNDBUF"))?;
        }
        let (qemu_status, qemu_control) = (OwnedFd::from(qemu_status), OwnedFd::from(qemu_control));
        let wiring = Wiring {
            status: Channel::Descriptor(super::spawn::number(&qemu_status)),
            control: Channel::Descriptor(super::spawn::number(&qemu_control)),
            ..wiring(dir, launch.pcap.clone(), launch.share.is_some())
        };
        if let Some(share) = &launch.share {
            dir.write_share(share)?;
        }
        let log = File::create(dir.qemu_log()).map_err(Error::file(dir.qemu_log()))?;
        let args = argv(&launch.shape, &launch.files, &wiring);
        let child = super::spawn::spawn(&launch.program, &args, &log, vec![qemu_status, qemu_control])?;
        let report = Report {
            pid: std::process::id(),
            qemu_pid: child.id(),
            runner: launch.choice.runner,
            why: launch.choice.why.clone(),
            ready: false,
            last: None,
            heard_unix: None,
            frames: 0,
            skipped_bytes: 0,
            forwards: match &launch.shape.network {
                Network::User(forwards) => forwards.clone(),
                Network::Socket(_) => Vec::new(),
            },
            console: launch.shape.dev.is_some().then(|| dir.console()),
            qemu_log: dir.qemu_log(),
            qmp: dir.qmp(),
            pcap: launch.pcap.clone(),
            ended: None,
        };
        let (status, unread) = if launch.status_read { (Some(status), None) } else { (None, Some(status)) };
        Ok(Self {
            begin: Instant::now(),
            child,
            status,
            _unread: unread,
            control: Some(control),
            watch: Watch::new(launch.limits, launch.status_read),
            frames: StatusStream::default(),
            messages: MessageStream::default(),
            report,
        })
    }

    fn live(
        &mut self,
        launch: &Launch,
        signals: Option<&SignalFd>,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, Error> {
        let dir = &launch.claim.dir;
        dir.write_report(&self.report)?;
        if !launch.status_read {
            observer.ready(&self.report);
        }
        loop {
            // Asked before the sockets are drained: what QEMU sent before it ended is then already there.
            let exited = self.child.try_wait().map_err(Error::system("waiting for QEMU"))?;
            let mut events = self.read_sockets()?;
            if let Some(signals) = signals
                && signals.read_signal().map_err(Error::system("signalfd"))?.is_some()
            {
                events.push(Event::Signal);
            }
            events.push(exited.map_or(Event::Tick, |status| exit_event(status, dir)));
            for event in events {
                let changed = !matches!(event, Event::Tick);
                if let Event::Frame(frame) = &event {
                    observer.frame(frame);
                }
                let actions = self.watch.on(self.begin.elapsed(), event);
                if changed {
                    self.update_report(dir)?;
                }
                if let Some(outcome) = self.act(actions, observer)? {
                    self.report.ready = false;
                    self.report.ended = Some(Ended::from(&outcome));
                    dir.write_report(&self.report)?;
                    return Ok(outcome);
                }
            }
            self.wait(signals)?;
        }
    }

    fn act(&mut self, actions: Vec<Action>, observer: &mut dyn Observer) -> Result<Option<Outcome>, Error> {
        for action in actions {
            match action {
                Action::Progress(frame) => observer.progress(self.begin.elapsed(), &frame),
                Action::Note(line) => observer.note(&line),
                Action::Ready => observer.ready(&self.report),
                Action::Send(line) => self.send(line, observer),
                Action::Kill => self.child.kill().map_err(Error::system("killing QEMU"))?,
                Action::Over(outcome) => return Ok(Some(outcome)),
            }
        }
        Ok(None)
    }

    fn send(&mut self, line: &str, observer: &mut dyn Observer) {
        // A monitor that is gone means that QEMU is going: its end is the next event.
        if let Some(control) = &mut self.control
            && let Err(error) = control.write_all(line.as_bytes())
        {
            observer.note(&format!("QEMU's monitor: {error}"));
        }
    }

    fn read_sockets(&mut self) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        let frames = drain(&mut self.status)?;
        events.extend(self.frames.push(&frames).into_iter().map(|item| match item {
            Item::Frame(frame) => Event::Frame(frame),
            Item::Skipped(count) => Event::Skipped(count),
        }));
        let messages = drain(&mut self.control)?;
        events.extend(self.messages.push(&messages).into_iter().map(Event::Qmp));
        Ok(events)
    }

    fn update_report(&mut self, dir: &RunDir) -> Result<(), Error> {
        let (frames, skipped) = self.watch.counts();
        if frames > self.report.frames {
            let now = SystemTime::now().duration_since(UNIX_EPOCH);
            self.report.heard_unix = now.ok().map(|now| now.as_secs());
        }
        self.report.ready = self.watch.phase() == Phase::Running && frames > 0;
        self.report.last = self.watch.last().map(LastFrame::from);
        self.report.frames = frames;
        self.report.skipped_bytes = skipped;
        dir.write_report(&self.report)
    }

    fn wait(&self, signals: Option<&SignalFd>) -> Result<(), Error> {
        let sockets = [&self.status, &self.control].into_iter().flatten().map(|socket| socket.as_fd());
        let all = sockets.chain(signals.map(|fd| fd.as_fd()));
        let mut fds: Vec<_> = all.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, TICK_MS) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(Error::system("poll")(errno)),
        }
    }
}

/// The run directory's names for everything but the two descriptors, which stand in a pasted command line as sockets.
pub fn wiring(dir: &RunDir, pcap: Option<PathBuf>, with_share: bool) -> Wiring {
    Wiring {
        status: Channel::Listen(dir.status_socket()),
        control: Channel::Listen(dir.control_socket()),
        qmp: dir.qmp(),
        console: dir.console(),
        pcap,
        share: with_share.then(|| dir.share()),
    }
}

fn socketpair() -> Result<(UnixStream, UnixStream), Error> {
    let (ours, qemus) = UnixStream::pair().map_err(Error::system("socketpair"))?;
    ours.set_nonblocking(true).map_err(Error::system("socketpair"))?;
    Ok((ours, qemus))
}

/// Everything that is there now. At the end of the stream the socket goes, so that it is not polled again.
fn drain(socket: &mut Option<UnixStream>) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let Some(stream) = socket else { return Ok(bytes) };
    // One megabyte a turn: a guest that floods us cannot keep us from the clock and the signals.
    match stream.take(1 << 20).read_to_end(&mut bytes) {
        Ok(length) if length < 1 << 20 => *socket = None,
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => *socket = None,
        Err(error) => return Err(Error::system("reading from QEMU")(error)),
    }
    Ok(bytes)
}

fn exit_event(status: ExitStatus, dir: &RunDir) -> Event {
    let log = std::fs::read(dir.qemu_log()).unwrap_or_default();
    let tail = log.get(log.len().saturating_sub(LOG_TAIL)..).unwrap_or_default();
    let said = String::from_utf8_lossy(tail).trim().replace('\n', "; ");
    Event::Exited {
        success: status.success(),
        killed: status.signal().is_some_and(|signal| !OWN_FAULTS.contains(&signal)),
        how: status.to_string(),
        said,
        panic: kernel_panic(dir),
    }
}

/// The kernel's own line about its panic, from the end of the console of a development image.
fn kernel_panic(dir: &RunDir) -> Option<String> {
    let mut console = File::open(dir.console()).ok()?;
    let length = console.metadata().ok()?.len();
    console.seek(SeekFrom::Start(length.saturating_sub(CONSOLE_TAIL))).ok()?;
    let mut tail = Vec::new();
    console.take(CONSOLE_TAIL).read_to_end(&mut tail).ok()?;
    // kernel/panic.c: "Kernel panic - not syncing: %s".
    let text = String::from_utf8_lossy(&tail);
    let line = text.lines().rev().find_map(|line| Some(line.split_at(line.find("Kernel panic - ")?).1))?;
    Some(printable(line))
}
