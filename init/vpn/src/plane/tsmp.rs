//! What Tailscale nodes say to each other inside the tunnel, in IP protocol 99 (tailscale `net/packet/tsmp.go`).

use std::net::IpAddr;

use crate::packet::{Fragment, Packet, Partial, TCP, TSMP, tcp_flag};

const PING: u8 = b'p';
const PONG: u8 = b'o';
const REJECTED: u8 = b'!';
/// The filter says no (`RejectedDueToACLs`).
const BY_FILTER: u8 = b'A';
const HOP_LIMIT: u8 = 64;

/// The answer to a ping; `None` to everything else.
pub(super) fn answer(packet: &Packet<'_>) -> Option<Vec<u8>> {
    let (&kind, rest) = packet.transport().split_first()?;
    let data: &[u8; 8] = rest.first_chunk()?;
    if kind != PING || packet.fragment() != Fragment::Whole {
        return None;
    }
    // The port of the peer API: none.
    let mut body = vec![PONG];
    body.extend(data);
    body.extend([0, 0]);
    Some(ip_packet(packet.destination(), packet.source(), &body))
}

/// What tells the sender of a new TCP connection that the filter refused it; as Go, over IPv4 only.
pub(super) fn rejection(packet: &Packet<'_>) -> Option<Vec<u8>> {
    let new = packet.tcp_flags()? & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN;
    if !packet.source().is_ipv4() || !new {
        return None;
    }
    let (source, destination) = packet.ports()?;
    let mut body = vec![REJECTED, TCP, BY_FILTER];
    body.extend(source.to_be_bytes());
    body.extend(destination.to_be_bytes());
    Some(ip_packet(packet.destination(), packet.source(), &body))
}

fn ip_packet(source: IpAddr, destination: IpAddr, body: &[u8]) -> Vec<u8> {
    let body_len = u16::try_from(body.len()).unwrap_or(0);
    let mut packet = Vec::with_capacity(40 + body.len());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet.extend([0x45, 0]);
            packet.extend((20 + body_len).to_be_bytes());
            packet.extend([0, 0, 0, 0, HOP_LIMIT, TSMP, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = Partial::default().with(&packet).finish();
            crate::packet::put(&mut packet, 10, &sum);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(body_len.to_be_bytes());
            packet.extend([TSMP, HOP_LIMIT]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        _ => return packet,
    }
    packet.extend(body);
    packet
}
