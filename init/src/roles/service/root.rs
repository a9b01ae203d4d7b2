//! A service's own view of the machine's files.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::pivot_root;

use super::ServiceHandover;

/// Device nodes every program expects, from the guest's own devtmpfs.
const NODES: &[&str] = &["null", "zero", "full", "random", "urandom"];

/// What a service may see at the top of /proc beside its own processes: what C libraries, Go, Java and Python read to learn
/// the size of the machine. Everything else is masked, whatever the kernel is: the list is of what stays. Symbolic links
/// (`self`, `thread-self`, `mounts`, `net`) lead into processes' own directories.
const PROC_KEPT: &[&str] =
    &["cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "sys", "uptime", "version"];

const NONE: Option<&str> = None;
const QUIET: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const INERT: MsFlags = QUIET.union(MsFlags::MS_NOEXEC);

/// The workload's tree becomes the root, read-only; beside it only /proc of the own pid namespace, five device nodes and
/// the measured tmpfs, from which nothing can be executed. Everything else of the machine is unmounted.
pub(super) fn enter(told: &ServiceHandover) -> anyhow::Result<()> {
    let root = told.root.as_path();
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).context("private mounts")?;
    mount(Some(root), root, NONE, MsFlags::MS_BIND, NONE).with_context(|| root.display().to_string())?;
    remount(root, QUIET).context("read-only root")?;

    proc(&root.join("proc"))?;
    devices(&root.join("dev"))?;
    for (point, size) in &told.tmpfs {
        let target = root.join(point.trim_start_matches('/'));
        let data = format!("mode=0700,size={size},uid={},gid={}", told.uid, told.uid);
        mount(Some("tmpfs"), &target, Some("tmpfs"), INERT, Some(data.as_str())).context(point.clone())?;
    }

    std::env::set_current_dir(root)?;
    pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("old root")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

fn remount(target: &Path, flags: MsFlags) -> nix::Result<()> {
    mount(NONE, target, NONE, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | flags, NONE)
}

fn proc(proc: &Path) -> anyhow::Result<()> {
    mount(Some("proc"), proc, Some("proc"), INERT, Some("hidepid=2")).context("/proc")?;
    let sys = proc.join("sys");
    mount(Some(&sys), &sys, NONE, MsFlags::MS_BIND, NONE).context("/proc/sys")?;
    remount(&sys, INERT).context("read-only /proc/sys")?;

    // An empty file and an empty directory that nobody may open, on a mount of their own that goes with the old root.
    let masks = Path::new("/tmp");
    mount(Some("tmpfs"), masks, Some("tmpfs"), INERT, Some("mode=0700,size=4k")).context("masks")?;
    let (file, directory) = (masks.join("file"), masks.join("directory"));
    File::create(&file)?;
    fs::create_dir(&directory)?;
    for mask in [&file, &directory] {
        fs::set_permissions(mask, fs::Permissions::from_mode(0o000))?;
    }
    mount(NONE, masks, NONE, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | INERT, NONE).context("masks")?;
    for entry in fs::read_dir(proc)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if kind.is_symlink() || PROC_KEPT.contains(&&*name) || name.bytes().all(|byte| byte.is_ascii_digit())
        {
            continue;
        }
        let mask = if kind.is_dir() { &directory } else { &file };
        mount(Some(mask), &entry.path(), NONE, MsFlags::MS_BIND, NONE)
            .with_context(|| format!("masking /proc/{name}"))?;
    }
    Ok(())
}

fn devices(dev: &Path) -> anyhow::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), dev, Some("tmpfs"), flags, Some("mode=0755,size=64k")).context("/dev")?;
    for node in NODES {
        let target = dev.join(node);
        File::create(&target)?;
        let source = Path::new("/dev").join(node);
        mount(Some(&source), &target, NONE, MsFlags::MS_BIND, NONE)
            .with_context(|| source.display().to_string())?;
    }
    link(dev)?;
    mount(NONE, dev, NONE, flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, NONE).context("read-only /dev")
}

fn link(dev: &Path) -> io::Result<()> {
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        std::os::unix::fs::symlink(target, dev.join(name))?;
    }
    fs::create_dir(dev.join("shm"))
}
