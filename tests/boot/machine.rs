//! One machine: switched on, watched, asked to power off. Only one runs at a time, but for those that may have company.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use casemate_measure::MrConfigId;
use casemate_measure::image::Flavor;
use casemate_measure::status::{Frame, Reason, Stage};
use casemate_qemu::host::{Choice, Runner};
use casemate_qemu::image::CheckedImage;
use casemate_qemu::io::monitor;
use casemate_qemu::io::run::{Launch, Observer, run, settle_ports};
use casemate_qemu::report::Report;
use casemate_qemu::rundir::RunDir;
use casemate_qemu::shape::{DevExtras, Firmware, Forward, Network, Platform, VmShape};
use casemate_qemu::watch::Limits;
use casemate_qemu::{Outcome, qmp};
use casemate_tests::scratch::Scratch;
use serde_json::Value;

use crate::images::Image;
use crate::{console, https};

const QEMU: &str = "qemu-system-x86_64";
/// From power-on to ready, and for anything that a test waits for: twenty times what it takes on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_millis(100);

/// Whether machines can be booted here; said loudly where not, and under CI=true a failure.
pub(crate) fn qemu() -> bool {
    if Command::new(QEMU).arg("--version").output().is_ok_and(|output| output.status.success()) {
        return true;
    }
    let why = format!("no machine is booted: {QEMU} is not installed");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "SKIPPED under CI=true: {why}");
    eprintln!("SKIPPED: {why}");
    false
}

/// What a test may choose of a machine.
pub(crate) struct Options {
    pub(crate) firmware: Firmware,
    pub(crate) mrconfigid: Option<MrConfigId>,
    /// QEMU's user network with a forward to the mesh's port, unless a test brings its own.
    pub(crate) network: Option<Network>,
    pub(crate) status_read: bool,
    /// How long a ready guest may be silent.
    pub(crate) alive: Option<Duration>,
    /// The host share's block device.
    pub(crate) share: Option<Vec<u8>>,
    /// A serial port where the shape has none.
    pub(crate) serial: bool,
    /// Whether others may run beside it: nothing that is asserted of it depends on how fast it is.
    pub(crate) company: bool,
    /// More arguments for QEMU.
    pub(crate) extra: &'static str,
    /// Arguments before all others, such as buses.
    pub(crate) before: &'static str,
    /// Words before QEMU's own name: what brings it somewhere, such as into a network namespace.
    pub(crate) through: &'static str,
    /// A script for sed(1), through which each of the shape's arguments goes.
    pub(crate) rewrite: &'static str,
    /// How long a machine that said why it ends, or was asked to, may take.
    pub(crate) stop: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            firmware: Firmware::Seabios,
            mrconfigid: None,
            network: None,
            status_read: true,
            alive: None,
            share: None,
            serial: false,
            company: false,
            extra: "",
            before: "",
            through: "",
            rewrite: "",
            stop: PATIENCE,
        }
    }
}

/// A machine that is on.
pub(crate) struct Machine {
    dir: RunDir,
    /// Where the mesh's port is reached from the host.
    pub(crate) mesh: Option<SocketAddr>,
    frames: Arc<Mutex<Frames>>,
    thread: Option<JoinHandle<Outcome>>,
    _temp: Scratch,
    _turn: Turn,
}

/// A guard, for as long as the machine is on.
#[expect(dead_code, reason = "held, not used")]
enum Turn {
    Alone(RwLockWriteGuard<'static, ()>),
    InCompany(RwLockReadGuard<'static, ()>),
}

impl Turn {
    fn wait(company: bool) -> Self {
        static RUNNING: RwLock<()> = RwLock::new(());
        if company {
            return Self::InCompany(RUNNING.read().unwrap_or_else(PoisonError::into_inner));
        }
        Self::Alone(RUNNING.write().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Default)]
struct Frames {
    all: Vec<Frame>,
    moved: Vec<Frame>,
}

/// How it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit status of `casemate-qemu boot`.
    pub(crate) exit_status: u8,
    /// The first frame of each stage and reason, in the order they came.
    pub(crate) frames: Vec<Frame>,
    /// Every frame.
    pub(crate) all_frames: Vec<Frame>,
    pub(crate) report: Report,
    pub(crate) console: Vec<String>,
    /// The status documents on it.
    pub(crate) statuses: Vec<Value>,
}

impl Machine {
    pub(crate) fn switch_on(image: &Image, options: Options) -> Self {
        let turn = Turn::wait(options.company);
        let temp = Scratch::new("casemate-boot.").unwrap();
        let checked = CheckedImage::open(&image.0).unwrap();
        let mut registers = *checked.registers();
        if let Some(id) = options.mrconfigid {
            registers.mrconfigid = id;
        }
        let mut network = options.network.clone().unwrap_or_else(|| {
            let host = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
            Network::User(vec![Forward { host, guest: 443 }])
        });
        settle_ports(&mut network).unwrap();
        let mesh = match &network {
            Network::User(forwards) => forwards.first().map(|forward| forward.host.into()),
            Network::Socket(_) => None,
        };
        let claim = RunDir::claim(&temp.path().join("run")).unwrap();
        let dir = claim.dir.clone();
        let serial = if options.serial {
            format!(
                "-chardev file,id=heard,path={} -device isa-serial,chardev=heard",
                dir.console().display()
            )
        } else {
            String::new()
        };
        let launch = Launch {
            program: program(temp.path(), &options, &serial),
            shape: VmShape {
                platform: Platform::Tcg(options.firmware),
                memory_mib: 512,
                cpus: NonZeroU16::MIN,
                dev: (checked.flavor() == Flavor::Dev).then_some(DevExtras { registers }),
                network,
            },
            files: checked.boot_files(),
            choice: Choice { runner: Runner::Tcg, why: "tests run everywhere".into() },
            claim,
            pcap: None,
            share: options.share,
            limits: Limits { ready: PATIENCE, stop: options.stop, alive: options.alive },
            status_read: options.status_read,
        };
        let frames = Arc::new(Mutex::new(Frames::default()));
        let mut seen = Seen(Arc::clone(&frames));
        // QEMU ends with the thread that started it.
        let thread = std::thread::spawn(move || run(&launch, None, &mut seen).unwrap());
        Self { dir, mesh, frames, thread: Some(thread), _temp: temp, _turn: turn }
    }

    /// Waits for the frame that says so.
    pub(crate) fn wait_ready(&self) {
        self.wait("ready", || self.frames().iter().any(|frame| frame.reason == Reason::Ready).then_some(()));
    }

    pub(crate) fn frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).moved.clone()
    }

    pub(crate) fn all_frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).all.clone()
    }

    /// The last status document on the console, once it satisfies the condition.
    pub(crate) fn wait_status(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        self.wait(what, || self.last_status().filter(&mut wanted))
    }

    /// The last status document on the console.
    pub(crate) fn last_status(&self) -> Option<Value> {
        console::statuses(&self.log()).pop()
    }

    pub(crate) fn console(&self) -> Vec<String> {
        console::lines(&self.log())
    }

    fn log(&self) -> Vec<u8> {
        fs::read(self.dir.console()).unwrap_or_default()
    }

    /// Waits until there is something, at most [`PATIENCE`]; the end of the machine ends it, too.
    pub(crate) fn wait<T>(&self, what: &str, look: impl FnMut() -> Option<T>) -> T {
        self.wait_within(PATIENCE, what, look)
    }

    /// The same, with another limit.
    pub(crate) fn wait_within<T>(
        &self,
        limit: Duration,
        what: &str,
        mut look: impl FnMut() -> Option<T>,
    ) -> T {
        let begin = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            let ended = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            if ended || begin.elapsed() > limit {
                let how = if ended { "the machine ended" } else { "not in time" };
                let report = self.dir.read_report();
                panic!(
                    "{what}: {how}: {:?}; {report:?}\n{}",
                    self.frames().last(),
                    self.console().join("\n")
                );
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Gives QEMU's monitor a command.
    pub(crate) fn monitor(&self, command: &str) {
        self.try_monitor(command).unwrap();
    }

    /// The same, where QEMU may refuse it: why.
    pub(crate) fn try_monitor(&self, command: &str) -> Result<(), String> {
        monitor::command(&self.dir, command).map_err(|error| error.to_string())
    }

    /// Waits for an answer of the mesh to `GET /health`.
    pub(crate) fn wait_healthy(&self) {
        let mesh = self.mesh.unwrap();
        let status = self.wait("an answer of the mesh", || https::health(mesh).ok());
        assert_eq!(status, 200);
    }

    /// Sends QEMU's process a signal, by name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.dir.read_report().unwrap().unwrap().qemu_pid;
        let sent = Command::new("kill").args(["-s", name, "--", &pid.to_string()]).status().unwrap();
        assert!(sent.success(), "kill -s {name} {pid}");
    }

    /// Presses the power button through QMP, and waits.
    pub(crate) fn power_off(self) -> Ended {
        self.monitor(qmp::POWERDOWN);
        self.ended()
    }

    /// Waits for it to end by itself, or for its limits. A machine that gets ready instead is ended: it has no limit then.
    pub(crate) fn wait_end(self) -> Ended {
        let ready = |frames: &[Frame]| frames.iter().any(|frame| frame.reason == Reason::Ready);
        self.wait_end_unless(2 * PATIENCE, ready)
    }

    /// Waits for it to end by itself, or for its limits. It is ended if that takes too long, or if its frames say that it
    /// does not end.
    pub(crate) fn wait_end_unless(self, limit: Duration, goes_on: impl Fn(&[Frame]) -> bool) -> Ended {
        let begin = Instant::now();
        while !self.thread.as_ref().is_none_or(JoinHandle::is_finished) {
            if begin.elapsed() > limit || goes_on(&self.all_frames()) {
                drop(monitor::command(&self.dir, qmp::QUIT));
            }
            std::thread::sleep(LOOK);
        }
        self.ended()
    }

    /// Waits for it to end by itself or by its limits, also after it got ready.
    pub(crate) fn wait_for_its_end(self) -> Ended {
        self.ended()
    }

    fn ended(mut self) -> Ended {
        let outcome = self.thread.take().unwrap().join().unwrap();
        let report = self.dir.read_report().unwrap().unwrap();
        assert!(self.dir.console().exists(), "nobody listens to the serial port");
        assert_eq!(report.ended.as_ref().unwrap().exit_status, outcome.exit_status());
        Ended {
            exit_status: outcome.exit_status(),
            frames: self.frames(),
            all_frames: self.all_frames(),
            report,
            console: self.console(),
            statuses: console::statuses(&self.log()),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A test failed: the machine goes at once. It may have gone already.
            drop(monitor::command(&self.dir, qmp::QUIT));
            drop(thread.join());
        }
    }
}

impl Ended {
    /// The guest's last word.
    pub(crate) fn last(&self) -> &Frame {
        self.frames.last().unwrap_or_else(|| panic!("not a single frame: {self}"))
    }

    /// It powered off because of this, and said so everywhere.
    pub(crate) fn assert_failed(&self, stage: Stage, reason: Reason) {
        let last = self.last();
        assert_eq!((last.stage, last.reason), (stage, reason), "{self}");
        assert_eq!(self.exit_status, reason.code(), "{self}");
        assert!(self.frames.iter().all(|frame| frame.reason != Reason::Ready), "{self}");
    }

    /// It powered off because it was asked to.
    pub(crate) fn assert_orderly(&self) {
        assert_eq!((self.last().stage, self.last().reason), (Stage::Shutdown, Reason::PoweredOff), "{self}");
        assert_eq!(self.exit_status, 0, "{self}");
    }

    pub(crate) fn console_says(&self, text: &str) -> bool {
        self.console.iter().any(|line| line.contains(text))
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = self.report.ended.as_ref().map_or("?", |ended| ended.words.as_str());
        write!(f, "{words}\n{}", self.console.join("\n"))
    }
}

struct Seen(Arc<Mutex<Frames>>);

impl Observer for Seen {
    fn frame(&mut self, frame: &Frame) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).all.push(*frame);
    }

    fn progress(&mut self, _: Duration, frame: &Frame) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).moved.push(*frame);
    }

    fn note(&mut self, _: &str) {}

    fn ready(&mut self, _: &Report) {}
}

/// QEMU, or a script that gives it other arguments.
fn program(dir: &Path, options: &Options, serial: &str) -> String {
    let Options { extra, before, through, rewrite, .. } = options;
    if [extra, before, through, rewrite].iter().all(|text| text.is_empty()) && serial.is_empty() {
        return QEMU.to_owned();
    }
    let path = dir.join("qemu");
    let rewrite = match *rewrite {
        "" => String::new(),
        script => format!("for a do shift; set -- \"$@\" \"$(printf '%s' \"$a\" | sed '{script}')\"; done\n"),
    };
    fs::write(&path, format!("#!/bin/sh\n{rewrite}exec {through} {QEMU} {before} \"$@\" {serial} {extra}\n"))
        .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_str().unwrap().to_owned()
}
