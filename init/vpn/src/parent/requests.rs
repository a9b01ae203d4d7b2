//! The process's end of the way to its parent.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use thiserror::Error;

use super::message::{Answer, KEPT, LONGEST, Report, SetNetwork, SetServer};
use super::network::Refusal;

/// The parent asks the kernel, which answers at once; it may be busy with another process for a while.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why a request was not done.
#[derive(Debug, Error)]
pub enum RequestError {
    /// The parent refused it.
    #[error("the parent refused the addresses: {0}")]
    Refused(#[from] Refusal),
    /// More addresses than a node may have.
    #[error("more addresses than a node may have")]
    TooMany,
    /// The parent is gone, or says nothing.
    #[error("the parent's socket: {0}")]
    Socket(#[from] io::Error),
}

/// The way to the parent. What asks it something waits: not for an event loop's thread. What only tells it something does not.
#[derive(Debug)]
pub struct Requests {
    /// `SOCK_SEQPACKET`, which std knows no type for; sending and receiving are the same.
    socket: UnixDatagram,
    /// One question at a time; the next one's number.
    sequence: Mutex<u32>,
}

impl Requests {
    /// On the report socket; whether it blocks does not matter.
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket: UnixDatagram::from(socket), sequence: Mutex::new(1) }
    }

    /// Gives the TUN these addresses and no others, with routes to the network's prefixes.
    ///
    /// # Errors
    /// If the parent refuses, or does not answer within 15 s.
    pub fn set_network(&self, addresses: &[IpNet]) -> Result<(), RequestError> {
        self.ask(|sequence| SetNetwork { sequence, addresses: addresses.to_vec() }.encode())
    }

    /// Says where the coordination server's name leads: only then may we connect there.
    ///
    /// # Errors
    /// If the parent refuses, or does not answer within 15 s.
    pub fn set_server(&self, addresses: &[Ipv4Addr]) -> Result<(), RequestError> {
        self.ask(|sequence| SetServer { sequence, addresses: addresses.to_vec() }.encode())
    }

    fn ask<const LEN: usize>(
        &self,
        request: impl FnOnce(u32) -> Option<[u8; LEN]>,
    ) -> Result<(), RequestError> {
        let mut next = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = *next;
        *next = next.wrapping_add(1);
        let deadline = Instant::now().checked_add(PATIENCE);
        self.send(&request(sequence).ok_or(RequestError::TooMany)?, deadline)?;
        loop {
            let mut bytes = [0; LONGEST];
            let length = self.receive(&mut bytes, deadline)?;
            // An answer to a question that was given up is not this one's.
            if let Some(Ok(answer)) = bytes.get(..length).map(Answer::decode)
                && answer.sequence == sequence
            {
                return answer.outcome.map_err(RequestError::from);
            }
        }
    }

    /// Says how the network stands.
    ///
    /// # Errors
    /// If the parent is gone; `WouldBlock` if its socket has no room: then it is not said.
    pub fn report(&self, report: &Report) -> io::Result<()> {
        let bytes = report.encode().ok_or_else(|| io::Error::other("a report without a size"))?;
        self.tell(&bytes)
    }

    /// Says that the slots were written.
    ///
    /// # Errors
    /// If the parent is gone; `WouldBlock` if its socket has no room: then it is not said.
    pub fn kept(&self) -> io::Result<()> {
        self.tell(KEPT)
    }

    /// Says something, if there is room for it.
    fn tell(&self, bytes: &[u8]) -> io::Result<()> {
        loop {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            match send(self.socket.as_raw_fd(), bytes, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn send(&self, bytes: &[u8], deadline: Option<Instant>) -> io::Result<()> {
        loop {
            match self.socket.send(bytes) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLOUT, deadline)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn receive(&self, bytes: &mut [u8], deadline: Option<Instant>) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::POLLIN, deadline)?;
            match self.socket.recv(bytes) {
                // No message of ours is empty: the other end is closed.
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => return Ok(length),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn wait(&self, events: PollFlags, deadline: Option<Instant>) -> io::Result<()> {
        loop {
            let left = deadline.map_or(PATIENCE, |end| end.saturating_duration_since(Instant::now()));
            let milliseconds = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(self.socket.as_fd(), events)], timeout) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use std::thread;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::super::message::Message;
    use super::*;

    fn pair() -> (Requests, UnixDatagram) {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_NONBLOCK).unwrap();
        let parent = UnixDatagram::from(theirs);
        parent.set_nonblocking(false).unwrap();
        (Requests::new(ours), parent)
    }

    fn next(parent: &UnixDatagram) -> Message {
        let mut bytes = [0; LONGEST];
        let length = parent.recv(&mut bytes).unwrap();
        Message::decode(&bytes[..length]).unwrap()
    }

    #[test]
    fn the_answer_to_this_question_counts_and_no_other() {
        let (requests, parent) = pair();
        let address: IpNet = "100.64.0.1/32".parse().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for outcome in [Ok(()), Err(Refusal::Outside)] {
                    let Message::SetNetwork(asked) = next(&parent) else { panic!("another message") };
                    assert_eq!(asked.addresses, [address]);
                    let stale =
                        Answer { sequence: asked.sequence.wrapping_sub(1), outcome: Err(Refusal::Kernel) };
                    parent.send(&stale.encode()).unwrap();
                    parent.send(b"nonsense").unwrap();
                    parent.send(&Answer { sequence: asked.sequence, outcome }.encode()).unwrap();
                }
            });
            requests.set_network(&[address]).unwrap();
            let refused = requests.set_network(&[address]).unwrap_err();
            assert!(matches!(refused, RequestError::Refused(Refusal::Outside)), "{refused}");
        });
        let server = Ipv4Addr::new(192, 0, 2, 7);
        thread::scope(|scope| {
            scope.spawn(|| {
                let Message::SetServer(asked) = next(&parent) else { panic!("another message") };
                assert_eq!(asked.addresses, [server]);
                let answer = Answer { sequence: asked.sequence, outcome: Err(Refusal::Nowhere) };
                parent.send(&answer.encode()).unwrap();
            });
            let refused = requests.set_server(&[server]).unwrap_err();
            assert!(matches!(refused, RequestError::Refused(Refusal::Nowhere)), "{refused}");
        });
        assert!(matches!(requests.set_server(&[server; 9]), Err(RequestError::TooMany)));
        requests.kept().unwrap();
        assert_eq!(next(&parent), Message::Kept);
        requests.report(&Report::default()).unwrap();
        assert_eq!(next(&parent), Message::Report(Report::default()));
    }

    #[test]
    fn a_parent_that_does_not_read_holds_nobody_up() {
        let (ours, _parent) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::empty()).unwrap();
        let requests = Requests::new(ours);
        let full = (0..1_000_000).find_map(|_| requests.report(&Report::default()).err());
        assert_eq!(full.unwrap().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(requests.kept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_parent_that_is_gone_is_an_error_at_once() {
        let (requests, parent) = pair();
        drop(parent);
        assert!(matches!(requests.set_network(&[]), Err(RequestError::Socket(_))));
        assert!(requests.kept().is_err());
    }
}
