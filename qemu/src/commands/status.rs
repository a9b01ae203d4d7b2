//! `status`: a machine seen from outside.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use casemate_qemu::report::Report;
use casemate_qemu::rundir::RunDir;
use casemate_qemu::text::{ascii_json, printable};
use casemate_qemu::{Error, console};
use clap::Args;
use serde_json::{Map, Value, json};

#[derive(Debug, Args)]
pub(super) struct Status {
    /// The run directory that was given to `boot`
    run_dir: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Exits with 0 while the machine runs, and as the machine did once it has ended.
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let dir = RunDir::existing(&self.run_dir)?;
        let Some(report) = dir.read_report()? else {
            return Err(Error::NotRunning(dir.path().into()).into());
        };
        let alive = dir.is_claimed() && report.ended.is_none() && parent(report.qemu_pid) == Some(report.pid);
        let document = match &report.console {
            Some(path) => tail(path)?,
            None => Vec::new(),
        };
        let document = console::last_status(&document);
        if self.json {
            println!("{}", ascii_json(&as_json(&report, alive, document.as_ref())));
        } else {
            print(&report, alive, document.as_ref());
        }
        match &report.ended {
            Some(ended) => Ok(ended.exit_status),
            None if alive => Ok(0),
            None => Err(Error::NotRunning(dir.path().into()).into()),
        }
    }
}

/// The parent of a process, if there is one (proc_pid_status(5)). A number that another process got has another parent.
fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn tail(path: &Path) -> Result<Vec<u8>, Error> {
    let read = || {
        let mut bytes = Vec::new();
        let mut file = match File::open(path) {
            // QEMU makes it when it starts.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(bytes),
            file => file?,
        };
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(console::TAIL)))?;
        file.take(console::TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    read().map_err(|source| Error::File { path: path.into(), source })
}

/// Seconds since the last frame came.
fn ago(report: &Report) -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    Some(now.saturating_sub(report.heard_unix?))
}

/// Why there is no status document.
const fn no_document(report: &Report) -> &'static str {
    match report.console {
        Some(_) => "none was printed yet",
        None => "a production image has no console: its status frames are all that leaves it",
    }
}

fn as_json(report: &Report, alive: bool, document: Option<&Map<String, Value>>) -> Value {
    json!({
        "qemu": { "alive": alive, "pid": report.qemu_pid, "runner": report.runner },
        "ready": report.ready,
        "frame": report.last,
        "frame_seconds_ago": ago(report),
        "frames": report.frames,
        "skipped_bytes": report.skipped_bytes,
        "ended": report.ended,
        "status": document,
        "no_status": document.is_none().then(|| no_document(report)),
    })
}

fn print(report: &Report, alive: bool, document: Option<&Map<String, Value>>) {
    let line = |what: &str, words: &str| println!("{what:<10} {words}");
    match (alive, &report.ended) {
        (_, Some(ended)) => line("ended", &printable(&ended.words)),
        (true, None) => line("QEMU", &format!("runs, pid {}", report.qemu_pid)),
        (false, None) => line("QEMU", "is gone, and so is whoever watched it: how it ended is not known"),
    }
    match &report.last {
        Some(frame) => {
            let when = ago(report).map(|seconds| format!(", {seconds} s ago")).unwrap_or_default();
            line(
                "frame",
                &format!("{}{when} (number {}, at {} ms)", frame.words(), frame.sequence, frame.uptime_ms),
            );
            line("frames", &format!("{}; {} found no room in the guest", report.frames, frame.dropped));
        }
        None => line("frame", "not a single one"),
    }
    if report.skipped_bytes > 0 {
        line("garbage", &format!("{} bytes on the status port are no frame", report.skipped_bytes));
    }
    match document {
        Some(document) => {
            line("status", "as the guest printed it last; nobody has verified it");
            for (path, value) in console::lines(document) {
                println!("  {path:<28} {value}");
            }
        }
        None => line("status", no_document(report)),
    }
}
