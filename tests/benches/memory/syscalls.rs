//! The system calls of a boot, from the kernel's first process to ready, as its own tracepoint `raw_syscalls:sys_enter` counts
//! them: every process, every call, nothing in the guest changed. The command line differs from the image's (no lockdown, which
//! forbids tracing; the tracepoint is printed on the console), so the boot's times mean nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use casemate_measure::status::Stage;

use crate::machine::boot;

/// Appended to the command line.
const TRACE: &str = "trace_event=raw_syscalls:sys_enter tp_printk ignore_loglevel trace_clock=boot";
/// How many kinds of calls are printed for PID 1.
const SHOWN: usize = 12;

/// One call.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Call {
    pid: u32,
    number: u32,
    /// Since the kernel started.
    seconds: f64,
}

pub(crate) fn count(image: &Path) -> anyhow::Result<()> {
    let cmdline = fs::read_to_string(image.join("cmdline")).context("cmdline")?;
    let kept: Vec<&str> = cmdline
        .split_whitespace()
        .filter(|word| !word.starts_with("lockdown=") && *word != "quiet")
        .collect();
    // QEMU takes the last of two.
    let extra = format!("-append '{} {TRACE}'", kept.join(" "));
    let console = boot(image, &extra, |console| ready(console).map(|_| console.to_owned()))?;
    let ready = ready(&console).context("the moment of ready")?;
    let calls: Vec<Call> = console.lines().filter_map(call).filter(|call| call.seconds <= ready).collect();
    ensure!(!calls.is_empty(), "the kernel printed no system call");

    let mut by_process: BTreeMap<u32, usize> = BTreeMap::new();
    let mut of_init: BTreeMap<u32, usize> = BTreeMap::new();
    for call in &calls {
        *by_process.entry(call.pid).or_default() += 1;
        if call.pid == 1 {
            *of_init.entry(call.number).or_default() += 1;
        }
    }
    let init = by_process.get(&1).copied().unwrap_or(0);
    println!(
        "syscalls until=ready all={} pid1={init} others={} tasks={}",
        calls.len(),
        calls.len() - init,
        by_process.len()
    );
    let names = names();
    let mut sorted: Vec<(u32, usize)> = of_init.into_iter().collect();
    sorted.sort_by_key(|(number, count)| (std::cmp::Reverse(*count), *number));
    for (number, count) in sorted.iter().take(SHOWN) {
        let name = names.get(number).cloned().unwrap_or_else(|| number.to_string());
        println!("syscalls pid=1 name={name} count={count}");
    }
    Ok(())
}

/// When the status document on the console says that the machine was ready, in seconds since the kernel started. The kernel's
/// lines stand between the pieces of ours, so the document is not read as JSON.
fn ready(console: &str) -> Option<f64> {
    let ours: String = console.lines().map(|line| line.trim_end_matches('\r')).map(without_call).collect();
    let stage = format!("\"stage\":\"{}\",\"entered_ms\":", Stage::Ready.words());
    let after = ours.split(&stage).nth(1)?;
    let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
    // Only whole: something must stand behind it.
    let whole = after.len() > digits.len();
    let ms: f64 = digits.parse().ok().filter(|_| whole)?;
    Some(ms / 1000.0)
}

/// What of a line is not the tracepoint's.
fn without_call(line: &str) -> &str {
    match (line.find(": sys_enter: "), line.find('[')) {
        (Some(_), Some(begin)) => line.get(..begin).unwrap_or_default(),
        _ => line,
    }
}

/// `[   3.1234] init-1       [000] .....     3.123456: sys_enter: NR 257 (ffffff9c, …)` (Linux, `kernel/trace/trace_output.c`).
fn call(line: &str) -> Option<Call> {
    let (head, tail) = line.split_once(": sys_enter: NR ")?;
    let number = tail.split_whitespace().next()?.parse().ok()?;
    let seconds = head.split_whitespace().next_back()?.parse().ok()?;
    let task = head.rsplit_once(" [0")?.0.trim_end();
    let pid = task.rsplit_once('-')?.1.parse().ok()?;
    Some(Call { pid, number, seconds })
}

/// The calls' names, where the C library's headers are installed.
fn names() -> BTreeMap<u32, String> {
    let header = fs::read_to_string("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").unwrap_or_default();
    let pairs = header.lines().filter_map(|line| line.strip_prefix("#define __NR_")?.split_once(' '));
    pairs.filter_map(|(name, number)| Some((number.trim().parse().ok()?, name.to_owned()))).collect()
}
