//! Kernel settings, entropy and the image's epoch.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, UNIX_EPOCH};

use casemate_measure::status::Reason;

use crate::boot::Failure;
use crate::sys;

/// images.md 2.1 step 4, under /proc/sys. Network settings belong to [`crate::net`].
const SETTINGS: &[(&str, &str)] = &[
    ("kernel/kptr_restrict", "2"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/yama/ptrace_scope", "3"),
    ("kernel/kexec_load_disabled", "1"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/io_uring_disabled", "2"),
    ("kernel/perf_event_paranoid", "3"),
    ("kernel/sysrq", "0"),
    ("kernel/panic", "-1"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/core_pattern", "|/bin/false"),
    ("kernel/randomize_va_space", "2"),
    ("kernel/modprobe", ""),
    // No sum over all processes, which any of them could use up for the others: each has its own limit, and memory another.
    ("fs/file-max", "9223372036854775807"),
    // The same of tasks: the most that the kernel takes (`PID_MAX_LIMIT`, include/linux/threads.h). Its own guess for a small machine
    // is less than what one service may have, and then nothing could be started again.
    ("kernel/pid_max", "4194304"),
    ("kernel/threads-max", "4194304"),
    // Nothing made in memory can be executed: what runs is what was measured.
    ("vm/memfd_noexec", "2"),
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_symlinks", "1"),
    ("fs/protected_fifos", "2"),
    ("fs/protected_regular", "2"),
    ("fs/suid_dumpable", "0"),
    ("user/max_user_namespaces", "0"),
    // The workload's limits are its cgroup's; the kernel's own guess keeps the rest of the machine alive.
    ("vm/overcommit_memory", "0"),
    ("vm/mmap_min_addr", "65536"),
    ("vm/unprivileged_userfaultfd", "0"),
    // No line discipline is loaded for whoever opens a terminal, and nobody types into another's.
    ("dev/tty/ldisc_autoload", "0"),
    ("dev/tty/legacy_tiocsti", "0"),
    ("net/core/bpf_jit_harden", "2"),
    // The VPN process, without a capability, asks for 7 MiB of buffer for its sockets; others ask for none.
    ("net/core/rmem_max", "7340032"),
    ("net/core/wmem_max", "7340032"),
];

/// How long the kernel may take to seed its generator: with `random.trust_cpu=on` it is ready before PID 1.
const ENTROPY_WAIT: Duration = Duration::from_secs(20);

/// Writes each setting and reads it back.
pub(super) fn apply(proc_sys: &Path) -> Result<(), Failure> {
    SETTINGS.iter().try_for_each(|(name, value)| set(&proc_sys.join(name), value))
}

/// Forbids module loading for good, and reads that back.
pub(super) fn disable_modules(proc_sys: &Path) -> Result<(), Failure> {
    set(&proc_sys.join("kernel/modules_disabled"), "1")
        .map_err(|failure| Failure { reason: Reason::ModuleFailed, ..failure })
}

fn set(path: &Path, value: &str) -> Result<(), Failure> {
    let failed = |error: &std::io::Error| Failure::errno(Reason::SysctlFailed, path.display(), error);
    fs::write(path, format!("{value}\n")).map_err(|e| failed(&e))?;
    let found = fs::read_to_string(path).map_err(|e| failed(&e))?;
    if found.trim_end() == value {
        return Ok(());
    }
    Err(Failure::new(
        Reason::SysctlFailed,
        format!("{}: expected {value:?}, found {:?}", path.display(), found.trim_end()),
    ))
}

/// Waits for the kernel's generator, within bounds.
pub(super) fn wait_for_entropy() -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        let mut byte = [0_u8; 1];
        match sys::random(&mut byte, true) {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > ENTROPY_WAIT => {
                return Err(Failure::errno(Reason::NoEntropy, "getrandom", &error));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Random bytes from the kernel, which [`wait_for_entropy`] has found ready.
pub(super) fn random_seed() -> Result<[u8; 20], Failure> {
    let mut seed = [0; 20];
    sys::random(&mut seed, false).map_err(|error| Failure::errno(Reason::NoEntropy, "getrandom", &error))?;
    Ok(seed)
}

/// The image's epoch, which the builder wrote as `/init`'s own time stamp.
pub(super) fn epoch(init: &Path) -> Result<Duration, Failure> {
    let failed = |error: &std::io::Error| Failure::errno(Reason::ClockFailed, init.display(), error);
    let epoch = fs::metadata(init).and_then(|meta| meta.modified()).map_err(|e| failed(&e))?;
    Ok(epoch.duration_since(UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `images.md` 2.1 step 4, and what was added to it: none may get lost.
    #[test]
    fn the_list_is_complete_and_says_nothing_twice() {
        let expected = [
            "dev/tty/ldisc_autoload=0",
            "dev/tty/legacy_tiocsti=0",
            "fs/protected_fifos=2",
            "fs/protected_hardlinks=1",
            "fs/protected_regular=2",
            "fs/protected_symlinks=1",
            "fs/suid_dumpable=0",
            "kernel/core_pattern=|/bin/false",
            "kernel/dmesg_restrict=1",
            "kernel/io_uring_disabled=2",
            "kernel/kexec_load_disabled=1",
            "kernel/kptr_restrict=2",
            "kernel/modprobe=",
            "kernel/panic=-1",
            "kernel/panic_on_oops=1",
            "kernel/perf_event_paranoid=3",
            "kernel/randomize_va_space=2",
            "kernel/pid_max=4194304",
            "kernel/sysrq=0",
            "kernel/threads-max=4194304",
            "kernel/unprivileged_bpf_disabled=1",
            "kernel/yama/ptrace_scope=3",
            "net/core/bpf_jit_harden=2",
            "user/max_user_namespaces=0",
            "vm/memfd_noexec=2",
            "vm/mmap_min_addr=65536",
            "vm/overcommit_memory=0",
            "vm/unprivileged_userfaultfd=0",
        ];
        let found: Vec<String> = SETTINGS.iter().map(|(name, value)| format!("{name}={value}")).collect();
        for setting in expected {
            assert!(found.iter().any(|found| found == setting), "{setting}");
        }
        let names: std::collections::BTreeSet<&str> = SETTINGS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), SETTINGS.len());
    }

    #[test]
    fn each_setting_is_written_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        for (name, _) in SETTINGS {
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        }
        apply(dir.path()).unwrap();
        for (name, value) in SETTINGS {
            assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), format!("{value}\n"), "{name}");
        }
        // Any one that the kernel does not take ends the boot.
        for (name, value) in SETTINGS.iter().filter(|(_, value)| !value.is_empty()) {
            let path = dir.path().join(name);
            fs::remove_file(&path).unwrap();
            std::os::unix::fs::symlink("/dev/null", &path).unwrap();
            let failure = apply(dir.path()).unwrap_err();
            assert_eq!(failure.text, format!("{}: expected {value:?}, found \"\"", path.display()));
            fs::remove_file(&path).unwrap();
        }
        fs::create_dir_all(dir.path().join("kernel")).unwrap();
        disable_modules(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("kernel/modules_disabled")).unwrap(), "1\n");
        fs::remove_file(dir.path().join("kernel/modules_disabled")).unwrap();
        std::os::unix::fs::symlink("/dev/null", dir.path().join("kernel/modules_disabled")).unwrap();
        assert_eq!(disable_modules(dir.path()).unwrap_err().reason, Reason::ModuleFailed);
    }

    #[test]
    fn a_setting_that_does_not_read_back_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        set(&path, "1").unwrap();
        let missing = set(&dir.path().join("no/such"), "1").unwrap_err();
        assert_eq!((missing.reason, missing.detail), (Reason::SysctlFailed, 2));
        // /dev/null takes every byte and gives none back.
        let lost = set(Path::new("/dev/null"), "1").unwrap_err();
        assert!(lost.text.contains("expected \"1\", found \"\""), "{lost}");
    }
}
