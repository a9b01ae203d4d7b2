//! Instructions, as valgrind counts them: of what a process does more by doing something more often.

use std::process::Command;

use anyhow::{Context as _, ensure};

/// How often the longer process does it; the shorter one does it once.
const TIMES: u64 = 11;

/// Whether there is one.
pub(crate) fn available() -> anyhow::Result<()> {
    let output = Command::new("valgrind").arg("--version").output().context("valgrind --version")?;
    ensure!(output.status.success(), "valgrind --version: {}", output.status);
    println!("# {}", String::from_utf8_lossy(&output.stdout).trim_end());
    Ok(())
}

/// Of doing that work once.
pub(crate) fn of(work: &str, who: &str) -> anyhow::Result<u64> {
    let (once, often) = (counted(work, who, 1)?, counted(work, who, TIMES)?);
    Ok(often.saturating_sub(once) / (TIMES - 1))
}

fn counted(work: &str, who: &str, times: u64) -> anyhow::Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe()?);
    let output = valgrind.args(["--only", work, who, &times.to_string()]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind: {}: {said}", output.status);
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count);
    collected.and_then(|count| count.trim().parse().ok()).with_context(|| format!("valgrind: {said}"))
}
