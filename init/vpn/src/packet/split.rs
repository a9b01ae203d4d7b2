//! A super-packet, taken apart into packets of the MTU without a second copy of its payload.

use thiserror::Error;

use super::{
    Fragment, Gso, IPV4_HEADER, IPV6_HEADER, Packet, Partial, TCP, TCP_HEADER, UDP, UDP_HEADER, VnetHeader,
    length_field, pseudo_header, put, tcp_flag, u8_at, u16_at, u32_at,
};

/// The most that the headers of a super-packet have: IPv4 with all its options, TCP with all of its.
const MAX_HEADERS: usize = 120;

/// A super-packet that is not as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SplitError {
    /// It is no IP packet, or cut.
    #[error("it is no whole IP packet")]
    Malformed,
    /// The kernel said one kind, the packet is another.
    #[error("the kind of super-packet is not that of the packet")]
    Kind,
    /// A size of zero, or headers that cannot be.
    #[error("the sizes of the super-packet cannot be")]
    Size,
    /// The place of the checksum is outside.
    #[error("the checksum's place is outside of the packet")]
    Checksum,
}

/// The packets of one super-packet, one after another, each made in the super-packet's own memory: the headers are put just
/// before its part of the payload, over the end of the part before, which has been dealt with by then.
#[derive(Debug)]
pub struct Split<'a> {
    bytes: &'a mut [u8],
    headers: [u8; MAX_HEADERS],
    headers_len: usize,
    transport: usize,
    gso: Gso,
    segment: usize,
    /// The sum of the pseudo-header without the length.
    pseudo: Partial,
    sequence: u32,
    id: u16,
    flags: u8,
    /// Where the next part of the payload begins.
    next: usize,
    done: bool,
}

impl<'a> Split<'a> {
    /// Of the bytes after the vnet header.
    ///
    /// # Errors
    /// If packet and header do not fit together.
    pub fn new(header: &VnetHeader, bytes: &'a mut [u8]) -> Result<Self, SplitError> {
        let packet = Packet::parse(bytes).map_err(|_| SplitError::Malformed)?;
        let (total, transport) = (packet.bytes().len(), packet.transport_offset());
        let (source, destination, protocol) = (packet.source(), packet.destination(), packet.protocol());
        let whole = packet.fragment() == Fragment::Whole;
        let tcp_header = usize::from(u8_at(packet.transport(), 12).unwrap_or(0) >> 4) * 4;
        let mut split = Self {
            headers: [0; MAX_HEADERS],
            headers_len: 0,
            transport,
            gso: header.gso,
            segment: 0,
            pseudo: Partial::default(),
            sequence: 0,
            id: 0,
            flags: 0,
            next: 0,
            done: false,
            bytes: bytes.get_mut(..total).ok_or(SplitError::Malformed)?,
        };
        if header.gso == Gso::None {
            if header.needs_checksum {
                complete(header, split.bytes)?;
            }
            return Ok(split);
        }
        let v4 = source.is_ipv4();
        let (kind, transport_header) = match header.gso {
            Gso::Udp => (protocol == UDP, UDP_HEADER),
            Gso::TcpV4 => (protocol == TCP && v4, tcp_header),
            Gso::TcpV6 => (protocol == TCP && !v4, tcp_header),
            Gso::None => (false, 0),
        };
        if !kind || !whole {
            return Err(SplitError::Kind);
        }
        if protocol == TCP && transport_header < TCP_HEADER {
            return Err(SplitError::Size);
        }
        split.segment = usize::from(header.segment_size);
        split.headers_len = transport + transport_header;
        split.next = split.headers_len;
        let headers = split.bytes.get(..split.headers_len).ok_or(SplitError::Size)?;
        let template = split.headers.get_mut(..headers.len()).ok_or(SplitError::Size)?;
        if split.segment == 0 {
            return Err(SplitError::Size);
        }
        template.copy_from_slice(headers);
        if v4 {
            split.id = u16_at(headers, 4).unwrap_or(0);
        }
        if protocol == TCP {
            split.sequence = u32_at(headers, transport + 4).unwrap_or(0);
            split.flags = u8_at(headers, transport + 13).unwrap_or(0);
        }
        split.pseudo = pseudo_header(source, destination, protocol, 0);
        Ok(split)
    }

    /// How long the next packet is.
    pub fn next_len(&self) -> Option<usize> {
        if self.done {
            return None;
        }
        if self.gso == Gso::None {
            return Some(self.bytes.len());
        }
        Some(self.headers_len + self.bytes.len().saturating_sub(self.next).min(self.segment))
    }

    /// The next packet, complete with its checksums.
    pub fn next_packet(&mut self) -> Option<&mut [u8]> {
        if self.done {
            return None;
        }
        if self.gso == Gso::None {
            self.done = true;
            return Some(self.bytes);
        }
        let left = self.bytes.len().checked_sub(self.next)?;
        let part = left.min(self.segment);
        let last = part == left;
        let first = self.next == self.headers_len;
        let start = self.next - self.headers_len;
        self.next += part;
        self.done = last;

        let (len, transport) = (self.headers_len + part, self.transport);
        let packet = self.bytes.get_mut(start..start + len)?;
        packet.get_mut(..self.headers_len)?.copy_from_slice(self.headers.get(..self.headers_len)?);
        if packet.first()? >> 4 == 4 {
            put(packet, 2, &length_field(len));
            put(packet, 4, &self.id.to_be_bytes());
            put(packet, 10, &[0, 0]);
            let sum = Partial::default().with(packet.get(..transport)?).finish();
            put(packet, 10, &sum);
            self.id = self.id.wrapping_add(1);
        } else {
            put(packet, 4, &length_field(len - IPV6_HEADER));
        }
        let covered = len - transport;
        let place = if self.gso == Gso::Udp {
            put(packet, transport + 4, &length_field(covered));
            transport + 6
        } else {
            put(packet, transport + 4, &self.sequence.to_be_bytes());
            // As the kernel does it (net/ipv4/tcp_offload.c): the end's flags at the end, the start's at the start.
            let mut flags = self.flags;
            if !last {
                flags &= !(tcp_flag::FIN | tcp_flag::PSH);
            }
            if !first {
                flags &= !tcp_flag::CWR;
            }
            put(packet, transport + 13, &[flags]);
            self.sequence = self.sequence.wrapping_add(u32::try_from(part).unwrap_or(0));
            transport + 16
        };
        put(packet, place, &[0, 0]);
        let sum = self.pseudo.with_u16(u16::try_from(covered).unwrap_or(0)).with(packet.get(transport..)?);
        put(packet, place, &non_zero_for_udp(self.gso == Gso::Udp, sum.finish()));
        Some(packet)
    }
}

/// A UDP checksum of zero means none (RFC 768), so it is sent as its other form.
const fn non_zero_for_udp(udp: bool, sum: [u8; 2]) -> [u8; 2] {
    match (udp, sum) {
        (true, [0, 0]) => [0xff, 0xff],
        _ => sum,
    }
}

/// Does what the kernel left: its field holds the pseudo-header's sum.
fn complete(header: &VnetHeader, bytes: &mut [u8]) -> Result<(), SplitError> {
    let start = usize::from(header.checksum_start);
    let place = start + usize::from(header.checksum_offset);
    if start < IPV4_HEADER {
        return Err(SplitError::Checksum);
    }
    let sum = Partial::default().with(bytes.get(start..).ok_or(SplitError::Checksum)?).finish();
    let udp = header.checksum_offset == 6;
    let field = bytes.get_mut(place..).and_then(|from| from.first_chunk_mut::<2>());
    *field.ok_or(SplitError::Checksum)? = non_zero_for_udp(udp, sum);
    Ok(())
}
