//! What the filter reads of a packet: addresses, ports, and what opens a flow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A packet as the filter sees it. Reading one allocates nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The peer that it is with: one that has another's address later has none of its flows. Zero if nobody says.
    pub peer: u64,
    /// Its protocol number, behind any IPv6 extension headers.
    pub protocol: u8,
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// The sender's port; 0 if the protocol has none.
    pub source_port: u16,
    /// The receiver's port; 0 if the protocol has none.
    pub destination_port: u16,
    /// What it is.
    pub kind: Kind,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// TCP, with its flags.
    Tcp {
        /// The flags' low byte.
        flags: u8,
    },
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP of its address family.
    Icmp {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
    },
    /// Tailscale's own messages between nodes (protocol 99, `types/ipproto`).
    Tsmp,
    /// Any other protocol.
    Other,
    /// A fragment behind the first, without ports.
    LaterFragment,
}

/// Why a packet cannot be judged. Each is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Neither version 4 nor 6.
    #[error("not an IP packet")]
    NotIp,
    /// It ends before its headers do, or before its stated length.
    #[error("the packet is shorter than its headers say")]
    Truncated,
    /// A fragment that could lie over the first one's headers (RFC 1858, section 3; RFC 3128).
    #[error("a fragment reaches into the headers")]
    FragmentOverHeaders,
    /// IPv6 headers in an order or a number that nobody needs.
    #[error("IPv6 extension headers that are not taken")]
    ExtensionHeaders,
    /// Protocol 0 behind IPv4, which stands for nothing.
    #[error("unknown protocol")]
    UnknownProtocol,
}

impl Flow {
    /// The same, with a peer.
    #[must_use]
    pub const fn with_peer(self, peer: u64) -> Self {
        Self { peer, ..self }
    }

    /// What answers it.
    pub(super) const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            ..*self
        }
    }

    /// Reads an IP packet. Bytes behind its stated length are ignored: WireGuard pads.
    pub fn parse(packet: &[u8]) -> Result<Self, Malformed> {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => parse_v4(packet),
            Some(6) => parse_v6(packet),
            _ => Err(Malformed::NotIp),
        }
    }
}

fn parse_v4(packet: &[u8]) -> Result<Flow, Malformed> {
    let header: &[u8; 20] = packet.first_chunk().ok_or(Malformed::Truncated)?;
    let [first, _, length_high, length_low, _, _, fragment_high, fragment_low, _, protocol, ..] = *header;
    let [.., s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let header_length = usize::from(first & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([length_high, length_low]));
    if header_length < header.len() {
        return Err(Malformed::Truncated);
    }
    let payload = packet.get(header_length..total).ok_or(Malformed::Truncated)?;
    let source = IpAddr::V4(Ipv4Addr::new(s0, s1, s2, s3));
    let destination = IpAddr::V4(Ipv4Addr::new(d0, d1, d2, d3));
    let offset = usize::from(u16::from_be_bytes([fragment_high, fragment_low]) & 0x1fff) * 8;
    if offset != 0 {
        return later_fragment(offset, protocol, source, destination);
    }
    if protocol == 0 {
        return Err(Malformed::UnknownProtocol);
    }
    transport(protocol, source, destination, payload)
}

fn parse_v6(packet: &[u8]) -> Result<Flow, Malformed> {
    let (header, rest) = packet.split_first_chunk::<40>().ok_or(Malformed::Truncated)?;
    let [_, _, _, _, length_high, length_low, next, _, addresses @ ..] = header;
    let (source, destination) = addresses.split_first_chunk::<16>().ok_or(Malformed::Truncated)?;
    let destination = destination.first_chunk::<16>().ok_or(Malformed::Truncated)?;
    let source = IpAddr::V6(Ipv6Addr::from(*source));
    let destination = IpAddr::V6(Ipv6Addr::from(*destination));
    let length = usize::from(u16::from_be_bytes([*length_high, *length_low]));
    let mut payload = rest.get(..length).ok_or(Malformed::Truncated)?;
    let mut next = *next;
    for step in 0..MAX_EXTENSION_HEADERS {
        match next {
            // Hop-by-hop options stand first or not at all (RFC 8200, section 4.1).
            HOP_BY_HOP if step == 0 => (next, payload) = skip_options(payload)?,
            DESTINATION_OPTIONS => (next, payload) = skip_options(payload)?,
            FRAGMENT => {
                let (fragment, rest) = payload.split_first_chunk::<8>().ok_or(Malformed::Truncated)?;
                let [inner, _, high, low, ..] = *fragment;
                let field = u16::from_be_bytes([high, low]);
                let offset = usize::from(field & 0xfff8);
                if offset != 0 {
                    return later_fragment(offset, inner, source, destination);
                }
                // Options behind a fragment header would push the ports to where a later fragment may lie (RFC 7112).
                if is_extension(inner) {
                    return Err(Malformed::ExtensionHeaders);
                }
                return transport(inner, source, destination, rest);
            }
            HOP_BY_HOP | ROUTING => return Err(Malformed::ExtensionHeaders),
            _ => return transport(next, source, destination, payload),
        }
    }
    if is_extension(next) {
        return Err(Malformed::ExtensionHeaders);
    }
    transport(next, source, destination, payload)
}

/// Hop-by-hop and destination options: the next header, and what stands behind them (RFC 8200, section 4.3).
fn skip_options(payload: &[u8]) -> Result<(u8, &[u8]), Malformed> {
    let [next, length, ..] = *payload.first_chunk::<8>().ok_or(Malformed::Truncated)?;
    let rest = payload.get((usize::from(length) + 1) * 8..).ok_or(Malformed::Truncated)?;
    Ok((next, rest))
}

fn later_fragment(
    offset: usize,
    protocol: u8,
    source: IpAddr,
    destination: IpAddr,
) -> Result<Flow, Malformed> {
    if offset < MIN_FRAGMENT_OFFSET {
        return Err(Malformed::FragmentOverHeaders);
    }
    Ok(Flow {
        peer: 0,
        protocol,
        source,
        destination,
        source_port: 0,
        destination_port: 0,
        kind: Kind::LaterFragment,
    })
}

/// Reads the ports. A first fragment too short for its header is dropped as truncated.
fn transport(protocol: u8, source: IpAddr, destination: IpAddr, payload: &[u8]) -> Result<Flow, Malformed> {
    let flow = |ports: [u8; 4], kind| {
        let [s0, s1, d0, d1] = ports;
        Flow {
            peer: 0,
            protocol,
            source,
            destination,
            source_port: u16::from_be_bytes([s0, s1]),
            destination_port: u16::from_be_bytes([d0, d1]),
            kind,
        }
    };
    match protocol {
        TCP => {
            let header: &[u8; 20] = payload.first_chunk().ok_or(Malformed::Truncated)?;
            let [s0, s1, d0, d1, .., flags, _, _, _, _, _, _] = *header;
            Ok(flow([s0, s1, d0, d1], Kind::Tcp { flags }))
        }
        UDP => {
            let [s0, s1, d0, d1, ..]: [u8; 8] = *payload.first_chunk().ok_or(Malformed::Truncated)?;
            Ok(flow([s0, s1, d0, d1], Kind::Udp))
        }
        SCTP => {
            let [s0, s1, d0, d1, ..]: [u8; 12] = *payload.first_chunk().ok_or(Malformed::Truncated)?;
            Ok(flow([s0, s1, d0, d1], Kind::Sctp))
        }
        ICMP if source.is_ipv4() => icmp(payload, flow),
        ICMP6 if source.is_ipv6() => icmp(payload, flow),
        TSMP => Ok(flow([0; 4], Kind::Tsmp)),
        _ => Ok(flow([0; 4], Kind::Other)),
    }
}

fn icmp(payload: &[u8], flow: impl Fn([u8; 4], Kind) -> Flow) -> Result<Flow, Malformed> {
    let [kind, code, ..]: [u8; 4] = *payload.first_chunk().ok_or(Malformed::Truncated)?;
    Ok(flow([0; 4], Kind::Icmp { kind, code }))
}

fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION_OPTIONS)
}

/// IANA protocol numbers.
pub(super) const ICMP: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const ICMP6: u8 = 58;
pub(super) const SCTP: u8 = 132;
/// Tailscale's, in a number that IANA leaves to private encryption schemes.
const TSMP: u8 = 99;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// Hop-by-hop, destination options, fragment; one to spare.
const MAX_EXTENSION_HEADERS: usize = 4;
/// The longest IPv4 header and a TCP header: nearer than that, a fragment may only be meant to lie over one
/// (`net/packet/packet.go`, `minFragBlks`).
const MIN_FRAGMENT_OFFSET: usize = 80;
