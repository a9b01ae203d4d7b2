//! The thin loop around the state machine: a clock, a socket, a channel.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::time::{ClockId, clock_gettime};

use super::client::{Client, Output};
use super::reply::{MAX_LEN, Refusal};
use super::{Report, SERVER_PORT};
use crate::handover::HEARTBEAT;
use crate::net::NetError;
use crate::supervise::HEARTBEAT_EVERY;

/// Runs the client for ever on the socket that PID 1 opened, and reports on the channel. Needs no capability, no file and
/// no other system call than poll, recv, sendto, send, clock_gettime and what logging takes.
///
/// `report` is a socket of type SOCK_SEQPACKET: each message is one [`Report`], or a heartbeat, which this loop sends every
/// [`HEARTBEAT_EVERY`]. `mac` is the link's hardware address, `seed`
/// 32 random bytes.
///
/// # Errors
/// When it cannot go on: the channel or the socket is broken. The caller exits and PID 1 starts another.
pub fn child(socket: OwnedFd, report: OwnedFd, mac: [u8; 6], seed: [u8; 32]) -> Result<Infallible, NetError> {
    let socket = UdpSocket::from(socket);
    socket.set_nonblocking(true).map_err(NetError::system("make non-blocking", SOCKET))?;
    let mut client = Client::new(mac, seed, since_boot()?);
    let mut ignored = Ignored::default();
    let mut next_beat = Duration::ZERO;
    loop {
        let now = since_boot()?;
        if now >= next_beat {
            beat(&report)?;
            next_beat = now + HEARTBEAT_EVERY;
        }
        act(&client.tick(now), &socket, &report, &mut ignored)?;
        // One message a turn, then time again: a flood cannot keep a renewal from being sent.
        match receive(&socket, client.deadline().min(next_beat).saturating_sub(since_boot()?))? {
            None => {}
            Some((message, len)) => {
                match client.receive(since_boot()?, message.get(..len).unwrap_or(&message)) {
                    Ok(output) => act(&output, &socket, &report, &mut ignored)?,
                    Err(refusal) => ignored.note(refusal),
                }
            }
        }
    }
}

/// One that finds no room is dropped: PID 1 has earlier ones to read.
fn beat(report: &OwnedFd) -> Result<(), NetError> {
    match send(report.as_raw_fd(), HEARTBEAT, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT) {
        Ok(_) | Err(nix::Error::EAGAIN) => Ok(()),
        Err(errno) => Err(NetError::system("write", "DHCP report channel")(errno)),
    }
}

/// Waits for a message, at most until the deadline.
fn receive(socket: &UdpSocket, wait: Duration) -> Result<Option<([u8; MAX_LEN + 1], usize)>, NetError> {
    // Rounded up: a wait of 0 ms for the last half millisecond would spin.
    let wait = PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(socket.as_fd(), PollFlags::POLLIN)], wait) {
        Ok(0) | Err(nix::Error::EINTR) => return Ok(None),
        Ok(_) => {}
        Err(errno) => return Err(NetError::system("wait for", SOCKET)(errno)),
    }
    // One byte more than is accepted, so that a longer message is seen as such.
    let mut message = [0; MAX_LEN + 1];
    match socket.recv(&mut message) {
        Ok(len) => Ok(Some((message, len))),
        Err(error) if passes(&error) => Ok(None),
        Err(error) => Err(NetError::system("receive on", SOCKET)(error)),
    }
}

fn act(output: &Output, socket: &UdpSocket, report: &OwnedFd, ignored: &mut Ignored) -> Result<(), NetError> {
    if let Some(report_now) = output.report {
        match report_now {
            Report::Lease(lease) => tracing::info!(
                address = %lease.address(), prefix = lease.prefix(), gateway = %lease.gateway(),
                seconds = lease.seconds(), "DHCP lease"
            ),
            Report::Lost => tracing::warn!("DHCP lease lost"),
        }
        send(report.as_raw_fd(), &report_now.encode(), MsgFlags::MSG_NOSIGNAL)
            .map_err(NetError::system("write", "DHCP report channel"))?;
    }
    let Some(message) = output.send else { return Ok(()) };
    ignored.tell();
    match socket.send_to(&message, SocketAddrV4::new(Ipv4Addr::BROADCAST, SERVER_PORT)) {
        Ok(_) => Ok(()),
        // As good as lost on the wire: it is sent again.
        Err(error) if passes(&error) => {
            tracing::warn!(%error, "a DHCP message could not be sent");
            Ok(())
        }
        Err(error) => Err(NetError::system("send on", SOCKET)(error)),
    }
}

/// What time or the next try mends: nothing to read, a link that is down, a full queue, a message that the lock dropped.
fn passes(error: &io::Error) -> bool {
    use ErrorKind::{
        HostUnreachable, Interrupted, NetworkDown, NetworkUnreachable, PermissionDenied, WouldBlock,
    };
    matches!(
        error.kind(),
        WouldBlock | Interrupted | NetworkDown | NetworkUnreachable | HostUnreachable | PermissionDenied
    ) || error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Messages that were ignored, told once per message of ours: whoever floods us does not write our log.
#[derive(Default)]
struct Ignored {
    count: u64,
    last: Option<Refusal>,
}

impl Ignored {
    fn note(&mut self, refusal: Refusal) {
        self.count = self.count.saturating_add(1);
        self.last = Some(refusal);
    }

    fn tell(&mut self) {
        if let Some(last) = self.last.take() {
            tracing::warn!(count = self.count, %last, "DHCP messages were ignored");
            self.count = 0;
        }
    }
}

/// Time since boot with suspension in it: leases run out while a machine sleeps.
fn since_boot() -> Result<Duration, NetError> {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(Duration::from)
        .map_err(NetError::system("read", "CLOCK_BOOTTIME"))
}

const SOCKET: &str = "DHCP socket";
