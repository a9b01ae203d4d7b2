//! Traffic of all kinds, and an ear on the wire. Nothing here leaves the test's own namespaces.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
    setsockopt, socket, sockopt,
};

use super::Netns;

/// How long we wait for what must come, at most: a bound on hanging, not a promise of speed.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// How long we wait for what must not come.
pub(crate) const NOT: Duration = Duration::from_millis(400);

/// Something that answers on a TCP port: one connection gets the caller's address back.
pub(crate) struct Echo {
    thread: Option<std::thread::JoinHandle<usize>>,
    stop: Arc<AtomicBool>,
    address: SocketAddr,
}

/// Binds, also if a program that another test is just starting holds a copy of the last socket until its exec.
pub(crate) fn patiently<T>(bind: impl Fn() -> std::io::Result<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        match bind() {
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(10));
            }
            bound => return bound.unwrap(),
        }
    }
}

/// Listens inside a namespace, as a uid, until a connection was answered or somebody asks whether one was.
pub(crate) fn echo(ns: &Netns, uid: u32, address: SocketAddr) -> Echo {
    let listener = ns.run_as(uid, || patiently(|| TcpListener::bind(address)));
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    let thread = std::thread::spawn(move || {
        // accept(2) makes the new socket the acceptor's.
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(uid));
        loop {
            // Looked at before the queue: what came before the question is counted.
            let last = asked.load(Ordering::SeqCst);
            if let Ok((mut stream, from)) = listener.accept() {
                stream.set_nonblocking(false).unwrap();
                let _gone = stream.write_all(from.to_string().as_bytes());
                return 1;
            }
            if last {
                return 0;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    Echo { thread: Some(thread), stop, address }
}

impl Echo {
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections came until now.
    pub(crate) fn accepted(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// Connects and reads everything; the answer, or why not.
pub(crate) fn ask(to: impl Into<SocketAddr>) -> std::io::Result<String> {
    ask_within(to, SOON)
}

/// The same where no answer may come: it is not waited for as long.
pub(crate) fn ask_in_vain(to: impl Into<SocketAddr>) -> std::io::Result<String> {
    ask_within(to, NOT)
}

fn ask_within(to: impl Into<SocketAddr>, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to.into(), patience)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Sends one datagram; an error of the local stack is as good as silence.
pub(crate) fn udp(from: impl Into<SocketAddr>, to: impl Into<SocketAddr>) {
    let socket = UdpSocket::bind(from.into()).unwrap();
    socket.set_broadcast(true).unwrap();
    let _refused = socket.send_to(b"casemate", to.into());
}

fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |&b| u32::from(b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

/// An ICMP message of a type.
pub(crate) fn icmp(kind: u8) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 7, 0, 1];
    message.extend_from_slice(b"casemate");
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    message
}

/// An IPv4 packet with any source, any destination and any payload.
pub(crate) fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0, length[0], length[1], 0, 1, 0, 0, 64, protocol, 0, 0];
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum);
    packet.extend_from_slice(payload);
    packet
}

/// A UDP datagram without checksum (RFC 768: zero means none).
pub(crate) fn datagram(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut bytes = Vec::new();
    for word in [from, to, length, 0] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes.extend_from_slice(payload);
    bytes
}

/// A TCP segment with these flags (RFC 9293 section 3.1), its checksum right: conntrack looks.
pub(crate) fn segment(source: Ipv4Addr, destination: Ipv4Addr, to: u16, flags: u8) -> Vec<u8> {
    let mut segment = 40000u16.to_be_bytes().to_vec();
    segment.extend_from_slice(&to.to_be_bytes());
    segment.extend_from_slice(&[0, 0, 0, 9, 0, 0, 0, 9, 0x50, flags, 0x10, 0, 0, 0, 0, 0]);
    let pseudo = [&source.octets()[..], &destination.octets(), &[0, 6, 0, 20], &segment].concat();
    let sum = checksum(&pseudo);
    segment[16..18].copy_from_slice(&sum);
    ipv4(source, destination, 6, &segment)
}

/// Sends a whole IPv4 packet through a raw socket.
pub(crate) fn raw(packet: &[u8]) {
    let fd = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).unwrap();
    let to =
        SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]), 0));
    let _refused = sendto(fd.as_raw_fd(), packet, &to, MsgFlags::empty());
}

fn link_address(interface: &str) -> LinkAddr {
    let mut all = getifaddrs().unwrap();
    let found =
        all.find_map(|i| (i.interface_name == interface).then_some(i.address?.as_link_addr().copied()?));
    found.unwrap()
}

/// A packet socket, and what its send said.
pub(crate) fn frame(interface: &str, mark: Option<u32>, bytes: &[u8]) -> nix::Result<usize> {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
    if let Some(mark) = mark {
        setsockopt(&fd, sockopt::Mark, &mark).unwrap();
    }
    sendto(fd.as_raw_fd(), bytes, &link_address(interface), MsgFlags::empty())
}

/// An Ethernet frame from an interface of this namespace.
pub(crate) fn ethernet(interface: &str, to: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend_from_slice(&link_address(interface).addr().unwrap());
    frame.extend_from_slice(&kind.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// An ARP packet (RFC 826) of operation 1 or 2.
pub(crate) fn arp(operation: u8, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
    packet.extend_from_slice(&[2, 0, 0, 0, 0, 1]);
    packet.extend_from_slice(&sender.octets());
    packet.extend_from_slice(&[0; 6]);
    packet.extend_from_slice(&target.octets());
    packet
}

/// Every frame that arrives in a namespace.
pub(crate) struct Ear(OwnedFd);

pub(crate) fn listen(ns: &Netns) -> Ear {
    let open = || {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap()
    };
    Ear(ns.run(open))
}

impl Ear {
    /// The frames since it was opened or last asked, after a moment in which late ones may come.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        std::thread::sleep(Duration::from_millis(100));
        let mut frames = Vec::new();
        let mut buffer = [0; 65536];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => frames.push(buffer[..length].to_vec()),
                Err(Errno::EAGAIN) => return frames,
                Err(errno) => panic!("packet socket: {errno}"),
            }
        }
    }

    /// IPv4 packets among them, by source and destination.
    pub(crate) fn ipv4(&self) -> Vec<(Ipv4Addr, Ipv4Addr)> {
        let at = |f: &[u8], i: usize| Ipv4Addr::new(f[i], f[i + 1], f[i + 2], f[i + 3]);
        let frames = self.frames().into_iter();
        frames.filter(|f| f.len() >= 34 && f[12..14] == [8, 0]).map(|f| (at(&f, 26), at(&f, 30))).collect()
    }

    /// Fails if any IPv4 packet went to this host.
    pub(crate) fn nothing_to(&self, host: Ipv4Addr) {
        let seen = self.ipv4();
        assert!(seen.iter().all(|(_, to)| *to != host), "packets to {host}: {seen:?}");
    }
}

/// Any address, port 0.
pub(crate) fn any() -> SocketAddr {
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).into()
}
