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
    /// How /proc/self/mountinfo shows `data`.
    shown: &'static [&'static str],
}

/// images.md 2.1 step 2: no debugfs, tracefs, efivarfs, bpffs, and nothing from the command line.
///
/// /proc hides every process from other uids. It is not `subset=pid`: PID 1 needs /proc/sys, and what the others may read of it
/// is Landlock's to say.
const MOUNTS: &[Row] = &[
    DEV,
    Row {
        source: "proc",
        target: "/proc",
        kind: "proc",
        flags: NOTHING,
        data: "hidepid=2",
        shown: &["hidepid=invisible"],
    },
    SYS,
    Row {
        source: "cgroup2",
        target: "/sys/fs/cgroup",
        kind: "cgroup2",
        flags: NOTHING,
        data: "nsdelegate",
        shown: &["nsdelegate"],
    },
    Row {
        source: "tmpfs",
        target: "/run",
        kind: "tmpfs",
        flags: NOTHING,
        data: "mode=0755,size=16M",
        shown: &["size=16384k", "mode=755"],
    },
    Row {
        source: "tmpfs",
        target: "/tmp",
        kind: "tmpfs",
        flags: NOTHING,
        data: "mode=0700,size=1M",
        shown: &["size=1024k", "mode=700"],
    },
];

const DEV: Row = Row {
    source: "devtmpfs",
    target: "/dev",
    kind: "devtmpfs",
    flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
    data: "mode=0755",
    shown: &["mode=755"],
};

const SYS: Row = Row { source: "sysfs", target: "/sys", kind: "sysfs", flags: NOTHING, data: "", shown: &[] };

const NOTHING: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV).union(MsFlags::MS_NOEXEC);

/// The initramfs itself: nothing in it gains rights by being executed, and no node in it is a device.
const ROOT: &str = "/";
const ROOT_FLAGS: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);

/// Mounts them all, reads that back, and makes /var/run what programs expect.
pub(super) fn mount_all() -> Result<(), Failure> {
    for row in MOUNTS {
        mount_row(row).map_err(|error| Failure::errno(Reason::MountFailed, row.target, &error))?;
    }
    let nothing: Option<&str> = None;
    let flags = ROOT_FLAGS | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    mount(nothing, ROOT, nothing, flags, nothing)
        .map_err(|error| Failure::errno(Reason::MountFailed, ROOT, &error.into()))?;
    let found = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| Failure::errno(Reason::MountFailed, "/proc/self/mountinfo", &error))?;
    verify(&found)?;
    directories().map_err(|error| Failure::errno(Reason::MountFailed, "/run", &error))
}

/// For the last word of a boot that failed before it had mounted anything: what the status port is found in. Each is tried
/// once; nothing can be done about a failure.
pub(super) fn mount_for_the_last_word() {
    for (row, known_by) in [(&DEV, "/dev/null"), (&SYS, "/sys/class")] {
        if !Path::new(known_by).exists() {
            drop(mount_row(row));
        }
    }
}

fn mount_row(row: &Row) -> io::Result<()> {
    std::fs::create_dir_all(row.target)?;
    Ok(mount(Some(row.source), row.target, Some(row.kind), row.flags, Some(row.data))?)
}

/// Compares /proc/self/mountinfo (proc_pid_mountinfo(5)) with the table.
fn verify(mountinfo: &str) -> Result<(), Failure> {
    for row in MOUNTS {
        expect(mountinfo, row.target, Some(row.kind), row.flags, row.shown)?;
    }
    // What file system the initramfs is, is the kernel's affair.
    expect(mountinfo, ROOT, None, ROOT_FLAGS, &[])
}

fn expect(
    mountinfo: &str,
    target: &str,
    kind: Option<&str>,
    flags: MsFlags,
    shown: &[&str],
) -> Result<(), Failure> {
    let wrong = |expected: &str, found: &str| {
        let text = format!("{target}: expected {expected}, found {found:?} in /proc/self/mountinfo");
        Failure::new(Reason::MountFailed, text)
    };
    // The last line about a target is the one on top. Before " - ": the mount's own options are the sixth field; behind it:
    // the file system, its source, its options.
    let found = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(target));
    let found = found.ok_or_else(|| wrong("a mount", "none"))?;
    let options = found.split(' ').nth(5).unwrap_or_default();
    let (found_kind, of_file_system) = found
        .split_once(" - ")
        .and_then(|(_, rest)| rest.split_once(' '))
        .and_then(|(kind, rest)| Some((kind, rest.split_once(' ')?.1)))
        .ok_or_else(|| wrong("a file system", found))?;
    if kind.is_some_and(|kind| kind != found_kind) {
        return Err(wrong(kind.unwrap_or_default(), found));
    }
    let named =
        [(MsFlags::MS_NOSUID, "nosuid"), (MsFlags::MS_NODEV, "nodev"), (MsFlags::MS_NOEXEC, "noexec")];
    for (flag, name) in named {
        if flags.contains(flag) && !options.split(',').any(|option| option == name) {
            return Err(wrong(name, found));
        }
    }
    for option in shown {
        if !of_file_system.split(',').any(|found| found == *option) {
            return Err(wrong(option, found));
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux 7.3 shows it in a guest.
    const GOOD: &str = "\
1 1 0:2 / / rw,nosuid,nodev - rootfs none rw,size=240000k
18 1 0:6 / /dev rw,nosuid,noexec,relatime - devtmpfs devtmpfs rw,size=240000k,mode=755
19 1 0:21 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw,hidepid=invisible
20 1 0:22 / /sys rw,nosuid,nodev,noexec,relatime - sysfs sysfs rw
21 20 0:23 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - cgroup2 cgroup2 rw,nsdelegate
22 1 0:24 / /run rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,size=16384k,mode=755,inode64
23 1 0:25 / /tmp rw,nosuid,nodev,noexec,relatime shared:1 - tmpfs tmpfs rw,size=1024k,mode=700,inode64
";

    #[test]
    fn every_row_is_read_back() {
        verify(GOOD).unwrap();
        let changes = [
            ("/ / rw,nosuid,nodev", "/ / rw,nodev", "/: expected nosuid"),
            ("/ / rw,nosuid,nodev", "/ / rw,nosuid", "/: expected nodev"),
            ("/dev rw,nosuid,noexec", "/dev rw,nosuid", "/dev: expected noexec"),
            ("hidepid=invisible", "hidepid=off", "/proc: expected hidepid=invisible"),
            ("rw,hidepid=invisible", "rw", "/proc: expected hidepid=invisible"),
            ("- sysfs sysfs", "- tmpfs sysfs", "/sys: expected sysfs"),
            ("/sys rw,nosuid,nodev,", "/sys rw,nosuid,", "/sys: expected nodev"),
            ("nsdelegate", "rw", "/sys/fs/cgroup: expected nsdelegate"),
            ("size=16384k", "size=163840k", "/run: expected size=16384k"),
            ("mode=700", "mode=1777", "/tmp: expected mode=700"),
            (" /tmp ", " /tmp2 ", "/tmp: expected a mount"),
            (" - tmpfs tmpfs rw,size=1024k", " tmpfs tmpfs rw,size=1024k", "/tmp: expected a file system"),
        ];
        for (from, to, expected) in changes {
            assert!(GOOD.contains(from), "{from}");
            let failure = verify(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert_eq!(failure.reason, Reason::MountFailed);
            assert!(failure.text.starts_with(expected), "{failure}");
        }
        // What was mounted over it is what counts.
        let over = format!("{GOOD}30 19 0:30 / /proc rw - proc proc rw\n");
        assert!(verify(&over).unwrap_err().text.starts_with("/proc: expected nosuid"));
    }
}
