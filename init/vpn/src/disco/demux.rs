//! What a datagram on the one UDP socket is.

use crate::{disco, stun};

/// What a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A STUN binding message: for [`crate::netcheck`].
    Stun,
    /// A disco message.
    Disco,
    /// Something inside a Geneve header: peers send it only through UDP relays, which we never ask for.
    Geneve,
    /// A WireGuard message, by its first four bytes and its length.
    WireGuard,
    /// Nothing that we know: to be dropped and counted.
    Other,
}

/// What a datagram is. The kinds cannot be confused: a WireGuard message begins with 1 to 4 and three zeros, STUN has 1 in its
/// second byte, disco has `TS` there, and Geneve one of two protocol numbers in its third and fourth (tailscale
/// `wgengine/magicsock/magicsock.go`, `packetLooksLike`).
pub fn classify(packet: &[u8]) -> Kind {
    match packet.first_chunk::<4>() {
        Some(&[kind @ 1..=4, 0, 0, 0]) if wireguard_len(kind, packet.len()) => Kind::WireGuard,
        Some(_) if disco::looks_like_disco(packet) => Kind::Disco,
        Some(_) if stun::looks_like_stun(packet) => Kind::Stun,
        Some(&[version, flags, 0x7a, 0x11 | 0x12])
            if version & 0xc0 == 0 && flags & 0x3f == 0 && packet.get(7) == Some(&0) =>
        {
            Kind::Geneve
        }
        _ => Kind::Other,
    }
}

/// The WireGuard paper, section 5.4: handshake initiation, response, cookie reply, transport data.
const fn wireguard_len(kind: u8, len: usize) -> bool {
    match kind {
        1 => len == 148,
        2 => len == 92,
        3 => len == 64,
        _ => len >= 32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_told_apart() {
        let mut initiation = [0; 148];
        initiation[0] = 1;
        assert_eq!(classify(&initiation), Kind::WireGuard);
        assert_eq!(classify(&initiation[..147]), Kind::Other);
        let mut data = [7; 32];
        data[..4].copy_from_slice(&[4, 0, 0, 0]);
        assert_eq!(classify(&data), Kind::WireGuard);
        assert_eq!(classify(&data[..31]), Kind::Other);
        // The bytes of the STUN cookie inside a WireGuard message do not make it STUN.
        data[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
        assert_eq!(classify(&data), Kind::WireGuard);
        assert_eq!(classify(&stun::request(&[1; 12])), Kind::Stun);
        let mut sealed = disco::MAGIC.to_vec();
        sealed.resize(disco::MIN_LEN, 0);
        assert_eq!(classify(&sealed), Kind::Disco);
        assert_eq!(classify(&sealed[..disco::MIN_LEN - 1]), Kind::Other);
        assert_eq!(classify(&[0, 0, 0x7a, 0x12, 0, 0, 1, 0, 4, 0, 0, 0]), Kind::Geneve);
        assert_eq!(classify(&[]), Kind::Other);
        assert_eq!(classify(b"GET / HTTP/1.1\r\n\r\n"), Kind::Other);
    }
}
