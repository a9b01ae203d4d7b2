//! The TUN's queues, as who writes to them chooses one.

use std::io;

use crate::packet::{IPV6_HEADER, TCP, UDP, u8_at, u16_at};
use crate::sys::Tun;

/// All queues of the TUN.
///
/// The kernel hands out a flow's packets by the queue that its last packet was written to (`drivers/net/tun.c`, `tun_flow_update`):
/// who writes everything to one queue is handed everything by it, and the threads of the others have nothing to do.
#[derive(Debug)]
pub(super) struct Queues(Vec<Tun>);

impl Queues {
    /// Of descriptors of one device.
    pub(super) const fn new(queues: Vec<Tun>) -> Self {
        Self(queues)
    }

    /// The same, once more.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        self.0.iter().map(Tun::try_clone).collect::<io::Result<_>>().map(Self)
    }

    /// The queue of a packet's flow, or of a super-packet's, by its first part: the same for both directions.
    pub(super) fn of(&self, packet: &[u8]) -> Option<&Tun> {
        let place = match self.0.len() {
            0 | 1 => 0,
            queues => usize::try_from(flow(packet)).unwrap_or(0) % queues,
        };
        self.0.get(place)
    }
}

/// A number for a flow, by the headers of its packets alone: those of a super-packet tell the length of all that it carries, of which
/// the first packet has not so much.
fn flow(head: &[u8]) -> u32 {
    let byte = |at| u8_at(head, at).unwrap_or(0);
    let (addresses, protocol, transport, later) = match byte(0) >> 4 {
        4 => {
            let offset = u16_at(head, 6).unwrap_or(0) & 0x1fff;
            (12..20, byte(9), usize::from(byte(0) & 0xf) * 4, offset != 0)
        }
        6 => (8..40, byte(6), IPV6_HEADER, false),
        _ => return 0,
    };
    let words = head.get(addresses).unwrap_or_default().as_chunks().0.iter();
    let addresses = words.fold(0, |sum, word| sum ^ u32::from_be_bytes(*word));
    // What else stands there is another in each packet.
    let ports = match protocol {
        TCP | UDP if !later => u16_at(head, transport).zip(u16_at(head, transport + 2)),
        _ => None,
    };
    let (near, far) = ports.unwrap_or_default();
    // Ports of two flows often differ in their lowest bits only, and by an even number: all bits count (Knuth's multiplicative
    // hashing), from the upper end.
    (addresses ^ u32::from(near ^ far)).wrapping_mul(0x9e37_79b1) >> 16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::Made;
    use crate::packet::{Coalescer, Packet, tcp_flag};

    /// From one port to another, or back.
    fn udp(near: u16, far: u16, back: bool) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
        let (from, to) = if back {
            (([100, 64, 0, 2], far), ([100, 64, 0, 1], near))
        } else {
            (([100, 64, 0, 1], near), ([100, 64, 0, 2], far))
        };
        packet.extend(from.0);
        packet.extend(to.0);
        packet.extend(from.1.to_be_bytes());
        packet.extend(to.1.to_be_bytes());
        packet.extend([0, 8, 0, 0]);
        packet
    }

    #[test]
    fn a_flow_has_one_queue_in_both_directions_and_many_flows_have_all() {
        let mut used = [0; 4];
        for near in (40_000..40_400).step_by(2) {
            assert_eq!(flow(&udp(near, 443, false)), flow(&udp(near, 443, true)));
            used[flow(&udp(near, 443, false)) as usize % 4] += 1;
        }
        assert!(used.iter().all(|flows| (30..=70).contains(flows)), "{used:?}");
    }

    #[test]
    fn a_super_packet_goes_by_the_queue_of_each_of_its_packets() {
        for (v6, udp) in [(false, false), (false, true), (true, false), (true, true)] {
            let flags = tcp_flag::ACK;
            let made = |number: u16| Made {
                v6,
                udp,
                source: 7,
                port: 40_001,
                id: number,
                sequence: u32::from(number) * 500,
                flags,
                options: 3,
                payload: vec![1; 500],
            };
            let packets: Vec<_> = (0..3).map(|number| made(number).bytes()).collect();
            let alone = flow(&packets[0]);
            assert!(alone != 0 && packets.iter().all(|packet| flow(packet) == alone));
            let mut arena = packets.concat();
            let mut coalescer = Coalescer::new(true, true);
            for number in 0..3 {
                let start = number * packets[0].len();
                let bytes = arena.clone();
                let packet = Packet::parse(&bytes[start..]).unwrap();
                coalescer.push(&bytes, start, &packet);
            }
            let mut writes = Vec::new();
            coalescer.flush(&mut arena, |write| {
                writes.push((write.packets(), flow(write.chunks().next().unwrap())));
            });
            assert_eq!(writes, [(3, alone)], "IPv6 {v6}, UDP {udp}");
        }
    }

    #[test]
    fn what_has_no_ports_goes_by_its_addresses() {
        let mut echo = udp(0x0800, 0x1111, false);
        let mut next = udp(0x0800, 0x2222, false);
        let mut fragment = udp(1, 2, false);
        for packet in [&mut echo, &mut next] {
            packet[9] = 1;
        }
        fragment[7] = 9;
        assert_eq!(flow(&echo), flow(&next));
        assert_eq!(flow(&echo), flow(&fragment));
        for cut in 0..echo.len() {
            let _ = flow(&echo[..cut]);
        }
        assert_eq!(flow(&[]), 0);
    }
}
