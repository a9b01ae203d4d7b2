//! One boot in QEMU, and what the guest said of its times.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use casemate_measure::image::Flavor;
use casemate_measure::status::{Frame, Stage};
use casemate_qemu::host::{Choice, Runner};
use casemate_qemu::image::CheckedImage;
use casemate_qemu::io::monitor;
use casemate_qemu::io::run::{Launch, Observer, run, settle_ports};
use casemate_qemu::qmp;
use casemate_qemu::report::Report;
use casemate_qemu::rundir::RunDir;
use casemate_qemu::shape::{DevExtras, Firmware, Forward, Network, Platform, VmShape};
use casemate_qemu::watch::Limits;
use serde::Deserialize;

const QEMU: &str = "qemu-system-x86_64";
/// By the host's time, for a whole boot: by instructions it takes several times as long as without counting.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(100);

/// What the guest's clock counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// Instructions, one nanosecond each; idle time is jumped over.
    Instructions,
    /// The host's time.
    Host,
}

impl Clock {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Instructions => "icount",
            Self::Host => "plain",
        }
    }

    const fn arguments(self) -> &'static str {
        match self {
            Self::Instructions => "-icount shift=0,sleep=off",
            Self::Host => "",
        }
    }
}

/// One boot, in milliseconds of guest time.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// When userspace started, since the kernel did.
    pub(crate) start_ms: f64,
    /// When the init was done.
    end_ms: f64,
    /// Of that, while loading modules.
    pub(crate) modules_ms: f64,
    /// Stages and how long each took.
    pub(crate) stages: Vec<(String, f64)>,
}

impl Run {
    /// From the start of userspace to the end.
    pub(crate) fn total_ms(&self) -> f64 {
        self.end_ms - self.start_ms
    }
}

/// QEMU's version.
pub(crate) fn version() -> anyhow::Result<String> {
    let output =
        Command::new(QEMU).arg("--version").output().with_context(|| format!("{QEMU} (qemu-system-x86)"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("QEMU").to_owned())
}

/// Boots an image with our init until it is ready.
pub(crate) fn ours(image: &Path, clock: Clock) -> anyhow::Result<Run> {
    let status: Status = boot(image, clock, |console| {
        let documents = console.lines().filter_map(|line| line.trim_end().strip_prefix("casemate: status "));
        let status = documents.filter_map(|json| serde_json::from_str::<Status>(json).ok()).next_back()?;
        status.stages.iter().any(|entry| entry.stage == Stage::Ready.words()).then_some(status)
    })?;
    let start = status.stages.first().context("status: no stages")?.entered_ms;
    let ready = status.stages.last().filter(|entry| entry.stage == Stage::Ready.words());
    let pairs = status.stages.iter().zip(status.stages.iter().skip(1));
    Ok(Run {
        start_ms: start,
        end_ms: ready.context("status: stages after ready")?.entered_ms,
        modules_ms: status.module_ms,
        stages: pairs.map(|(one, next)| (one.stage.clone(), next.entered_ms - one.entered_ms)).collect(),
    })
}

/// The part of the status document that has times, in ms since the kernel started.
#[derive(Deserialize)]
struct Status {
    stages: Vec<StageTime>,
    module_ms: f64,
}

#[derive(Deserialize)]
struct StageTime {
    stage: String,
    entered_ms: f64,
}

/// Boots an image with the C init until it says its times.
pub(crate) fn c_init(image: &Path, clock: Clock) -> anyhow::Result<Run> {
    let line = boot(image, clock, |console| {
        let line = console.lines().find_map(|line| line.trim_end().strip_prefix("cinit: "))?;
        // Not while it is still being written.
        line.contains("failed=").then(|| line.to_owned())
    })?;
    let number = |name: &str| {
        let words = line.split(' ').filter_map(|word| word.split_once('='));
        let found = words.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse::<f64>().ok());
        found.with_context(|| format!("C init: expected {name}=…, found {line:?}"))
    };
    ensure!(number("failed")? == 0.0 && number("loaded")? > 0.0, "C init: {line}");
    Ok(Run {
        start_ms: number("start_us")? / 1000.0,
        end_ms: number("end_us")? / 1000.0,
        modules_ms: number("modules_us")? / 1000.0,
        stages: Vec::new(),
    })
}

/// Boots until `look` finds what it wants on the console, then switches the machine off.
fn boot<T>(image: &Path, clock: Clock, look: impl Fn(&str) -> Option<T>) -> anyhow::Result<T> {
    let temp = tempfile::Builder::new().prefix("casemate-bench.").tempdir()?;
    let checked = CheckedImage::open(image)?;
    ensure!(checked.flavor() == Flavor::Dev, "the times are on the development image's console");
    let host = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let mut network = Network::User(vec![Forward { host, guest: 443 }]);
    settle_ports(&mut network)?;
    let claim = RunDir::claim(&temp.path().join("run"))?;
    let dir = claim.dir.clone();
    let launch = Launch {
        program: program(temp.path(), clock.arguments())?,
        shape: VmShape {
            platform: Platform::Tcg(Firmware::Seabios),
            memory_mib: 512,
            cpus: NonZeroU16::MIN,
            dev: Some(DevExtras { registers: *checked.registers() }),
            network,
        },
        files: checked.boot_files(),
        choice: Choice { runner: Runner::Tcg, why: "its clock can count instructions".into() },
        claim,
        pcap: None,
        share: None,
        limits: Limits { ready: PATIENCE, stop: PATIENCE, alive: None },
        status_read: true,
    };
    let console = || String::from_utf8_lossy(&fs::read(dir.console()).unwrap_or_default()).into_owned();
    // QEMU ends with the thread that started it.
    let thread = std::thread::spawn(move || run(&launch, None, &mut Unheard));
    let begin = Instant::now();
    let found = loop {
        let ended = thread.is_finished();
        if let Some(found) = look(&console()) {
            break Ok(found);
        }
        if ended || begin.elapsed() > PATIENCE {
            let how = if ended { "the machine ended" } else { "not in time" };
            break Err(anyhow!("{how}; its console:\n{}", console()));
        }
        std::thread::sleep(LOOK);
    };
    if !thread.is_finished() {
        // It may just have gone by itself, which the thread tells.
        drop(monitor::command(&dir, qmp::QUIT));
    }
    match thread.join() {
        Ok(Ok(_)) => found,
        Ok(Err(error)) => found.context(error),
        Err(_) => bail!("the thread that ran QEMU panicked"),
    }
}

/// The times come from the console.
struct Unheard;

impl Observer for Unheard {
    fn progress(&mut self, _: Duration, _: &Frame) {}

    fn note(&mut self, _: &str) {}

    fn ready(&mut self, _: &Report) {}
}

/// A script that gives QEMU more arguments.
fn program(dir: &Path, extra: &str) -> anyhow::Result<String> {
    let path = dir.join("qemu");
    fs::write(&path, format!("#!/bin/sh\nexec {QEMU} \"$@\" {extra}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    path.to_str().map(str::to_owned).context("the temporary folder's name is not UTF-8")
}
