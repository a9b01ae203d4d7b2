//! The header that a TUN with `IFF_VNET_HDR` puts before each packet (Linux `include/uapi/linux/virtio_net.h`, legacy form of
//! ten bytes, native endian).

/// The checksum is left to whoever comes last (`VIRTIO_NET_HDR_F_NEEDS_CSUM`).
const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// `VIRTIO_NET_HDR_GSO_ECN`, a bit beside the type.
const GSO_ECN: u8 = 0x80;

/// What kind of super-packet it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// A packet as it goes over the wire.
    None,
    /// TCP segments over IPv4.
    TcpV4,
    /// TCP segments over IPv6.
    TcpV6,
    /// UDP datagrams of one size.
    Udp,
}

/// The header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VnetHeader {
    /// Whether the transport checksum holds only the pseudo-header's sum.
    pub needs_checksum: bool,
    /// The kind.
    pub gso: Gso,
    /// The length of all headers.
    pub header_len: u16,
    /// The payload of each segment but the last.
    pub segment_size: u16,
    /// Where the checksum begins.
    pub checksum_start: u16,
    /// Where it is put, from there.
    pub checksum_offset: u16,
}

impl VnetHeader {
    /// Its length.
    pub const LEN: usize = 10;
    /// Of a packet that is whole.
    pub const PLAIN: Self = Self {
        needs_checksum: false,
        gso: Gso::None,
        header_len: 0,
        segment_size: 0,
        checksum_start: 0,
        checksum_offset: 0,
    };

    /// Takes it off the front of what the TUN gave. `None` if it is cut or of a kind that was not asked for.
    pub fn parse(bytes: &mut [u8]) -> Option<(Self, &mut [u8])> {
        let (&mut [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1], packet) = bytes.split_first_chunk_mut()?;
        let gso = match kind & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCPV4 => Gso::TcpV4,
            GSO_TCPV6 => Gso::TcpV6,
            GSO_UDP_L4 => Gso::Udp,
            _ => return None,
        };
        let header = Self {
            needs_checksum: flags & NEEDS_CSUM != 0,
            gso,
            header_len: u16::from_ne_bytes([h0, h1]),
            segment_size: u16::from_ne_bytes([s0, s1]),
            checksum_start: u16::from_ne_bytes([c0, c1]),
            checksum_offset: u16::from_ne_bytes([o0, o1]),
        };
        Some((header, packet))
    }

    /// As it is put before a packet.
    pub const fn to_bytes(self) -> [u8; Self::LEN] {
        let kind = match self.gso {
            Gso::None => GSO_NONE,
            Gso::TcpV4 => GSO_TCPV4,
            Gso::TcpV6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        let flags = if self.needs_checksum { NEEDS_CSUM } else { 0 };
        let [h0, h1] = self.header_len.to_ne_bytes();
        let [s0, s1] = self.segment_size.to_ne_bytes();
        let [c0, c1] = self.checksum_start.to_ne_bytes();
        let [o0, o1] = self.checksum_offset.to_ne_bytes();
        [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1]
    }
}
