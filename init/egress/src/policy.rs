//! What the lock is made from: our own input types, so that this room depends on no other.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use thiserror::Error;

/// Everything the rule set follows from. Two equal policies give two equal rule sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What services may reach.
    pub mode: Mode,
    /// The physical link in the root namespace.
    pub link: Ifname,
    /// The services, each behind its own veth pair.
    pub services: Vec<Service>,
    /// TCP ports that the mesh process serves on the link.
    pub inbound: Vec<u16>,
    /// Where the mesh process may connect to by TCP: other apps, and where its collateral comes from. Over the TUN, if it is an
    /// address of the private network, else over the link.
    pub mesh_targets: Vec<SocketAddr>,
    /// The named time servers' key exchange: where the time process may connect to, over the link, by TCP; to the same
    /// addresses it may send UDP to the NTP port.
    pub time_servers: Vec<SocketAddr>,
    /// What the mesh process may connect to inside services, by TCP.
    pub backends: Vec<Backend>,
    /// The private network; `None`: there is none, and the VPN process sends nothing.
    pub tunnel: Option<Tunnel>,
    /// Who is who.
    pub uids: Uids,
    /// The mark of the DHCP child's socket; `None` (a static address) leaves DHCP shut.
    pub dhcp_mark: Option<u32>,
}

/// The private network, behind a TUN that the VPN process reads and writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The TUN.
    pub interface: Ifname,
    /// Where the network's addresses lie. No packet to them leaves by the link, and none from them comes in by it.
    pub prefixes: Vec<Ipv4Net>,
    /// Where services ask for names: our own address, which no packet outside this machine has.
    pub names: Ipv4Addr,
    /// The VPN process's UDP port.
    pub port: u16,
    /// The coordination server: where the VPN process may connect to by TCP.
    pub login_server: LoginServer,
    /// Resolvers that the VPN process may ask, by TCP: DNS over TLS.
    pub resolvers: Vec<SocketAddr>,
    /// The TCP ports of relays, which may be anywhere outside; none: no relay is reached by TCP.
    pub relay_ports: Vec<u16>,
}

/// Where the coordination server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginServer {
    /// At one address, as the document says.
    At(SocketAddr),
    /// At this port of the addresses that [`crate::Lock::set_login_server`] was last told; at first of none.
    Named {
        /// The port, which the document says.
        port: u16,
    },
}

impl LoginServer {
    /// Whether its addresses are to be told.
    pub const fn is_named(self) -> bool {
        matches!(self, Self::Named { .. })
    }
}

impl Tunnel {
    /// Whether an address is one of the network's.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.prefixes.iter().any(|prefix| prefix.contains(&address)),
            IpAddr::V6(_) => false,
        }
    }
}

/// `egress.mode`, with its list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Services reach nothing outside.
    InternalOnly,
    /// Services reach these.
    Allowlist(Vec<Allow>),
    /// Services reach everything through the link except [`crate::NEVER`].
    ExternalAllowed,
}

/// One entry of an allowlist. An IPv6 prefix, and what lies inside [`crate::NEVER`], is never reached: services have no
/// IPv6, and those ranges are refused first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allow {
    /// Where to.
    pub cidr: IpNet,
    /// The destination port.
    pub port: u16,
    /// The protocol.
    pub proto: Proto,
}

/// A transport protocol of an allowlist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its number, from 1, in document order.
    pub number: u8,
    /// Its name, which its counters carry.
    pub name: ServiceName,
}

impl Service {
    /// The root-side interface of service `number`: `svc<number>`.
    pub fn interface(number: u8) -> Ifname {
        Ifname(format!("svc{number}"))
    }

    /// Our side's address, 198.18.`number`.1 (design section 5).
    pub const fn our_address(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, number, 1)
    }

    /// The only source address of a service, 198.18.`number`.2 (design section 5).
    pub const fn address(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, number, 2)
    }
}

/// A port on a service's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The service's number.
    pub service: u8,
    /// The TCP port.
    pub port: u16,
}

/// The uids of the guest's own processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uids {
    /// The agent.
    pub agent: u32,
    /// The VPN process.
    pub vpn: u32,
    /// The mesh proxy.
    pub mesh: u32,
    /// The VPC server.
    pub vpc: u32,
    /// The DHCP child (its socket is PID 1's, so its own uid may send nothing).
    pub dhcp: u32,
    /// The time process.
    pub time: u32,
}

/// The name of a network interface: 1 to 15 bytes of `a-z A-Z 0-9 . _ -` (`IFNAMSIZ` is 16, linux/if.h; the kernel's
/// `dev_valid_name` allows more characters, we need none of them).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ifname(String);

/// The loopback interface of every network namespace.
pub(crate) fn loopback() -> Ifname {
    Ifname("lo".to_owned())
}

/// The name of a service: a DNS label, 1 to 63 bytes of `a-z 0-9 -` (RFC 1123 section 2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(String);

/// A name that cannot be one.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// Not an interface name.
    #[error("expected an interface name (1 to 15 of a-z A-Z 0-9 . _ -), found {0:?}")]
    Interface(String),
    /// Not a service name.
    #[error("expected a service name (1 to 63 of a-z 0-9 -), found {0:?}")]
    Service(String),
}

impl Ifname {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Ifname {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let good = (1..=15).contains(&text.len()) && text.bytes().all(inner) && text != "." && text != "..";
        if good { Ok(Self(text.to_owned())) } else { Err(NameError::Interface(text.to_owned())) }
    }
}

impl fmt::Display for Ifname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ServiceName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let good = (1..=63).contains(&text.len()) && text.bytes().all(inner);
        if good { Ok(Self(text.to_owned())) } else { Err(NameError::Service(text.to_owned())) }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_are_refused() {
        for bad in ["", "a/b", "a b", "0123456789abcdef", "..", "a\0b", "\u{e9}th0"] {
            assert_eq!(bad.parse::<Ifname>(), Err(NameError::Interface(bad.to_owned())));
        }
        assert_eq!("eth0".parse::<Ifname>().unwrap().as_str(), "eth0");
        for bad in ["", "Web", "a:b", "a\"b", &"x".repeat(64)] {
            assert_eq!(bad.parse::<ServiceName>(), Err(NameError::Service(bad.to_owned())));
        }
        assert_eq!("web-1".parse::<ServiceName>().unwrap().as_str(), "web-1");
    }

    #[test]
    fn a_service_has_one_address() {
        assert_eq!(Service::address(3), Ipv4Addr::new(198, 18, 3, 2));
        assert_eq!(Service::our_address(3), Ipv4Addr::new(198, 18, 3, 1));
        assert_eq!(Service::interface(255).as_str(), "svc255");
    }
}
