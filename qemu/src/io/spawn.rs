//! Starting QEMU so that it inherits two sockets and does not outlive us.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};

use crate::error::Error;

/// Starts the program with these descriptors open under their own numbers.
pub(super) fn spawn(
    program: &str,
    args: &[String],
    log: &File,
    inherited: Vec<OwnedFd>,
) -> Result<Child, Error> {
    let start = |source| Error::Start { program: program.into(), source };
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(start)?)
        .stderr(log.try_clone().map_err(start)?)
        // A group of its own: a terminal's Ctrl-C must reach us and not end QEMU under the guest.
        .process_group(0);
    let prepare = move || {
        // The parent's death ends QEMU too, also when the parent is killed. It has nothing to save.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // We block the signals that we read from a descriptor; QEMU must not inherit that.
        SigSet::empty().thread_set_mask()?;
        for fd in &inherited {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        Ok(())
    };
    #[expect(unsafe_code, reason = "Command::pre_exec is unsafe")]
    // SAFETY: between fork and exec only async-signal-safe system calls (prctl, fcntl) are made: no allocation, no lock.
    unsafe {
        command.pre_exec(prepare);
    }
    command.spawn().map_err(start)
}

/// The number under which a child will know it.
pub(super) fn number(fd: &OwnedFd) -> i32 {
    fd.as_raw_fd()
}
