//! One netlink socket: transactions and dumps.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recvfrom,
    sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::LockError;
use crate::wire::{Family, Incoming, Kind, Outgoing, WireError, batch, dump_request, incoming};

/// The kernel answers at once; if it has not by then, something is broken.
const ANSWER_WITHIN_SECONDS: i64 = 10;
/// A dump's datagrams are at most 32 KiB (`netlink_dump`, net/netlink/af_netlink.c); acknowledgements repeat our message.
const RECEIVE_BYTES: usize = 1 << 17;
/// Room for the batch of 255 services in one message.
const SOCKET_BUFFER_BYTES: usize = 16 << 20;
/// How often a dump is tried when the tables change under it.
const DUMP_TRIES: usize = 8;

/// The socket and its sequence numbers.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    port: u32,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace. It is closed on exec.
    pub(super) fn open() -> Result<Self, LockError> {
        let io = |action| move |errno| LockError::Io { action, errno };
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .map_err(io("open a netlink socket"))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(io("bind the netlink socket"))?;
        let own: NetlinkAddr = getsockname(fd.as_raw_fd()).map_err(io("read the netlink socket's port"))?;
        // Root of a user namespace may not have more than everybody (net/core/sock.c, `sockopt_ns_capable`), which may do: what is
        // too small for a ruleset says so when it is sent.
        setsockopt(&fd, sockopt::SndBufForce, &SOCKET_BUFFER_BYTES)
            .or_else(|_| setsockopt(&fd, sockopt::SndBuf, &SOCKET_BUFFER_BYTES))
            .map_err(io("set the send buffer"))?;
        setsockopt(&fd, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES)
            .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &SOCKET_BUFFER_BYTES))
            .map_err(io("set the receive buffer"))?;
        let timeout = TimeVal::seconds(ANSWER_WITHIN_SECONDS);
        setsockopt(&fd, sockopt::ReceiveTimeout, &timeout).map_err(io("set the receive timeout"))?;
        Ok(Self { fd, port: own.pid(), sequence: 0, buffer: vec![0; RECEIVE_BYTES] })
    }

    /// Our netlink port, by which the kernel knows the owner of a table.
    pub(super) const fn port(&self) -> u32 {
        self.port
    }

    /// Carries out all changes, or none.
    pub(super) fn transact(&mut self, changes: &[Outgoing]) -> Result<(), LockError> {
        let first = self.sequence.wrapping_add(1);
        let bytes = batch(first, changes)?;
        let span = u32::try_from(changes.len()).map_err(|_| WireError::TooLong("transaction"))?;
        let last = first.wrapping_add(span);
        self.sequence = last.wrapping_add(1);
        self.send(&bytes)?;
        loop {
            for message in self.receive()? {
                match message {
                    Incoming::Ack { sequence } if sequence == last => return Ok(()),
                    // What an earlier, failed transaction left in the queue has lower numbers.
                    Incoming::Refused { sequence, errno } if sequence.wrapping_sub(first) <= span => {
                        let index = sequence.wrapping_sub(first).checked_sub(1);
                        let change = index.and_then(|i| changes.get(usize::try_from(i).ok()?));
                        let what = change.map_or_else(|| "the transaction".to_owned(), Outgoing::describe);
                        return Err(LockError::Refused { what, errno: Errno::from_raw(errno) });
                    }
                    _ => {}
                }
            }
        }
    }

    /// The bodies of all objects of a kind; other tables' may be among them.
    pub(super) fn dump(
        &mut self,
        kind: Kind,
        family: Family,
        table: &str,
        set: Option<&str>,
    ) -> Result<Vec<Vec<u8>>, LockError> {
        for _ in 0..DUMP_TRIES {
            self.sequence = self.sequence.wrapping_add(1);
            let request = dump_request(self.sequence, kind, family, table, set)?;
            self.send(&request)?;
            if let Some(bodies) = self.dumped(table)? {
                return Ok(bodies);
            }
        }
        Err(LockError::Changing { tries: DUMP_TRIES })
    }

    /// `None`: the tables changed meanwhile.
    fn dumped(&mut self, table: &str) -> Result<Option<Vec<Vec<u8>>>, LockError> {
        let mut bodies = Vec::new();
        let mut consistent = true;
        loop {
            let current = self.sequence;
            for message in self.receive()? {
                match message {
                    Incoming::Item { sequence, interrupted, body } if sequence == current => {
                        consistent &= !interrupted;
                        bodies.push(body);
                    }
                    Incoming::Done { sequence, interrupted } if sequence == current => {
                        return Ok((consistent && !interrupted).then_some(bodies));
                    }
                    Incoming::Refused { sequence, errno } if sequence == current => {
                        let what = format!("reading table {table} back");
                        return Err(LockError::Refused { what, errno: Errno::from_raw(errno) });
                    }
                    // Left over from a transaction that ended in an error.
                    _ => {}
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), LockError> {
        let kernel = NetlinkAddr::new(0, 0);
        let io = |errno| LockError::Io { action: "send to the kernel", errno };
        loop {
            match sendto(self.fd.as_raw_fd(), bytes, &kernel, MsgFlags::empty()) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(io(Errno::EMSGSIZE)),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(io(errno)),
            }
        }
    }

    /// One datagram from the kernel, taken apart.
    fn receive(&mut self) -> Result<Vec<Incoming>, LockError> {
        let io = |errno| LockError::Io { action: "receive the kernel's answer", errno };
        loop {
            match recvfrom::<NetlinkAddr>(self.fd.as_raw_fd(), &mut self.buffer) {
                // Any process may send to a netlink socket's port; only port 0 is the kernel.
                Ok((_, from)) if from.is_none_or(|address| address.pid() != 0) => {}
                // A full buffer may hold a part only.
                Ok((length, _)) if length >= self.buffer.len() => return Err(io(Errno::EMSGSIZE)),
                Ok((length, _)) => {
                    let bytes = self.buffer.get(..length).unwrap_or_default();
                    return Ok(incoming(bytes)?);
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(io(errno)),
            }
        }
    }
}
