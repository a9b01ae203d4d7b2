//! Reads a packet dump of QEMU's `filter-dump` and says where each frame goes. Our own judge of the demo: it must count a
//! frame that could be going there, so what cannot be ruled out (a later fragment) counts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::error::Error;

/// `LINKTYPE_ETHERNET` (pcap link-layer header types).
const ETHERNET: u32 = 1;
/// Longer than any frame that a virtio NIC sends (64 KiB of TSO and headers).
const FRAME_MAX: u32 = 1 << 18;

/// Where one frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Going {
    /// EtherType, after VLAN tags.
    pub ethertype: u16,
    /// The packet in it, if it is IP.
    pub packet: Option<Packet>,
}

/// Where an IP packet comes from and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source.
    pub from: IpAddr,
    /// Destination.
    pub to: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port of TCP or UDP; `None` for other protocols and for fragments that do not carry it.
    pub port: Option<u16>,
}

impl Packet {
    /// Whether it is TCP or UDP to that address and, if one is given, port. A TCP or UDP fragment without ports counts.
    pub fn is_to(&self, address: IpAddr, port: Option<u16>) -> bool {
        let port_fits = match (port, self.port) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => true,
        };
        self.to == address && matches!(self.protocol, TCP | UDP) && port_fits
    }
}

/// IP protocol number (IANA).
pub const TCP: u8 = 6;
/// IP protocol number (IANA).
pub const UDP: u8 = 17;

/// Every frame of a dump, in order. A last record cut short is what a QEMU that was killed leaves: it is left out.
/// `path` is only named in errors.
///
/// # Errors
/// If it is no pcap file of Ethernet frames, or a record's length is impossible.
pub fn read(path: &Path, dump: &[u8]) -> Result<Vec<Going>, Error> {
    let wrong = |offset, expected, found: String| Error::Pcap { path: path.into(), offset, expected, found };
    let short = || wrong(dump.len(), "a pcap header of 24 bytes", "the end of the file".into());
    let (magic, _) = dump.split_first_chunk::<4>().ok_or_else(short)?;
    // The writer's byte order; 0xa1b23c4d is the form with nanoseconds (pcap-savefile(5)).
    let read_u32: fn([u8; 4]) -> u32 = match u32::from_le_bytes(*magic) {
        0xa1b2_c3d4 | 0xa1b2_3c4d => u32::from_le_bytes,
        0xd4c3_b2a1 | 0x4d3c_b2a1 => u32::from_be_bytes,
        other => return Err(wrong(0, "a pcap magic", format!("{other:#010x}"))),
    };
    let word = |at: usize| {
        let end = at.checked_add(4)?;
        Some(read_u32(dump.get(at..end)?.try_into().ok()?))
    };
    let link = word(20).ok_or_else(short)?;
    if link != ETHERNET {
        return Err(wrong(20, "link type 1, Ethernet", link.to_string()));
    }
    let mut frames = Vec::new();
    let mut offset = 24_usize;
    while let Some(length) = word(offset.saturating_add(8)) {
        if length > FRAME_MAX {
            return Err(wrong(offset, "a frame of at most 256 KiB", length.to_string()));
        }
        let start = offset.saturating_add(16);
        let end = start.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        let Some(frame) = dump.get(start..end) else { break };
        frames.push(going(frame));
        offset = end;
    }
    Ok(frames)
}

fn going(frame: &[u8]) -> Going {
    let mut at = 12;
    loop {
        let Some(ethertype) = be16(frame, at) else { return Going { ethertype: 0, packet: None } };
        match ethertype {
            0x8100 | 0x88a8 => at += 4,
            _ => {
                let body = frame.get(at + 2..).unwrap_or_default();
                let packet = match ethertype {
                    0x0800 => ipv4(body),
                    0x86dd => ipv6(body),
                    _ => None,
                };
                return Going { ethertype, packet };
            }
        }
    }
}

/// RFC 791 section 3.1.
fn ipv4(packet: &[u8]) -> Option<Packet> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let protocol = *packet.get(9)?;
    let first = be16(packet, 6)? & 0x1fff == 0;
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let (from, to) = (address(12)?.into(), address(16)?.into());
    let port = if first { port(protocol, packet.get(header..)) } else { None };
    Some(Packet { from, to, protocol, port })
}

/// RFC 8200 sections 3 and 4: extension headers are walked to the last.
fn ipv6(packet: &[u8]) -> Option<Packet> {
    let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
    let (from, to) = (address(8)?.into(), address(24)?.into());
    let (mut protocol, mut at, mut first) = (*packet.get(6)?, 40, true);
    while let Some(header) = packet.get(at..).filter(|_| matches!(protocol, 0 | 43 | 44 | 51 | 60)) {
        let (Some(next), Some(length)) = (header.first(), header.get(1)) else { break };
        let length = usize::from(*length);
        at += match protocol {
            44 => 8,
            51 => (length + 2) * 4,
            _ => (length + 1) * 8,
        };
        if protocol == 44 {
            first = be16(header, 2).is_some_and(|field| field & 0xfff8 == 0);
        }
        protocol = *next;
        if !first {
            break;
        }
    }
    let port = if first { port(protocol, packet.get(at..)) } else { None };
    Some(Packet { from, to, protocol, port })
}

fn port(protocol: u8, segment: Option<&[u8]>) -> Option<u16> {
    be16(segment?, 2).filter(|_| matches!(protocol, TCP | UDP))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(frames: &[Vec<u8>], big_endian: bool) -> Vec<u8> {
        let word = |n: u32| if big_endian { n.to_be_bytes() } else { n.to_le_bytes() };
        let mut bytes = [0xa1b2_c3d4, 0x0002_0004, 0, 0, 65536, 1].map(word).concat();
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap();
            bytes.extend([1, 2, length, length].map(word).concat());
            bytes.extend(frame);
        }
        bytes
    }

    fn ethernet(ethertype: u16, body: &[u8]) -> Vec<u8> {
        [&[0xff; 12][..], &ethertype.to_be_bytes(), body].concat()
    }

    /// An IPv4 packet with one option word, so that the header length matters.
    fn v4(protocol: u8, fragment: u16, to: [u8; 4], port: u16) -> Vec<u8> {
        let head = [0x46, 0, 0, 32, 0, 0];
        let mut packet = [&head[..], &fragment.to_be_bytes(), &[64, protocol, 0, 0, 10, 0, 2, 15]].concat();
        packet.extend(to);
        packet.extend([1, 1, 1, 0, 0x30, 0x39]);
        packet.extend(port.to_be_bytes());
        packet.extend([0; 4]);
        packet
    }

    fn v6(extensions: &[u8], next: u8, last: u8, port: u16) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        packet.extend(Ipv6Addr::LOCALHOST.octets());
        packet.extend("fec0::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend(extensions);
        if let Some(at) = packet.get_mut(40).filter(|_| !extensions.is_empty()) {
            *at = last;
        }
        packet.extend([0x30, 0x39]);
        packet.extend(port.to_be_bytes());
        packet.extend([0; 4]);
        packet
    }

    fn count(frames: &[Vec<u8>], to: &str, port: Option<u16>) -> usize {
        let to = to.parse().unwrap();
        let counts = [false, true].map(|big_endian| {
            let frames = read(Path::new("x.pcap"), &dump(frames, big_endian)).unwrap();
            frames.iter().filter(|f| f.packet.is_some_and(|p| p.is_to(to, port))).count()
        });
        assert_eq!(counts[0], counts[1]);
        counts[0]
    }

    #[test]
    fn only_tcp_and_udp_to_that_address_and_port_count() {
        let host = [10, 0, 2, 2];
        let frames = [
            ethernet(0x0800, &v4(TCP, 0x4000, host, 9000)),
            ethernet(0x0800, &v4(UDP, 0, host, 9000)),
            ethernet(0x0800, &v4(TCP, 0, host, 9001)),
            ethernet(0x0800, &v4(TCP, 0, [10, 0, 2, 3], 9000)),
            ethernet(0x0800, &v4(1, 0, host, 9000)),
            ethernet(0x0806, &v4(TCP, 0, host, 9000)),
            ethernet(0x0800, &[]),
            vec![1, 2, 3],
        ];
        assert_eq!(count(&frames, "10.0.2.2", Some(9000)), 2);
        assert_eq!(count(&frames, "10.0.2.2", None), 3);
        assert_eq!(count(&frames, "10.0.2.3", Some(9000)), 1);
    }

    #[test]
    fn tags_fragments_and_extension_headers_hide_nothing() {
        let tcp = v4(TCP, 0, [10, 0, 2, 2], 9000);
        let tagged = ethernet(0x8100, &[&[0, 5, 0x88, 0xa8, 0, 6, 0x08, 0][..], &tcp].concat());
        let later_fragment = ethernet(0x0800, &v4(UDP, 0x0100, [10, 0, 2, 2], 1));
        assert_eq!(count(&[tagged, later_fragment], "10.0.2.2", Some(9000)), 2);

        let plain = ethernet(0x86dd, &v6(&[], TCP, 0, 9000));
        let hop_by_hop = ethernet(0x86dd, &v6(&[0; 8], 0, UDP, 9000));
        let mut fragment = [0_u8; 8];
        let first_fragment = ethernet(0x86dd, &v6(&fragment, 44, TCP, 9000));
        fragment[2] = 1;
        let later = ethernet(0x86dd, &v6(&fragment, 44, TCP, 7));
        let other = ethernet(0x86dd, &v6(&[0; 8], 60, TCP, 9001));
        assert_eq!(count(&[plain, hop_by_hop, first_fragment, later, other], "fec0::2", Some(9000)), 4);
    }

    #[test]
    fn what_is_no_dump_is_refused() {
        let good = dump(&[vec![0; 60]], false);
        let refused = |bytes: &[u8]| read(Path::new("x.pcap"), bytes).unwrap_err().to_string();
        assert!(refused(b"").contains("x.pcap: byte 0: expected a pcap header"));
        assert!(refused(b"not a pcap file at all ....").contains("expected a pcap magic"));
        assert!(refused(&good[..20]).contains("expected a pcap header"));
        let mut link = good.clone();
        link[20] = 101;
        assert!(refused(&link).contains("byte 20: expected link type 1, Ethernet, found 101"));
        let mut long = good.clone();
        long[35] = 1;
        assert!(refused(&long).contains("byte 24: expected a frame of at most 256 KiB"));
        assert_eq!(read(Path::new("x.pcap"), &good).unwrap().len(), 1);
        assert_eq!(read(Path::new("x.pcap"), &good[..80]).unwrap().len(), 0);
    }
}
