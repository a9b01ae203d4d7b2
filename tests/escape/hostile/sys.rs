//! System calls by number, as somebody would make them who wants out.
#![allow(unsafe_code, reason = "this module is the program's one address for it")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd as _, RawFd};

/// One argument of a system call.
#[derive(Debug)]
pub(crate) enum Argument<'a> {
    Number(i64),
    Text(&'a CStr),
    Bytes(&'a [u8]),
    Room(&'a mut [u8]),
}

impl From<i64> for Argument<'_> {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<i32> for Argument<'_> {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

impl<'a> From<&'a CStr> for Argument<'a> {
    fn from(text: &'a CStr) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Argument<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a mut [u8]> for Argument<'a> {
    fn from(room: &'a mut [u8]) -> Self {
        Self::Room(room)
    }
}

/// Makes the call; an errno if it fails.
pub(crate) fn by_number(number: i64, arguments: &mut [Argument<'_>]) -> Result<i64, i32> {
    let mut words = [0_i64; 6];
    for (word, argument) in words.iter_mut().zip(arguments) {
        *word = match argument {
            Argument::Number(number) => *number,
            Argument::Text(text) => text.as_ptr().expose_provenance() as i64,
            Argument::Bytes(bytes) => bytes.as_ptr().expose_provenance() as i64,
            Argument::Room(room) => room.as_mut_ptr().expose_provenance() as i64,
        };
    }
    let [a, b, c, d, e, f] = words;
    // SAFETY: every pointer is to memory that is borrowed for the call, exclusively where the kernel may write; the callers
    // pass rooms at least as long as what the call may fill. Each call is made in a child of its own, which ends after it.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(errno()) } else { Ok(result) }
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// `getpid` through the gate of 32-bit programs.
pub(crate) fn int80() -> i64 {
    let pid: i64;
    // SAFETY: system call 20 of i386 takes no argument and changes nothing but rax.
    unsafe { std::arch::asm!("int 0x80", inlateout("rax") 20_i64 => pid, options(nostack)) };
    pid
}

/// Reads a byte of the page that once held `gettimeofday` for everybody.
pub(crate) fn vsyscall_page() -> u8 {
    // SAFETY: either the page is readable, or the process ends with SIGSEGV, which its parent expects.
    unsafe { std::ptr::with_exposed_provenance::<u8>(0xffff_ffff_ff60_0000).read_volatile() }
}

/// Forks; 0 in the child.
pub(crate) fn fork() -> Result<i32, i32> {
    // SAFETY: this program has one thread.
    let pid = unsafe { libc::fork() };
    if pid < 0 { Err(errno()) } else { Ok(pid) }
}

/// Ends the process without running anything.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: it touches no memory.
    unsafe { libc::_exit(code) }
}

/// Waits for a child; its status as `wait(2)` gives it.
pub(crate) fn wait(pid: i32) -> Result<i32, i32> {
    let mut status = 0;
    // SAFETY: `status` is valid for the call.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } < 0 { Err(errno()) } else { Ok(status) }
}

/// Ends processes.
pub(crate) fn kill(pid: i32, signal: i32) -> Result<(), i32> {
    // SAFETY: it touches no memory.
    if unsafe { libc::kill(pid, signal) } < 0 { Err(errno()) } else { Ok(()) }
}

/// Sleeps until a signal comes.
pub(crate) fn pause() {
    // SAFETY: it touches no memory.
    unsafe { libc::pause() };
}

/// Ends this process with SIGALRM after so many seconds.
pub(crate) fn alarm(seconds: u32) {
    // SAFETY: it touches no memory.
    unsafe { libc::alarm(seconds) };
}

/// A pipe: read end, write end.
pub(crate) fn pipe() -> Result<(RawFd, RawFd), i32> {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for two descriptors.
    if unsafe { libc::pipe(ends.as_mut_ptr()) } < 0 { Err(errno()) } else { Ok((ends[0], ends[1])) }
}

/// Takes over a descriptor that this program made.
pub(crate) fn owned(fd: RawFd) -> File {
    // SAFETY: the callers made it and give it away here.
    unsafe { File::from_raw_fd(fd) }
}

/// Closes a descriptor that nobody owns.
pub(crate) fn close(fd: RawFd) {
    // SAFETY: the callers made it and own nothing else of that number.
    unsafe { libc::close(fd) };
}

/// A system call's name in a case: `call!(SYS_mount, c"none", c"/tmp", 0)`.
macro_rules! call {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::sys::by_number($number, &mut [$($crate::sys::Argument::from($argument)),*])
    };
}
pub(crate) use call;
