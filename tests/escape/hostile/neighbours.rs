//! Other services by what the kernel shares: System V and POSIX IPC, files of a root, and what the machine says of itself.

use std::ffi::CStr;
use std::fs;

use libc::{EACCES, EINVAL, ENOENT, EROFS};

use crate::case::{Case, NOTHING, case};
use crate::files::{errno, got, write};
use crate::sys::{self, call};

/// What the victim has made, for whoever knows these names.
pub(crate) const IPC_KEY: i32 = 0x0ca5_e3a7;
pub(crate) const QUEUE: &CStr = c"casemate-escape-victim";
/// A file of the hostile program's root, which the victim has in a root of its own, and the neighbour in this one. Whose
/// lock it is and who opens it all the time are those two.
pub(crate) const LOCKED: &CStr = c"/lock-of-the-victim";
pub(crate) const SHARED: &CStr = c"/lock-of-the-neighbour";
/// How often.
pub(crate) const OPENED_EVERY: std::time::Duration = std::time::Duration::from_millis(200);

const STATUS: &str = "/run/casemate/status.json";

pub(crate) const CASES: &[Case] = &[
    case("shared-memory-of-another", &[ENOENT], || got(call!(libc::SYS_shmget, IPC_KEY, 0, 0))),
    case("semaphores-of-another", &[ENOENT], || got(call!(libc::SYS_semget, IPC_KEY, 0, 0))),
    case("message-queue-of-another", &[ENOENT], || got(call!(libc::SYS_msgget, IPC_KEY, 0))),
    case("posix-queue-of-another", &[ENOENT], || got(call!(libc::SYS_mq_open, QUEUE, libc::O_RDWR, 0, 0))),
    // Without a name: numbers are small.
    case("shared-memory-by-number", &[EINVAL], || {
        (0..256).map(|id| call!(libc::SYS_shmat, id, 0, 0)).find(Result::is_ok).map_or(Err(EINVAL), got)
    }),
    case("shared-memory-file", &[EROFS, EACCES], || write("/dev/shm/escaped")),
    case("ipc-tables", &[EACCES, ENOENT], || fs::read_to_string("/proc/sysvipc/shm").map_err(errno)),
    case("status-document", &[ENOENT], || fs::read_to_string(STATUS).map_err(errno)),
    case("status-document-past-the-root", &[ENOENT, EACCES], || {
        fs::read_to_string(format!("/proc/1/root{STATUS}")).map_err(errno)
    }),
    case("lock-of-another", &[NOTHING], || foreign_lock(LOCKED)),
    case("file-events-of-another", &[NOTHING], || foreign_events(LOCKED)),
    // F_SETLEASE, F_RDLCK: whoever opens it for writing would wait for us.
    case("lease", &[EACCES], || {
        let file = call!(libc::SYS_open, LOCKED, libc::O_RDONLY)?;
        got(call!(libc::SYS_fcntl, file, 1024, 0))
    }),
];

/// Whether somebody else has a lock on it.
fn foreign_lock(path: &CStr) -> Result<String, i32> {
    let file = call!(libc::SYS_open, path, libc::O_RDONLY)?;
    match call!(libc::SYS_flock, file, libc::LOCK_EX | libc::LOCK_NB) {
        Ok(_) => Err(NOTHING),
        Err(libc::EWOULDBLOCK) => Ok("another's lock is seen".into()),
        Err(other) => Err(other),
    }
}

/// Whether somebody else opens it, watched for ten times as long as that takes.
fn foreign_events(path: &CStr) -> Result<String, i32> {
    let watch = call!(libc::SYS_inotify_init1, libc::IN_NONBLOCK)?;
    call!(libc::SYS_inotify_add_watch, watch, path, 0xfff_i64)?;
    std::thread::sleep(OPENED_EVERY * 10);
    let mut events = [0_u8; 4096];
    match call!(libc::SYS_read, watch, events.as_mut_slice(), 4096) {
        Ok(length) => Ok(format!("{length} bytes of events")),
        Err(libc::EAGAIN) => Err(NOTHING),
        Err(other) => Err(other),
    }
}

/// What services see of each other that have one root by their document, as init/README.md says: no way out, and worth knowing.
pub(crate) fn known() -> Vec<String> {
    let mut known = Vec::new();
    for (what, found) in [("a lock", foreign_lock(SHARED)), ("events", foreign_events(SHARED))] {
        match found {
            Ok(_) => known.push(format!("known: {what} of a service with the same root")),
            Err(errno) => {
                known.push(format!("not seen: {what} of a service with the same root, errno {errno}"))
            }
        }
    }
    known
}

/// Makes IPC that others may use, if they can find it; whether it can be found from here.
pub(crate) fn offer() -> bool {
    // IPC_CREAT, for everybody.
    const MAKE: i64 = 0o1666;
    let made = [
        call!(libc::SYS_shmget, IPC_KEY, 4096, MAKE),
        call!(libc::SYS_semget, IPC_KEY, 1, MAKE),
        call!(libc::SYS_msgget, IPC_KEY, MAKE),
        call!(libc::SYS_mq_open, QUEUE, libc::O_RDWR | libc::O_CREAT, 0o666, 0),
    ];
    let found = [
        call!(libc::SYS_shmget, IPC_KEY, 0, 0),
        call!(libc::SYS_semget, IPC_KEY, 0, 0),
        call!(libc::SYS_msgget, IPC_KEY, 0),
        call!(libc::SYS_mq_open, QUEUE, libc::O_RDWR, 0, 0),
    ];
    made.iter().chain(&found).all(Result::is_ok)
}

/// Takes a lock for good, and opens the file again and again. Whether another process sees both.
pub(crate) fn hold(path: &CStr) -> bool {
    let Ok(file) = call!(libc::SYS_open, path, libc::O_RDONLY) else { return false };
    if call!(libc::SYS_flock, file, libc::LOCK_EX).is_err() {
        return false;
    }
    match sys::fork() {
        Ok(0) => loop {
            drop(fs::read(path.to_str().unwrap_or("")));
            std::thread::sleep(OPENED_EVERY);
        },
        Ok(_) => foreign_lock(path).is_ok() && foreign_events(path).is_ok(),
        Err(_) => false,
    }
}
