#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on may panic, and its numbers are small"
)]

use proptest::prelude::*;

use super::*;

/// A packet with right checksums.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) v6: bool,
    pub(crate) udp: bool,
    pub(crate) source: u8,
    pub(crate) port: u16,
    pub(crate) id: u16,
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
    pub(crate) options: usize,
    pub(crate) payload: Vec<u8>,
}

impl Made {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let header = if self.udp { UDP_HEADER } else { TCP_HEADER + self.options * 4 };
        let transport = header + self.payload.len();
        let mut bytes = Vec::new();
        if self.v6 {
            bytes.extend([0x60, 0, 0, 1]);
            bytes.extend((transport as u16).to_be_bytes());
            bytes.extend([if self.udp { UDP } else { TCP }, 64]);
            bytes.extend([0xfd; 15]);
            bytes.push(self.source);
            bytes.extend([0xfd; 15]);
            bytes.push(99);
        } else {
            bytes.extend([0x45, 0]);
            bytes.extend((20 + transport as u16).to_be_bytes());
            bytes.extend(self.id.to_be_bytes());
            bytes.extend([0x40, 0, 64, if self.udp { UDP } else { TCP }, 0, 0]);
            bytes.extend([100, 64, 0, self.source, 100, 64, 0, 99]);
            let sum = Partial::default().with(&bytes).finish();
            bytes[10..12].copy_from_slice(&sum);
        }
        let at = bytes.len();
        bytes.extend(self.port.to_be_bytes());
        bytes.extend(443_u16.to_be_bytes());
        let place = if self.udp {
            bytes.extend((transport as u16).to_be_bytes());
            bytes.extend([0, 0]);
            at + 6
        } else {
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend([1, 2, 3, 4, ((header / 4) << 4) as u8, self.flags, 2, 0, 0, 0, 0, 0]);
            bytes.extend(vec![1; self.options * 4]);
            at + 16
        };
        bytes.extend(&self.payload);
        let packet = Packet::parse(&bytes).unwrap();
        let sum = pseudo_header(packet.source, packet.destination, packet.protocol, transport)
            .with(&bytes[at..])
            .finish();
        bytes[place..place + 2].copy_from_slice(&if self.udp && sum == [0, 0] { [0xff, 0xff] } else { sum });
        bytes
    }
}

/// All writes of these packets, as the TUN gets them.
fn coalesced(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut arena = Vec::new();
    let places: Vec<_> = packets
        .iter()
        .map(|packet| {
            let at = arena.len();
            arena.extend(packet);
            (at, packet.len())
        })
        .collect();
    let mut coalescer = Coalescer::new(true, true);
    for (at, len) in places {
        let packet = Packet::parse(&arena[at..at + len]).unwrap();
        coalescer.push(&arena, at, &packet);
    }
    let mut writes = Vec::new();
    coalescer.flush(&mut arena, |write| {
        writes.push(write.with_slices(|slices| slices.iter().flat_map(|slice| slice.to_vec()).collect()));
    });
    assert_eq!(coalescer.waiting(), 0);
    writes
}

/// A write, taken apart.
fn split(write: &[u8]) -> Vec<Vec<u8>> {
    let mut bytes = write.to_vec();
    let (header, packet) = VnetHeader::parse(&mut bytes).unwrap();
    let mut split = Split::new(&header, packet).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = split.next_packet() {
        packets.push(packet.to_vec());
    }
    packets
}

fn stream(source: u8, v6: bool, count: usize, size: usize) -> Vec<Made> {
    (0..count)
        .map(|nth| Made {
            v6,
            udp: false,
            source,
            port: 1000,
            id: (nth as u16).wrapping_add(65_530),
            sequence: ((nth * size) as u32).wrapping_add(u32::MAX - 2000),
            flags: tcp_flag::ACK,
            options: 3,
            payload: (0..size).map(|byte| (byte * 7 + nth) as u8).collect(),
        })
        .collect()
}

fn bytes(made: &[Made]) -> Vec<Vec<u8>> {
    made.iter().map(Made::bytes).collect()
}

#[test]
fn a_stream_is_one_write_and_comes_apart_to_the_same_bytes() {
    for v6 in [false, true] {
        let mut made = stream(1, v6, 30, 1200);
        made[29].payload.truncate(77);
        made[29].flags |= tcp_flag::PSH;
        let packets = bytes(&made);
        let writes = coalesced(&packets);
        assert_eq!(writes.len(), 1);
        assert_eq!(split(&writes[0]), packets);
    }
}

#[test]
fn equal_datagrams_are_one_write() {
    for v6 in [false, true] {
        let mut made = stream(1, v6, 20, 500);
        for one in &mut made {
            one.udp = true;
        }
        let packets = bytes(&made);
        let writes = coalesced(&packets);
        assert_eq!(writes.len(), 1);
        assert_eq!(split(&writes[0]), packets);
    }
}

#[test]
fn streams_that_alternate_are_one_write_each() {
    let (one, two) = (bytes(&stream(1, false, 10, 900)), bytes(&stream(2, true, 10, 700)));
    let mixed: Vec<_> = one.iter().zip(&two).flat_map(|(one, two)| [one.clone(), two.clone()]).collect();
    let writes = coalesced(&mixed);
    assert_eq!(writes.len(), 2);
    assert_eq!(split(&writes[0]), one);
    assert_eq!(split(&writes[1]), two);
}

/// What must not be put together, one at a time.
#[test]
fn each_rule_keeps_packets_apart() {
    type Change = fn(&mut Vec<u8>);
    let rules: [(&str, Change); 11] = [
        ("its checksum is wrong", |bytes| bytes[60] ^= 1),
        ("the checksum of its IP header is wrong", |bytes| bytes[10] ^= 1),
        ("a gap", |bytes| edit(bytes, 27, 9)),
        ("another acknowledgement", |bytes| edit(bytes, 31, 9)),
        ("another window", |bytes| edit(bytes, 35, 9)),
        ("URG", |bytes| edit(bytes, 33, tcp_flag::ACK | tcp_flag::URG)),
        ("ECE", |bytes| edit(bytes, 33, tcp_flag::ACK | tcp_flag::ECE)),
        ("CWR", |bytes| edit(bytes, 33, tcp_flag::ACK | tcp_flag::CWR)),
        ("another option", |bytes| edit(bytes, 40, 9)),
        ("another type of service", |bytes| edit_ip(bytes, 1, 3)),
        ("another time to live", |bytes| edit_ip(bytes, 8, 3)),
    ];
    for (rule, change) in rules {
        let mut packets = bytes(&stream(1, false, 2, 100));
        change(&mut packets[1]);
        let writes = coalesced(&packets);
        assert_eq!(writes.len(), 2, "{rule}");
        assert_eq!(writes.iter().flat_map(|write| split(write)).collect::<Vec<_>>(), packets, "{rule}");
    }
    let mut packets = bytes(&stream(1, false, 2, 100));
    edit_ip(&mut packets[1], 5, 77);
    assert_eq!(coalesced(&packets).len(), 2, "another identification");
    let mut packets = bytes(&stream(1, false, 2, 100));
    packets[0][60] ^= 1;
    assert_eq!(coalesced(&packets).len(), 2, "the first one's checksum is wrong");
    let mut packets = stream(1, false, 2, 100);
    packets[1].payload.push(0);
    assert_eq!(coalesced(&bytes(&packets)).len(), 2, "longer than the first");
    let mut packets = stream(1, false, 3, 100);
    packets[0].flags |= tcp_flag::PSH;
    assert_eq!(coalesced(&bytes(&packets)).len(), 2, "nothing follows PSH");
    packets[0].flags = tcp_flag::ACK | tcp_flag::SYN;
    assert_eq!(coalesced(&bytes(&packets)).len(), 2, "nothing follows SYN");
}

/// Changes a byte of the TCP header and makes the checksum right.
fn edit(bytes: &mut [u8], at: usize, value: u8) {
    bytes[at] = value;
    bytes[36..38].copy_from_slice(&[0, 0]);
    let packet = Packet::parse(bytes).unwrap();
    let sum =
        pseudo_header(packet.source, packet.destination, TCP, bytes.len() - 20).with(&bytes[20..]).finish();
    bytes[36..38].copy_from_slice(&sum);
}

fn edit_ip(bytes: &mut [u8], at: usize, value: u8) {
    bytes[at] = value;
    bytes[10..12].copy_from_slice(&[0, 0]);
    let sum = Partial::default().with(&bytes[..20]).finish();
    bytes[10..12].copy_from_slice(&sum);
}

#[test]
fn an_acknowledgement_between_is_not_overtaken() {
    let mut made = stream(1, false, 4, 100);
    let mut ack = made[1].clone();
    ack.payload.clear();
    made.insert(2, ack);
    let packets = bytes(&made);
    let writes = coalesced(&packets);
    assert_eq!(writes.iter().flat_map(|write| split(write)).collect::<Vec<_>>(), packets);
    assert_eq!(writes.len(), 3);
}

#[test]
fn a_checksum_left_to_us_is_completed() {
    let made = stream(1, false, 1, 333).remove(0);
    let whole = made.bytes();
    let mut left = whole.clone();
    let packet = Packet::parse(&whole).unwrap();
    let sum = pseudo_header(packet.source, packet.destination, TCP, whole.len() - 20).fold();
    left[36..38].copy_from_slice(&sum);
    let header =
        VnetHeader { needs_checksum: true, checksum_start: 20, checksum_offset: 16, ..VnetHeader::PLAIN };
    let mut write = header.to_bytes().to_vec();
    write.extend(left);
    assert_eq!(split(&write), vec![whole]);
}

#[test]
fn a_super_packet_that_lies_is_refused() {
    let made = stream(1, false, 1, 400).remove(0);
    let bytes = made.bytes();
    let header = VnetHeader { gso: Gso::TcpV4, segment_size: 100, ..VnetHeader::PLAIN };
    let refused = |header: VnetHeader, bytes: &[u8]| Split::new(&header, &mut bytes.to_vec()).unwrap_err();
    assert!(Split::new(&header, &mut bytes.clone()).is_ok());
    assert_eq!(refused(VnetHeader { segment_size: 0, ..header }, &bytes), SplitError::Size);
    assert_eq!(refused(VnetHeader { gso: Gso::TcpV6, ..header }, &bytes), SplitError::Kind);
    assert_eq!(refused(VnetHeader { gso: Gso::Udp, ..header }, &bytes), SplitError::Kind);
    assert_eq!(refused(header, &bytes[..30]), SplitError::Malformed);
    let mut short = bytes.clone();
    short[32] = 0x10;
    assert_eq!(refused(header, &short), SplitError::Size);
    let outside = VnetHeader { needs_checksum: true, checksum_start: 430, ..VnetHeader::PLAIN };
    for checksum_offset in [50, u16::MAX] {
        let header = VnetHeader { checksum_offset, ..outside };
        assert_eq!(refused(header, &bytes), SplitError::Checksum);
    }
    assert_eq!(refused(VnetHeader { checksum_start: 0, ..outside }, &bytes), SplitError::Checksum);
}

#[test]
fn headers_are_read_and_lengths_are_believed_only_if_they_can_be() {
    let made = stream(1, true, 1, 10).remove(0);
    let mut bytes = made.bytes();
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!((packet.protocol(), packet.ports()), (TCP, Some((1000, 443))));
    assert_eq!(packet.tcp_flags(), Some(tcp_flag::ACK));
    // A fragment header before it.
    let transport = bytes.split_off(40);
    bytes[6] = FRAGMENT;
    bytes.extend([TCP, 0, 0, 1, 0, 0, 0, 9]);
    bytes.extend(&transport);
    bytes[4..6].copy_from_slice(&((transport.len() + 8) as u16).to_be_bytes());
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!(
        (packet.fragment(), packet.protocol(), packet.ports()),
        (Fragment::First, TCP, Some((1000, 443)))
    );
    bytes[42..44].copy_from_slice(&[0, 8]);
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!((packet.fragment(), packet.ports(), packet.tcp_flags()), (Fragment::Later, None, None));
    for length in 0..bytes.len() {
        assert!(Packet::parse(&bytes[..length]).is_err(), "{length}");
    }
    let mut longer = bytes.clone();
    longer.push(0);
    assert_eq!(Packet::parse(&longer).unwrap().bytes(), bytes);
}

proptest! {
    #[test]
    fn a_checksum_is_as_rfc_1071_has_it(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut sum: u32 = bytes.chunks(2).map(|pair| {
            u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))
        }).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        prop_assert_eq!(Partial::default().with(&bytes).finish(), (!(sum as u16)).to_be_bytes());
    }

    #[test]
    fn hostile_bytes_never_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        version in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()],
        protocol in prop_oneof![Just(TCP), Just(UDP), Just(0), Just(44), any::<u8>()],
        header in any::<[u8; 10]>(),
    ) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() { *first = version; }
        if let Some(field) = bytes.get_mut(if version == 0x60 { 6 } else { 9 }) { *field = protocol; }
        let len = bytes.len();
        if version == 0x60 && len >= 40 { bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes()); }
        if version == 0x45 && len >= 20 { bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes()); }
        if let Ok(packet) = Packet::parse(&bytes) {
            let _ = (packet.ports(), packet.tcp_flags(), packet.icmp());
            let mut coalescer = Coalescer::new(true, true);
            let mut arena = bytes.clone();
            coalescer.push(&bytes, 0, &packet);
            coalescer.push(&bytes, 0, &packet);
            coalescer.flush(&mut arena, |_| ());
        }
        let mut input = header.to_vec();
        input.extend(&bytes);
        if let Some((header, packet)) = VnetHeader::parse(&mut input)
            && let Ok(mut split) = Split::new(&header, packet) {
            let mut total = 0;
            while let Some(packet) = split.next_packet() { total += packet.len(); }
            prop_assert!(total <= bytes.len() * 130);
        }
    }

    /// Whatever flows are mixed how, taken apart again each flow has the same packets in the same order.
    #[test]
    fn coalesce_then_split_is_the_identity_per_flow(
        flows in proptest::collection::vec((any::<bool>(), any::<bool>(), 1..1300_usize, 0..4_usize), 1..12),
        order in proptest::collection::vec((any::<prop::sample::Index>(), 0..24_u8, any::<u8>()), 1..120),
    ) {
        let mut state: Vec<(u16, u32)> = vec![(65_530, u32::MAX - 500); flows.len()];
        let mut packets = Vec::new();
        for (flow, event, seed) in order {
            let at = flow.index(flows.len());
            let (v6, udp, size, options) = flows[at];
            let (id, sequence) = &mut state[at];
            let mut payload = vec![seed; size];
            let mut flags = tcp_flag::ACK;
            match event {
                0 => payload.truncate(size / 2),
                1 => flags |= tcp_flag::PSH,
                2 => payload.clear(),
                3 => flags |= tcp_flag::FIN,
                4 => *sequence = sequence.wrapping_add(11),
                5 => *id = id.wrapping_add(3),
                6 => payload.push(1),
                _ => {}
            }
            let made = Made { v6, udp, source: at as u8, port: 7, id: *id, sequence: *sequence, flags, options, payload };
            *id = id.wrapping_add(1);
            *sequence = sequence.wrapping_add(made.payload.len() as u32);
            packets.push(made.bytes());
        }
        let writes = coalesced(&packets);
        prop_assert!(writes.iter().all(|write| write.len() <= 65_535 + VnetHeader::LEN));
        let got: Vec<_> = writes.iter().flat_map(|write| split(write)).collect();
        prop_assert_eq!(got.len(), packets.len());
        for flow in 0..flows.len() {
            let of = |packets: &[Vec<u8>]| -> Vec<Vec<u8>> {
                packets.iter().filter(|bytes| {
                    let packet = Packet::parse(bytes).unwrap();
                    let source = match packet.source {
                        IpAddr::V4(address) => address.octets()[3],
                        IpAddr::V6(address) => address.octets()[15],
                    };
                    usize::from(source) == flow
                }).cloned().collect()
            };
            prop_assert_eq!(of(&got), of(&packets));
        }
    }

    /// The other way: a super-packet as the kernel gives it, taken apart and put together, is the same.
    #[test]
    fn split_then_coalesce_is_the_identity(
        v6 in any::<bool>(), udp in any::<bool>(), size in 100..1400_usize, payload in 200..20_000_usize, push in any::<bool>(),
    ) {
        let payload = payload.min(size * 60).max(size + 1);
        let flags = tcp_flag::ACK | if push { tcp_flag::PSH } else { 0 };
        let made = Made { v6, udp, source: 1, port: 9, id: 5, sequence: 77, flags, options: 3, payload: vec![9; payload] };
        let bytes = made.bytes();
        let packet = Packet::parse(&bytes).unwrap();
        let at = packet.transport_offset();
        let protocol = packet.protocol();
        let sum = pseudo_header(packet.source, packet.destination, protocol, bytes.len() - at).fold();
        let gso = match (udp, v6) { (true, _) => Gso::Udp, (_, true) => Gso::TcpV6, _ => Gso::TcpV4 };
        let offset = if udp { 6 } else { 16 };
        let mut bytes = bytes;
        bytes[at + offset..at + offset + 2].copy_from_slice(&sum);
        let header = VnetHeader {
            needs_checksum: true, gso, header_len: (at + if udp { 8 } else { 32 }) as u16,
            segment_size: size as u16, checksum_start: at as u16, checksum_offset: offset as u16,
        };
        let mut write = header.to_bytes().to_vec();
        write.extend(&bytes);
        let packets = split(&write);
        prop_assert_eq!(packets.len(), payload.div_ceil(size));
        prop_assert_eq!(coalesced(&packets), vec![write]);
    }
}
