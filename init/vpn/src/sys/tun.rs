//! The TUN device (Linux `Documentation/networking/tuntap.rst`, `include/uapi/linux/if_tun.h`).

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

const PATH: &std::ffi::CStr = c"/dev/net/tun";
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;
const VNET_HEADER: libc::c_int = 10;
const FLAGS: libc::c_int = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;

/// What the TUN hands over and takes as super-packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// TCP.
    pub tcp: bool,
    /// UDP; since Linux 6.2.
    pub udp: bool,
}

/// One queue of a TUN.
#[derive(Debug)]
pub struct Tun {
    fd: OwnedFd,
}

/// Makes the device, with so many queues, and finds what the kernel can do of what is wanted. This is the parent's part: it
/// takes CAP_NET_ADMIN.
///
/// # Errors
/// A name that is too long, or what the system says.
pub fn open(name: &str, queues: usize, wanted: Features) -> io::Result<(Vec<OwnedFd>, Features)> {
    let mut fds = Vec::new();
    for _ in 0..queues.max(1) {
        fds.push(open_queue(name)?);
    }
    let features = match fds.first() {
        Some(fd) => probe(fd.as_fd(), wanted)?,
        None => Features { tcp: false, udp: false },
    };
    Ok((fds, features))
}

fn open_queue(name: &str) -> io::Result<OwnedFd> {
    // SAFETY: the path is a C string; the descriptor is new and nobody else's.
    let fd = unsafe {
        let fd = libc::open(PATH.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: ifreq is plain data, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the interface's name is too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(FLAGS).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let (raw, at) = (fd.as_raw_fd(), std::ptr::addr_of_mut!(request));
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives through the call.
    check(unsafe { libc::ioctl(raw, libc::TUNSETIFF, at) })?;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives through the call.
    check(unsafe { libc::ioctl(raw, libc::TUNSETVNETHDRSZ, std::ptr::from_ref(&VNET_HEADER)) })?;
    Ok(fd)
}

/// Turns on what is wanted and the kernel can do. It is the whole device's setting, and takes no capability.
///
/// # Errors
/// If the kernel does not even take checksums.
pub fn probe(fd: BorrowedFd<'_>, wanted: Features) -> io::Result<Features> {
    let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    let steps = [
        (Features { tcp: true, udp: true }, tcp | TUN_F_USO4 | TUN_F_USO6),
        (Features { tcp: true, udp: false }, tcp),
        (Features { tcp: false, udp: false }, TUN_F_CSUM),
    ];
    let mut last = io::Error::from(io::ErrorKind::Unsupported);
    for (features, flags) in steps {
        if features.tcp && !wanted.tcp || features.udp && !wanted.udp {
            continue;
        }
        // SAFETY: TUNSETOFFLOAD takes its argument by value.
        match check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, flags) }) {
            Ok(()) => return Ok(features),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Tun {
    /// Takes a queue that was handed over, and makes sure that it is one as [`open`] makes it.
    ///
    /// # Errors
    /// If it is not.
    pub fn adopt(fd: OwnedFd) -> io::Result<Self> {
        let raw: RawFd = fd.as_raw_fd();
        // SAFETY: ifreq is plain data, for which zero is a value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: TUNGETIFF writes one ifreq, which lives through the call.
        check(unsafe { libc::ioctl(raw, libc::TUNGETIFF, std::ptr::addr_of_mut!(request)) })?;
        // SAFETY: TUNGETIFF filled the flags.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        let needed = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let mut size: libc::c_int = 0;
        // SAFETY: TUNGETVNETHDRSZ writes one int, which lives through the call.
        check(unsafe { libc::ioctl(raw, libc::TUNGETVNETHDRSZ, std::ptr::addr_of_mut!(size)) })?;
        if flags & needed != needed || size != VNET_HEADER {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a TUN with a vnet header"));
        }
        let status = OFlag::from_bits_truncate(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(status | OFlag::O_NONBLOCK))?;
        Ok(Self { fd })
    }

    /// Takes anything that keeps messages apart, for tests without a device.
    #[cfg(test)]
    pub(crate) const fn pretend(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Another handle of the same queue.
    ///
    /// # Errors
    /// What the system says.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Reads one packet or super-packet with its vnet header, without waiting.
    ///
    /// # Errors
    /// What the system says; `WouldBlock` if there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(&self.fd, buffer)?)
    }

    /// Writes one packet or super-packet, its vnet header first.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        nix::sys::uio::writev(&self.fd, parts)?;
        Ok(())
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
