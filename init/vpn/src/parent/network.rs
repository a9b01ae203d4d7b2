//! Which addresses the parent sets on the TUN when it is asked to, and what always lies there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use thiserror::Error;

/// Where names are asked for (tailscale `net/tsaddr/tsaddr.go`, `TailscaleServiceIP`).
pub const NAMES_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 100);
/// The same in IPv6 (tailscale `net/tsaddr/tsaddr.go`, `TailscaleServiceIPv6`).
pub const NAMES_V6: Ipv6Addr = Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0x53);

/// Why addresses were not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// A node has single addresses.
    #[error("an address that is a prefix")]
    Prefix,
    /// It lies outside the network.
    #[error("an address outside the network's prefixes")]
    Outside,
    /// It is the one where names are asked for.
    #[error("the address where names are asked for")]
    Names,
    /// It is there twice.
    #[error("an address twice")]
    Twice,
    /// The kernel did not take it.
    #[error("the kernel refused it")]
    Kernel,
    /// The request was no message at all.
    #[error("not a request of this version")]
    Malformed,
    /// The document says where the coordination server is.
    #[error("the coordination server's address is not looked up")]
    Fixed,
    /// An address that no server outside has.
    #[error("an address that is no place outside")]
    Nowhere,
}

impl Refusal {
    /// All, by the number that stands for each, from 1.
    pub(super) const ALL: [Self; 8] = [
        Self::Prefix,
        Self::Outside,
        Self::Names,
        Self::Twice,
        Self::Kernel,
        Self::Malformed,
        Self::Fixed,
        Self::Nowhere,
    ];

    pub(super) fn number(self) -> u8 {
        let position = Self::ALL.iter().position(|one| *one == self).unwrap_or(Self::ALL.len());
        u8::try_from(position).map_or(u8::MAX, |position| position.saturating_add(1))
    }

    pub(super) fn of_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number.checked_sub(1)?)).copied()
    }
}

/// What the parent asks of addresses before it sets them: single ones of the network, each once, none that has a meaning of its own.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(prefixes: &[IpNet], addresses: &[IpNet]) -> Result<(), Refusal> {
    for (number, address) in addresses.iter().enumerate() {
        if address.prefix_len() != address.max_prefix_len() {
            return Err(Refusal::Prefix);
        }
        let ip = address.addr();
        if ip == IpAddr::V4(NAMES_V4) || ip == IpAddr::V6(NAMES_V6) {
            return Err(Refusal::Names);
        }
        if !prefixes.iter().any(|prefix| prefix.contains(address)) {
            return Err(Refusal::Outside);
        }
        if addresses.iter().take(number).any(|earlier| earlier == address) {
            return Err(Refusal::Twice);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn checked(addresses: &[&str]) -> Result<(), Refusal> {
        let prefixes = ["100.64.0.0/10", "fd7a:115c:a1e0::/48"].map(|text| text.parse().unwrap());
        let addresses: Vec<IpNet> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        check(&prefixes, &addresses)
    }

    #[test]
    fn only_single_addresses_of_the_network_are_set() {
        assert_eq!(checked(&[]), Ok(()));
        assert_eq!(checked(&["100.64.0.1/32", "fd7a:115c:a1e0::1/128"]), Ok(()));
        for (address, refusal) in [
            ("100.64.0.0/10", Refusal::Prefix),
            ("100.64.0.1/31", Refusal::Prefix),
            ("fd7a:115c:a1e0::1/64", Refusal::Prefix),
            ("0.0.0.0/0", Refusal::Prefix),
            ("10.0.0.1/32", Refusal::Outside),
            ("100.128.0.1/32", Refusal::Outside),
            ("127.0.0.1/32", Refusal::Outside),
            ("::1/128", Refusal::Outside),
            ("::ffff:100.64.0.1/128", Refusal::Outside),
            ("fe80::1/128", Refusal::Outside),
            ("100.100.100.100/32", Refusal::Names),
            ("fd7a:115c:a1e0::53/128", Refusal::Names),
        ] {
            assert_eq!(checked(&["100.64.0.1/32", address]), Err(refusal), "{address}");
        }
        assert_eq!(checked(&["100.64.0.1/32", "100.64.0.1/32"]), Err(Refusal::Twice));
    }
}
