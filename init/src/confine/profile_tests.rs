//! The filters are judged by running them, on an interpreter of the classic BPF that the kernel would run.

use seccompiler::sock_filter;

use super::*;

/// linux/audit.h.
const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
/// include/uapi/linux/seccomp.h.
const KILL: u32 = 0x8000_0000;
const ALLOW: u32 = 0x7fff_0000;
const fn errno(errno: u32) -> u32 {
    0x0005_0000 | errno
}

/// Runs one program over a `seccomp_data`.
fn run(program: &[sock_filter], data: &[u8; 64]) -> u32 {
    let (mut at, mut a) = (0, 0_u32);
    loop {
        let op = &program[at];
        at += 1;
        let mut jump = |taken: bool| at += usize::from(if taken { op.jt } else { op.jf });
        match op.code {
            0x20 => a = u32::from_le_bytes(data[op.k as usize..][..4].try_into().unwrap()),
            0x54 => a &= op.k,
            0x05 => at += op.k as usize,
            0x15 => jump(a == op.k),
            0x25 => jump(a > op.k),
            0x35 => jump(a >= op.k),
            0x06 => return op.k,
            code => panic!("an instruction that the interpreter does not know: {code:#x}"),
        }
    }
}

fn verdict_of(filter: &Filter, arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = [0; 64];
    data[..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&arch.to_le_bytes());
    for (place, argument) in data[16..].chunks_exact_mut(8).zip(arguments) {
        place.copy_from_slice(&argument.to_le_bytes());
    }
    // The kernel takes the strictest verdict: killing before errors before allowing.
    let programs = filter.answers.iter().chain([&filter.main]);
    let rank = |verdict: u32| if verdict == KILL { 0 } else { verdict };
    programs.map(|program| run(program, &data)).min_by_key(|verdict| rank(*verdict)).unwrap()
}

fn verdict(profile: Profile, name: &str, arguments: [u64; 6]) -> u32 {
    let number = u32::try_from(number(name).unwrap_or_else(|| panic!("no such call: {name}"))).unwrap();
    verdict_of(&profile.filter().unwrap(), X86_64, number, arguments)
}

/// What an unlisted call gets.
fn refusal(profile: Profile) -> u32 {
    if profile == Profile::Service { errno(EPERM) } else { KILL }
}

/// No process of ours and no service has any use for these.
const NEVER: &[&str] = &[
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "process_mrelease",
    "pidfd_getfd",
    "kcmp",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "move_mount",
    "open_tree",
    "open_tree_attr",
    "mount_setattr",
    "setns",
    "bpf",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "userfaultfd",
    "perf_event_open",
    "keyctl",
    "add_key",
    "request_key",
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "name_to_handle_at",
    "open_by_handle_at",
    "quotactl",
    "quotactl_fd",
    "swapon",
    "swapoff",
    "reboot",
    "sethostname",
    "setdomainname",
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "acct",
    "vhangup",
    "lookup_dcookie",
    "iopl",
    "ioperm",
    "modify_ldt",
    "syslog",
    "fanotify_init",
    "migrate_pages",
    "move_pages",
    "mbind",
    "set_mempolicy",
    "set_mempolicy_home_node",
    "io_destroy",
    "io_submit",
    "io_cancel",
    "io_getevents",
    "io_pgetevents",
    "uselib",
    "ustat",
    "sysfs",
    "_sysctl",
    "nfsservctl",
    "remap_file_pages",
];

/// Of the processes of ours, none starts a program, opens a socket it can configure freely, or touches identities.
const NEVER_OURS: &[&str] = &[
    "execve",
    "execveat",
    "fork",
    "vfork",
    "unshare",
    "setuid",
    "setresuid",
    "capset",
    "personality",
    "memfd_create",
    "link",
    "symlink",
    "rename",
    "mknod",
    "mknodat",
    "chmod",
    "fchmod",
    "chown",
    "mkdir",
    "unlink",
    "unlinkat",
    "listen",
    "arch_prctl",
    "seccomp",
    "inotify_init1",
    "pidfd_open",
    "process_madvise",
    "setsid",
    "prlimit64",
    "shmget",
];

#[test]
fn every_profile_refuses_what_nobody_may_do() {
    for &profile in Profile::ALL {
        for name in NEVER {
            for arguments in [[0; 6], [1; 6], [u64::MAX; 6]] {
                assert_eq!(verdict(profile, name, arguments), refusal(profile), "{}: {name}", profile.name());
            }
        }
        if profile != Profile::Service {
            for name in NEVER_OURS {
                assert_eq!(verdict(profile, name, [0; 6]), KILL, "{}: {name}", profile.name());
            }
        }
    }
}

#[test]
fn other_interfaces_of_the_same_kernel_are_closed() {
    for &profile in Profile::ALL {
        let filter = profile.filter().unwrap();
        for call in 0..1024 {
            assert_eq!(verdict_of(&filter, I386, call, [0; 6]), KILL, "{}: i386 {call}", profile.name());
            // __X32_SYSCALL_BIT, arch/x86/include/uapi/asm/unistd.h.
            let x32 = verdict_of(&filter, X86_64, 0x4000_0000 | call, [0; 6]);
            assert_eq!(x32, refusal(profile), "{}: x32 {call}", profile.name());
        }
        // Numbers that the kernel does not have yet.
        assert_eq!(verdict_of(&filter, X86_64, 900, [0; 6]), refusal(profile), "{}", profile.name());
    }
}

/// What glibc asks of a file before a thread's arena shrinks must not end a process that has threads.
#[test]
fn a_process_with_threads_may_ask_for_a_file() {
    for profile in [Profile::Mesh, Profile::Vpn, Profile::Time] {
        assert_eq!(verdict(profile, "openat", [0; 6]), errno(ENOSYS), "{}", profile.name());
    }
    assert_eq!(verdict(Profile::Agent, "openat", [0; 6]), ALLOW, "Landlock judges it");
}

#[test]
fn nobody_gets_a_namespace() {
    // include/uapi/linux/sched.h: TIME, NS, CGROUP, UTS, IPC, USER, PID, NET.
    let kinds = [0x80, 0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000];
    /// What glibc's `pthread_create` and `fork` pass.
    const THREAD: u64 = 0x3d_0f00;
    const FORK: u64 = 0x120_0011;
    for &profile in Profile::ALL {
        let threads = [Profile::Agent, Profile::Mesh, Profile::Vpn, Profile::Service].contains(&profile);
        assert_eq!(
            verdict(profile, "clone", [THREAD, 0, 0, 0, 0, 0]) == ALLOW,
            threads,
            "{}",
            profile.name()
        );
        if threads {
            assert_eq!(verdict(profile, "clone3", [0; 6]), errno(ENOSYS), "{}", profile.name());
        }
        for kind in kinds {
            for flags in [kind, kind | THREAD, kind | FORK, kind | 1 << 40] {
                assert_eq!(verdict(profile, "clone", [flags, 0, 0, 0, 0, 0]), refusal(profile), "{flags:#x}");
                assert_eq!(
                    verdict(profile, "unshare", [flags, 0, 0, 0, 0, 0]),
                    refusal(profile),
                    "{flags:#x}"
                );
            }
        }
    }
    assert_eq!(verdict(Profile::Service, "clone", [FORK, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(verdict(Profile::Service, "unshare", [0x600, 0, 0, 0, 0, 0]), ALLOW);
}

#[test]
fn arguments_are_judged_at_the_width_that_the_kernel_reads() {
    let service = |name, arguments| verdict(Profile::Service, name, arguments);
    let refused = errno(EPERM);
    // TIOCSTI, also with bits that the kernel does not look at (CVE-2019-7303 was a filter that did).
    for high in [0, 1 << 32, 0xffff_ffff << 32] {
        assert_eq!(service("ioctl", [0, 0x5412 | high, 0, 0, 0, 0]), refused);
        assert_eq!(service("ioctl", [0, 0x541c | high, 0, 0, 0, 0]), refused);
        assert_eq!(service("ioctl", [0, 0x5401 | high, 0, 0, 0, 0]), ALLOW);
        assert_eq!(service("socket", [2 | high, 1, 0, 0, 0, 0]), ALLOW);
        assert_eq!(service("personality", [0x4_0000 | high, 0, 0, 0, 0, 0]), refused);
    }
    for (family, protocol, allowed) in
        [(1, 0, true), (16, 0, true), (16, 12, false), (17, 0, false), (38, 0, false), (40, 0, false)]
    {
        let found = service("socket", [family, 3, protocol, 0, 0, 0]);
        assert_eq!(found == ALLOW, allowed, "family {family}, protocol {protocol}");
    }
    for (mode, allowed) in [
        (0o644, true),
        (0o100_644, true),
        (0o010_600, true),
        (0o140_600, true),
        (0o020_600, false),
        (0o060_600, false),
    ] {
        assert_eq!(service("mknod", [0, mode, 0, 0, 0, 0]) == ALLOW, allowed, "{mode:o}");
        assert_eq!(service("mknodat", [0, 0, mode, 0, 0, 0]) == ALLOW, allowed, "{mode:o}");
    }
    for &profile in Profile::ALL.iter().filter(|profile| **profile != Profile::Service) {
        assert_eq!(
            verdict(profile, "mmap", [0, 4096, 7, 0, 0, 0]),
            KILL,
            "{}: executable memory",
            profile.name()
        );
        assert_eq!(verdict(profile, "mmap", [0, 4096, 3, 0, 0, 0]), ALLOW, "{}", profile.name());
    }
}

#[test]
fn sockets_are_of_tcp_and_udp() {
    // include/linux/net.h, include/uapi/linux/in.h.
    const STREAM: u64 = 1;
    const DATAGRAM: u64 = 2;
    /// `SOCK_CLOEXEC | SOCK_NONBLOCK`.
    const FLAGS: u64 = 0x8_0800;
    let allowed = |profile, family, kind, protocol| {
        verdict(profile, "socket", [family, kind, protocol, 0, 0, 0]) == ALLOW
    };
    for family in [2, 10] {
        for flags in [0, FLAGS, 1 << 32] {
            for (kind, protocol, service, mesh) in [
                (STREAM, 0, true, true),
                (STREAM, 6, true, true),
                (DATAGRAM, 0, true, false),
                (DATAGRAM, 17, true, false),
                // MPTCP, SCTP, DCCP, UDP-Lite, ICMP, raw, SOCK_SEQPACKET and SOCK_DCCP of whatever protocol.
                (STREAM, 262, false, false),
                (STREAM, 132, false, false),
                (6, 33, false, false),
                (DATAGRAM, 136, false, false),
                (DATAGRAM, 1, false, false),
                (DATAGRAM, 6, false, false),
                (3, 0, false, false),
                (3, 255, false, false),
                (5, 0, false, false),
                (6, 0, false, false),
                // With another stream's number in the bits that are flags.
                (3 | 0x10, 0, false, false),
            ] {
                let kind = kind | flags;
                let found = (
                    allowed(Profile::Service, family, kind, protocol),
                    allowed(Profile::Mesh, family, kind, protocol),
                );
                assert_eq!(found, (service, mesh), "family {family}, type {kind:#x}, protocol {protocol}");
            }
        }
    }
    assert!(allowed(Profile::Mesh, 1, STREAM | FLAGS, 0));
    for family in [2, 10] {
        for (kind, protocol, vpn) in [
            (STREAM, 0, true),
            (STREAM, 262, false),
            (DATAGRAM, 17, true),
            (DATAGRAM, 1, false),
            (3, 255, false),
        ] {
            assert_eq!(allowed(Profile::Vpn, family, kind | FLAGS, protocol), vpn, "{kind} {protocol}");
        }
    }
    assert!(allowed(Profile::Vpn, 16, 3, 0) && !allowed(Profile::Vpn, 16, 3, 12));
    assert!(!allowed(Profile::Vpn, 17, 3, 0) && !allowed(Profile::Vpn, 1, DATAGRAM, 0));
    assert!(!allowed(Profile::Mesh, 1, DATAGRAM, 0) && !allowed(Profile::Mesh, 1, 5, 0));
}

#[test]
fn the_old_asynchronous_io_is_not_there() {
    assert_eq!(verdict(Profile::Service, "io_setup", [0; 6]), errno(ENOSYS));
    for &profile in Profile::ALL.iter().filter(|profile| **profile != Profile::Service) {
        assert_eq!(verdict(profile, "io_setup", [0; 6]), KILL, "{}", profile.name());
    }
}

#[test]
fn a_line_that_is_none_is_named() {
    let error = |text: &str| parse("x", text).map(|_| ()).unwrap_err().to_string();
    assert_eq!(
        error("# nothing\nread\n"),
        "x.syscalls line 2: expected \"otherwise kill\" or \"otherwise EPERM\" first, found \"read\""
    );
    assert!(error("otherwise log\n").contains("line 1: expected \"otherwise kill\""));
    assert!(error("").contains("expected \"otherwise kill\""));
    let bad = |line: &str| error(&format!("otherwise kill\n{line}\n"));
    assert_eq!(bad("reed"), "x.syscalls line 2: expected a system call of x86-64, found \"reed\"");
    for line in [
        "read write",
        "read when",
        "read when arg6 == 1",
        "read when arg0 < 1",
        "read when arg0 == 1 and",
        "read when arg0 & 1 != 0",
    ] {
        assert!(bad(line).starts_with("x.syscalls line 2: expected "), "{line}");
    }
    for line in [
        "read\nread",
        "read\nread when arg0 == 1",
        "read when arg0 == 1\nread",
        "read answers ENOSYS\nread",
        "read answers EPERM",
    ] {
        assert!(bad(line).contains("expected each call once"), "{line}");
    }
}
