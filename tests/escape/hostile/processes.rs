//! Other processes, and rights of our own.

use std::fs;

use libc::{EACCES, ENOENT, EPERM, ESRCH};

use crate::case::{Case, NOTHING, case};
use crate::files::{errno, got, write};
use crate::sys::{self, call};

/// Not in every libc: include/uapi/linux/prctl.h, linux/securebits.h.
const PR_CAP_AMBIENT: i32 = 47;
const PR_SET_SECUREBITS: i32 = 28;

pub(crate) const CASES: &[Case] = &[
    case("see-other-processes", &[NOTHING], || {
        let own = [std::process::id(), std::os::unix::process::parent_id()];
        let names = fs::read_dir("/proc").map_err(errno)?.flatten();
        let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let others: Vec<u32> = pids.filter(|pid| !own.contains(pid)).collect();
        if others.is_empty() { Err(NOTHING) } else { Ok(format!("{others:?}")) }
    }),
    case("init-root", &[ENOENT, EACCES], || read_link("/proc/1/root")),
    case("init-working-directory", &[ENOENT, EACCES], || read_link("/proc/1/cwd")),
    case("init-program", &[ENOENT, EACCES], || read_link("/proc/1/exe")),
    case("init-descriptors", &[ENOENT, EACCES], || {
        fs::read_dir("/proc/1/fd").map(|_| "listed".into()).map_err(errno)
    }),
    case("init-memory", &[ENOENT, EACCES], || read("/proc/1/mem")),
    case("init-map", &[ENOENT, EACCES], || read("/proc/1/maps")),
    case("init-environment", &[ENOENT, EACCES], || read("/proc/1/environ")),
    case("init-mount-namespace", &[ENOENT, EACCES], || read_link("/proc/1/ns/mnt")),
    case("init-oom-score", &[ENOENT, EACCES], || write("/proc/1/oom_score_adj")),
    case("ptrace-attach", &[EPERM], || got(call!(libc::SYS_ptrace, 16, 1, 0, 0))),
    case("ptrace-seize-parent", &[EPERM], || {
        got(call!(libc::SYS_ptrace, 0x4206, i64::from(std::os::unix::process::parent_id()), 0, 0))
    }),
    case("ptrace-be-traced", &[EPERM], || got(call!(libc::SYS_ptrace, 0, 0, 0, 0))),
    case("process-vm-readv", &[EPERM], || {
        got(call!(libc::SYS_process_vm_readv, 1, [0_u8; 16].as_slice(), 1, [0_u8; 16].as_slice(), 1, 0))
    }),
    case("process-vm-writev", &[EPERM], || {
        got(call!(libc::SYS_process_vm_writev, 1, [0_u8; 16].as_slice(), 1, [0_u8; 16].as_slice(), 1, 0))
    }),
    case("process-madvise", &[EPERM], || got(call!(libc::SYS_process_madvise, -1, 0, 0, 4, 0))),
    case("kcmp", &[EPERM], || got(call!(libc::SYS_kcmp, 1, 1, 0, 0, 0))),
    case("pidfd-getfd", &[EPERM], || {
        let init = call!(libc::SYS_pidfd_open, 1, 0)?;
        got(call!(libc::SYS_pidfd_getfd, init, 1, 0))
    }),
    case("move-pages", &[EPERM], || got(call!(libc::SYS_move_pages, 1, 0, 0, 0, 0, 0))),
    // Process 1 of a namespace takes no such signal from inside; if it did, nothing more would be heard from us.
    case("kill-init", &[NOTHING], || {
        sys::kill(1, libc::SIGKILL)?;
        sys::kill(1, libc::SIGSTOP)?;
        sys::kill(1, libc::SIGSEGV)?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        Err(NOTHING)
    }),
    case("kill-others", &[ESRCH], || {
        let own = [1, std::process::id(), std::os::unix::process::parent_id()]
            .map(|pid| i32::try_from(pid).unwrap_or(0));
        for pid in (1..4096).filter(|pid| !own.contains(pid)) {
            match sys::kill(pid, 0) {
                Err(ESRCH) => {}
                Err(other) => return Err(other),
                Ok(()) => return Ok(format!("process {pid}")),
            }
        }
        Err(ESRCH)
    }),
    case("no-rights-at-all", &[NOTHING], no_rights),
    case("setuid-0", &[EPERM], || got(call!(libc::SYS_setuid, 0))),
    case("setuid-of-the-agent", &[EPERM], || got(call!(libc::SYS_setresuid, 101, 101, 101))),
    case("setgid-0", &[EPERM], || got(call!(libc::SYS_setresgid, 0, 0, 0))),
    case("setgroups", &[EPERM], || got(call!(libc::SYS_setgroups, 1, [0_u8; 4].as_slice()))),
    case("setfsuid", &[NOTHING], || {
        // It says only what it was before.
        call!(libc::SYS_setfsuid, 0)?;
        if call!(libc::SYS_setfsuid, 0)? == 0 { Ok("0".into()) } else { Err(NOTHING) }
    }),
    case("capset", &[EPERM], || {
        // _LINUX_CAPABILITY_VERSION_3, ourselves; everything effective, permitted, inheritable.
        let mut header = [0_u8; 8];
        header[..4].copy_from_slice(&0x2008_0522_u32.to_ne_bytes());
        got(call!(libc::SYS_capset, header.as_slice(), [0xff_u8; 24].as_slice()))
    }),
    // PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN.
    case("ambient-capability", &[EPERM], || got(call!(libc::SYS_prctl, PR_CAP_AMBIENT, 2, 21, 0, 0))),
    case("securebits", &[EPERM], || got(call!(libc::SYS_prctl, PR_SET_SECUREBITS, 0, 0, 0, 0))),
    case("no-new-privileges-off", &[libc::EINVAL], || got(call!(libc::SYS_prctl, 38, 0, 0, 0, 0))),
    case("aslr-off", &[EPERM], || got(call!(libc::SYS_personality, 0x4_0000))),
    case("read-implies-exec", &[EPERM], || got(call!(libc::SYS_personality, 0x40_0000))),
    case("nice", &[EACCES, EPERM], || got(call!(libc::SYS_setpriority, 0, 0, -20))),
    case("real-time", &[EPERM], || {
        let priority = 50_i32.to_ne_bytes();
        got(call!(libc::SYS_sched_setscheduler, 0, 1, priority.as_slice()))
    }),
    case("io-priority", &[EPERM], || got(call!(libc::SYS_ioprio_set, 1, 0, 1 << 13))),
    case("out-of-memory-score", &[EACCES, EPERM], || {
        fs::write("/proc/self/oom_score_adj", "-1000").map(|()| "lowered".into()).map_err(errno)
    }),
    case("raise-core-limit", &[EPERM], || raise(libc::RLIMIT_CORE)),
    case("raise-files-limit", &[EPERM], || raise(libc::RLIMIT_NOFILE)),
    case("raise-locked-memory-limit", &[EPERM], || raise(libc::RLIMIT_MEMLOCK)),
];

fn read_link(path: &str) -> Result<String, i32> {
    fs::read_link(path).map(|target| target.display().to_string()).map_err(errno)
}

fn read(path: &str) -> Result<String, i32> {
    fs::File::open(path).map(|_| format!("{path} is open")).map_err(errno)
}

fn raise(limit: libc::__rlimit_resource_t) -> Result<String, i32> {
    got(call!(libc::SYS_setrlimit, i64::from(limit), [0xff_u8; 16].as_slice()))
}

/// As the kernel says it: no capability in any set, no way to new ones, and a filter.
fn no_rights() -> Result<String, i32> {
    let status = fs::read_to_string("/proc/self/status").map_err(errno)?;
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t")).unwrap_or("absent")
    };
    let mut wrong = Vec::new();
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        if field(set) != "0000000000000000" {
            wrong.push(format!("{set} {}", field(set)));
        }
    }
    for (name, expected) in [("NoNewPrivs", "1"), ("Seccomp", "2"), ("Groups", " "), ("Uid", ""), ("Gid", "")]
    {
        let found = field(name);
        let good = if expected.is_empty() {
            !found.split('\t').any(|id| id == "0")
        } else {
            found.trim() == expected.trim()
        };
        if !good {
            wrong.push(format!("{name} {found:?}"));
        }
    }
    if wrong.is_empty() { Err(NOTHING) } else { Ok(wrong.join(", ")) }
}
