//! The guest's own account of its memory, from the status document on its console.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use casemate_measure::status::Stage;
use serde::Deserialize;

use crate::machine::boot;
use crate::{Memory, PROMISED_ALL, PROMISED_PID1, promise};

/// How long after ready the machine has to be idle; PID 1 looks every 10 s.
const IDLE: Duration = Duration::from_secs(35);

/// PID 1, and everything together.
pub(crate) struct Sums {
    pub(crate) pid1: Memory,
    pub(crate) all: Memory,
}

/// The part of the status document that is about memory.
#[derive(Deserialize)]
struct Status {
    stage: String,
    memory: Option<Kept>,
    processes: Vec<Process>,
}

#[derive(Deserialize)]
struct Process {
    name: String,
    pid: i32,
    memory: Option<Kept>,
}

#[derive(Clone, Copy, Deserialize)]
struct Kept {
    rss_kb: u64,
    pss_kb: u64,
}

impl From<Kept> for Memory {
    fn from(kept: Kept) -> Self {
        Self { rss: kept.rss_kb, pss: kept.pss_kb }
    }
}

/// Boots, waits until the machine has been idle for a while, and prints what each process keeps.
pub(crate) fn measure(image: &Path) -> anyhow::Result<Sums> {
    let mut ready = None;
    let status = boot(image, "", |console| {
        let documents = console.lines().filter_map(|line| line.trim_end().strip_prefix("casemate: status "));
        let status = documents.filter_map(|json| serde_json::from_str::<Status>(json).ok()).next_back()?;
        if status.stage != Stage::Ready.words() {
            return None;
        }
        let since: &Instant = ready.get_or_insert_with(Instant::now);
        (since.elapsed() >= IDLE).then_some(status)
    })?;
    let pid1: Memory = status.memory.context("status: no memory of PID 1")?.into();
    let mut all = pid1;
    print("init", 1, pid1);
    for process in &status.processes {
        ensure!(process.pid != 0, "{} does not run: the machine is not what is to be measured", process.name);
        let kept = process.memory.with_context(|| format!("status: no memory of {}", process.name))?.into();
        print(&process.name, process.pid, kept);
        all = all + kept;
    }
    ensure!(status.processes.len() >= 4, "status: only {} processes", status.processes.len());
    promise("pid1", PROMISED_PID1, pid1.rss);
    promise("all", PROMISED_ALL, all.rss);
    println!("memory who=guest process=all rss_kb={} pss_kb={}", all.rss, all.pss);
    Ok(Sums { pid1, all })
}

fn print(name: &str, pid: i32, kept: Memory) {
    println!("memory who=guest process={name} pid={pid} rss_kb={} pss_kb={}", kept.rss, kept.pss);
}
