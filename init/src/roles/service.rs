//! The first process of a service: it makes the service's own view of the machine, gives up everything, starts the
//! workload and waits for it.
//!
//! It stays as process 1 of the pid namespace, because the kernel gives that process no default signal action: a workload
//! in its place would not even notice SIGTERM.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use casemate_measure::section::Service;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execve, pivot_root, sethostname};
use serde::{Deserialize, Serialize};

use crate::{handover, net, sys};

/// What PID 1 tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceHandover {
    name: String,
    exec: Vec<String>,
    root: PathBuf,
    uid: u32,
    env: BTreeMap<String, String>,
    tmpfs: BTreeMap<String, u64>,
}

impl ServiceHandover {
    /// From the measured document; `root` is the workload's directory in the initramfs.
    pub fn new(service: &Service, root: PathBuf) -> Self {
        Self {
            name: service.name.to_string(),
            exec: service.exec.clone(),
            root,
            uid: service.uid,
            env: service.env.clone(),
            tmpfs: service.tmpfs.clone(),
        }
    }
}

/// Device nodes every program expects, from the guest's own devtmpfs.
const NODES: &[&str] = &["null", "zero", "full", "random", "urandom"];

pub(super) fn run() -> anyhow::Result<ExitCode> {
    let told: ServiceHandover = handover::read().context("handover")?;
    let netns = sys::inherited(handover::FIRST_EXTRA).context("network namespace")?;
    net::namespace::enter(netns.as_fd()).context("network namespace")?;
    drop(netns);
    sethostname(&told.name).context("hostname")?;
    enter_root(&told)?;
    sys::drop_privileges(told.uid);

    let program = told.exec.first().context("exec is empty")?;
    let program = CString::new(program.as_str())?;
    let arguments: Vec<CString> =
        told.exec.iter().map(|a| CString::new(a.as_str())).collect::<Result<_, _>>()?;
    let variables: Vec<CString> = told
        .env
        .iter()
        .map(|(name, value)| CString::new(format!("{name}={value}")))
        .collect::<Result<_, _>>()?;

    // Before the fork, so that no signal falls between.
    let mut mask = SigSet::empty();
    mask.extend([Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT]);
    mask.thread_block()?;
    super::report_ready()?;
    match sys::fork()? {
        ForkResult::Child => {
            SigSet::all().thread_unblock()?;
            let Err(error) = execve(&program, &arguments, &variables);
            Err(error).with_context(|| format!("{}: exec", program.to_string_lossy()))
        }
        ForkResult::Parent { child } => wait_for(child, &mask),
    }
}

/// Reaps whatever the workload leaves behind, passes SIGTERM on, and ends as the workload ends.
fn wait_for(workload: Pid, mask: &SigSet) -> anyhow::Result<ExitCode> {
    loop {
        match mask.wait()? {
            Signal::SIGCHLD => loop {
                match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::Exited(pid, code)) if pid == workload => {
                        return Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)));
                    }
                    // As a shell reports it: 128 plus the signal.
                    Ok(WaitStatus::Signaled(pid, signal, _)) if pid == workload => {
                        return Ok(ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(255)));
                    }
                    Ok(WaitStatus::StillAlive) | Err(_) => break,
                    Ok(_) => {}
                }
            },
            signal => _ = kill(workload, signal),
        }
    }
}

/// The workload's tree becomes the root, read-only; beside it only /proc of the own pid namespace, five device nodes and
/// the measured tmpfs. Everything else of the machine is unmounted.
fn enter_root(told: &ServiceHandover) -> anyhow::Result<()> {
    let none: Option<&str> = None;
    let root = told.root.as_path();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).context("private mounts")?;
    mount(Some(root), root, none, MsFlags::MS_BIND, none).with_context(|| root.display().to_string())?;
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(none, root, none, MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | quiet, none)
        .context("read-only root")?;

    let proc = root.join("proc");
    mount(Some("proc"), &proc, Some("proc"), quiet | MsFlags::MS_NOEXEC, Some("hidepid=2"))
        .context("/proc")?;
    devices(&root.join("dev"))?;
    for (point, size) in &told.tmpfs {
        let target = root.join(point.trim_start_matches('/'));
        let data = format!("mode=0700,size={size},uid={},gid={}", told.uid, told.uid);
        mount(Some("tmpfs"), &target, Some("tmpfs"), quiet, Some(data.as_str())).context(point.clone())?;
    }

    std::env::set_current_dir(root)?;
    pivot_root(".", ".").context("pivot_root")?;
    umount2(".", MntFlags::MNT_DETACH).context("old root")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

fn devices(dev: &Path) -> anyhow::Result<()> {
    let none: Option<&str> = None;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), dev, Some("tmpfs"), flags, Some("mode=0755,size=64k")).context("/dev")?;
    for node in NODES {
        let target = dev.join(node);
        File::create(&target)?;
        let source = Path::new("/dev").join(node);
        mount(Some(&source), &target, none, MsFlags::MS_BIND, none)
            .with_context(|| source.display().to_string())?;
    }
    link(dev)?;
    mount(none, dev, none, flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, none).context("read-only /dev")
}

fn link(dev: &Path) -> io::Result<()> {
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        std::os::unix::fs::symlink(target, dev.join(name))?;
    }
    fs::create_dir(dev.join("shm"))
}
