//! Instructions, as valgrind counts them: of a process that does one thing once.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::work::{Case, Work};

/// Whether there is one.
pub(crate) fn available() -> anyhow::Result<()> {
    let output = Command::new("valgrind").arg("--version").output().context("valgrind --version")?;
    ensure!(output.status.success(), "valgrind --version: {}", output.status);
    println!("# {}", String::from_utf8_lossy(&output.stdout).trim_end());
    Ok(())
}

/// Of this program, doing only that.
pub(crate) fn of(image: &Path, case: Case, work: Work) -> anyhow::Result<u64> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.arg(std::env::current_exe()?).arg("--image").arg(image);
    let output = valgrind.args(["--only", case.word(), work.word()]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind: {}: {said}", output.status);
    let collected = said.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count);
    collected.and_then(|count| count.trim().parse().ok()).with_context(|| format!("valgrind: {said}"))
}
