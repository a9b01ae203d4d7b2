//! What the parent opens for the node: the TUN, and sockets.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use casemate_vpn::status::Request;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, connect, setsockopt, socket, sockopt,
};

use crate::sys;

/// Where a node answers questions unless told otherwise.
pub(super) const DEFAULT_SOCKET: &str = "/run/casemate/vpn.sock";
/// Bytes of each buffer of the sockets that peers send to, as tailscale's (`wgengine/magicsock/magicsock.go`, `socketBufferSize`).
const PEERS_BUFFER: usize = 7 << 20;

/// The one place that makes the TUN.
pub(super) fn open_tun(interface: &str, queues: usize) -> anyhow::Result<Vec<OwnedFd>> {
    sys::open_tun(interface, queues).map_err(|error| match error.raw_os_error() {
        Some(libc::EBUSY) => anyhow::anyhow!("interface: {interface} exists already"),
        Some(libc::ENOENT | libc::ENODEV) => {
            anyhow::anyhow!("/dev/net/tun: {error}: a container needs --device /dev/net/tun")
        }
        Some(libc::EPERM) => {
            anyhow::anyhow!("interface: {interface}: {error}: a container needs --cap-add NET_ADMIN")
        }
        _ => anyhow::Error::new(error).context(format!("interface: {interface}")),
    })
}

/// Where peers send to, with buffers for a fast link, which only the privileged may have (`SO_RCVBUFFORCE`, socket(7)). IPv6 may be
/// missing.
pub(super) fn bind_peers(port: u16) -> io::Result<Vec<UdpSocket>> {
    let open = |address: SocketAddr| -> io::Result<UdpSocket> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
        }
        // Root of a user namespace is not privileged for it, and has what the system lets everybody have.
        if setsockopt(&socket, sockopt::RcvBufForce, &PEERS_BUFFER).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &PEERS_BUFFER)?;
        }
        if setsockopt(&socket, sockopt::SndBufForce, &PEERS_BUFFER).is_err() {
            setsockopt(&socket, sockopt::SndBuf, &PEERS_BUFFER)?;
        }
        bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address))?;
        Ok(UdpSocket::from(socket))
    };
    let v4 = open(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
    let v6 = open(SocketAddr::from((Ipv6Addr::UNSPECIFIED, v4.local_addr()?.port())));
    Ok(std::iter::once(v4).chain(v6).collect())
}

/// UDP and TCP, both non-blocking. An IPv6 address just set may not be usable yet, so that is not asked.
pub(super) fn bind_names(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let open = |kind| -> io::Result<OwnedFd> {
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        setsockopt(&socket, sockopt::ReuseAddr, &(kind == SockType::Stream))?;
        // include/uapi/linux/in.h: of IPv6 sockets, too.
        setsockopt(&socket, sockopt::IpFreebind, &true)?;
        bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address))?;
        Ok(socket)
    };
    let tcp = open(SockType::Stream)?;
    nix::sys::socket::listen(&tcp, nix::sys::socket::Backlog::new(128)?)?;
    Ok((UdpSocket::from(open(SockType::Datagram)?), TcpListener::from(tcp)))
}

/// The socket and its file.
pub(super) struct StatusSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// They go after what lies in them.
    _directories: Directories,
}

/// Directories that there were none of, the innermost first.
struct Directories(Vec<PathBuf>);

impl Directories {
    /// Makes what is missing above this path.
    fn make(path: &Path) -> io::Result<Self> {
        let mut made = Self(Vec::new());
        let missing: Vec<&Path> = path.ancestors().skip(1).take_while(|above| !above.exists()).collect();
        for directory in missing.into_iter().rev() {
            fs::create_dir(directory)?;
            made.0.insert(0, directory.to_owned());
        }
        Ok(made)
    }
}

impl Drop for Directories {
    fn drop(&mut self) {
        // Where somebody else put something, it stays.
        for directory in &self.0 {
            drop(fs::remove_dir(directory));
        }
    }
}

impl StatusSocket {
    pub(super) fn bind(path: &Path) -> io::Result<Self> {
        let directories = Directories::make(path)?;
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() && is_left_over(path) => fs::remove_file(path)?,
            Ok(_) => return Err(io::Error::other("exists already")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(path)?;
        let socket = Self { listener, path: path.to_owned(), _directories: directories };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        socket.listener.set_nonblocking(true)?;
        Ok(socket)
    }
}

/// Whether nobody listens there any more: a parent that was killed leaves this. Any other error is somebody's who lives, with a socket
/// of another kind, say, or more to do than there is room for.
fn is_left_over(path: &Path) -> bool {
    connect_now(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Without waiting for room in a queue.
fn connect_now(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &UnixAddr::new(path)?)?;
    Ok(socket)
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

/// Says something to the node where it answers questions, and does not wait for it: it may hang.
pub(super) fn ask_and_leave(path: &Path, request: &Request) -> io::Result<()> {
    let socket = connect_now(path)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    File::from(socket).write_all(&line)
}
