//! The DHCP client, RFC 2131: a pure state machine, and the thin loop that runs it in a child without privileges.
//!
//! PID 1 opens the socket and marks it, because the child could not, and because the egress lock matches the mark. The
//! child answers with fixed-size reports ([`Report`]), which PID 1 checks again ([`Report::decode`]) before it believes them.

mod child;
mod client;
mod lease;
mod reply;
mod request;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::sys::socket::{
    self, AddressFamily, SockFlag, SockType, SockaddrIn, getsockopt, setsockopt, sockopt,
};

use super::NetError;

pub use child::child;
pub use client::{Client, Output};
pub use lease::{Lease, LeaseRefused, Report, ReportRefused};
pub use reply::Refusal;

/// The client's port, RFC 2131 section 4.1.
pub const CLIENT_PORT: u16 = 68;
/// The server's port, RFC 2131 section 4.1.
pub const SERVER_PORT: u16 = 67;

/// Opens the client's socket, as PID 1: UDP on 0.0.0.0:68, on this link only, allowed to broadcast, with `mark` as its
/// SO_MARK, close-on-exec, non-blocking. Mark and link are read back; neither can be changed by whoever the socket is
/// handed to.
///
/// A plain UDP socket and not a packet socket: packet sockets pass below the `inet` chains of the egress lock.
///
/// # Errors
/// What the kernel says; a mark or link that reads back differently.
pub fn open_socket(link: &str, mark: u32) -> Result<OwnedFd, NetError> {
    let system = |action| NetError::system::<nix::Error>(action, link);
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(AddressFamily::Inet, SockType::Datagram, flags, None)
        .map_err(system("open the DHCP socket"))?;
    setsockopt(&fd, sockopt::BindToDevice, &link.into())
        .map_err(system("bind the DHCP socket to the link"))?;
    setsockopt(&fd, sockopt::Mark, &mark).map_err(system("mark the DHCP socket"))?;
    setsockopt(&fd, sockopt::Broadcast, &true).map_err(system("let the DHCP socket broadcast"))?;
    setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER).map_err(system("bound the DHCP socket's queue"))?;
    let address = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT));
    socket::bind(fd.as_raw_fd(), &address).map_err(system("bind the DHCP socket to port 68"))?;

    let marked = getsockopt(&fd, sockopt::Mark).map_err(system("read the DHCP socket's mark"))?;
    let bound = getsockopt(&fd, sockopt::BindToDevice).map_err(system("read the DHCP socket's link"))?;
    if marked != mark || bound.as_os_str() != link {
        return Err(NetError::ReadBack {
            link: link.to_owned(),
            expected: format!("a DHCP socket with mark {mark:#x} on this link"),
            found: format!("mark {marked:#x} on {}", bound.display()),
        });
    }
    Ok(fd)
}

/// Bytes of queue on the DHCP socket: some dozens of messages, so that a flood costs no memory.
const RECEIVE_BUFFER: usize = 32 * 1024;
