//! The kernel's wide doors, and its side doors.

use libc::{ENOSYS, EPERM, SIGSEGV, SIGSYS};

use crate::case::{Case, case};
use crate::files::got;
use crate::sys::{self, call};

/// arch/x86/include/uapi/asm/unistd.h.
const X32: i64 = 0x4000_0000;

pub(crate) const CASES: &[Case] = &[
    // KEYCTL_GET_KEYRING_ID of the session's keyring, made if there is none.
    case("keyctl", &[EPERM], || got(call!(libc::SYS_keyctl, 0, -3, 1))),
    case("add-key", &[EPERM], || got(call!(libc::SYS_add_key, c"user", c"x", c"y", 1, -3))),
    case("request-key", &[EPERM], || got(call!(libc::SYS_request_key, c"user", c"x", 0, 0))),
    // BPF_MAP_CREATE: an array of one.
    case("bpf-map", &[EPERM], || {
        let mut attributes = [0_u8; 72];
        for (place, value) in [(0, 2), (4, 4), (8, 4), (12, 1)] {
            attributes[place] = value;
        }
        got(call!(libc::SYS_bpf, 0, attributes.as_slice(), 72))
    }),
    case("perf-event", &[EPERM], || {
        // PERF_TYPE_SOFTWARE, PERF_COUNT_SW_CPU_CLOCK, of ourselves.
        let mut attributes = [0_u8; 128];
        (attributes[0], attributes[4]) = (1, 128);
        got(call!(libc::SYS_perf_event_open, attributes.as_slice(), 0, -1, -1, 0))
    }),
    case("io-uring", &[EPERM], || got(call!(libc::SYS_io_uring_setup, 4, [0_u8; 120].as_mut_slice()))),
    case("io-uring-register", &[EPERM], || got(call!(libc::SYS_io_uring_register, -1, 0, 0, 0))),
    // UFFD_USER_MODE_ONLY, which needs no right elsewhere.
    case("userfaultfd", &[EPERM], || got(call!(libc::SYS_userfaultfd, 1))),
    case("kexec", &[EPERM], || got(call!(libc::SYS_kexec_load, 0, 0, 0, 0))),
    case("kexec-file", &[EPERM], || got(call!(libc::SYS_kexec_file_load, 0, 0, 1, c"", 4))),
    case("load-module", &[EPERM], || got(call!(libc::SYS_init_module, [0_u8; 64].as_slice(), 64, c""))),
    case("load-module-file", &[EPERM], || got(call!(libc::SYS_finit_module, 0, c"", 0))),
    case("unload-module", &[EPERM], || got(call!(libc::SYS_delete_module, c"veth", 0x800))),
    case("reboot", &[EPERM], || got(call!(libc::SYS_reboot, 0xfee1_dead_i64, 672_274_793, 0x4321_fedc, 0))),
    case("host-name", &[EPERM], || got(call!(libc::SYS_sethostname, c"mine", 4))),
    case("domain-name", &[EPERM], || got(call!(libc::SYS_setdomainname, c"mine", 4))),
    case("set-clock", &[EPERM], || got(call!(libc::SYS_clock_settime, 0, [1_u8; 16].as_slice()))),
    case("set-time-of-day", &[EPERM], || got(call!(libc::SYS_settimeofday, [1_u8; 16].as_slice(), 0))),
    case("adjust-clock", &[EPERM], || got(call!(libc::SYS_adjtimex, [0_u8; 208].as_mut_slice()))),
    case("adjust-a-clock", &[EPERM], || got(call!(libc::SYS_clock_adjtime, 0, [0_u8; 208].as_mut_slice()))),
    case("kernel-log", &[EPERM], || got(call!(libc::SYS_syslog, 3, [0_u8; 64].as_mut_slice(), 64))),
    case("swap-on", &[EPERM], || got(call!(libc::SYS_swapon, c"/tmp", 0))),
    case("accounting", &[EPERM], || got(call!(libc::SYS_acct, c"/tmp/acct"))),
    case("quota", &[EPERM], || {
        got(call!(libc::SYS_quotactl, 0x80_0007, c"/", 0, [0_u8; 128].as_mut_slice()))
    }),
    case("hang-up", &[EPERM], || got(call!(libc::SYS_vhangup))),
    case("fanotify", &[EPERM], || got(call!(libc::SYS_fanotify_init, 0x200, 0))),
    case("port-permission", &[EPERM], || got(call!(libc::SYS_ioperm, 0x80, 1, 1))),
    case("port-level", &[EPERM], || got(call!(libc::SYS_iopl, 3))),
    case("modify-ldt", &[EPERM], || got(call!(libc::SYS_modify_ldt, 0, [0_u8; 64].as_mut_slice(), 64))),
    // TIOCSTI and TIOCLINUX, once with bits that the kernel does not look at.
    case("terminal-input", &[EPERM], || got(call!(libc::SYS_ioctl, 0, 0x5412, c"x"))),
    case("terminal-input-high-bits", &[EPERM], || got(call!(libc::SYS_ioctl, 0, 0x5412 | 1_i64 << 32, c"x"))),
    case("console-selection", &[EPERM], || got(call!(libc::SYS_ioctl, 0, 0x541c, c"\x02"))),
    case("x32-getpid", &[EPERM, ENOSYS], || got(call!(X32 | libc::SYS_getpid))),
    case("x32-ptrace", &[EPERM, ENOSYS], || got(call!(X32 | 521, 0, 0, 0, 0))),
    case("x32-open", &[EPERM, ENOSYS], || got(call!(X32 | libc::SYS_open, c"/", 0))),
    Case {
        name: "i386-getpid",
        refusals: &[],
        signals: &[SIGSYS, SIGSEGV],
        attempt: || Ok(format!("it returned {}", sys::int80())),
    },
    Case {
        name: "vsyscall-page",
        refusals: &[],
        signals: &[SIGSEGV],
        attempt: || Ok(format!("it holds {:#x}", sys::vsyscall_page())),
    },
];
