//! Starting a process: one `clone3` straight into its cgroup, if it gets one, and namespaces, its descriptors put in order, its privileges
//! dropped, and this same binary executed under another name.
//!
//! Between `clone3` and `execveat` the child makes raw system calls on memory that was prepared before: PID 1 has a watchdog
//! thread, so locks and glibc's `setxid` broadcast are out of bounds there.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Pid;

/// What to start.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// This binary, opened from /proc/self/exe.
    pub binary: BorrowedFd<'a>,
    /// `argv[0]`: the role.
    pub role: &'a CStr,
    /// Becomes standard input.
    pub stdin: BorrowedFd<'a>,
    /// Becomes standard output and standard error.
    pub output: BorrowedFd<'a>,
    /// Become descriptors 3, 4, …
    pub descriptors: &'a [BorrowedFd<'a>],
    /// The cgroup's directory; `None`: the caller's own.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Which namespaces are new.
    pub namespaces: Namespaces,
    /// uid and gid before the exec; `None` keeps root, for a process that drops it itself.
    pub uid: Option<u32>,
}

/// Which namespaces a process gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// PID 1's own.
    Shared,
    /// PID 1's own but for the network, of which there is none: not even a loopback that is up.
    NoNetwork,
    /// Mount, pid, ipc and uts of its own; it enters its network namespace by descriptor.
    Service,
}

impl Namespaces {
    const fn flags(self) -> libc::c_int {
        match self {
            Self::Shared => 0,
            Self::NoNetwork => libc::CLONE_NEWNET,
            Self::Service => libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS,
        }
    }
}

/// The highest capability number the kernel may know (`CAP_LAST_CAP` is below; unknown ones give EINVAL).
const CAPABILITIES: libc::c_ulong = 64;

/// include/uapi/linux/sched.h; libc's constant is an `int`, in which it does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Starts it.
///
/// # Errors
/// If `clone3` fails, or RLIMIT_NOFILE leaves no room for the descriptors. What fails in the child ends it with status 127
/// and its own words on its output.
pub fn spawn(what: &Spawn<'_>) -> io::Result<Pid> {
    let argv = [what.role.as_ptr(), std::ptr::null()];
    let envp = [std::ptr::null::<libc::c_char>()];
    let mut sources: Vec<RawFd> =
        vec![what.stdin.as_raw_fd(), what.output.as_raw_fd(), what.output.as_raw_fd()];
    sources.extend(what.descriptors.iter().map(std::os::fd::AsRawFd::as_raw_fd));
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let places = Places::beyond(&sources, what.binary.as_raw_fd(), most)?;

    // SAFETY: all-zero is a valid clone_args: no flags, no pointers.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(what.namespaces.flags().cast_unsigned());
    args.exit_signal = libc::SIGCHLD.cast_unsigned().into();
    if let Some(cgroup) = what.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: without CLONE_VM the child has its own copy of this memory and returns here like after fork; `args` is valid for
    // its size.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    if pid > 0 {
        return Ok(Pid::from_raw(libc::pid_t::try_from(pid).map_err(io::Error::other)?));
    }
    // SAFETY: we are the only thread of the child, and `child` makes raw system calls on memory prepared above.
    unsafe { child(what, &sources, places, &argv, &envp) }
}

/// Where descriptors go in the child: first to numbers that no source has, then in order to 0, 1, 2, 3…
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Places {
    /// How many there are in the end.
    count: RawFd,
    /// The first of the numbers where they wait meanwhile; what is to be executed waits behind them.
    parked: RawFd,
}

impl Places {
    /// Beyond every source: one that is copied to a later one's number would take its place.
    fn beyond(sources: &[RawFd], binary: RawFd, most: u64) -> io::Result<Self> {
        let count = RawFd::try_from(sources.len()).map_err(io::Error::other)?;
        let highest = sources.iter().copied().fold(binary.max(count), RawFd::max);
        let parked = highest.checked_add(1);
        let last = parked.and_then(|parked| parked.checked_add(count));
        match (parked, last.and_then(|last| u64::try_from(last).ok())) {
            (Some(parked), Some(last)) if last < most => Ok(Self { count, parked }),
            _ => Err(io::Error::other(format!(
                "{count} descriptors beyond number {highest}: expected room below RLIMIT_NOFILE, which is {most}"
            ))),
        }
    }
}

/// # Safety
/// Only in the child of a `clone3`, with `argv` and `envp` null-terminated arrays of C strings.
unsafe fn child(
    what: &Spawn<'_>,
    sources: &[RawFd],
    places: Places,
    argv: &[*const libc::c_char; 2],
    envp: &[*const libc::c_char; 1],
) -> ! {
    // SAFETY: raw system calls on plain integers and on memory that outlives them.
    unsafe {
        libc::syscall(libc::SYS_setsid);
        let mut parked = places.parked;
        for &source in sources {
            check(libc::syscall(libc::SYS_dup3, source, parked, libc::O_CLOEXEC), 1);
            parked = parked.wrapping_add(1);
        }
        let binary = parked;
        check(libc::syscall(libc::SYS_dup3, what.binary.as_raw_fd(), binary, libc::O_CLOEXEC), 2);
        for target in 0..places.count {
            check(libc::syscall(libc::SYS_dup3, places.parked.wrapping_add(target), target, 0), 3);
        }
        check(libc::syscall(libc::SYS_close_range, places.count, places.parked.wrapping_sub(1), 0), 4);
        check(libc::syscall(libc::SYS_close_range, binary.wrapping_add(1), libc::c_uint::MAX, 0), 5);

        let default = [0_u64; 4]; // kernel struct sigaction: SIG_DFL, no flags, no restorer, empty mask
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8_usize);
        }
        let none = 0_u64;
        check(
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                libc::SIG_SETMASK,
                &raw const none,
                std::ptr::null::<u64>(),
                8_usize,
            ),
            6,
        );
        let no_core = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        check(
            libc::syscall(
                libc::SYS_prlimit64,
                0,
                libc::RLIMIT_CORE,
                &raw const no_core,
                std::ptr::null::<libc::rlimit>(),
            ),
            7,
        );
        if let Some(uid) = what.uid {
            drop_raw(uid);
        }
        libc::syscall(
            libc::SYS_execveat,
            binary,
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        check(-1, 12);
        libc::syscall(libc::SYS_exit_group, 127);
    }
    loop {
        std::hint::spin_loop();
    }
}

/// Drops everything: bounding and ambient capabilities, groups, gid, uid, and the way back.
///
/// # Safety
/// Only where a failure may end the process.
unsafe fn drop_raw(uid: u32) {
    // SAFETY: raw system calls on plain integers.
    unsafe {
        for capability in 0..CAPABILITIES {
            libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
        check(libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_READ, 0, 0, 0, 0).wrapping_neg(), 8);
        // The change of uid does this too, but not under `SECBIT_NO_SETUID_FIXUP` (capabilities(7)).
        let ambient = libc::PR_CAP_AMBIENT;
        check(libc::syscall(libc::SYS_prctl, ambient, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), 8);
        check(libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()), 9);
        check(libc::syscall(libc::SYS_setresgid, uid, uid, uid), 10);
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid), 10);
        check(libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 11);
    }
}

/// Drops everything in a process of one thread: bounding and ambient capabilities, groups, gid, uid, and the way back.
/// A failure ends the process with status 127.
pub fn drop_privileges(uid: u32) {
    // SAFETY: the roles that call this have one thread, and ending the process is their rule for a failure.
    unsafe { drop_raw(uid) }
}

/// Forks a process of one thread.
///
/// # Errors
/// What the kernel says.
pub fn fork() -> nix::Result<nix::unistd::ForkResult> {
    // SAFETY: the service role, the only caller, has one thread, so no lock can be held by another one.
    unsafe { nix::unistd::fork() }
}

/// # Safety
/// Only where a failure may end the process.
unsafe fn check(result: libc::c_long, step: u8) {
    if result >= 0 {
        return;
    }
    let words: &CStr = match step {
        1..=3 => c"could not put descriptors in order\n",
        4 | 5 => c"could not close other descriptors\n",
        6 => c"could not unblock signals\n",
        7 => c"could not set limits\n",
        8..=11 => c"could not drop privileges\n",
        _ => c"could not execute\n",
    };
    // SAFETY: the string is static; the process ends here.
    unsafe {
        libc::syscall(libc::SYS_write, 2, words.as_ptr(), words.count_bytes());
        libc::syscall(libc::SYS_exit_group, 127);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_wait_where_no_source_is() {
        let places = |sources: &[RawFd], binary, most| Places::beyond(sources, binary, most);
        assert_eq!(places(&[4, 5, 5], 3, 1024).unwrap(), Places { count: 3, parked: 6 });
        assert_eq!(places(&[4, 900, 5], 3, 1024).unwrap(), Places { count: 3, parked: 901 });
        assert_eq!(places(&[4, 5], 700, 1024).unwrap(), Places { count: 2, parked: 701 });
        // Nor where they go in the end.
        assert_eq!(places(&[1; 40], 2, 1024).unwrap(), Places { count: 40, parked: 41 });
    }

    #[test]
    fn a_want_of_room_is_an_error_before_anything_is_started() {
        // 1020, 1021 and 1022 for three, 1023 for the binary.
        assert!(Places::beyond(&[4, 1019, 5], 3, 1024).is_ok());
        let error = Places::beyond(&[4, 1020, 5], 3, 1024).unwrap_err();
        assert_eq!(
            error.to_string(),
            "3 descriptors beyond number 1020: expected room below RLIMIT_NOFILE, which is 1024"
        );
        assert!(Places::beyond(&[RawFd::MAX], 3, u64::MAX).is_err());
    }
}
