//! The network: sockets of other kinds, settings, and other parties' sockets.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};

use libc::{EACCES, ECONNREFUSED, ENOENT, EPERM, EPROTONOSUPPORT};

use crate::case::{Case, NOTHING, case};
use crate::files::{errno, got};
use crate::reach::{NOBODY, OUTBOUND_PORT, connect, send};
use crate::sys::call;
use crate::victim::{VICTIM, VICTIM_PORT, VICTIM_SOCKET};

/// Transport protocols beside TCP and UDP (include/uapi/linux/in.h), each with a state machine of its own in the kernel.
const MPTCP: i32 = 262;
const DCCP: i32 = 33;
const L2TP: i32 = 115;
/// `SOCK_DCCP` (include/linux/net.h).
const SOCK_DCCP: i32 = 6;
/// A list of what is allowed refuses them, or the kernel does not have them.
const NO_PROTOCOL: &[i32] = &[EPERM, EPROTONOSUPPORT];

pub(crate) const CASES: &[Case] = &[
    case("raw-socket", &[EPERM], || socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)),
    case("raw-header-socket", &[EPERM], || socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_RAW)),
    case("raw-socket-6", &[EPERM], || socket(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6)),
    case("ping-socket", &[EPERM, EACCES], || socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP)),
    case("mptcp", NO_PROTOCOL, || socket(libc::AF_INET, libc::SOCK_STREAM, MPTCP)),
    case("mptcp-6", NO_PROTOCOL, || socket(libc::AF_INET6, libc::SOCK_STREAM, MPTCP)),
    case("sctp", NO_PROTOCOL, || socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP)),
    case("sctp-many", NO_PROTOCOL, || socket(libc::AF_INET, libc::SOCK_SEQPACKET, libc::IPPROTO_SCTP)),
    case("sctp-6", NO_PROTOCOL, || socket(libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_SCTP)),
    case("udp-lite", NO_PROTOCOL, || socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE)),
    case("dccp", &[EPERM, EPROTONOSUPPORT, libc::ESOCKTNOSUPPORT], || socket(libc::AF_INET, SOCK_DCCP, DCCP)),
    case("l2tp", NO_PROTOCOL, || socket(libc::AF_INET, libc::SOCK_DGRAM, L2TP)),
    case("packet-socket", &[EPERM], || socket(libc::AF_PACKET, libc::SOCK_RAW, 0x0300)),
    case("packet-socket-cooked", &[EPERM], || socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0x0300)),
    case("vsock", &[EPERM], || socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0)),
    case("kernel-crypto", &[EPERM], || socket(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)),
    case("key-socket", &[EPERM], || socket(libc::AF_KEY, libc::SOCK_RAW, 2)),
    case("tipc", &[EPERM], || socket(libc::AF_TIPC, libc::SOCK_RDM, 0)),
    case("can", &[EPERM], || socket(libc::AF_CAN, libc::SOCK_RAW, 1)),
    case("bluetooth", &[EPERM], || socket(libc::AF_BLUETOOTH, libc::SOCK_RAW, 1)),
    case("xdp", &[EPERM], || socket(libc::AF_XDP, libc::SOCK_RAW, 0)),
    case("rds", &[EPERM], || socket(21, libc::SOCK_SEQPACKET, 0)),
    case("smc", &[EPERM], || socket(43, libc::SOCK_STREAM, 0)),
    case("qipcrtr", &[EPERM], || socket(42, libc::SOCK_DGRAM, 0)),
    case("netfilter", &[EPERM], || socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER)),
    case("ipsec", &[EPERM], || socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_XFRM)),
    case("generic-netlink", &[EPERM], || socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_GENERIC)),
    case("audit", &[EPERM], || socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_AUDIT)),
    case("kernel-events", &[EPERM], || {
        socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT)
    }),
    case("socket-diagnosis", &[EPERM], || socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_SOCK_DIAG)),
    // RTM_NEWLINK: loopback down. RTM_NEWROUTE: a default route. RTM_NEWADDR: an address of the machine's.
    case("link-down", &[EPERM], || route_netlink(16, &[0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0])),
    case("new-route", &[EPERM], || route_netlink(24, &[2, 0, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0])),
    case("new-address", &[EPERM], || route_netlink(20, &[2, 24, 0, 0, 1, 0, 0, 0, 8, 0, 2, 0, 10, 0, 2, 15])),
    case("interface-flags", &[EPERM], || {
        let fd = call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)?;
        let mut request = [0_u8; 40];
        request[..2].copy_from_slice(b"lo");
        got(call!(libc::SYS_ioctl, fd, 0x8914, request.as_slice()))
    }),
    // SO_MARK, SO_RCVBUFFORCE; IP_TRANSPARENT.
    case("mark", &[EPERM], || option(1, 36)),
    case("buffer-beyond-the-limit", &[EPERM], || option(1, 33)),
    case("foreign-address", &[EPERM], || option(0, 19)),
    case("abstract-socket-of-another", &[ECONNREFUSED, EPERM], || {
        let address = UnixAddress::from_abstract_name(VICTIM_SOCKET).map_err(errno)?;
        UnixStream::connect_addr(&address).map(|_| "connected".into()).map_err(errno)
    }),
    case("agent-socket", &[ENOENT], || agent("/var/run/dstack.sock")),
    case("agent-socket-itself", &[ENOENT], || agent("/run/dstack/dstack.sock")),
    case("agent-socket-past-the-root", &[ENOENT, EACCES], || agent("/proc/1/root/run/dstack/dstack.sock")),
    case("another-service", NOBODY, || connect((VICTIM, VICTIM_PORT))),
    case("another-service-by-udp", NOBODY, || send((VICTIM, VICTIM_PORT), b"got in")),
    case("another-service-by-gateway-and-udp", NOBODY, || send(([198, 18, 2, 1], VICTIM_PORT), b"got in")),
    case("another-service-by-gateway", NOBODY, || connect(([198, 18, 2, 1], VICTIM_PORT))),
    case("outbound-as-another-service", NOBODY, || connect((VICTIM, OUTBOUND_PORT))),
    case("outbound-by-gateway", NOBODY, || connect(([198, 18, 2, 1], OUTBOUND_PORT))),
    case("sockets-of-the-machine", &[NOTHING], || {
        // What /proc/net shows is of our own namespace: the outbound proxy's listener and what we opened.
        let table = std::fs::read_to_string("/proc/net/unix").map_err(errno)?;
        let foreign = table.lines().find(|line| line.contains("dstack") || line.contains(VICTIM_SOCKET));
        foreign.map_or(Err(NOTHING), |line| Ok(line.to_owned()))
    }),
];

fn socket(family: i32, kind: i32, protocol: i32) -> Result<String, i32> {
    got(call!(libc::SYS_socket, family, kind, protocol))
}

fn option(level: i32, name: i32) -> Result<String, i32> {
    let fd = call!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, 0)?;
    got(call!(libc::SYS_setsockopt, fd, level, name, 1_i32.to_ne_bytes().as_slice(), 4))
}

/// One request; the errno of its acknowledgement (rtnetlink(7), netlink(7)).
fn route_netlink(kind: u16, body: &[u8]) -> Result<String, i32> {
    let fd = call!(libc::SYS_socket, libc::AF_NETLINK, libc::SOCK_RAW, 0)?;
    let length = u32::try_from(16 + body.len()).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    // NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE; sequence and port.
    message.extend(0x405_u16.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    call!(libc::SYS_write, fd, message.as_slice(), message.len() as i64)?;
    let mut answer = [0_u8; 256];
    let length = call!(libc::SYS_read, fd, answer.as_mut_slice(), 256)?;
    match answer.get(16..20).filter(|_| length >= 20) {
        Some(&[a, b, c, d]) => match -i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok("acknowledged".into()),
            errno => Err(errno),
        },
        _ => Ok(format!("an answer of {length} bytes")),
    }
}

fn agent(path: &str) -> Result<String, i32> {
    UnixStream::connect(path).map(|_| "connected".into()).map_err(errno)
}
