//! IP packets: borrowed views of hostile bytes, checksums, and the super-packets that a TUN with offloads moves.
//!
//! Nothing here does I/O. [`Split`] takes what the TUN gave apart into packets of the MTU; [`Coalescer`] puts packets of one
//! flow together again.

mod checksum;
mod coalesce;
mod split;
mod vnet;

#[cfg(test)]
pub(crate) mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

pub use checksum::{Partial, pseudo_header};
pub use coalesce::{Coalescer, Write};
pub use split::{Split, SplitError};
pub use vnet::{Gso, VnetHeader};

/// ICMP (IANA protocol numbers).
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMPV6: u8 = 58;
/// What Tailscale nodes say to each other inside the tunnel (tailscale `types/ipproto`, TSMP).
pub const TSMP: u8 = 99;

/// TCP flags (RFC 9293 section 3.1).
pub mod tcp_flag {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// A new connection.
    pub const SYN: u8 = 0x02;
    /// The connection is gone.
    pub const RST: u8 = 0x04;
    /// Give it to the reader.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 0x10;
    /// Urgent.
    pub const URG: u8 = 0x20;
    /// RFC 3168: an echo of congestion.
    pub const ECE: u8 = 0x40;
    /// RFC 3168: the window was reduced.
    pub const CWR: u8 = 0x80;
}

/// IPv6 extension headers that are walked over: hop-by-hop, routing, destination options (RFC 8200 section 4).
const EXTENSIONS: [u8; 3] = [0, 43, 60];
/// IPv6 fragment header (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;
/// More extension headers than any honest packet has.
const MAX_EXTENSIONS: usize = 8;
pub(crate) const IPV4_HEADER: usize = 20;
pub(crate) const IPV6_HEADER: usize = 40;
pub(crate) const TCP_HEADER: usize = 20;
pub(crate) const UDP_HEADER: usize = 8;

/// Bytes that are no IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not an IP packet: {0}")]
pub struct Malformed(&'static str);

/// Where a packet stands among the fragments of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// It is whole.
    Whole,
    /// The first, which has the transport header; more follow.
    First,
    /// A later one, without it.
    Later,
}

/// A view of one IP packet whose lengths were checked.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    transport: usize,
    fragment: Fragment,
}

impl<'a> Packet<'a> {
    /// Reads the headers. Bytes after the length that the header tells are cut off.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        match bytes.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(bytes),
            Some(6) => Self::parse_v6(bytes),
            Some(_) => Err(Malformed("its version")),
            None => Err(Malformed("it is empty")),
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header: &[u8; IPV4_HEADER] = bytes.first_chunk().ok_or(Malformed("a short header"))?;
        let [first, _, l0, l1, _, _, f0, f1, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *header;
        let transport = usize::from(first & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([l0, l1]));
        if transport < IPV4_HEADER || transport > total {
            return Err(Malformed("the length of its header"));
        }
        let bytes = bytes.get(..total).ok_or(Malformed("its length"))?;
        let fragment = u16::from_be_bytes([f0, f1]);
        Ok(Self {
            bytes,
            source: Ipv4Addr::new(s0, s1, s2, s3).into(),
            destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
            protocol,
            transport,
            fragment: kind_of_fragment(fragment & 0x1fff, fragment & 0x2000 != 0),
        })
    }

    fn parse_v6(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let header: &[u8; IPV6_HEADER] = bytes.first_chunk().ok_or(Malformed("a short header"))?;
        let (start, addresses) = header.split_at(8);
        let (source, destination) = addresses.split_at(16);
        let length = usize::from(u16_at(start, 4).unwrap_or(0));
        let bytes = bytes.get(..IPV6_HEADER + length).ok_or(Malformed("its length"))?;
        let mut protocol = start.get(6).copied().unwrap_or(0);
        let mut transport = IPV6_HEADER;
        let mut fragment = Fragment::Whole;
        for _ in 0..MAX_EXTENSIONS {
            let extension = if EXTENSIONS.contains(&protocol) {
                usize::from(u8_at(bytes, transport + 1).ok_or(Malformed("a short extension"))?) * 8 + 8
            } else if protocol == FRAGMENT && fragment == Fragment::Whole {
                let offset = u16_at(bytes, transport + 2).ok_or(Malformed("a short fragment header"))?;
                fragment = kind_of_fragment(offset >> 3, offset & 1 != 0);
                8
            } else {
                break;
            };
            protocol = u8_at(bytes, transport).ok_or(Malformed("a short extension"))?;
            transport += extension;
            if fragment == Fragment::Later {
                break;
            }
        }
        if transport > bytes.len() || EXTENSIONS.contains(&protocol) && fragment != Fragment::Later {
            return Err(Malformed("its extension headers"));
        }
        Ok(Self {
            bytes,
            source: v6_address(source),
            destination: v6_address(destination),
            protocol,
            transport,
            fragment,
        })
    }

    /// The whole packet, as long as its header says.
    pub const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Who it says it is from.
    pub const fn source(&self) -> IpAddr {
        self.source
    }

    /// Whom it is for.
    pub const fn destination(&self) -> IpAddr {
        self.destination
    }

    /// The protocol of what it carries; after extension headers of IPv6.
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Where it stands among fragments.
    pub const fn fragment(&self) -> Fragment {
        self.fragment
    }

    /// Where the transport header begins.
    pub const fn transport_offset(&self) -> usize {
        self.transport
    }

    /// What follows the IP headers.
    pub fn transport(&self) -> &'a [u8] {
        self.bytes.get(self.transport..).unwrap_or_default()
    }

    /// Source and destination port of TCP, UDP and what is laid out like them; `None` in a later fragment or a cut header.
    pub fn ports(&self) -> Option<(u16, u16)> {
        if self.fragment == Fragment::Later {
            return None;
        }
        let transport = self.transport();
        Some((u16_at(transport, 0)?, u16_at(transport, 2)?))
    }

    /// TCP's flags; `None` if it is no TCP, or its header is not whole.
    pub fn tcp_flags(&self) -> Option<u8> {
        if self.protocol != TCP || self.fragment == Fragment::Later {
            return None;
        }
        self.transport().first_chunk::<TCP_HEADER>().and_then(|header| u8_at(header, 13))
    }

    /// ICMP's type and code, of both versions.
    pub fn icmp(&self) -> Option<(u8, u8)> {
        if !matches!(self.protocol, ICMP | ICMPV6) || self.fragment == Fragment::Later {
            return None;
        }
        self.transport().first_chunk::<2>().map(|&[kind, code]| (kind, code))
    }
}

const fn kind_of_fragment(offset: u16, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        _ => Fragment::Later,
    }
}

fn v6_address(bytes: &[u8]) -> IpAddr {
    Ipv6Addr::from(bytes.first_chunk().copied().unwrap_or([0; 16])).into()
}

pub(crate) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|&two| u16::from_be_bytes(two))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|&four| u32::from_be_bytes(four))
}

/// Writes bytes at an offset; what does not fit is left out, which a checked header never meets.
pub(crate) fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + what.len()) {
        place.copy_from_slice(what);
    }
}

/// A length as a header's field has it. Callers have bounded it by [`u16::MAX`].
pub(crate) fn length_field(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}
