//! Out of the machine: the host, its resolver, the Internet; by TCP, UDP and IPv6. The document says `internal-only`. Something
//! listens on the host, which the test that starts the machine looks after.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use libc::{EADDRNOTAVAIL, EHOSTUNREACH, EINVAL, ENETUNREACH};

use crate::case::{Case, case};
use crate::reach::{NOBODY, connect, send};

/// QEMU's user network: the host itself, and its resolver.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The same by IPv6 (`fec0::/64`), and somebody's.
const HOST_6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 2);
const RESOLVER_6: Ipv6Addr = Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 3);
const FAR_6: Ipv6Addr = Ipv6Addr::new(0x2606, 0x4700, 0x4700, 0, 0, 0, 0, 0x1111);
/// Our end of the service's pair: the third service's gateway.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 3, 1);
/// There is no IPv6 in the machine: no address to send from, no route.
const NO_IPV6: &[i32] = &[EADDRNOTAVAIL, ENETUNREACH, EHOSTUNREACH];

/// Who has A of `www.example.com`, in one question (RFC 1035 section 4).
const QUESTION: &[u8] =
    b"\xca\x5e\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x03com\x00\x00\x01\x00\x01";

/// Where somebody listens on the host, by TCP and UDP: the document's environment says it.
fn host_port() -> u16 {
    std::env::var("HOST_PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(20202)
}

pub(crate) const CASES: &[Case] = &[
    case("the-host", NOBODY, || connect((HOST, host_port()))),
    case("the-host-by-udp", NOBODY, || send((HOST, host_port()), b"got out")),
    case("the-internet", NOBODY, || connect(([1, 1, 1, 1], 443))),
    case("the-internet-by-udp", NOBODY, || send(([1, 1, 1, 1], 443), b"got out")),
    case("time-by-udp", NOBODY, || send(([162, 159, 200, 1], 123), &[0x23; 48])),
    case("resolver-of-the-host", NOBODY, || send((RESOLVER, 53), QUESTION)),
    case("resolver-of-the-host-by-tcp", NOBODY, || connect((RESOLVER, 53))),
    case("resolver-of-the-internet", NOBODY, || send(([9, 9, 9, 9], 53), QUESTION)),
    case("resolver-of-the-gateway", NOBODY, || send((GATEWAY, 53), QUESTION)),
    case("resolver-of-the-gateway-by-tcp", NOBODY, || connect((GATEWAY, 53))),
    case("resolver-of-its-own", NOBODY, || send((Ipv4Addr::LOCALHOST, 53), QUESTION)),
    case("broadcast", &[libc::EACCES, libc::EPERM, ENETUNREACH], || {
        send((Ipv4Addr::BROADCAST, 67), b"got out")
    }),
    case("the-host-by-ipv6", NO_IPV6, || connect((HOST_6, host_port()))),
    case("the-host-by-ipv6-udp", NO_IPV6, || send((HOST_6, host_port()), b"got out")),
    case("the-internet-by-ipv6", NO_IPV6, || connect((FAR_6, 443))),
    case("resolver-by-ipv6", NO_IPV6, || send((RESOLVER_6, 53), QUESTION)),
    // All nodes of the link: index 2 is the service's own interface.
    case("neighbours-by-ipv6", &[EADDRNOTAVAIL, ENETUNREACH, EHOSTUNREACH, EINVAL], || {
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        send(SocketAddr::V6(SocketAddrV6::new(all, 9000, 0, 2)), b"got out")
    }),
    // IPv4 in the clothes of IPv6.
    case("the-host-mapped", NOBODY, || connect((HOST.to_ipv6_mapped(), host_port()))),
    case("the-host-mapped-by-udp", NOBODY, || send((HOST.to_ipv6_mapped(), host_port()), b"got out")),
];
