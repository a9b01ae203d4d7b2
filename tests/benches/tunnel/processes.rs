//! What the machine is, and what processes take of it.

use std::{fmt, fs};

use nix::unistd::{SysconfVar, sysconf};

use crate::net::Host;
use crate::pages::resident_once;

/// All processes of a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Processes(Vec<u32>);

impl Processes {
    /// Those of a host, in order.
    pub(crate) fn of(host: &Host) -> Self {
        let theirs = host.inside(|| fs::read_link("/proc/thread-self/ns/net").unwrap());
        let mut pids: Vec<u32> = fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|own| own == theirs))
            .collect();
        pids.sort_unstable();
        Self(pids)
    }

    /// Seconds of user and system time, until now.
    pub(crate) fn cpu(&self) -> f64 {
        let second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
        let ticks: u64 = self.0.iter().map(|pid| ticks(*pid)).sum();
        ticks as f64 / second as f64
    }

    /// What each has resident.
    pub(crate) fn rss(&self) -> Rss {
        let mb = |field| self.0.iter().map(|pid| kib(*pid, field) as f64 / 1024.0).collect();
        Rss { each: mb("VmRSS:"), peaks: mb("VmHWM:"), once: resident_once(&self.0) }
    }
}

/// MB of 2^20 of each process, now and at most so far.
#[derive(Clone, Debug)]
pub(crate) struct Rss {
    each: Vec<f64>,
    peaks: Vec<f64>,
    once: f64,
}

impl Rss {
    /// Of all together, pages that two have counted twice.
    pub(crate) fn now(&self) -> f64 {
        self.each.iter().sum()
    }

    /// Of all together, each page once: of ours, parent and child are one program.
    pub(crate) const fn once(&self) -> f64 {
        self.once
    }
}

impl fmt::Display for Rss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rss_mb={:.1} rss_peak_mb={:.1}", self.now(), self.peaks.iter().sum::<f64>())?;
        if self.each.len() > 1 {
            write!(f, " of={:.1?} once_mb={:.1}", self.each, self.once)?;
        }
        Ok(())
    }
}

/// proc(5): `utime` and `stime` are the 14th and 15th field, the second is a name in parentheses with anything in it.
fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    rest.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum()
}

fn kib(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// UDP datagrams that the kernel had no room for in a socket of this host's.
pub(crate) fn datagrams_lost(host: &Host) -> u64 {
    let snmp = host.inside(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: ")).map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let lost = names.zip(values).filter(|(name, _)| ["RcvbufErrors", "SndbufErrors"].contains(name));
    lost.map(|(_, value)| value.parse::<u64>().unwrap()).sum()
}

/// Says what this runs on.
pub(crate) fn machine() {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let processors = std::thread::available_parallelism().unwrap();
    let cpuinfo = text("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    println!(
        "# Linux {}, {processors} × {}",
        text("/proc/sys/kernel/osrelease"),
        model.trim_matches(['\t', ' ', ':'])
    );
    println!("# Headscale 0.29.2, tailscaled 1.102.5");
    println!("# load average {}", load());
}

pub(crate) fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap().trim().to_owned()
}
