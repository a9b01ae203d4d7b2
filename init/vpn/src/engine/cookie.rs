//! What handshake messages prove without a secret: that their sender knows our key, and, under load, that it is where it says
//! (WireGuard paper sections 5.3, 5.4.4 and 5.4.7).

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use blake2::digest::Mac;
use blake2::digest::consts::U16;
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use chacha20poly1305::aead::{AeadInPlace as _, KeyInit as _};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};

use super::handshake::put;
use crate::key::{Node, Public, Secret, fill_random};

/// The length of a cookie's message.
pub(super) const REPLY: usize = 64;
/// How long a cookie is good, in milliseconds (section 5.4.7).
const LIFE: u64 = 120_000;
/// Handshake messages in a second before an address is to be proven. A tailnet of 3,000 that comes back at once is over it,
/// and gets through with cookies.
pub(super) const PER_SECOND: u64 = 200;

const MACS: usize = 32;

type Mac16 = Blake2sMac<U16>;

/// Handshake messages in a second from an address that is proven, and how many more at once (Linux
/// `drivers/net/wireguard/ratelimiter.c`, `PACKETS_PER_SECOND` and `PACKETS_BURSTABLE`). Behind a relay an address is a peer.
const PER_ADDRESS: u64 = 20;
const BURST: u64 = 5;
/// Places for such addresses. Two that meet in one share it.
const PLACES: usize = 4096;

/// What a handshake message is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// To be read.
    Good,
    /// Its sender has to prove its address first: with this.
    Cookie([u8; REPLY]),
    /// Not for us.
    Forged,
    /// Its sender is where it says, and says too much.
    TooMany,
}

/// Our side of it: for all peers and strangers.
pub(super) struct Limiter {
    mac_key: [u8; 32],
    cookie_key: [u8; 32],
    secret: [u8; 32],
    second: AtomicU64,
    count: AtomicU64,
    /// For each place, when all that it let through will have been paid for.
    paid: Box<[AtomicU64]>,
}

impl Limiter {
    pub(super) fn new(ours: &Secret<Node>) -> Self {
        let mut random = [0; 32];
        // Without randomness the private key makes it one that nobody knows.
        let _unchanged = fill_random(&mut random);
        let secret = Blake2s256::new()
            .chain_update(b"cookies")
            .chain_update(*ours.bytes())
            .chain_update(random)
            .finalize();
        Self {
            mac_key: labelled(b"mac1----", &ours.public()),
            cookie_key: labelled(b"cookie--", &ours.public()),
            secret: secret.into(),
            second: AtomicU64::new(0),
            count: AtomicU64::new(0),
            paid: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Judges a beginning or an answer before any agreement is computed for it. `now` is in milliseconds.
    pub(super) fn judge(&self, now: u64, from: SocketAddr, message: &[u8]) -> Judged {
        let Some((body, first, second)) = parts(message) else { return Judged::Forged };
        if !is_mac(&self.mac_key, &[body], first) {
            return Judged::Forged;
        }
        if !self.is_under_load(now) {
            return Judged::Good;
        }
        let Some(cookie) = self.cookie(now, from) else { return Judged::Forged };
        if is_mac(&cookie, &[body, first], second) {
            return if self.lets_through(now, from.ip()) { Judged::Good } else { Judged::TooMany };
        }
        self.reply(message, first, cookie).map_or(Judged::Forged, Judged::Cookie)
    }

    fn is_under_load(&self, now: u64) -> bool {
        let second = now / 1000;
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.count.store(0, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed) >= PER_SECOND
    }

    /// Whether an address that is proven has something left to spend. A network of IPv6 is one address: whoever has one has all of it.
    fn lets_through(&self, now: u64, from: IpAddr) -> bool {
        const COST: u64 = 1000 / PER_ADDRESS;
        let network = match from {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => (u128::from(v6) & !u128::from(u64::MAX)).to_be_bytes(),
        };
        let Some([a, b, ..]) = mac(&self.secret, &[b"place", &network]) else { return false };
        let place = usize::from(u16::from_le_bytes([a, b])) % PLACES;
        let Some(paid) = self.paid.get(place) else { return false };
        let spend = |until: u64| {
            let until = until.max(now) + COST;
            (until <= now + COST * BURST).then_some(until)
        };
        paid.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }

    /// What proves an address, and its port: behind one address there may be many.
    fn cookie(&self, now: u64, from: SocketAddr) -> Option<[u8; 16]> {
        let address = match from.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        mac(&self.secret, &[&(now / LIFE).to_le_bytes(), &address.octets(), &from.port().to_le_bytes()])
    }

    fn reply(&self, message: &[u8], mac: &[u8; 16], mut cookie: [u8; 16]) -> Option<[u8; REPLY]> {
        let sender = message.get(4..8)?;
        let mut nonce = [0; 24];
        fill_random(&mut nonce).ok()?;
        let tag = XChaCha20Poly1305::new(&self.cookie_key.into())
            .encrypt_in_place_detached(&XNonce::from(nonce), mac, &mut cookie)
            .ok()?;
        let mut reply = [0; REPLY];
        put(&mut reply, &[&[3, 0, 0, 0], sender, &nonce, &cookie, &tag])?;
        Some(reply)
    }
}

/// The other side: what a peer asked us for.
pub(super) struct Cookie {
    mac_key: [u8; 32],
    cookie_key: [u8; 32],
    /// The first MAC of our last message, and what we called ourselves in it.
    sent: Option<(u32, [u8; 16])>,
    /// What we prove our address with, and when it came.
    held: Option<([u8; 16], u64)>,
}

impl Cookie {
    pub(super) fn new(peer: &Public<Node>) -> Self {
        Self {
            mac_key: labelled(b"mac1----", peer),
            cookie_key: labelled(b"cookie--", peer),
            sent: None,
            held: None,
        }
    }

    /// Puts the MACs at the end of a message.
    pub(super) fn sign(&mut self, now: u64, index: u32, message: &mut [u8]) -> Option<()> {
        let (body, macs) = message.split_at_mut_checked(message.len().checked_sub(MACS)?)?;
        let first = mac(&self.mac_key, &[body])?;
        let second = match self.held {
            Some((cookie, since)) if now.saturating_sub(since) < LIFE => mac(&cookie, &[body, &first])?,
            _ => [0; 16],
        };
        put(macs, &[&first, &second])?;
        self.sent = Some((index, first));
        Some(())
    }

    /// Takes a cookie, if it answers our last message.
    pub(super) fn take(&mut self, now: u64, reply: &[u8; REPLY]) -> Option<()> {
        let (_, rest) = reply.split_first_chunk::<4>()?;
        let (index, rest) = rest.split_first_chunk::<4>()?;
        let (nonce, rest) = rest.split_first_chunk::<24>()?;
        let (sealed, rest) = rest.split_first_chunk::<16>()?;
        let tag = rest.first_chunk::<16>()?;
        let (sent, first) = self.sent?;
        if sent != u32::from_le_bytes(*index) {
            return None;
        }
        let mut cookie = *sealed;
        XChaCha20Poly1305::new(&self.cookie_key.into())
            .decrypt_in_place_detached(&XNonce::from(*nonce), &first, &mut cookie, &Tag::from(*tag))
            .ok()?;
        self.held = Some((cookie, now));
        Some(())
    }
}

/// A message without its MACs, and the two of them.
fn parts(message: &[u8]) -> Option<(&[u8], &[u8; 16], &[u8; 16])> {
    let (rest, second) = message.split_last_chunk::<16>()?;
    let (body, first) = rest.split_last_chunk::<16>()?;
    Some((body, first, second))
}

fn labelled(label: &[u8; 8], key: &Public<Node>) -> [u8; 32] {
    Blake2s256::new().chain_update(label).chain_update(key.bytes()).finalize().into()
}

fn keyed(key: &[u8], parts: &[&[u8]]) -> Option<Mac16> {
    let mut mac = <Mac16 as Mac>::new_from_slice(key).ok()?;
    for part in parts {
        Mac::update(&mut mac, part);
    }
    Some(mac)
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Option<[u8; 16]> {
    Some(keyed(key, parts)?.finalize().into_bytes().into())
}

/// Compares in constant time.
fn is_mac(key: &[u8], parts: &[&[u8]], expected: &[u8; 16]) -> bool {
    keyed(key, parts).is_some_and(|mac| mac.verify_slice(expected).is_ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_proven_has_a_share_and_no_more() {
        let limiter = Limiter::new(&Secret::new([3; 32]));
        let passed = |from: &str, times: &[u64]| {
            times.iter().filter(|now| limiter.lets_through(**now, from.parse().unwrap())).count()
        };
        assert_eq!(passed("192.0.2.1", &[10_000; 20]), 5, "at once");
        assert_eq!(passed("192.0.2.2", &[10_000; 20]), 5, "another has its own");
        let busy: Vec<u64> = (10_001..20_001).collect();
        assert_eq!(passed("192.0.2.1", &busy), 200, "twenty in each second");
        // Whoever has one address of a network has all of them.
        assert_eq!(passed("2001:db8::1", &[30_000; 3]) + passed("2001:db8::2:0:0:2", &[30_000; 7]), 5);
        assert_eq!(passed("2001:db8:0:1::1", &[30_000; 7]), 5);
    }
}
