//! The machine: its devices, its settings, and what the kernel says about itself.

use std::fs::{self, OpenOptions};

use libc::{EACCES, ENOENT, ENOTDIR, EPERM, EROFS};

use crate::case::{Case, NOTHING, case};
use crate::files::{errno, got, write};
use crate::sys::call;

pub(crate) const CASES: &[Case] = &[
    case("make-block-device", &[EPERM], || make(libc::S_IFBLK, 254, 0)),
    case("make-mem", &[EPERM], || make(libc::S_IFCHR, 1, 1)),
    case("make-kmsg", &[EPERM], || make(libc::S_IFCHR, 1, 11)),
    case("make-tun", &[EPERM], || make(libc::S_IFCHR, 10, 200)),
    case("make-console", &[EPERM], || make(libc::S_IFCHR, 5, 1)),
    case("open-devices", &[ENOENT], open_devices),
    case("other-devices", &[NOTHING], other_devices),
    case("add-entropy", &[EPERM], || {
        // RNDADDENTROPY, 8 bits in 1 byte.
        let random = call!(libc::SYS_open, c"/dev/urandom", libc::O_RDWR)?;
        let mut info = [0_u8; 12];
        (info[0], info[4]) = (8, 1);
        got(call!(libc::SYS_ioctl, random, 0x4008_5203, info.as_slice()))
    }),
    case("sys-is-absent", &[ENOENT], || open("/sys/kernel")),
    case("debugfs-is-absent", &[ENOENT], || open("/sys/kernel/debug")),
    case("configfs-is-absent", &[ENOENT], || open("/sys/kernel/config/tsm")),
    case("measurements-are-absent", &[ENOENT], || open("/sys/devices/virtual/misc/tdx_guest/measurements")),
    case("sysrq", &[EACCES, EROFS], || write("/proc/sysrq-trigger")),
    case("kcore", &[EACCES], || open("/proc/kcore")),
    case("kmsg", &[EACCES], || open("/proc/kmsg")),
    case("kallsyms", &[EACCES], || open("/proc/kallsyms")),
    case("proc-keys", &[EACCES], || open("/proc/keys")),
    case("proc-modules", &[EACCES], || open("/proc/modules")),
    case("proc-acpi", &[EACCES, ENOENT], || open("/proc/acpi/wakeup")),
    case("proc-irq", &[EACCES], || list("/proc/irq")),
    case("proc-bus", &[EACCES, ENOENT], || list("/proc/bus")),
    case("proc-fs", &[EACCES, ENOENT], || list("/proc/fs")),
    case("proc-the-rest", &[NOTHING], the_rest_of_proc),
    case("core-pattern", &[EROFS, EACCES], || write("/proc/sys/kernel/core_pattern")),
    case("modprobe-path", &[EROFS, EACCES], || write("/proc/sys/kernel/modprobe")),
    case("host-name-setting", &[EROFS, EACCES], || write("/proc/sys/kernel/hostname")),
    case("memfd-setting", &[EROFS, EACCES], || write("/proc/sys/vm/memfd_noexec")),
    case("user-namespaces-setting", &[EROFS, EACCES], || write("/proc/sys/user/max_user_namespaces")),
    case("forwarding-setting", &[EROFS, EACCES], || write("/proc/sys/net/ipv4/ip_forward")),
    case("binfmt-misc", &[EROFS, EACCES, ENOENT, ENOTDIR], || write("/proc/sys/fs/binfmt_misc/register")),
    case("cgroup-procs", &[ENOENT], || write_there("/sys/fs/cgroup/cgroup.procs")),
    case("release-agent", &[ENOENT], || write_there("/sys/fs/cgroup/release_agent")),
    case("cgroup-path", &[NOTHING], || {
        let path = fs::read_to_string("/proc/self/cgroup").map_err(errno)?;
        if path == "0::/\n" { Err(NOTHING) } else { Ok(path) }
    }),
];

fn make(kind: u32, major: u32, minor: u32) -> Result<String, i32> {
    let device = i64::try_from(libc::makedev(major, minor)).unwrap_or(0);
    got(call!(libc::SYS_mknodat, libc::AT_FDCWD, c"/tmp/device", i64::from(kind | 0o600), device))
}

fn open(path: &str) -> Result<String, i32> {
    fs::File::open(path).map(|_| format!("{path} is open")).map_err(errno)
}

fn list(path: &str) -> Result<String, i32> {
    fs::read_dir(path).map(|_| format!("{path} is open")).map_err(errno)
}

fn write_there(path: &str) -> Result<String, i32> {
    OpenOptions::new().write(true).open(path).map(|_| format!("{path} is open for writing")).map_err(errno)
}

/// Of every kind that a guest may have.
const DEVICES: &[&str] = &[
    "mem",
    "kmem",
    "port",
    "kmsg",
    "console",
    "tty",
    "tty0",
    "ttyS0",
    "ptmx",
    "pts/0",
    "tdx_guest",
    "sev-guest",
    "vport0p1",
    "vda",
    "sda",
    "nvme0n1",
    "sr0",
    "loop0",
    "loop-control",
    "mapper/control",
    "net/tun",
    "fuse",
    "kvm",
    "vsock",
    "vhost-vsock",
    "vhost-net",
    "hwrng",
    "rtc0",
    "watchdog",
    "nvram",
    "mcelog",
    "snapshot",
    "uinput",
    "input/event0",
    "cpu_dma_latency",
    "userfaultfd",
    "hpet",
    "cuse",
    "autofs",
    "btrfs-control",
    "rfkill",
    "udmabuf",
    "ppp",
    "vga_arbiter",
];

fn open_devices() -> Result<String, i32> {
    for name in DEVICES {
        match fs::File::open(format!("/dev/{name}")) {
            Err(error) if error.raw_os_error() == Some(ENOENT) => {}
            Err(error) => return Err(errno(error)),
            Ok(_) => return Ok(format!("/dev/{name} is open")),
        }
    }
    Err(ENOENT)
}

fn other_devices() -> Result<String, i32> {
    let expected = ["null", "zero", "full", "random", "urandom", "fd", "stdin", "stdout", "stderr", "shm"];
    let names = fs::read_dir("/dev").map_err(errno)?.flatten().map(|entry| entry.file_name());
    let others: Vec<_> = names.filter(|name| !expected.iter().any(|expected| name == expected)).collect();
    if others.is_empty() { Err(NOTHING) } else { Ok(format!("{others:?}")) }
}

/// Whatever this kernel has at the top of /proc, but what programs need to know of a machine.
fn the_rest_of_proc() -> Result<String, i32> {
    let known = ["cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "sys", "uptime", "version"];
    for entry in fs::read_dir("/proc").map_err(errno)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().map_err(errno)?;
        if kind.is_symlink() || known.contains(&&*name) || name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let open =
            if kind.is_dir() { list(&format!("/proc/{name}")) } else { open(&format!("/proc/{name}")) };
        match open {
            Ok(what) => return Ok(what),
            Err(EACCES) => {}
            Err(other) => return Err(other),
        }
    }
    Err(NOTHING)
}
