//! The TUN's queues, as who writes to them chooses one.

use std::io;
use std::net::IpAddr;

use crate::packet::Packet;
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

    /// The queue of a packet's flow: the same for both directions.
    pub(super) fn of(&self, packet: &[u8]) -> Option<&Tun> {
        let place = match self.0.len() {
            0 | 1 => 0,
            queues => usize::try_from(flow(packet)).unwrap_or(0) % queues,
        };
        self.0.get(place)
    }
}

/// A number for a flow.
fn flow(packet: &[u8]) -> u32 {
    let Ok(packet) = Packet::parse(packet) else { return 0 };
    let (near, far) = packet.ports().unwrap_or_default();
    let sum = word(packet.source()) ^ word(packet.destination()) ^ u32::from(near ^ far);
    // Ports of two flows often differ in their lowest bits only, and by an even number: all bits count (Knuth's multiplicative
    // hashing), from the upper end.
    sum.wrapping_mul(0x9e37_79b1) >> 16
}

fn word(address: IpAddr) -> u32 {
    match address {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => v6
            .to_bits()
            .to_be_bytes()
            .as_chunks()
            .0
            .iter()
            .fold(0, |sum, four| sum ^ u32::from_be_bytes(*four)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
