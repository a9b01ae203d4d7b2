//! Waiting for a descriptor, and being woken.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

/// Set once, seen by all who wait for it.
#[derive(Debug)]
pub struct Event(EventFd);

/// What waiting ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// The descriptor has something, or is broken.
    Descriptor,
    /// The event was set.
    Event,
    /// Neither, in the time.
    TimedOut,
}

impl Event {
    /// One that is not set.
    ///
    /// # Errors
    /// What the system says.
    pub fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Sets it, for good.
    pub fn set(&self) {
        // Fails only at 2^64, and then it is set.
        let _ = self.0.write(1);
    }
}

/// Waits until a descriptor can be read, or the event is set, or the time is over.
///
/// # Errors
/// What the system says.
pub fn wait(fd: Option<BorrowedFd<'_>>, event: &Event, time: Option<Duration>) -> io::Result<Ready> {
    wait_for_any(fd.as_slice(), event, time)
}

/// How many descriptors are waited for at once.
const MOST: usize = 2;

/// Waits until one of at most two descriptors can be read, or the event is set, or the time is over.
///
/// # Errors
/// More descriptors, or what the system says.
pub fn wait_for_any(fds: &[BorrowedFd<'_>], event: &Event, time: Option<Duration>) -> io::Result<Ready> {
    if fds.len() > MOST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let event = event.0.as_fd();
    let fd = |at: usize| fds.get(at).copied().unwrap_or(event);
    let mut fds = [event, fd(0), fd(1)].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let time = time.map_or(PollTimeout::NONE, |time| time.try_into().unwrap_or(PollTimeout::MAX));
    loop {
        match poll(&mut fds, time) {
            Ok(0) => return Ok(Ready::TimedOut),
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let [event, ..] = fds;
    if event.any() == Some(true) { Ok(Ready::Event) } else { Ok(Ready::Descriptor) }
}
