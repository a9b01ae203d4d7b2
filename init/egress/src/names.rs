//! Names and numbers that the rules share: marks, priorities, ranges and the names of counters.

use ipnet::Ipv4Net;

use crate::policy::{Ifname, ServiceName};

/// The `inet` table.
pub(crate) const TABLE: &str = "casemate";

/// Destinations that no service reaches in any mode: "this network", loopback, link-local (with the clouds' metadata
/// services), the range of the services themselves, multicast, reserved and broadcast (RFC 6890 sections 2.2.2, RFC
/// 2544 for 198.18.0.0/15, RFC 5771 for 224.0.0.0/4).
pub const NEVER: [Ipv4Net; 6] = [
    net([0, 0, 0, 0], 8),
    net([127, 0, 0, 0], 8),
    net([169, 254, 0, 0], 16),
    SERVICES,
    net([224, 0, 0, 0], 4),
    net([240, 0, 0, 0], 4),
];

/// The range of all services (design section 5).
pub(crate) const SERVICES: Ipv4Net = net([198, 18, 0, 0], 15);

/// Loopback, IPv4.
pub(crate) const LOOPBACK: Ipv4Net = net([127, 0, 0, 0], 8);

const fn net(a: [u8; 4], prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(std::net::Ipv4Addr::new(a[0], a[1], a[2], a[3]), prefix)
}

/// The DNS port: services have no DNS but the private network's own resolver (design section 8).
pub(crate) const DNS_PORT: u16 = 53;

/// The set of the coordination server's addresses, where the document names it.
pub(crate) const LOGIN_SERVER: &str = "login4";

/// ICMP echo and its reply (RFC 792).
pub(crate) const ICMP_ECHO: u8 = 8;
/// The reply.
pub(crate) const ICMP_ECHO_REPLY: u8 = 0;

/// NTP (RFC 5905 section 7.2). A time server cannot send the time process to another one.
pub(crate) const NTP_PORT: u16 = 123;

/// Conntrack marks, one bit for each way in which a flow was allowed. A flow without one is a flow that nobody allowed.
pub(crate) mod flow {
    /// The mesh process to a measured target, the time process to a named server, the VPN process to peers, relays and its server.
    pub(crate) const OUTBOUND: u32 = 0x1;
    /// From outside to a port that the mesh process serves, or to the VPN process; a ping from the private network.
    pub(crate) const INBOUND: u32 = 0x2;
    /// The mesh process to a service.
    pub(crate) const BACKEND: u32 = 0x4;
    /// A service to the outside, or to the private network.
    pub(crate) const SERVICE: u32 = 0x8;
    /// A service to the private network's names.
    pub(crate) const NAMES: u32 = 0x10;
}

/// The packet mark that the `postrouting` chain puts on what it is about to judge; the `netdev` chain lets no IP packet
/// without it pass, so a packet socket, which comes past no `inet` hook, cannot send even from our own address.
pub(crate) const JUDGED: u32 = 0xca5e;

/// Hook priorities. `NF_IP_PRI_*` of linux/netfilter_ipv4.h: raw -300, conntrack -200, dstnat -100, srcnat 100.
pub(crate) mod priority {
    /// Before conntrack sees the packet: a forged one must not touch the state of another's flow.
    pub(crate) const RAW: i32 = -300;
    /// After all destination translation.
    pub(crate) const JUDGE: i32 = 200;
    /// The last before source translation.
    pub(crate) const LAST: i32 = 99;
    /// Source translation.
    pub(crate) const SRCNAT: i32 = 100;
    /// The last of all: of two hooks with this priority the kernel runs the later registered one first
    /// (`nf_hook_entries_grow`, net/netfilter/core.c).
    pub(crate) const EGRESS: i32 = i32::MAX;
}

/// Ports that masquerading maps to, at random: a service must not be able to choose the port that we are seen with, or
/// it could take replies meant for a port that we serve. From the kernel's default `ip_local_port_range` upwards.
pub(crate) const MASQUERADE_PORTS: (u16, u16) = (32768, 65535);

/// Packets of a service that the mode does not let out, or that were meant for us: `denied:<service>`.
pub fn denied(service: &ServiceName) -> String {
    format!("denied:{service}")
}

/// Packets of a service with a source address that is not its own: `spoofed:<service>`.
pub fn spoofed(service: &ServiceName) -> String {
    format!("spoofed:{service}")
}

/// IPv6 packets of a service: `ipv6:<service>`.
pub fn ipv6(service: &ServiceName) -> String {
    format!("ipv6:{service}")
}

/// Packets of a service that belong to no flow that conntrack can follow: `invalid:<service>`.
pub fn invalid(service: &ServiceName) -> String {
    format!("invalid:{service}")
}

/// Packets that one of our own processes may not send: `process:<name>`, where the name is `agent`, `vpn`, `mesh`, `vpc`,
/// `dhcp`, `time`, `init` (uid 0), `other` (any other uid) or `none` (the kernel, without a socket).
pub fn process(name: &str) -> String {
    format!("process:{name}")
}

/// Frames that the `netdev` chain of a link drops: `frame:<link>:<why>`, where why is `arp`, `neighbour`,
/// `unjudged` (came past no `inet` hook), `source` (not our address) or `other`.
pub fn frame(link: &Ifname, why: &str) -> String {
    format!("frame:{link}:{why}")
}

/// Drops that belong to no service and no process.
pub(crate) mod common {
    /// From the link, with a source inside the services' range or loopback.
    pub(crate) const LINK_SPOOFED: &str = "link:spoofed";
    /// From the link to us, to nothing that we serve.
    pub(crate) const LINK_INBOUND: &str = "link:inbound";
    /// From the link to us, belonging to no flow.
    pub(crate) const LINK_INVALID: &str = "link:invalid";
    /// From the link to be forwarded, not a reply.
    pub(crate) const LINK_FORWARD: &str = "link:forward";
    /// From the TUN, with a source that is none of the private network's.
    pub(crate) const TUNNEL_SPOOFED: &str = "tunnel:spoofed";
    /// From the TUN to us, to nothing that we serve.
    pub(crate) const TUNNEL_INBOUND: &str = "tunnel:inbound";
    /// From the TUN to us, belonging to no flow.
    pub(crate) const TUNNEL_INVALID: &str = "tunnel:invalid";
    /// From the TUN to be forwarded, not a reply.
    pub(crate) const TUNNEL_FORWARD: &str = "tunnel:forward";
    /// On loopback, between addresses that are not loopback's.
    pub(crate) const LOOPBACK: &str = "loopback:denied";
    /// From an interface that the policy does not know.
    pub(crate) const UNKNOWN: &str = "interface:unknown";
}
