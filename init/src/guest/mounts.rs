//! The kernel's file systems, and nothing the host could have a say in.

use std::io;
use std::path::Path;

use casemate_measure::status::Reason;
use nix::mount::{MsFlags, mount};

use crate::boot::Failure;
use crate::layout::AGENT_UID;

struct Row {
    source: &'static str,
    target: &'static str,
    kind: &'static str,
    flags: MsFlags,
    data: &'static str,
}

/// images.md 2.1 step 2: no debugfs, tracefs, efivarfs, bpffs, and nothing from the command line.
const MOUNTS: &[Row] = &[
    Row {
        source: "devtmpfs",
        target: "/dev",
        kind: "devtmpfs",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        data: "mode=0755",
    },
    Row { source: "proc", target: "/proc", kind: "proc", flags: NOTHING, data: "hidepid=2" },
    Row { source: "sysfs", target: "/sys", kind: "sysfs", flags: NOTHING, data: "" },
    Row { source: "cgroup2", target: "/sys/fs/cgroup", kind: "cgroup2", flags: NOTHING, data: "nsdelegate" },
    Row { source: "tmpfs", target: "/run", kind: "tmpfs", flags: NOTHING, data: "mode=0755,size=16M" },
    Row { source: "tmpfs", target: "/tmp", kind: "tmpfs", flags: NOTHING, data: "mode=0700,size=1M" },
];

const NOTHING: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// Mounts them all, and makes /var/run what programs expect.
pub(super) fn mount_all() -> Result<(), Failure> {
    for row in MOUNTS {
        let made = std::fs::create_dir_all(row.target).and_then(|()| {
            Ok(mount(Some(row.source), row.target, Some(row.kind), row.flags, Some(row.data))?)
        });
        made.map_err(|error| Failure::errno(Reason::MountFailed, row.target, &error))?;
    }
    directories().map_err(|error| Failure::errno(Reason::MountFailed, "/run", &error))
}

fn directories() -> io::Result<()> {
    std::fs::create_dir_all("/run/casemate")?;
    std::fs::create_dir_all("/run/dstack")?;
    std::os::unix::fs::chown("/run/dstack", Some(AGENT_UID), Some(AGENT_UID))?;
    std::fs::create_dir_all("/var")?;
    if Path::new("/var/run").symlink_metadata().is_err() {
        std::os::unix::fs::symlink("/run", "/var/run")?;
    }
    // Clients look for /var/run/dstack.sock; the agent, which may only write its own directory, binds the target.
    std::os::unix::fs::symlink("dstack/dstack.sock", "/run/dstack.sock")
}
