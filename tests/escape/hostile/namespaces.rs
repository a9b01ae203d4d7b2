//! Namespaces: new ones, and others'.

use libc::{ENOSYS, EPERM};

use crate::case::{Case, case};
use crate::files::got;
use crate::sys::{self, call};

pub(crate) const CASES: &[Case] = &[
    case("unshare-mount", &[EPERM], || unshare(libc::CLONE_NEWNS)),
    case("unshare-pid", &[EPERM], || unshare(libc::CLONE_NEWPID)),
    case("unshare-net", &[EPERM], || unshare(libc::CLONE_NEWNET)),
    case("unshare-ipc", &[EPERM], || unshare(libc::CLONE_NEWIPC)),
    case("unshare-uts", &[EPERM], || unshare(libc::CLONE_NEWUTS)),
    case("unshare-cgroup", &[EPERM], || unshare(libc::CLONE_NEWCGROUP)),
    case("unshare-time", &[EPERM], || unshare(libc::CLONE_NEWTIME)),
    case("unshare-user", &[EPERM], || unshare(libc::CLONE_NEWUSER)),
    case("unshare-user-and-mount", &[EPERM], || unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS)),
    case("clone-mount", &[EPERM], || clone(libc::CLONE_NEWNS)),
    case("clone-net", &[EPERM], || clone(libc::CLONE_NEWNET)),
    case("clone-user", &[EPERM], || clone(libc::CLONE_NEWUSER)),
    case("clone-user-high-bits", &[EPERM], || clone_flags(i64::from(libc::CLONE_NEWUSER) | 1 << 40)),
    // A filter cannot see its flags.
    case("clone3-user", &[ENOSYS], || {
        let mut arguments = [0_u8; 88];
        arguments[..8].copy_from_slice(&(libc::CLONE_NEWUSER as u64).to_ne_bytes());
        match call!(libc::SYS_clone3, arguments.as_slice(), 88)? {
            0 => sys::exit_now(0),
            pid => Ok(format!("process {pid}")),
        }
    }),
    case("setns-mount", &[EPERM], || setns(c"/proc/self/ns/mnt")),
    case("setns-net", &[EPERM], || setns(c"/proc/self/ns/net")),
    case("setns-pid", &[EPERM], || setns(c"/proc/self/ns/pid")),
    case("setns-user", &[EPERM], || setns(c"/proc/self/ns/user")),
    case("setns-pidfd", &[EPERM], || {
        let init = call!(libc::SYS_pidfd_open, 1, 0)?;
        got(call!(libc::SYS_setns, init, libc::CLONE_NEWNS | libc::CLONE_NEWNET))
    }),
    // NS_GET_PARENT of the pid namespace, NS_GET_USERNS of the user namespace's owner (linux/nsfs.h).
    case("parent-pid-namespace", &[EPERM], || ask(c"/proc/self/ns/pid", 0xb702)),
    case("parent-user-namespace", &[EPERM], || ask(c"/proc/self/ns/user", 0xb702)),
];

fn unshare(flags: i32) -> Result<String, i32> {
    got(call!(libc::SYS_unshare, flags))
}

fn clone(flags: i32) -> Result<String, i32> {
    clone_flags(flags.into())
}

fn clone_flags(flags: i64) -> Result<String, i32> {
    match call!(libc::SYS_clone, flags | i64::from(libc::SIGCHLD), 0, 0, 0, 0)? {
        0 => sys::exit_now(0),
        pid => Ok(format!("process {pid}")),
    }
}

fn setns(path: &std::ffi::CStr) -> Result<String, i32> {
    let namespace = call!(libc::SYS_open, path, libc::O_RDONLY)?;
    got(call!(libc::SYS_setns, namespace, 0))
}

fn ask(path: &std::ffi::CStr, question: i64) -> Result<String, i32> {
    let namespace = call!(libc::SYS_open, path, libc::O_RDONLY)?;
    got(call!(libc::SYS_ioctl, namespace, question))
}
