//! Making a TUN interface.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

/// Where TUN interfaces are made (drivers/net/tun.c).
const DEVICE: &str = "/dev/net/tun";
/// `IFF_TUN_EXCL`, include/uapi/linux/if_tun.h: an interface of that name that exists is an error. Also of one queue's own.
const EXCLUSIVE: libc::c_int = 0x8000;

/// Makes an interface of whole IP packets behind virtio-net headers, with several queues; it goes with the last descriptor of
/// them. Offloads are left off: whoever uses the queues turns on what it can take (`TUNSETOFFLOAD` needs no privilege).
///
/// # Errors
/// `EBUSY` if there is an interface of that name, and what the kernel says.
pub fn open_tun(name: &str, queues: usize) -> io::Result<Vec<OwnedFd>> {
    let kind = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    (0..queues).map(|queue| open_queue(name, kind | if queue == 0 { EXCLUSIVE } else { 0 })).collect()
}

fn open_queue(name: &str, flags: libc::c_int) -> io::Result<OwnedFd> {
    let flags = libc::c_short::from_ne_bytes(u16::try_from(flags).map_err(io::Error::other)?.to_ne_bytes());
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE)?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_flags = flags;
    // SAFETY: TUNSETIFF reads and writes one ifreq (drivers/net/tun.c, `__tun_chr_ioctl`), which outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}
