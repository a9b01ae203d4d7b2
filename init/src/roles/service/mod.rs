//! The first process of a service: it makes the service's own view of the machine, gives up everything, starts the
//! workload and waits for it.
//!
//! It stays as process 1 of the pid namespace, because the kernel gives that process no default signal action: a workload
//! in its place would not even notice SIGTERM.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use casemate_measure::section::Service;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execve, sethostname};
use serde::{Deserialize, Serialize};

use crate::confine::{self, Kernel, Profile, Reach};
use crate::{handover, net, sys};

mod root;

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

/// Of all processes, services are ended first when the machine has no memory left (proc_pid_oom_score_adj(5): the highest
/// value). Without `CAP_SYS_RESOURCE` nobody can lower it.
const FIRST_TO_GO: &str = "1000";
/// After standard input, output and error.
const FIRST_CLOSED: u32 = 3;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    let told: ServiceHandover = handover::read().context("handover")?;
    let netns = sys::inherited(handover::FIRST_EXTRA).context("network namespace")?;
    net::namespace::enter(netns.as_fd()).context("network namespace")?;
    drop(netns);
    // Here and not when it was cloned: it is in its cgroup only now, and that one becomes the root of what it sees.
    unshare(CloneFlags::CLONE_NEWCGROUP).context("cgroup namespace")?;
    fs::write("/proc/self/oom_score_adj", FIRST_TO_GO).context("oom_score_adj")?;
    sethostname(&told.name).context("hostname")?;
    root::enter(&told)?;
    sys::drop_privileges(told.uid);
    confined(&told.name)?;

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
    let report = super::report_ready(super::report()?)?;
    match sys::fork()? {
        ForkResult::Child => {
            SigSet::all().thread_unblock()?;
            // The report is PID 1's and ours: nobody else says how the workload ended.
            sys::close_on_exec_from(FIRST_CLOSED)?;
            let Err(error) = execve(&program, &arguments, &variables);
            Err(error).with_context(|| format!("{}: exec", program.to_string_lossy()))
        }
        ForkResult::Parent { child } => {
            if !cfg!(feature = "danger-unconfined") {
                confine::enter(Profile::ServiceShim)?;
            }
            wait_for(child, &mask, report)
        }
    }
}

/// What holds for the workload holds for this process before: it enters first, and then stacks a shorter list on top.
fn confined(name: &str) -> anyhow::Result<()> {
    if cfg!(feature = "danger-unconfined") {
        return Ok(());
    }
    Reach::own_namespaces().enter(Kernel::Pinned).context(name.to_owned())?;
    confine::enter(Profile::Service).context(name.to_owned())
}

/// Reaps whatever the workload leaves behind, passes SIGTERM on, and ends as the workload ends. It cannot die of a signal as the
/// workload did, since the kernel lets process 1 of a namespace send itself none; so it says which one it was.
fn wait_for(workload: Pid, mask: &SigSet, mut report: File) -> anyhow::Result<ExitCode> {
    loop {
        match mask.wait()? {
            Signal::SIGCHLD => loop {
                match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                    Ok(WaitStatus::Exited(pid, code)) if pid == workload => {
                        return Ok(ExitCode::from(u8::try_from(code & 0xff).unwrap_or(1)));
                    }
                    // As a shell reports it: 128 plus the signal.
                    Ok(WaitStatus::Signaled(pid, signal, _)) if pid == workload => {
                        let number = u8::try_from(signal as i32).unwrap_or_default();
                        report.write_all(&[handover::KILLED, number])?;
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
