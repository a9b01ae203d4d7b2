//! What the VPN room reads: of its coordination server, of relays, of peers, of whoever asks for names, of its parent.

mod control;
mod join;
mod kept;
mod names;
mod packets;
mod paths;
mod registration;
mod rules;
mod wireguard;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

pub(crate) use control::{map_stream, noise};
pub(crate) use join::joining;
pub(crate) use kept::{config, message, state};
pub(crate) use names::query;
pub(crate) use packets::{coalesce, super_packet};
pub(crate) use paths::{datagram, derp};
pub(crate) use registration::registration;
pub(crate) use rules::filter;
pub(crate) use wireguard::wireguard;

/// The documents' default.
const PREFIXES: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10)),
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 0), 48)),
];

fn inside(net: &IpNet) -> bool {
    PREFIXES.iter().any(|prefix| prefix.contains(net))
}

fn is_host(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// The address as the room knows them: never IPv4 inside IPv6.
fn is_canonical(address: IpAddr) -> bool {
    address.to_canonical() == address
}

/// Pieces of 16 bits of length (big endian) and so many bytes; the last may be cut.
fn pieces(mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = input.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length)).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        input = rest;
        Some(piece)
    })
}
