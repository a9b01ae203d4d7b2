//! What the DHCP child may tell PID 1, and the checks on it.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

/// An address with what belongs to it, checked: the only thing that DHCP can change in this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    address: Ipv4Addr,
    prefix: u8,
    gateway: Ipv4Addr,
    seconds: u32,
}

/// One message of the DHCP child to PID 1.
///
/// ```text
/// 0  kind: 1 lease, 2 lost    1  prefix length    2  zero, 2 bytes
/// 4  address                  8  gateway         12  lease in seconds, u32, big endian
/// ```
/// With kind 2 everything else is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// This lease is ours from now on; also sent on each renewal.
    Lease(Lease),
    /// The lease has expired or was taken back: its address must not be used any longer.
    Lost,
}

/// Why a lease must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaseRefused {
    /// The prefix is out of bounds.
    #[error("prefix: expected 8 to 30, found {0}")]
    Prefix(u8),
    /// The address is none that a host can have.
    #[error("address: expected a unicast host address, found {0}")]
    Address(Ipv4Addr),
    /// The gateway is none that a host can have.
    #[error("gateway: expected a unicast host address, found {0}")]
    Gateway(Ipv4Addr),
    /// The gateway lies outside the prefix.
    #[error("gateway: expected one inside {network}, found {gateway}")]
    GatewayOutside {
        /// The network of the lease.
        network: Ipv4Net,
        /// The gateway.
        gateway: Ipv4Addr,
    },
    /// The gateway is the address itself.
    #[error("gateway: expected another address than our own, found {0}")]
    GatewayIsSelf(Ipv4Addr),
    /// The network overlaps one that this machine uses itself.
    #[error("network: expected one apart from {reserved}, found {network}")]
    Reserved {
        /// The network of the lease.
        network: Ipv4Net,
        /// What it overlaps.
        reserved: Ipv4Net,
    },
    /// The address or the gateway is one of the private network's.
    #[error("address and gateway: expected none of the private network's {private}, found {found}")]
    Private {
        /// The network's own addresses.
        private: IpNet,
        /// What it has of them.
        found: Ipv4Addr,
    },
    /// The duration is out of bounds.
    #[error("lease: expected {min} to {max} seconds, found {0}", min = Lease::MIN_SECONDS, max = Lease::MAX_SECONDS)]
    Duration(u32),
}

/// Why a message is no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportRefused {
    /// It has another length.
    #[error("expected {len} bytes, found {0}", len = Report::LEN)]
    Length(usize),
    /// Its kind is unknown, or bytes that must be zero are not.
    #[error("expected a report of kind 1 or 2 with zero padding, found kind {0}")]
    Form(u8),
    /// The lease in it must not be used.
    #[error(transparent)]
    Lease(#[from] LeaseRefused),
}

impl Lease {
    /// Shortest lease in seconds: below it, renewing would be all that the link does.
    pub const MIN_SECONDS: u32 = 60;
    /// Longest lease in seconds, one day. Who is given more renews as if it were a day (RFC 2131 section 3.3 lets a client
    /// ask for less), so a lease "for ever" cannot keep the machine from noticing a change.
    pub const MAX_SECONDS: u32 = 86_400;

    /// Checks and wraps.
    ///
    /// # Errors
    /// The first rule that is broken: prefix 8 to 30; address and gateway unicast, inside the prefix, neither its network
    /// nor its broadcast address, and not the same; nothing inside 198.18.0.0/15, which the services use; duration
    /// within [`Self::MIN_SECONDS`] and [`Self::MAX_SECONDS`].
    pub fn new(address: Ipv4Addr, prefix: u8, gateway: Ipv4Addr, seconds: u32) -> Result<Self, LeaseRefused> {
        let network = Ipv4Net::new(address, prefix).map_err(|_| LeaseRefused::Prefix(prefix))?.trunc();
        if !(8..=30).contains(&prefix) {
            return Err(LeaseRefused::Prefix(prefix));
        }
        let edge = |one| one == network.network() || one == network.broadcast();
        if !is_host(address) || edge(address) {
            return Err(LeaseRefused::Address(address));
        }
        if !network.contains(&gateway) {
            return Err(LeaseRefused::GatewayOutside { network, gateway });
        }
        if !is_host(gateway) || edge(gateway) {
            return Err(LeaseRefused::Gateway(gateway));
        }
        if gateway == address {
            return Err(LeaseRefused::GatewayIsSelf(gateway));
        }
        if network.contains(&SERVICES.network()) || SERVICES.contains(&network.network()) {
            return Err(LeaseRefused::Reserved { network, reserved: SERVICES });
        }
        if !(Self::MIN_SECONDS..=Self::MAX_SECONDS).contains(&seconds) {
            return Err(LeaseRefused::Duration(seconds));
        }
        Ok(Self { address, prefix, gateway, seconds })
    }

    /// Checks it against the private network's addresses, which no packet on the link may have: neither we nor the gateway can be
    /// there with one of them.
    ///
    /// # Errors
    /// The first that is one.
    pub fn outside_of(&self, private: impl IntoIterator<Item = IpNet>) -> Result<(), LeaseRefused> {
        let of_ours = |net: &IpNet| {
            [self.address, self.gateway].into_iter().find(|address| net.contains(&IpAddr::V4(*address)))
        };
        match private.into_iter().find_map(|net| Some((net, of_ours(&net)?))) {
            None => Ok(()),
            Some((private, found)) => Err(LeaseRefused::Private { private, found }),
        }
    }

    /// Our address.
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The prefix length, 8 to 30. It decides nothing but that the gateway is inside; the link gets a /32.
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The gateway.
    pub const fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// How long it lasts, in seconds from when it was asked for.
    pub const fn seconds(&self) -> u32 {
        self.seconds
    }
}

impl Report {
    /// Length of the message in bytes.
    pub const LEN: usize = 16;

    /// The bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let (kind, prefix, address, gateway, seconds) = match self {
            Self::Lease(lease) => (LEASE, lease.prefix, lease.address, lease.gateway, lease.seconds),
            Self::Lost => (LOST, 0, Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED, 0),
        };
        let [a0, a1, a2, a3] = address.octets();
        let [g0, g1, g2, g3] = gateway.octets();
        let [s0, s1, s2, s3] = seconds.to_be_bytes();
        [kind, prefix, 0, 0, a0, a1, a2, a3, g0, g1, g2, g3, s0, s1, s2, s3]
    }

    /// From bytes that the child wrote, with every check of [`Lease::new`].
    ///
    /// # Errors
    /// Another length, an unknown kind, padding that is not zero, a lease that must not be used.
    pub fn decode(bytes: &[u8]) -> Result<Self, ReportRefused> {
        let message = <[u8; Self::LEN]>::try_from(bytes).map_err(|_| ReportRefused::Length(bytes.len()))?;
        let [kind, prefix, 0, 0, a0, a1, a2, a3, g0, g1, g2, g3, s0, s1, s2, s3] = message else {
            return Err(ReportRefused::Form(message[0]));
        };
        match kind {
            LEASE => Ok(Self::Lease(Lease::new(
                Ipv4Addr::new(a0, a1, a2, a3),
                prefix,
                Ipv4Addr::new(g0, g1, g2, g3),
                u32::from_be_bytes([s0, s1, s2, s3]),
            )?)),
            LOST if message == Self::Lost.encode() => Ok(Self::Lost),
            other => Err(ReportRefused::Form(other)),
        }
    }
}

/// Whether a host can have it, as far as the address alone tells (RFC 6890's special registries): not 0/8, loopback,
/// link-local, multicast, reserved or broadcast.
pub(super) fn is_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first < 224 && !address.is_loopback() && !address.is_link_local()
}

/// The veth pairs' addresses, design section 5.
const SERVICES: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15);
const LEASE: u8 = 1;
const LOST: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lease(address: [u8; 4], prefix: u8, gateway: [u8; 4], seconds: u32) -> Result<Lease, LeaseRefused> {
        Lease::new(address.into(), prefix, gateway.into(), seconds)
    }

    #[test]
    fn usual_leases_are_accepted() {
        for (address, prefix, gateway) in [
            // QEMU's user network.
            ([10, 0, 2, 15], 24, [10, 0, 2, 2]),
            ([192, 168, 1, 2], 30, [192, 168, 1, 1]),
            ([10, 255, 255, 254], 8, [10, 0, 0, 1]),
            ([203, 0, 113, 9], 29, [203, 0, 113, 14]),
        ] {
            let lease = lease(address, prefix, gateway, 3600).unwrap();
            assert_eq!((lease.address(), lease.gateway()), (address.into(), gateway.into()));
            assert_eq!((lease.prefix(), lease.seconds()), (prefix, 3600));
        }
    }

    #[test]
    fn neither_we_nor_the_gateway_have_an_address_of_the_private_network() {
        let private = || ["100.64.0.0/16", "100.100.100.100/32"].map(|net| net.parse().unwrap());
        for (address, prefix, gateway, message) in [
            ([100, 64, 0, 5], 24, [100, 64, 0, 1], Some(("100.64.0.0/16", "100.64.0.5"))),
            ([100, 65, 0, 5], 8, [100, 64, 9, 1], Some(("100.64.0.0/16", "100.64.9.1"))),
            ([100, 100, 100, 100], 24, [100, 100, 100, 1], Some(("100.100.100.100/32", "100.100.100.100"))),
            // Beside it, and around it.
            ([100, 65, 0, 5], 24, [100, 65, 0, 1], None),
            ([100, 65, 0, 5], 8, [100, 1, 0, 1], None),
            ([10, 0, 2, 15], 24, [10, 0, 2, 2], None),
        ] {
            let lease = lease(address, prefix, gateway, 3600).unwrap();
            let found = lease.outside_of(private()).map_err(|error| error.to_string());
            let expected = message.map_or(Ok(()), |(net, found)| {
                Err(format!(
                    "address and gateway: expected none of the private network's {net}, found {found}"
                ))
            });
            assert_eq!(found, expected);
            assert_eq!(lease.outside_of([]), Ok(()));
        }
    }

    #[test]
    fn each_rule_refuses_in_its_own_words() {
        for (address, prefix, gateway, seconds, message) in [
            ([10, 0, 0, 2], 0, [10, 0, 0, 1], 60, "prefix: expected 8 to 30, found 0"),
            ([10, 0, 0, 2], 7, [10, 0, 0, 1], 60, "prefix: expected 8 to 30, found 7"),
            ([10, 0, 0, 2], 31, [10, 0, 0, 1], 60, "prefix: expected 8 to 30, found 31"),
            ([10, 0, 0, 2], 32, [10, 0, 0, 1], 60, "prefix: expected 8 to 30, found 32"),
            ([10, 0, 0, 2], 255, [10, 0, 0, 1], 60, "prefix: expected 8 to 30, found 255"),
            ([0, 0, 0, 0], 8, [0, 0, 0, 1], 60, "address: expected a unicast host address, found 0.0.0.0"),
            (
                [127, 0, 0, 5],
                8,
                [127, 0, 0, 1],
                60,
                "address: expected a unicast host address, found 127.0.0.5",
            ),
            (
                [169, 254, 3, 4],
                16,
                [169, 254, 0, 1],
                60,
                "address: expected a unicast host address, found 169.254.3.4",
            ),
            (
                [224, 0, 0, 5],
                24,
                [224, 0, 0, 1],
                60,
                "address: expected a unicast host address, found 224.0.0.5",
            ),
            (
                [255, 255, 255, 255],
                8,
                [255, 0, 0, 1],
                60,
                "address: expected a unicast host address, found 255.255.255.255",
            ),
            (
                [10, 0, 0, 255],
                24,
                [10, 0, 0, 1],
                60,
                "address: expected a unicast host address, found 10.0.0.255",
            ),
            (
                [10, 0, 0, 0],
                24,
                [10, 0, 0, 1],
                60,
                "address: expected a unicast host address, found 10.0.0.0",
            ),
            (
                [10, 0, 0, 2],
                24,
                [10, 0, 1, 1],
                60,
                "gateway: expected one inside 10.0.0.0/24, found 10.0.1.1",
            ),
            (
                [10, 0, 0, 2],
                24,
                [10, 0, 0, 255],
                60,
                "gateway: expected a unicast host address, found 10.0.0.255",
            ),
            (
                [10, 0, 0, 2],
                24,
                [10, 0, 0, 0],
                60,
                "gateway: expected a unicast host address, found 10.0.0.0",
            ),
            (
                [10, 0, 0, 2],
                24,
                [10, 0, 0, 2],
                60,
                "gateway: expected another address than our own, found 10.0.0.2",
            ),
            (
                [198, 18, 1, 2],
                30,
                [198, 18, 1, 1],
                60,
                "network: expected one apart from 198.18.0.0/15, found 198.18.1.0/30",
            ),
            (
                [198, 0, 0, 5],
                8,
                [198, 0, 0, 1],
                60,
                "network: expected one apart from 198.18.0.0/15, found 198.0.0.0/8",
            ),
            ([10, 0, 0, 2], 24, [10, 0, 0, 1], 0, "lease: expected 60 to 86400 seconds, found 0"),
            ([10, 0, 0, 2], 24, [10, 0, 0, 1], 59, "lease: expected 60 to 86400 seconds, found 59"),
            ([10, 0, 0, 2], 24, [10, 0, 0, 1], 86_401, "lease: expected 60 to 86400 seconds, found 86401"),
        ] {
            let error = lease(address, prefix, gateway, seconds).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn a_report_is_fixed_bytes() {
        let report = Report::Lease(lease([10, 0, 2, 15], 24, [10, 0, 2, 2], 86_400).unwrap());
        assert_eq!(report.encode(), [1, 24, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2, 0, 1, 0x51, 0x80]);
        assert_eq!(Report::decode(&report.encode()), Ok(report));
        assert_eq!(Report::decode(&Report::Lost.encode()), Ok(Report::Lost));
        assert_eq!(Report::decode(&report.encode()[..15]), Err(ReportRefused::Length(15)));
        let mut padded = report.encode();
        padded[3] = 1;
        assert_eq!(Report::decode(&padded), Err(ReportRefused::Form(1)));
        let mut lost = Report::Lost.encode();
        lost[5] = 1;
        assert_eq!(Report::decode(&lost), Err(ReportRefused::Form(2)));
        let mut outside = report.encode();
        outside[8] = 11;
        assert!(matches!(
            Report::decode(&outside),
            Err(ReportRefused::Lease(LeaseRefused::GatewayOutside { .. }))
        ));
    }

    proptest! {
        /// Whatever a taken-over child writes: what PID 1 believes obeys every rule, and is exactly what was written.
        #[test]
        fn any_bytes_decode_to_a_rule_abiding_report_or_not_at_all(mut bytes: [u8; 16], usual: bool) {
            if usual {
                (bytes[0], bytes[1], bytes[2], bytes[3]) = (1, 8 + bytes[1] % 23, 0, 0);
                (bytes[8], bytes[9], bytes[12], bytes[13]) = (bytes[4], bytes[5], 0, 0);
            }
            if let Ok(report) = Report::decode(&bytes) {
                prop_assert_eq!(report.encode(), bytes);
                if let Report::Lease(lease) = report {
                    let network = Ipv4Net::new(lease.address(), lease.prefix()).unwrap();
                    prop_assert!(network.contains(&lease.gateway()));
                    prop_assert!(lease.gateway() != lease.address());
                    prop_assert!(!SERVICES.contains(&lease.address()) && !SERVICES.contains(&lease.gateway()));
                }
            }
        }
    }
}
