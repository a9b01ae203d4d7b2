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
    /// Seconds
    #[arg(long, default_value_t = 300)]
    timeout: u64,
}

impl Wait {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(self.timeout) {
            if self.run_dir.is_dir()
                && let Some(report) = RunDir::existing(&self.run_dir)?.read_report()?
            {
                if report.ready {
                    println!("ready");
                    return Ok(0);
                }
                if let Some(status) = said_end(&report) {
                    return Ok(status);
                }
            }
            std::thread::sleep(LOOK);
        }
        println!("not ready within {} s", self.timeout);
        Ok(6)
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
            if let Some(status) = dir.read_report()?.as_ref().and_then(said_end) {
                return Ok(status);
            }
            if !dir.is_claimed() {
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
