//! IP packets: super-packets taken apart, packets put together.

use std::collections::BTreeMap;
use std::net::IpAddr;

use casemate_vpn::packet::{Coalescer, Gso, Packet, Split, TCP, UDP, VnetHeader};

use crate::Verdict;

/// More packets than one batch has.
const MAX_PACKETS: usize = 96;

/// What the TUN gives: a vnet header and a packet.
///
/// Each part is a whole packet with right checksums and lengths, as long as was announced; together they carry the payload, each byte
/// once and in order; and put together and taken apart again they are the same.
pub(crate) fn super_packet(input: &[u8]) -> Verdict {
    let mut bytes = input.to_vec();
    let Some((header, bytes)) = VnetHeader::parse(&mut bytes) else { return Verdict::Refused };
    let original = bytes.to_vec();
    let Ok(whole) = Packet::parse(&original) else {
        assert!(Split::new(&header, bytes).is_err());
        return Verdict::Refused;
    };
    let Ok(mut split) = Split::new(&header, bytes) else { return Verdict::Refused };
    let parts = take_apart(&mut split);
    if header.gso == Gso::None {
        let [part] = parts.as_slice() else { panic!("{} parts of one packet", parts.len()) };
        let place = usize::from(header.checksum_start) + usize::from(header.checksum_offset);
        for (at, (found, given)) in part.iter().zip(whole.bytes()).enumerate() {
            let sum = header.needs_checksum && (place..place + 2).contains(&at);
            assert!(sum || found == given, "byte {at} was changed");
        }
        assert_eq!(part.len(), whole.bytes().len());
        return Verdict::Accepted;
    }
    let segment = usize::from(header.segment_size);
    let first = parts.first().unwrap_or_else(|| panic!("a packet of no parts"));
    let headers = whole.transport_offset() + transport_header(&whole);
    let payload = whole.bytes().get(headers..).unwrap_or_default();
    assert_eq!(parts.len(), payload.len().div_ceil(segment).max(1));
    let mut carried = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let packet = Packet::parse(part).unwrap_or_else(|error| panic!("part {number}: {error}"));
        assert_eq!(packet.bytes().len(), part.len(), "part {number}");
        assert_eq!((packet.source(), packet.destination()), (whole.source(), whole.destination()));
        assert_eq!((packet.protocol(), packet.ports()), (whole.protocol(), whole.ports()));
        assert_right(&packet);
        let data = part.get(headers..).unwrap_or_default();
        assert!(data.len() == segment || number + 1 == parts.len() && data.len() <= segment);
        if packet.protocol() == TCP {
            let offset = u32::try_from(number * segment).unwrap_or(0);
            assert_eq!(sequence(&packet), sequence(&whole).wrapping_add(offset));
        }
        if packet.source().is_ipv4() {
            let id = |bytes: &[u8]| bytes.get(4..6).map(|id| u16::from_be_bytes([id[0], id[1]]));
            let number = u16::try_from(number & 0xffff).unwrap_or(0);
            assert_eq!(id(part), id(first).map(|first| first.wrapping_add(number)));
        }
        carried.extend_from_slice(data);
    }
    assert_eq!(carried, payload);
    recombine(&parts);
    Verdict::Accepted
}

/// Packets for the TUN. Each is a byte of flags, two of length (big endian), and bytes: flag 1 puts the right checksums into it, flag
/// 2 puts the headers of the packet before it in front, as those of the next in its flow.
///
/// Taken apart, the writes are the packets, byte by byte, and those of one flow in their order.
pub(crate) fn coalesce(mut input: &[u8]) -> Verdict {
    let mut packets: Vec<Vec<u8>> = Vec::new();
    while let Some(([flags, high, low], rest)) = input.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (bytes, rest) = rest.split_at(length);
        input = rest;
        let mut packet = match packets.last() {
            Some(before) if flags & 2 != 0 => following(before, bytes),
            _ => bytes.to_vec(),
        };
        if flags & 1 != 0 {
            make_right(&mut packet);
        }
        // What is no packet never comes so far.
        if let Ok(read) = Packet::parse(&packet) {
            let length = read.bytes().len();
            packet.truncate(length);
            packets.push(packet);
        }
        if packets.len() >= MAX_PACKETS {
            break;
        }
    }
    let most = recombine(&packets);
    Verdict::accepted(most > 1)
}

/// Puts packets together and takes them apart again; the most packets of one write.
fn recombine(packets: &[Vec<u8>]) -> usize {
    let mut most = 0;
    // As a batch has them.
    for packets in packets.chunks(MAX_PACKETS) {
        let mut arena = packets.concat();
        let mut coalescer = Coalescer::new(true, true);
        let mut start = 0;
        for packet in packets {
            let read = arena.get(start..start + packet.len()).map(Packet::parse);
            let Some(Ok(read)) = read else { panic!("a packet that was read does not read") };
            coalescer.push(&arena, start, &read);
            start += packet.len();
        }
        assert_eq!(coalescer.waiting(), packets.len());
        let mut found = Vec::new();
        coalescer.flush(&mut arena, |write| {
            let mut bytes = write.header().to_vec();
            write.chunks().for_each(|chunk| bytes.extend_from_slice(chunk));
            let slices = write.with_slices(|slices| slices.iter().map(|slice| slice.len()).sum::<usize>());
            assert_eq!(slices, bytes.len());
            assert!(bytes.len() <= VnetHeader::LEN + 65_535, "a write of {} bytes", bytes.len());
            let Some((header, packet)) = VnetHeader::parse(&mut bytes) else { panic!("not a vnet header") };
            let mut split = Split::new(&header, packet).unwrap_or_else(|error| panic!("a write: {error}"));
            let parts = take_apart(&mut split);
            assert_eq!(parts.len(), write.packets());
            most = most.max(parts.len());
            found.extend(parts);
        });
        assert_eq!(coalescer.waiting(), 0);
        assert_eq!(by_flow(&found), by_flow(packets), "the packets are others, or in another order");
    }
    most
}

/// Addresses, protocol, and the ports or whatever stands there.
type FlowKey = (IpAddr, IpAddr, u8, Vec<u8>);

/// The packets of each flow, in their order.
fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<FlowKey, Vec<&[u8]>> {
    let mut flows: BTreeMap<_, Vec<&[u8]>> = BTreeMap::new();
    for bytes in packets {
        let packet = Packet::parse(bytes).unwrap_or_else(|error| panic!("{error}"));
        let ports = packet.transport().iter().take(4).copied().collect();
        let flow = (packet.source(), packet.destination(), packet.protocol(), ports);
        flows.entry(flow).or_default().push(bytes);
    }
    flows
}

fn take_apart(split: &mut Split<'_>) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    while let Some(length) = split.next_len() {
        let part = split.next_packet().unwrap_or_else(|| panic!("a part was announced and does not come"));
        assert_eq!(part.len(), length);
        parts.push(part.to_vec());
    }
    assert!(split.next_packet().is_none());
    parts
}

/// The length of the transport header.
fn transport_header(packet: &Packet<'_>) -> usize {
    match packet.protocol() {
        TCP => packet.transport().get(12).map_or(0, |byte| usize::from(byte >> 4) * 4),
        _ => 8,
    }
}

fn sequence(packet: &Packet<'_>) -> u32 {
    packet
        .transport()
        .get(4..8)
        .map_or(0, |bytes| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// RFC 1071, the plain way.
fn sum(bytes: &[u8], before: u32) -> u32 {
    let mut sum = before;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn transport_sum(packet: &Packet<'_>) -> u32 {
    let length = u32::try_from(packet.transport().len()).unwrap_or(0);
    let addresses = match (packet.source(), packet.destination()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => sum(&to.octets(), sum(&from.octets(), 0)),
        (IpAddr::V6(from), IpAddr::V6(to)) => sum(&to.octets(), sum(&from.octets(), 0)),
        _ => 0,
    };
    let sum = sum(packet.transport(), addresses + u32::from(packet.protocol()) + length);
    (sum & 0xffff) + (sum >> 16)
}

/// Whether checksums and lengths are what they must be.
fn assert_right(packet: &Packet<'_>) {
    if packet.source().is_ipv4() {
        let header = packet.bytes().get(..packet.transport_offset()).unwrap_or_default();
        assert_eq!(sum(header, 0), 0xffff, "the header's checksum");
    }
    assert_eq!(transport_sum(packet), 0xffff, "the transport's checksum");
    if packet.protocol() == UDP {
        let field =
            |at: usize| packet.transport().get(at..at + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
        assert_eq!(field(4).map(usize::from), Some(packet.transport().len()));
        assert_ne!(field(6), Some(0), "a checksum that says that there is none");
    }
}

fn put(bytes: &mut [u8], at: usize, what: [u8; 2]) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&what);
    }
}

/// Puts in right lengths and checksums, where there is a place for them.
fn make_right(bytes: &mut [u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(0);
    if bytes.first().is_some_and(|first| first >> 4 == 4) {
        put(bytes, 2, length.to_be_bytes());
        put(bytes, 10, [0; 2]);
        let header = usize::from(bytes[0] & 15) * 4;
        let value = !u16::try_from(sum(bytes.get(..header).unwrap_or_default(), 0)).unwrap_or(0);
        put(bytes, 10, value.to_be_bytes());
    } else {
        put(bytes, 4, length.saturating_sub(40).to_be_bytes());
    }
    let Ok(packet) = Packet::parse(bytes) else { return };
    let (at, protocol) = (packet.transport_offset(), packet.protocol());
    let place = match protocol {
        TCP => at + 16,
        UDP => at + 6,
        _ => return,
    };
    if protocol == UDP {
        let covered = length.saturating_sub(u16::try_from(at).unwrap_or(0));
        put(bytes, at + 4, covered.to_be_bytes());
    }
    put(bytes, place, [0; 2]);
    let Ok(packet) = Packet::parse(bytes) else { return };
    let value = !u16::try_from(transport_sum(&packet)).unwrap_or(0);
    let value = if protocol == UDP && value == 0 { 0xffff } else { value };
    put(bytes, place, value.to_be_bytes());
}

/// The next packet of a flow, with this payload.
fn following(before: &[u8], payload: &[u8]) -> Vec<u8> {
    let Ok(packet) = Packet::parse(before) else { return payload.to_vec() };
    let headers = packet.transport_offset() + transport_header(&packet);
    let mut next = before.get(..headers).unwrap_or_default().to_vec();
    if packet.protocol() == TCP {
        let carried = u32::try_from(before.len().saturating_sub(headers)).unwrap_or(0);
        let [a, b, c, d] = sequence(&packet).wrapping_add(carried).to_be_bytes();
        put(&mut next, packet.transport_offset() + 4, [a, b]);
        put(&mut next, packet.transport_offset() + 6, [c, d]);
    }
    if packet.source().is_ipv4() {
        let id = before.get(4..6).map_or(0, |id| u16::from_be_bytes([id[0], id[1]]));
        put(&mut next, 4, id.wrapping_add(1).to_be_bytes());
    }
    next.extend_from_slice(payload);
    next
}
