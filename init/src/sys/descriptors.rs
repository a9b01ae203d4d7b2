//! Descriptors that cross an exec.

use std::fs::File;
use std::io;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, FromRawFd as _, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Takes over a descriptor that PID 1 put at a known number before the exec.
///
/// # Errors
/// If nothing is open there.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks whether the number is open; it touches no memory.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is open (checked above) and, by the contract of the roles, each number is taken once, at the start
    // of the process, before anything else in it could have opened or taken it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A sealed memfd with these bytes, positioned at its start.
///
/// # Errors
/// What the kernel says.
pub fn memfd(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    file.rewind()?;
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// An empty memfd that another process writes an answer into.
///
/// # Errors
/// What the kernel says.
pub fn answer_memfd(name: &str) -> io::Result<OwnedFd> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?)
}

/// Seals what another process has written, which has ended, and reads it: at most `most` bytes, and nobody can change it
/// under the reader.
///
/// # Errors
/// If it is longer, if it cannot be sealed, because the process sealed it itself or something still maps it, and what the
/// kernel says.
pub fn read_answer(answer: OwnedFd, most: u64) -> io::Result<Vec<u8>> {
    let mut file = File::from(answer);
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    let length = file.metadata()?.len();
    if length > most {
        return Err(io::Error::other(format!("expected at most {most} bytes, found {length}")));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(length).map_err(io::Error::other)?);
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Every descriptor from `first` on closes at the next exec.
///
/// # Errors
/// What the kernel says.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: it sets a flag of descriptors; none is closed under its owner's hands, and no memory is touched.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes reads and writes return `EAGAIN` instead of waiting.
///
/// # Errors
/// What the kernel says.
pub fn non_blocking(fd: impl AsFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> OwnedFd {
        let answer = answer_memfd("answer").unwrap();
        File::from(answer.try_clone().unwrap()).write_all(bytes).unwrap();
        answer
    }

    #[test]
    fn an_answer_is_sealed_bounded_and_read_from_its_start() {
        let answer = written(b"12345");
        let kept = File::from(answer.try_clone().unwrap());
        assert_eq!(read_answer(answer, 5).unwrap(), b"12345");
        assert!((&kept).write_all(b"6").is_err() && kept.set_len(1).is_err(), "nobody changes it any more");
        let error = read_answer(written(b"123456"), 5).unwrap_err();
        assert_eq!(error.to_string(), "expected at most 5 bytes, found 6");
    }

    #[test]
    fn an_answer_that_its_writer_sealed_is_refused() {
        let answer = written(b"12345");
        fcntl(&answer, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SEAL)).unwrap();
        assert_eq!(read_answer(answer, 5).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
