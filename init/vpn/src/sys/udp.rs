//! UDP sockets that send and receive many datagrams in one call (Linux `include/uapi/linux/udp.h`).

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, getsockopt,
    sendmsg, setsockopt, socket, sockopt,
};

/// As Go's magicsock: the queue of a fast link at a scheduler's worst.
const BUFFER: usize = 7 << 20;
/// How many messages one call receives; each may hold many datagrams.
pub const MAX_BATCH: usize = 8;
/// The longest message: what UDP_GRO puts together is no longer than an IP packet.
const MESSAGE: usize = 65_536;
/// `struct cmsghdr` and an int, aligned: what UDP_GRO gives.
const CONTROL: usize = 64;
/// UDP_MAX_SEGMENTS was 64 until Linux 6.9.
const MAX_SEGMENTS: usize = 64;
/// The longest that can be sent at once, IPv6 headers off.
const MAX_SEND: usize = 65_535 - 48;

/// After so many milliseconds segments are tried again.
const AGAIN: u64 = 60_000;

/// What to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// UDP_SEGMENT.
    pub segment: bool,
    /// UDP_GRO.
    pub gro: bool,
    /// Set the don't-fragment bit. Off: a path with an MTU under 1340 fragments, as with Go.
    pub dont_fragment: bool,
}

/// One socket, shared: sends from many threads, receives in one.
#[derive(Debug)]
pub struct Udp {
    fd: OwnedFd,
    v6: bool,
    /// Whether segments are wanted.
    segment: bool,
    opened: Instant,
    /// Until when none are sent, in milliseconds after that.
    without: AtomicU64,
    /// Whether segments were ever taken.
    worked: AtomicBool,
}

impl Udp {
    /// Binds a socket of a family to a port (0: any).
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(v6: bool, port: u16, options: UdpOptions) -> io::Result<Self> {
        let family = if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        let fd = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        if v6 {
            setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
            let address = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0));
            bind(fd.as_raw_fd(), &address)?;
        } else {
            let address = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
            bind(fd.as_raw_fd(), &address)?;
        }
        Self::adopt(fd, options)
    }

    /// Takes a bound socket and sets it up.
    ///
    /// # Errors
    /// If it is not one of UDP, or what the system says.
    pub fn adopt(fd: OwnedFd, options: UdpOptions) -> io::Result<Self> {
        let v6 = local_address(&fd)?.is_ipv6();
        // Sends wait for the rare full buffer; receives do not wait by their own flag.
        let status = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(status & !OFlag::O_NONBLOCK))?;
        // Without CAP_NET_ADMIN the system's limit holds, unless the parent has set them before.
        if setsockopt(&fd, sockopt::RcvBufForce, &BUFFER).is_err()
            && getsockopt(&fd, sockopt::RcvBuf)? < BUFFER
        {
            setsockopt(&fd, sockopt::RcvBuf, &BUFFER)?;
        }
        if setsockopt(&fd, sockopt::SndBufForce, &BUFFER).is_err()
            && getsockopt(&fd, sockopt::SndBuf)? < BUFFER
        {
            setsockopt(&fd, sockopt::SndBuf, &BUFFER)?;
        }
        let gro = libc::c_int::from(options.gro);
        // An old kernel has no UDP_GRO: then messages are datagrams.
        drop(set_int(&fd, libc::SOL_UDP, libc::UDP_GRO, gro));
        let (level, option) = if v6 {
            (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
        } else {
            (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
        };
        // The numbers are the same for both families.
        let discover = if options.dont_fragment { libc::IP_PMTUDISC_PROBE } else { libc::IP_PMTUDISC_DONT };
        set_int(&fd, level, option, discover)?;
        Ok(Self {
            fd,
            v6,
            segment: options.segment,
            opened: Instant::now(),
            without: AtomicU64::new(0),
            worked: AtomicBool::new(false),
        })
    }

    /// Whether it is of IPv6.
    pub const fn is_ipv6(&self) -> bool {
        self.v6
    }

    /// Where it is bound.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        local_address(&self.fd)
    }

    /// Whether it sends segments in one call now.
    pub fn segments(&self) -> bool {
        let without = self.without.load(Ordering::Relaxed);
        self.segment && (without == 0 || self.milliseconds() >= without)
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// How many packets of a size fit in one send.
    pub fn max_segments(size: usize) -> usize {
        (MAX_SEND / size.max(1)).clamp(1, MAX_SEGMENTS)
    }

    /// Sends bytes as datagrams of a size each, the last perhaps shorter. Returns how many the kernel did not take.
    pub fn send(&self, to: SocketAddr, bytes: &[u8], size: usize) -> usize {
        if size == 0 {
            return 0;
        }
        if bytes.len() <= size || !self.segments() {
            return bytes.chunks(size).filter(|datagram| self.send_one(to, datagram, None).is_err()).count();
        }
        let mut lost = 0;
        for run in bytes.chunks(size * Self::max_segments(size)) {
            let segment = if run.len() > size { u16::try_from(size).ok() } else { None };
            let Err(error) = self.send_one(to, run, segment) else {
                if segment.is_some() && !self.worked.load(Ordering::Relaxed) {
                    self.worked.store(true, Ordering::Relaxed);
                }
                continue;
            };
            // EIO: the device cannot checksum. EINVAL: the kernel knows no segments. A path whose MTU is too small is that
            // path's matter: EMSGSIZE, but EINVAL of older kernels.
            let never = match error {
                Errno::EIO | Errno::EOPNOTSUPP => true,
                Errno::EINVAL => !self.worked.load(Ordering::Relaxed),
                _ => false,
            };
            if never {
                // It may be one peer's device of several.
                self.without.store(self.milliseconds() + AGAIN, Ordering::Relaxed);
            }
            lost += if never || matches!(error, Errno::EINVAL | Errno::EMSGSIZE) {
                run.chunks(size).filter(|datagram| self.send_one(to, datagram, None).is_err()).count()
            } else {
                run.len().div_ceil(size)
            };
        }
        lost
    }

    fn send_one(&self, to: SocketAddr, bytes: &[u8], segment: Option<u16>) -> Result<(), Errno> {
        let parts = [IoSlice::new(bytes)];
        let control = segment.as_ref().map(|size| [ControlMessage::UdpGsoSegments(size)]);
        let control = control.as_ref().map_or(&[][..], |one| one.as_slice());
        let flags = MsgFlags::empty();
        let fd = self.fd.as_raw_fd();
        loop {
            let sent = match (to, self.v6) {
                (SocketAddr::V4(to), false) => {
                    sendmsg(fd, &parts, control, flags, Some(&SockaddrIn::from(to)))
                }
                (SocketAddr::V6(to), true) => {
                    sendmsg(fd, &parts, control, flags, Some(&SockaddrIn6::from(to)))
                }
                _ => return Err(Errno::EAFNOSUPPORT),
            };
            match sent {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Receives up to [`MAX_BATCH`] messages without waiting. Returns how many.
    ///
    /// # Errors
    /// What the system says; `WouldBlock` if there is none.
    pub fn receive(&self, buffers: &mut ReceiveBuffers) -> io::Result<usize> {
        buffers.count = 0;
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MAX_BATCH];
        // SAFETY: mmsghdr is plain data, for which zero (null pointers, zero lengths) is a value.
        let mut headers: [libc::mmsghdr; MAX_BATCH] = unsafe { std::mem::zeroed() };
        let messages = buffers.bytes.as_chunks_mut::<MESSAGE>().0.iter_mut();
        let slots = buffers.names.iter_mut().zip(buffers.controls.iter_mut());
        for (((header, part), message), (name, control)) in
            headers.iter_mut().zip(&mut parts).zip(messages).zip(slots)
        {
            part.iov_base = message.as_mut_ptr().cast();
            part.iov_len = MESSAGE;
            header.msg_hdr.msg_iov = part;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_name = name.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = NAME_LEN;
            header.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL;
        }
        // SAFETY: every header points to one part, name and control buffer of its own with its true length; they and the
        // parts live through the call. The kernel writes initialised bytes into memory that is all initialised before.
        let count = unsafe {
            libc::recvmmsg(
                self.fd.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        for (at, header) in headers.iter().take(count).enumerate() {
            let Some(told) = buffers.told.get_mut(at) else { break };
            let len = usize::try_from(header.msg_len).unwrap_or(0);
            // A message that was cut is of no use.
            let cut = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            *told = Told { len: if cut { 0 } else { len }, size: segment_size(&header.msg_hdr) };
        }
        buffers.count = count;
        Ok(count)
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const NAME_LEN: libc::socklen_t = 28;
const BATCH: libc::c_uint = 8;
const _: () = assert!(NAME_LEN as usize == size_of::<libc::sockaddr_in6>() && BATCH as usize == MAX_BATCH);

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

#[derive(Clone, Copy, Default)]
struct Told {
    len: usize,
    size: Option<usize>,
}

/// Where messages are received. Memory of it is used as far as messages fill it.
pub struct ReceiveBuffers {
    bytes: Vec<u8>,
    names: [MaybeUninit<libc::sockaddr_in6>; MAX_BATCH],
    controls: [Control; MAX_BATCH],
    told: [Told; MAX_BATCH],
    count: usize,
}

impl std::fmt::Debug for ReceiveBuffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} received messages", self.count)
    }
}

impl Default for ReceiveBuffers {
    fn default() -> Self {
        Self {
            // Zeroed memory of this size comes from the system untouched.
            bytes: vec![0; MESSAGE * MAX_BATCH],
            names: [MaybeUninit::zeroed(); MAX_BATCH],
            controls: [Control([0; CONTROL]); MAX_BATCH],
            told: [Told::default(); MAX_BATCH],
            count: 0,
        }
    }
}

/// One received message: datagrams of one size from one address, the last perhaps shorter.
#[derive(Debug)]
pub struct Received<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// All datagrams.
    pub bytes: &'a [u8],
    /// The length of each.
    pub size: usize,
}

impl ReceiveBuffers {
    /// What was received last.
    pub fn messages(&self) -> impl Iterator<Item = Received<'_>> {
        let messages = self.bytes.as_chunks::<MESSAGE>().0.iter();
        let told = self.names.iter().zip(&self.told);
        messages.zip(told).take(self.count).filter_map(|(message, (name, told))| {
            let bytes = message.get(..told.len)?;
            // SAFETY: it began as zeroes and the kernel wrote over it; sockaddr_in6 is plain data.
            let from = address(unsafe { name.assume_init_ref() })?;
            Some(Received { from, bytes, size: told.size.unwrap_or(told.len).clamp(1, MESSAGE) })
        })
    }
}

/// The address in a buffer that holds one of either family.
fn address(name: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match libc::c_int::from(name.sin6_family) {
        libc::AF_INET => {
            // SAFETY: sockaddr_in is shorter than sockaddr_in6 and no more aligned, and plain data.
            let v4 = unsafe { &*std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(name.sin6_port), 0, name.sin6_scope_id)))
        }
        _ => None,
    }
}

/// What UDP_GRO said of a message.
fn segment_size(header: &libc::msghdr) -> Option<usize> {
    // SAFETY: the kernel filled the control buffer that the header points to and set its length; the macros stay within.
    unsafe {
        let mut at = libc::CMSG_FIRSTHDR(header);
        while let Some(control) = at.as_ref() {
            if control.cmsg_level == libc::SOL_UDP && control.cmsg_type == libc::UDP_GRO {
                let size = std::ptr::read_unaligned(libc::CMSG_DATA(control).cast::<libc::c_int>());
                return usize::try_from(size).ok().filter(|&size| size > 0);
            }
            at = libc::CMSG_NXTHDR(header, control);
        }
    }
    None
}

fn local_address(fd: &OwnedFd) -> io::Result<SocketAddr> {
    let mut name = MaybeUninit::<libc::sockaddr_in6>::zeroed();
    let mut len = NAME_LEN;
    // SAFETY: the buffer and its length live through the call; it begins as zeroes, which is a value of plain data.
    let name = unsafe {
        if libc::getsockname(fd.as_raw_fd(), name.as_mut_ptr().cast(), &raw mut len) < 0 {
            return Err(io::Error::last_os_error());
        }
        name.assume_init()
    };
    address(&name).ok_or_else(|| io::Error::from(io::ErrorKind::Unsupported))
}

fn set_int(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
    // SAFETY: the value lives through the call, and its length is given.
    let result =
        unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, std::ptr::addr_of!(value).cast(), len) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
