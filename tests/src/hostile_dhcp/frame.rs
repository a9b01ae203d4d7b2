//! Ethernet frames: taking them off QEMU's stream, reading what a test asks of them, building the few we send.

use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;

use super::answer::{Asked, Kind};

/// A frame that the guest sent, from the destination address on, without checksum.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame(Vec<u8>);

/// What a test asks of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Summary {
    /// ARP; `request` or reply.
    Arp {
        /// Whether it asks.
        request: bool,
        /// Whose address the sender claims.
        sender: Ipv4Addr,
        /// Which address it is about.
        target: Ipv4Addr,
    },
    /// IPv4; the ports are 0 for anything but unfragmented TCP and UDP.
    Ipv4 {
        /// From.
        source: Ipv4Addr,
        /// To.
        destination: Ipv4Addr,
        /// 6 TCP, 17 UDP.
        protocol: u8,
        /// Source port.
        source_port: u16,
        /// Destination port.
        destination_port: u16,
    },
    /// Anything else, IPv6 (0x86dd) among it, by EtherType.
    Other(u16),
}

impl Frame {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What it is.
    pub fn summary(&self) -> Summary {
        let kind = self.u16_at(12).unwrap_or(0);
        match kind {
            ARP => self.arp_summary(),
            IPV4 => self.ipv4_summary(),
            _ => None,
        }
        .unwrap_or(Summary::Other(kind))
    }

    /// Whether an address occurs anywhere in it, also where no field of ours is.
    pub fn names(&self, address: [u8; 4]) -> bool {
        self.0.windows(4).any(|window| window == address)
    }

    /// The kind of DHCP message in it, if it is one from a client.
    pub fn dhcp_kind(&self) -> Option<Kind> {
        self.dhcp().map(|asked| asked.kind)
    }

    pub(super) fn dhcp(&self) -> Option<Asked> {
        match self.summary() {
            Summary::Ipv4 { protocol: UDP, source_port: 68, destination_port: 67, .. } => {
                let ip = usize::from(self.0.get(14)? & 15) * 4;
                Asked::parse(self.0.get(14 + ip + 8..)?)
            }
            _ => None,
        }
    }

    /// The reply to an ARP request, unless it asks for one of `silent`.
    pub(super) fn arp_reply(&self, mac: [u8; 6], silent: &[[u8; 4]]) -> Option<Vec<u8>> {
        let Summary::Arp { request: true, sender, target } = self.summary() else { return None };
        if silent.contains(&target.octets()) {
            return None;
        }
        let asker = self.0.get(22..28)?;
        let mut reply = [asker, mac.as_slice(), &ARP.to_be_bytes()].concat();
        // RFC 826: Ethernet, IPv4, lengths, reply.
        reply.extend([0, 1, 8, 0, 6, 4, 0, 2]);
        reply.extend(mac);
        reply.extend(target.octets());
        reply.extend(asker);
        reply.extend(sender.octets());
        Some(padded(reply))
    }

    fn arp_summary(&self) -> Option<Summary> {
        let address =
            |at: usize| self.0.get(at..at + 4)?.try_into().ok().map(|four: [u8; 4]| Ipv4Addr::from(four));
        let request = self.u16_at(20)? == 1;
        Some(Summary::Arp { request, sender: address(28)?, target: address(38)? })
    }

    fn ipv4_summary(&self) -> Option<Summary> {
        let header = self.0.get(14..34)?;
        let address =
            |at: usize| header.get(at..at + 4)?.try_into().ok().map(|four: [u8; 4]| Ipv4Addr::from(four));
        let protocol = *header.get(9)?;
        let first = u16::from_be_bytes(header.get(6..8)?.try_into().ok()?) & 0x3fff == 0;
        let ports = 14 + usize::from(header.first()? & 15) * 4;
        let port = |at: usize| {
            if first && matches!(protocol, TCP | UDP) { self.u16_at(ports + at) } else { Some(0) }
        };
        Some(Summary::Ipv4 {
            source: address(12)?,
            destination: address(16)?,
            protocol,
            source_port: port(0)?,
            destination_port: port(2)?,
        })
    }

    fn u16_at(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes(self.0.get(at..at + 2)?.try_into().ok()?))
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ({} bytes)", self.summary(), self.0.len())
    }
}

/// Takes the first whole frame off what came in so far.
pub(super) fn take(pending: &mut Vec<u8>) -> io::Result<Option<Frame>> {
    let Some((len, rest)) = pending.split_first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_be_bytes(*len) as usize;
    if len > MAX_FRAME {
        let found = format!("QEMU's stream: expected a frame of at most {MAX_FRAME} bytes, found {len}");
        return Err(io::Error::new(ErrorKind::InvalidData, found));
    }
    let Some(frame) = rest.get(..len).map(<[u8]>::to_vec) else { return Ok(None) };
    pending.drain(..4 + len);
    Ok(Some(Frame(frame)))
}

/// A frame as QEMU's stream carries it.
pub(super) fn prefixed(frame: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(frame.len()).map_err(|_| ErrorKind::InvalidInput)?;
    Ok([len.to_be_bytes().as_slice(), frame].concat())
}

/// A server's message in UDP 67 to 68, IPv4 and Ethernet, to everybody. Longer than 65,507 bytes is cut.
pub(super) fn broadcast_dhcp(mac: [u8; 6], server: [u8; 4], message: &[u8]) -> Vec<u8> {
    let message = message.get(..message.len().min(65_507)).unwrap_or_default();
    let len = |extra: usize| u16::try_from(message.len() + extra).unwrap_or(u16::MAX).to_be_bytes();
    let mut header = vec![0x45, 0];
    header.extend(len(28));
    header.extend([0, 0, 0, 0, 64, UDP, 0, 0]);
    header.extend(server);
    header.extend([255; 4]);
    let [high, low] = checksum(&header);
    header.splice(10..12, [high, low]);
    let mut frame = [[255; 6], mac].concat();
    frame.extend(IPV4.to_be_bytes());
    frame.extend(header);
    frame.extend([0, 67, 0, 68]);
    frame.extend(len(8));
    // No UDP checksum, which IPv4 allows (RFC 768).
    frame.extend([0, 0]);
    frame.extend(message);
    padded(frame)
}

/// RFC 1071, of an even number of bytes.
fn checksum(header: &[u8]) -> [u8; 2] {
    let (pairs, _) = header.as_chunks::<2>();
    let sum: u32 = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let [_, _, high, low] = (!((folded & 0xffff) + (folded >> 16))).to_be_bytes();
    [high, low]
}

/// To Ethernet's minimum of 60 bytes without checksum.
fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(60), 0);
    frame
}

/// QEMU's NET_BUFSIZE, include/net/net.h: 4096 + 65536.
const MAX_FRAME: usize = 69_632;
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const TCP: u8 = 6;
const UDP: u8 = 17;
