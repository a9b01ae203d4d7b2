//! What the machine says of itself: frames to the host, a document inside.
//!
#![doc = include_str!("status/README.md")]

use std::fs::Permissions;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_measure::LaunchRegisters;
use casemate_measure::status::{Flavour, Frame, PORT_NAME, Reason, Stage};
use serde::Serialize;

use crate::log;

pub mod command;
#[cfg(test)]
mod tests;

/// Where the document is.
pub const PATH: &str = "/run/casemate/status.json";

/// Which binary this is.
pub const FLAVOUR: Flavour = if cfg!(feature = "dev") { Flavour::Dev } else { Flavour::Prod };

/// The status port: frames that find no room are dropped and counted, the latest is tried again.
#[derive(Debug, Default)]
pub struct Port {
    file: Option<File>,
    sequence: u32,
    dropped: u32,
    waiting: Option<Frame>,
}

impl Port {
    /// Nothing sent yet.
    pub const fn new() -> Self {
        Self { file: None, sequence: 0, dropped: 0, waiting: None }
    }

    /// Sends a frame, or keeps it for [`Port::retry`].
    pub fn send(&mut self, stage: Stage, reason: Reason, detail: u64, digest: [u8; 32], uptime: Duration) {
        if self.waiting.is_some() {
            self.dropped = self.dropped.saturating_add(1);
        }
        let uptime_ms = u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX);
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let frame = Frame {
            flavour: FLAVOUR,
            stage,
            reason,
            sequence,
            dropped: self.dropped,
            uptime_ms,
            detail,
            digest,
        };
        self.waiting = Some(frame);
        self.retry();
    }

    /// Tries the waiting frame again. The port may not exist yet, and a host that does not read it must not stop us, so
    /// neither is an error.
    pub fn retry(&mut self) {
        let Some(mut frame) = self.waiting else { return };
        frame.dropped = self.dropped;
        if self.file.is_none() {
            self.file = open_port(Path::new("/sys/class/virtio-ports"), Path::new("/dev"));
        }
        let Some(file) = &mut self.file else { return };
        // A frame is shorter than a page: the port takes all of it or nothing.
        if file.write(&frame.encode()).is_ok() {
            self.waiting = None;
        }
    }

    /// What it has counted.
    pub fn counts(&self) -> PortCounts {
        let waiting = u32::from(self.is_waiting());
        let sent = self.sequence.saturating_sub(self.dropped).saturating_sub(waiting);
        PortCounts { sent, dropped: self.dropped }
    }

    /// Whether a frame waits for room.
    pub const fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }
}

fn open_port(class: &Path, dev: &Path) -> Option<File> {
    let ports = std::fs::read_dir(class).ok()?;
    let device = ports.flatten().find(|port| {
        std::fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim_end() == PORT_NAME)
    })?;
    let path = dev.join(device.file_name());
    OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path).ok()
}

/// `/run/casemate/status.json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Document {
    /// Format version, 1.
    pub version: u32,
    /// `dev` or `prod`.
    pub flavor: &'static str,
    /// Versions of what runs.
    pub versions: Versions,
    /// Where the boot is.
    pub stage: &'static str,
    /// `tdx` or `simulator`; `none yet` before the stage *TEE*.
    pub tee: &'static str,
    /// Whose root the mesh trusts: `intel`, or `simulator` exactly when our own TEE is one; `nobody yet` before the
    /// stage *TEE*.
    pub trust: &'static str,
    /// The clock: whose it is, and how far it is to be trusted.
    pub time: crate::time::Status,
    /// What was measured at launch, as the TEE says.
    pub registers: Option<LaunchRegisters>,
    /// PID 1's own network namespace, as /proc/1/ns/net says it.
    pub network_namespace: Option<String>,
    /// Who we are.
    pub identity: Option<Identity>,
    /// The egress lock.
    pub egress: Egress,
    /// The private network.
    pub vpn: Vpn,
    /// The mesh proxy.
    pub mesh: Mesh,
    /// What PID 1 itself keeps in memory.
    pub memory: Option<Memory>,
    /// Our processes and the workload, by name.
    pub processes: Vec<Process>,
    /// The log rings.
    pub logs: Vec<Log>,
    /// The status port.
    pub status_port: PortCounts,
    /// When each stage was entered, in ms since the kernel started.
    pub stages: Vec<StageTime>,
    /// How long modules took to load, in ms, all groups together.
    pub module_ms: u64,
}

/// Part of [`Document`]: what the VPN process says of its network, but for the mode, the expected tag and the addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Vpn {
    /// `direct` or `tunnel`.
    pub mode: &'static str,
    /// `starting`, `joining`, `running`, `refused`, `key-needed`, `pin-mismatch` or `no-policy`; `None` without a tunnel.
    pub state: Option<&'static str>,
    /// Whether the coordination server is connected.
    pub connected: bool,
    /// `nodekey:` and 64 hex digits.
    pub node_key: Option<String>,
    /// The name that the map gives us.
    pub name: Option<String>,
    /// Our addresses, as they are set.
    pub addresses: Vec<String>,
    /// Peers in the map.
    pub peers: u32,
    /// How many of them are reached directly.
    pub direct: u32,
    /// The home relay's region.
    pub derp_home: Option<u32>,
    /// The tags that the map shows for us.
    pub tags: Vec<String>,
    /// The tag that follows from the document.
    pub expected_tag: Option<&'static str>,
    /// Whether there is a map that does not show it.
    pub tag_missing: bool,
}

/// Part of [`Document`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Versions {
    /// This binary's.
    pub casemate: &'static str,
    /// The kernel's, as uname(2) says its release.
    pub kernel: String,
}

/// Part of [`Document`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Mesh {
    /// Whether it has a certificate and serves, in this run of it.
    pub ready: bool,
    /// The ports that it serves backends on.
    pub ports: Vec<u16>,
    /// How many apps may read the logs.
    pub log_readers: usize,
}

/// Part of [`Document`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Log {
    /// `casemate`, or the process's.
    pub name: String,
    /// What its ring has counted.
    #[serde(flatten)]
    pub counts: log::Counts,
}

/// Part of [`Document`]: frames of the status port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortCounts {
    /// Taken by the port.
    pub sent: u32,
    /// Given up for a later one, because the host did not read.
    pub dropped: u32,
}

/// Part of [`Document`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// dstack's `name`.
    pub name: String,
    /// The node's name.
    pub node: String,
    /// 40 hex digits.
    pub app_id: String,
    /// 64 hex digits.
    pub compose_hash: String,
    /// 40 hex digits.
    pub instance_id: String,
    /// Tags that follow from the document.
    pub tags: Vec<&'static str>,
}

/// Part of [`Document`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Egress {
    /// The measured mode.
    pub mode: &'static str,
    /// Whether the lock stands as it was set, when it was last read back.
    pub locked: bool,
    /// Every counter of the lock.
    pub counters: Vec<Counter>,
}

/// Part of [`Egress`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counter {
    /// Which rule.
    pub name: String,
    /// Packets it matched.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Part of [`Document`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Process {
    /// `agent`, `mesh`, `dhcp`, or a service's name.
    pub name: String,
    /// Its pid as PID 1 sees it; 0 while it does not run.
    pub pid: i32,
    /// The network namespace it is in, as /proc/PID/ns/net says it; a service's is not ours.
    pub network_namespace: Option<String>,
    /// `starting`, `ready`, `waiting` (to be started again), `stopped` (for good, as its restart rule says) or `failed` (it
    /// used up its crash budget).
    pub state: &'static str,
    /// When one that waits is started again, in ms since the kernel started.
    pub until_ms: Option<u64>,
    /// How often it was started again.
    pub restarts: u64,
    /// How it last ended: `status N`, `signal N`, `out of memory`, `a forbidden system call` or `killed, because it hung`.
    pub last_exit: Option<String>,
    /// A service with ports: `listening`, `not listening on PORTS` or `unknown`. The agent, the mesh and the DHCP client:
    /// `answering`, or `silent for N s`. `None` for the others, and for one that is not ready.
    pub health: Option<String>,
    /// How many processes the kernel has taken for its memory limit (`oom_kill` of its cgroup's memory.events).
    pub oom_kills: u64,
    /// What it keeps in memory, every 10 s; `None` if it did not run.
    pub memory: Option<Memory>,
}

/// What a process keeps in memory, in KiB. One of our own, PID 1 among them: as the kernel sums it up over its mappings
/// (`/proc/PID/smaps_rollup`). A service, whose mappings PID 1 does not walk: what its cgroup is charged with (`memory.current`),
/// in both fields; that is its pages, its tmpfs and what the kernel keeps for it, without the image's own files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Resident pages, each counted in full for every process that maps it: what is promised (design section 12).
    pub rss_kb: u64,
    /// Resident pages, each divided by how many processes map it: sums over processes to what is really in use.
    pub pss_kb: u64,
}

/// Part of [`Document`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StageTime {
    /// Which.
    pub stage: &'static str,
    /// Since the kernel started.
    pub entered_ms: u64,
}

impl Document {
    /// Replaces the file, never half: whoever opens it reads one whole document. Everybody who sees it may read it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn store(&self, path: &Path) -> io::Result<()> {
        let mut next: PathBuf = path.to_owned();
        next.set_extension("next");
        let mut file = File::create(&next)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(next, path)
    }

    /// Whether there is news between two of them: counters of lines and frames are none, since telling them makes them grow.
    pub fn is_news_after(&self, before: &Self) -> bool {
        Self { logs: before.logs.clone(), status_port: before.status_port, ..self.clone() } != *before
    }
}
