//! `boot` and `argv`.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use casemate_measure::status::{Frame, Reason};
use casemate_qemu::Error;
use casemate_qemu::argv::{argv, shell_quoted};
use casemate_qemu::host::Runner;
use casemate_qemu::io::run::{Launch, Observer, run, settle_ports, signals, wiring};
use casemate_qemu::outcome::frame_words;
use casemate_qemu::report::{Ended, Report};
use casemate_qemu::rundir::RunDir;
use casemate_qemu::watch::Limits;
use clap::Args;

use super::machine::Machine;

#[derive(Debug, Args)]
pub(super) struct Boot {
    #[command(flatten)]
    machine: Machine,
    /// Keep pid, status, console log and monitor here; the default is a new temporary directory, removed after an orderly end
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Seconds from power-on to ready; the default is 300 under TCG, else 60
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Seconds from the request to power off to the end
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    stop_timeout: u64,
    /// Seconds that a ready guest may be silent before it is taken for hung, 0 for ever; the default is 120 under TCG,
    /// else 60
    #[arg(long, value_name = "SECONDS")]
    alive: Option<u64>,
    /// Never read the status port (for tests: the guest must not care)
    #[arg(long)]
    status_unread: bool,
    /// Print one JSON object when ready and one at the end, instead of words
    #[arg(long)]
    json: bool,
}

impl Boot {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let image = self.machine.image()?;
        let choice = self.machine.choose(image.flavor())?;
        let bound = self.machine.bind(&image, choice.runner)?;
        let mut shape = self.machine.shape(&image, choice.runner, bound.mrconfigid);
        let share = bound.share.as_ref().map(|share| share.image().context("the host share")).transpose()?;
        settle_ports(&mut shape.network)?;
        let (path, temporary) = match &self.run_dir {
            Some(path) => (path.clone(), false),
            None => (tempfile::Builder::new().prefix("casemate-").tempdir()?.keep(), true),
        };
        let claim = RunDir::claim(&path)?;
        let pcap = self.machine.pcap.as_deref().map(utf8_absolute).transpose()?;
        let ready = self.timeout.unwrap_or(if choice.runner == Runner::Tcg { 300 } else { 60 });
        // PID 1 says that it is alive every 10 seconds of its own.
        let alive = self.alive.unwrap_or(if choice.runner == Runner::Tcg { 120 } else { 60 });
        eprintln!("casemate-qemu: {}, because {}", shape.platform.words(), choice.why);
        let launch = Launch {
            program: self.machine.qemu.clone(),
            shape,
            files: image.boot_files(),
            choice,
            claim,
            pcap,
            share,
            limits: Limits {
                ready: Duration::from_secs(ready),
                stop: Duration::from_secs(self.stop_timeout),
                alive: Some(alive).filter(|alive| *alive != 0).map(Duration::from_secs),
            },
            status_read: !self.status_unread,
        };
        let signals = signals()?;
        let mut screen = Screen { json: self.json, tty: std::io::stderr().is_terminal(), line_open: false };
        let outcome = run(&launch, Some(&signals), &mut screen)?;
        screen.close_line();
        let status = outcome.exit_status();
        if self.json {
            println!("{}", serde_json::to_string(&Ended::from(&outcome))?);
        } else {
            println!("casemate-qemu: {outcome}");
        }
        if temporary && status == 0 {
            std::fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
        } else if status != 0 {
            eprintln!("casemate-qemu: logs are in {}", path.display());
        }
        Ok(status)
    }
}

struct Screen {
    json: bool,
    tty: bool,
    line_open: bool,
}

impl Screen {
    fn close_line(&mut self) {
        if std::mem::take(&mut self.line_open) {
            eprintln!();
        }
    }
}

impl Observer for Screen {
    fn progress(&mut self, since_start: Duration, frame: &Frame) {
        // Said every ten seconds for as long as it runs: `cargo qemu status` has it.
        if frame.reason == Reason::Alive {
            return;
        }
        let line = format!("{:7.1} s  {}", since_start.as_secs_f64(), frame_words(frame));
        if self.tty {
            // One line that is written over: back to its start, and clear what was longer.
            eprint!("\r\x1b[K{line}");
            drop(std::io::stderr().flush());
            self.line_open = true;
        } else {
            eprintln!("{line}");
        }
    }

    fn note(&mut self, line: &str) {
        self.close_line();
        eprintln!("casemate-qemu: {line}");
    }

    fn ready(&mut self, report: &Report) {
        self.close_line();
        if self.json {
            match serde_json::to_string(report) {
                Ok(line) => println!("{line}"),
                Err(error) => eprintln!("casemate-qemu: {error}"),
            }
            return;
        }
        println!("{}", if report.ready { "ready" } else { "switched on; its status is not read" });
        for forward in &report.forwards {
            println!("  forward   {forward}");
        }
        if let Some(console) = &report.console {
            println!("  console   {}", console.display());
        }
        println!("  status    {}", report.qmp.with_file_name("status.json").display());
        println!("  monitor   {} (QMP)", report.qmp.display());
        if let Some(pcap) = &report.pcap {
            println!("  frames    {}", pcap.display());
        }
        println!("Ctrl-C powers it off in order; a second one ends it at once.");
    }
}

#[derive(Debug, Args)]
pub(super) struct Argv {
    #[command(flatten)]
    machine: Machine,
    /// The run directory that the sockets and logs would be in, /tmp unless given; with --document its share is written
    /// there, as share.img
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// What this host would be started with, instead of what --tee asks for
    #[arg(long)]
    this_host: bool,
    /// One argument a line, for programs, instead of one line for a shell
    #[arg(long)]
    lines: bool,
}

impl Argv {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let image = self.machine.image()?;
        let runner =
            if self.this_host { self.machine.choose(image.flavor())?.runner } else { self.machine.asked() };
        let bound = self.machine.bind(&image, runner)?;
        let shape = self.machine.shape(&image, runner, bound.mrconfigid);
        let dir = match (&self.run_dir, &bound.share) {
            // In a folder that others can write a name that is known beforehand is theirs as much as ours.
            (None, Some(_)) => return Err(Error::NoRunDir.into()),
            (run_dir, _) => RunDir::existing(run_dir.as_deref().unwrap_or_else(|| Path::new("/tmp")))?,
        };
        if let Some(share) = &bound.share {
            if dir.is_claimed() {
                return Err(Error::Busy(dir.path().into()).into());
            }
            dir.write_share(&share.image().context("the host share")?)?;
        }
        let pcap = self.machine.pcap.as_deref().map(utf8_absolute).transpose()?;
        let args = argv(&shape, &image.boot_files(), &wiring(&dir, pcap, bound.share.is_some()));
        let words = std::iter::once(self.machine.qemu.as_str()).chain(args.iter().map(String::as_str));
        if self.lines {
            words.for_each(|word| println!("{word}"));
        } else {
            println!("{}", shell_quoted(words));
        }
        Ok(0)
    }
}

pub(super) fn utf8_absolute(path: &Path) -> anyhow::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match path.to_str() {
        Some(_) => Ok(path),
        None => Err(Error::PathText(path).into()),
    }
}
