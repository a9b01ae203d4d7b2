//! The Internet checksum (RFC 1071), summed eight bytes at a time.

use std::net::IpAddr;

/// A one's complement sum that is not folded yet. It is a sum of native-endian words, so only whole parts of even length may
/// be followed by others (RFC 1071 section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Partial(u64);

impl Partial {
    /// Adds bytes. An odd length must be the last.
    #[must_use]
    pub fn with(self, bytes: &[u8]) -> Self {
        // Four sums of 32-bit words that do not wait for each other: vectors, also where the compiler is told to be small.
        let (blocks, rest) = bytes.as_chunks::<16>();
        let [first, second, third, fourth] =
            blocks.iter().fold([0; 4], |[first, second, third, fourth], block| {
                let &[a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3, d0, d1, d2, d3] = block;
                [
                    first + word([a0, a1, a2, a3]),
                    second + word([b0, b1, b2, b3]),
                    third + word([c0, c1, c2, c3]),
                    fourth + word([d0, d1, d2, d3]),
                ]
            });
        let mut sum = first + second + third + fourth;
        let (pairs, odd) = rest.as_chunks::<2>();
        for &pair in pairs {
            sum += u64::from(u16::from_ne_bytes(pair));
        }
        if let &[last] = odd {
            sum += u64::from(u16::from_ne_bytes([last, 0]));
        }
        // Less than 2^32 words of a packet cannot overflow; sums of sums are folded to be safe.
        Self(self.fold32() + fold32(sum))
    }

    /// Adds one field of two bytes.
    #[must_use]
    pub fn with_u16(self, field: u16) -> Self {
        Self(self.fold32() + u64::from(u16::from_ne_bytes(field.to_be_bytes())))
    }

    fn fold32(self) -> u64 {
        fold32(self.0)
    }

    /// The sum in 16 bits, in the order of bytes that it has in a header.
    pub fn fold(self) -> [u8; 2] {
        let mut sum = fold32(self.0);
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap_or(u16::MAX).to_ne_bytes()
    }

    /// The checksum: the complement of the sum.
    pub fn finish(self) -> [u8; 2] {
        self.fold().map(|byte| !byte)
    }
}

fn word(bytes: [u8; 4]) -> u64 {
    u64::from(u32::from_ne_bytes(bytes))
}

const fn fold32(sum: u64) -> u64 {
    (sum & 0xffff_ffff) + (sum >> 32)
}

/// The sum of the pseudo-header that TCP and UDP cover (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Partial {
    let sum = match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Partial::default().with(&from.octets()).with(&to.octets()),
        (IpAddr::V6(from), IpAddr::V6(to)) => Partial::default().with(&from.octets()).with(&to.octets()),
        // Never made by a packet: both addresses come from one header.
        _ => Partial::default(),
    };
    sum.with_u16(u16::from(protocol)).with_u16(u16::try_from(length).unwrap_or(u16::MAX))
}
