//! Packets of one flow, put together into one super-packet that the TUN takes in one write.
//!
//! The rules are those of the kernel's own GRO (Linux `net/ipv4/tcp_offload.c`, `udp_offload.c`, `af_inet.c`), and stricter
//! in one point: what is put together, [`super::Split`] takes apart to the same bytes. So headers must be equal but for
//! lengths, checksums and what counts up by one; checksums are checked first, since nobody checks them after.

use std::io::IoSlice;

use super::{
    Fragment, Gso, IPV4_HEADER, IPV6_HEADER, Packet, Partial, TCP, TCP_HEADER, UDP, UDP_HEADER, VnetHeader,
    length_field, pseudo_header, put, tcp_flag, u8_at, u16_at, u32_at,
};

/// Flows that are open at a time; an older one is closed for a new one. The kernel keeps as many (`MAX_GRO_SKBS`).
const OPEN_FLOWS: usize = 8;
/// The most packets in one write. The kernel takes `UIO_MAXIOV` = 1024 parts; UDP allows 128 segments, 64 before 6.9.
const MAX_PARTS: usize = 64;
/// The longest IP packet.
const MAX_TOTAL: usize = 65_535;
const END_OF_GROUP: u8 = tcp_flag::FIN | tcp_flag::PSH;
/// A packet with one of these is left alone.
const NEVER: u8 = tcp_flag::SYN | tcp_flag::RST | tcp_flag::URG | tcp_flag::CWR;

/// One packet in the arena.
#[derive(Clone, Copy, Debug)]
struct Part {
    start: usize,
    len: usize,
    /// The part after it in its group.
    next: Option<usize>,
}

/// What decides whether a packet may follow another.
#[derive(Clone, Copy, Debug)]
struct Shape {
    v4: bool,
    tcp: bool,
    transport: usize,
    headers: usize,
    payload: usize,
    sequence: u32,
    id: u16,
    flags: u8,
}

/// Packets that are written together.
#[derive(Clone, Copy, Debug)]
struct Group {
    head: usize,
    tail: usize,
    parts: usize,
    /// Of the head; `None` for a packet that never has company.
    shape: Option<Shape>,
    /// The payload of all.
    payload: usize,
    next_sequence: u32,
    next_id: u16,
    /// Flags of the last packet that the head takes over.
    end_flags: u8,
    verified: bool,
}

/// Sorts the packets of one batch into writes. The packets lie in an arena that the caller keeps; nothing is copied.
#[derive(Debug)]
pub struct Coalescer {
    parts: Vec<Part>,
    groups: Vec<Group>,
    open: Vec<usize>,
    tcp: bool,
    udp: bool,
}

/// One write to the TUN.
#[derive(Debug)]
pub struct Write<'a> {
    header: [u8; VnetHeader::LEN],
    arena: &'a [u8],
    parts: &'a [Part],
    head: Part,
    headers: usize,
    count: usize,
}

impl<'a> Write<'a> {
    /// How many packets it carries.
    pub const fn packets(&self) -> usize {
        self.count
    }

    /// Hands its parts to a function, the vnet header first.
    pub fn with_slices<R>(&self, work: impl FnOnce(&[IoSlice<'_>]) -> R) -> R {
        let mut slices = [IoSlice::new(&[]); MAX_PARTS + 1];
        let mut filled = 0;
        let parts = std::iter::once(self.header.as_slice()).chain(self.chunks());
        for (slice, bytes) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(bytes);
            filled += 1;
        }
        work(slices.get(..filled).unwrap_or_default())
    }

    /// Its vnet header.
    pub const fn header(&self) -> &[u8; VnetHeader::LEN] {
        &self.header
    }

    /// The first packet whole, of the others the payload.
    pub fn chunks(&self) -> impl Iterator<Item = &'a [u8]> {
        let (arena, parts, headers) = (self.arena, self.parts, self.headers);
        let mut cut = 0;
        let mut at = Some(self.head);
        std::iter::from_fn(move || {
            let part = at?;
            at = part.next.and_then(|next| parts.get(next).copied());
            let chunk = arena.get(part.start + cut..part.start + part.len);
            cut = headers;
            chunk
        })
    }
}

impl Coalescer {
    /// For a TUN that takes super-packets of TCP, and of UDP.
    pub const fn new(tcp: bool, udp: bool) -> Self {
        Self { parts: Vec::new(), groups: Vec::new(), open: Vec::new(), tcp, udp }
    }

    /// How many packets wait.
    pub fn waiting(&self) -> usize {
        self.parts.len()
    }

    /// Takes a packet that lies in the arena at `start`, as [`Packet`] read it there.
    pub fn push(&mut self, arena: &[u8], start: usize, packet: &Packet<'_>) {
        let bytes = packet.bytes();
        let index = self.parts.len();
        self.parts.push(Part { start, len: bytes.len(), next: None });
        let candidate = self.candidate(packet);
        if let Some(at) = self.open.iter().rposition(|&group| self.same_flow(arena, group, packet)) {
            let group = self.open.get(at).copied().unwrap_or(usize::MAX);
            match candidate.and_then(|shape| self.join(arena, group, index, packet, &shape)) {
                Some(true) => return,
                Some(false) => {
                    self.open.remove(at);
                    return;
                }
                // What comes later must not overtake it.
                None => drop(self.open.remove(at)),
            }
        }
        let group = Group {
            head: index,
            tail: index,
            parts: 1,
            shape: candidate,
            payload: candidate.map_or(0, |shape| shape.payload),
            next_sequence: candidate.map_or(0, |shape| sequence_after(shape.sequence, shape.payload)),
            next_id: candidate.map_or(0, |shape| shape.id.wrapping_add(1)),
            end_flags: 0,
            verified: false,
        };
        if candidate.is_some_and(|shape| shape.flags & END_OF_GROUP == 0) {
            if self.open.len() >= OPEN_FLOWS {
                self.open.remove(0);
            }
            self.open.push(self.groups.len());
        }
        self.groups.push(group);
    }

    /// What may be part of a super-packet.
    fn candidate(&self, packet: &Packet<'_>) -> Option<Shape> {
        let (bytes, transport) = (packet.bytes(), packet.transport_offset());
        let v4 = packet.source().is_ipv4();
        // Neither options nor extension headers, nor fragments.
        if transport != if v4 { IPV4_HEADER } else { IPV6_HEADER } || packet.fragment() != Fragment::Whole {
            return None;
        }
        let id = if v4 { u16_at(bytes, 4)? } else { 0 };
        let shape = match packet.protocol() {
            TCP if self.tcp => {
                let flags = packet.tcp_flags()?;
                let header = usize::from(u8_at(bytes, transport + 12)? >> 4) * 4;
                if header < TCP_HEADER || flags & NEVER != 0 || flags & tcp_flag::ACK == 0 {
                    return None;
                }
                let headers = transport + header;
                let payload = bytes.len().checked_sub(headers)?;
                let sequence = u32_at(bytes, transport + 4)?;
                Shape { v4, tcp: true, transport, headers, payload, sequence, id, flags }
            }
            UDP if self.udp => {
                let headers = transport + UDP_HEADER;
                let payload = bytes.len().checked_sub(headers)?;
                let told = usize::from(u16_at(bytes, transport + 4)?);
                // Zero: the sender did without a checksum.
                if told != payload + UDP_HEADER || u16_at(bytes, transport + 6)? == 0 {
                    return None;
                }
                Shape { v4, tcp: false, transport, headers, payload, sequence: 0, id, flags: 0 }
            }
            _ => return None,
        };
        (shape.payload > 0).then_some(shape)
    }

    fn head_of(&self, group: usize) -> Option<(&Group, &Shape, Part)> {
        let group = self.groups.get(group)?;
        Some((group, group.shape.as_ref()?, *self.parts.get(group.head)?))
    }

    /// Whether a packet is of an open group's connection.
    fn same_flow(&self, arena: &[u8], group: usize, packet: &Packet<'_>) -> bool {
        let Some((_, shape, head)) = self.head_of(group) else { return false };
        let bytes = packet.bytes();
        let head = arena.get(head.start..head.start + head.len).unwrap_or_default();
        let protocol = if shape.tcp { TCP } else { UDP };
        let addresses = if shape.v4 { 12..20 } else { 8..40 };
        packet.protocol() == protocol
            && bytes.first().map(|first| first >> 4) == head.first().map(|first| first >> 4)
            && bytes.get(addresses.clone()) == head.get(addresses)
            && packet.transport().get(..4) == head.get(shape.transport..shape.transport + 4)
    }

    /// Puts a packet of the same flow behind a group: `Some(open)` if it was, `None` if it does not follow.
    fn join(
        &mut self,
        arena: &[u8],
        group: usize,
        index: usize,
        packet: &Packet<'_>,
        next: &Shape,
    ) -> Option<bool> {
        let (now, shape, head) = self.head_of(group)?;
        let bytes = packet.bytes();
        let head = arena.get(head.start..head.start + head.len)?;
        let fits = next.headers == shape.headers
            && next.payload <= shape.payload
            && now.payload + next.payload + shape.headers <= MAX_TOTAL
            && (!shape.v4 || next.id == now.next_id)
            && (!shape.tcp || next.sequence == now.next_sequence)
            && same_headers(shape, head, bytes);
        if !fits || !valid(shape, packet) {
            return None;
        }
        if !now.verified && !Packet::parse(head).is_ok_and(|head| valid(shape, &head)) {
            return None;
        }
        let shape = *shape;
        let tail = now.tail;
        self.parts.get_mut(tail)?.next = Some(index);
        let now = self.groups.get_mut(group)?;
        now.verified = true;
        now.tail = index;
        now.parts += 1;
        now.payload += next.payload;
        now.next_sequence = sequence_after(now.next_sequence, next.payload);
        now.next_id = now.next_id.wrapping_add(1);
        now.end_flags = next.flags & END_OF_GROUP;
        Some(next.payload == shape.payload && now.end_flags == 0 && now.parts < MAX_PARTS)
    }

    /// Hands out all writes, in the order of their first packets, and is empty then.
    pub fn flush(&mut self, arena: &mut [u8], mut write: impl FnMut(&Write<'_>)) {
        self.open.clear();
        for group in &self.groups {
            let Some(&head) = self.parts.get(group.head) else { continue };
            let (header, headers) = match (group.parts, &group.shape) {
                (2.., Some(shape)) => (super_packet(group, shape, head, arena), shape.headers),
                _ => (VnetHeader::PLAIN, 0),
            };
            write(&Write {
                header: header.to_bytes(),
                arena,
                parts: &self.parts,
                head,
                headers,
                count: group.parts,
            });
        }
        self.groups.clear();
        self.parts.clear();
    }
}

fn sequence_after(sequence: u32, payload: usize) -> u32 {
    sequence.wrapping_add(u32::try_from(payload).unwrap_or(0))
}

/// Whether all is equal that is not told apart by length, checksum or count.
fn same_headers(shape: &Shape, head: &[u8], bytes: &[u8]) -> bool {
    let equal = |from: usize, to: usize| head.get(from..to) == bytes.get(from..to);
    // Type of service, fragment bits, time to live; or traffic class and flow label, hop limit. Addresses were compared.
    let ip = if shape.v4 { equal(0, 2) && equal(6, 10) } else { equal(0, 4) && equal(6, 8) };
    let at = shape.transport;
    let flags = |bytes| u8_at(bytes, at + 13).map(|flags| flags & !END_OF_GROUP);
    ip && (!shape.tcp
        || equal(at + 8, at + 13)
            && flags(head) == flags(bytes)
            && equal(at + 14, at + 16)
            && equal(at + 18, shape.headers))
}

/// Whether its checksums are right, and written as we would write them.
fn valid(shape: &Shape, packet: &Packet<'_>) -> bool {
    let bytes = packet.bytes();
    if shape.v4
        && bytes.get(..IPV4_HEADER).map(|header| Partial::default().with(header).fold()) != Some([0xff; 2])
    {
        return false;
    }
    let transport = packet.transport();
    let protocol = if shape.tcp { TCP } else { UDP };
    let pseudo = pseudo_header(packet.source(), packet.destination(), protocol, transport.len());
    // Minus zero is a right sum of TCP that nobody writes; and of IPv4's header.
    let minus_zero =
        shape.tcp && u16_at(transport, 16) == Some(0xffff) || shape.v4 && u16_at(bytes, 10) == Some(0xffff);
    !minus_zero && pseudo.with(transport).fold() == [0xff; 2]
}

/// Makes the head's headers those of the super-packet.
fn super_packet(group: &Group, shape: &Shape, head: Part, arena: &mut [u8]) -> VnetHeader {
    let len = shape.headers + group.payload;
    let covered = len - shape.transport;
    let Some(bytes) = arena.get_mut(head.start..head.start + head.len) else { return VnetHeader::PLAIN };
    if shape.v4 {
        put(bytes, 2, &length_field(len));
        put(bytes, 10, &[0, 0]);
        let sum = Partial::default().with(bytes.get(..IPV4_HEADER).unwrap_or_default()).finish();
        put(bytes, 10, &sum);
    } else {
        put(bytes, 4, &length_field(len - IPV6_HEADER));
    }
    let place = if shape.tcp {
        let flags = u8_at(bytes, shape.transport + 13).unwrap_or(0) | group.end_flags;
        put(bytes, shape.transport + 13, &[flags]);
        16
    } else {
        put(bytes, shape.transport + 4, &length_field(covered));
        6
    };
    let addresses = if shape.v4 { 12..20 } else { 8..40 };
    let protocol = if shape.tcp { TCP } else { UDP };
    let sum = Partial::default()
        .with(bytes.get(addresses).unwrap_or_default())
        .with_u16(u16::from(protocol))
        .with_u16(u16::try_from(covered).unwrap_or(u16::MAX));
    put(bytes, shape.transport + place, &sum.fold());
    let field = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    VnetHeader {
        needs_checksum: true,
        gso: match (shape.tcp, shape.v4) {
            (true, true) => Gso::TcpV4,
            (true, false) => Gso::TcpV6,
            (false, _) => Gso::Udp,
        },
        header_len: field(shape.headers),
        segment_size: field(shape.payload),
        checksum_start: field(shape.transport),
        checksum_offset: field(place),
    }
}
