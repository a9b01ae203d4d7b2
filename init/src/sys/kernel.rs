//! Calls that only PID 1 makes.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

/// `MODULE_INIT_COMPRESSED_FILE`, include/uapi/linux/module.h: the kernel decompresses.
const MODULE_INIT_COMPRESSED_FILE: libc::c_int = 4;

/// Loads an xz-compressed module.
///
/// # Errors
/// What the kernel says; `EEXIST` if it is loaded already.
pub fn finit_module(module: impl AsFd) -> io::Result<()> {
    let no_parameters = c"";
    // SAFETY: the descriptor is open for the call's duration and the parameter string is a static C string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            module.as_fd().as_raw_fd(),
            no_parameters.as_ptr(),
            MODULE_INIT_COMPRESSED_FILE,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sets the wall clock.
///
/// # Errors
/// What the kernel says.
pub fn set_clock(since_epoch: Duration) -> io::Result<()> {
    let now = libc::timespec {
        tv_sec: libc::time_t::try_from(since_epoch.as_secs()).map_err(io::Error::other)?,
        tv_nsec: libc::c_long::from(since_epoch.subsec_nanos()),
    };
    // SAFETY: `now` is a valid timespec that outlives the call.
    let result = unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const now) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets the wall clock run faster (slower, if negative) until it has gained so much; replaces an earlier order. adjtime(3).
///
/// # Errors
/// What the kernel says.
pub fn slew_clock(nanoseconds: i64) -> io::Result<()> {
    // SAFETY: all-zero is a valid timex: no modes.
    let mut order: libc::timex = unsafe { std::mem::zeroed() };
    order.modes = libc::ADJ_OFFSET_SINGLESHOT;
    order.offset = nanoseconds / 1000;
    // SAFETY: `order` is a valid timex for the length of the call.
    let result = unsafe { libc::adjtimex(&raw mut order) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Powers off at once. Returns only if the kernel refuses, and then PID 1 aborts, which `panic=-1` turns into a reset.
///
/// Without `sync`: no disk is ever written, and one that does not answer must not be waited for.
pub fn power_off() -> ! {
    // SAFETY: it does not touch this process's memory.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    std::process::abort()
}

/// Fills `bytes` from the kernel's generator; `now_or_never` gives `EAGAIN` instead of waiting for it to be seeded.
///
/// # Errors
/// What the kernel says.
pub fn random(bytes: &mut [u8], now_or_never: bool) -> io::Result<()> {
    let flags = if now_or_never { libc::GRND_NONBLOCK } else { 0 };
    // SAFETY: the buffer is valid for writes of its length. Requests of up to 256 bytes are never cut short (random(7)).
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), flags) };
    if usize::try_from(got) == Ok(bytes.len()) { Ok(()) } else { Err(io::Error::last_os_error()) }
}
