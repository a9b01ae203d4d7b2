//! `wait` and `stop`: for scripts that started `boot` in the background.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use casemate_qemu::Error;
use casemate_qemu::io::monitor;
use casemate_qemu::qmp;
use casemate_qemu::report::Report;
use casemate_qemu::rundir::RunDir;
use clap::Args;

/// How often the report is looked at.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct Wait {
    /// The run directory that was given to `boot`; it may not be there yet
    #[arg(long, value_name = "DIR")]
    run_dir: PathBuf,
    /// Wait for a sign of life, too: a status frame of a ready guest that comes after this command was given
    #[arg(long)]
    alive: bool,
    /// Seconds
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

impl Wait {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let begin = Instant::now();
        let mut last = None;
        let mut heard_before = None;
        let mut claimed = false;
        while begin.elapsed() < Duration::from_secs(self.timeout) {
            if self.run_dir.is_dir() {
                let dir = RunDir::existing(&self.run_dir)?;
                // Asked first: a report that `boot` wrote last of all is then read below.
                let running = dir.is_claimed();
                let report = dir.read_report()?;
                if let Some(report) = report {
                    let before = *heard_before.get_or_insert(report.frames);
                    if report.ready && (!self.alive || report.frames > before) {
                        println!("{}", if self.alive { "alive" } else { "ready" });
                        return Ok(0);
                    }
                    if let Some(status) = said_end(&report) {
                        return Ok(status);
                    }
                    last = Some(report);
                }
                if claimed && !running {
                    return Err(Error::NotRunning(dir.path().into()).into());
                }
                claimed = running;
            }
            std::thread::sleep(LOOK);
        }
        Ok(self.in_vain(last.as_ref()))
    }

    /// The exit status is that of a machine of which the same is known.
    fn in_vain(&self, last: Option<&Report>) -> u8 {
        let seconds = self.timeout;
        match last.map(|report| (report.ready, &report.last)) {
            Some((true, Some(frame))) => {
                println!("ready, and no sign of life within {seconds} s; the last frame: {}", frame.words());
                15
            }
            Some((_, Some(frame))) => {
                println!("not ready within {seconds} s; the last frame: {}", frame.words());
                6
            }
            Some((_, None)) | None => {
                println!("not ready within {seconds} s, and not a single status frame");
                7
            }
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Stop {
    /// The run directory that was given to `boot`
    #[arg(long, value_name = "DIR")]
    run_dir: PathBuf,
    /// End QEMU without asking the guest
    #[arg(long)]
    now: bool,
    /// Seconds
    #[arg(long, default_value_t = 90)]
    timeout: u64,
}

impl Stop {
    /// Its exit status is that of the machine.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let dir = RunDir::existing(&self.run_dir)?;
        monitor::command(&dir, if self.now { qmp::QUIT } else { qmp::POWERDOWN })?;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(self.timeout) {
            // Asked first: a report that `boot` wrote last of all is then read below.
            let running = dir.is_claimed();
            if let Some(status) = dir.read_report()?.as_ref().and_then(said_end) {
                return Ok(status);
            }
            if !running {
                return Err(Error::NotRunning(dir.path().into()).into());
            }
            std::thread::sleep(LOOK);
        }
        println!("still running after {} s", self.timeout);
        Ok(8)
    }
}

fn said_end(report: &Report) -> Option<u8> {
    let ended = report.ended.as_ref()?;
    println!("ended: {}", ended.words);
    Some(ended.exit_status)
}
