//! The keys of a tailnet: X25519 pairs, each of one kind, so that none passes for another (tailscale `types/key/*.go`).
//!
//! A public key is written as its kind's prefix and 64 lower-case hex digits. A private key is never written: its `Debug` says
//! nothing, and its bytes leave only by [`Secret::bytes`].

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// The length of a key, in bytes.
pub const KEY_LEN: usize = 32;

/// What a key is for.
pub trait Kind: 'static {
    /// What its public text begins with.
    const PREFIX: &'static str;
}

/// Identifies the machine to the coordination server, inside Noise. The server's own key is of this kind too.
#[derive(Debug)]
pub enum Machine {}
/// WireGuard's static key: what peers know a node by.
#[derive(Debug)]
pub enum Node {}
/// Seals and opens the messages that find paths.
#[derive(Debug)]
pub enum Disco {}
/// The coordination server's challenge in its early payload.
#[derive(Debug)]
pub enum Challenge {}

impl Kind for Machine {
    const PREFIX: &'static str = "mkey:";
}
impl Kind for Node {
    const PREFIX: &'static str = "nodekey:";
}
impl Kind for Disco {
    const PREFIX: &'static str = "discokey:";
}
impl Kind for Challenge {
    const PREFIX: &'static str = "chalpub:";
}

/// A text that is no key of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("expected {prefix} and 64 hex digits")]
pub struct KeyError {
    /// What it should have begun with.
    pub prefix: &'static str,
}

/// A public key.
pub struct Public<K> {
    bytes: [u8; KEY_LEN],
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Public<K> {
    /// The key of these bytes.
    pub const fn new(bytes: [u8; KEY_LEN]) -> Self {
        Self { bytes, kind: PhantomData }
    }

    /// The key that stands for "none": all zero.
    pub const fn zero() -> Self {
        Self::new([0; KEY_LEN])
    }

    /// Whether it is the key that stands for "none".
    pub fn is_zero(&self) -> bool {
        self.bytes == [0; KEY_LEN]
    }

    /// Its bytes.
    pub const fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.bytes
    }

    /// The first five bytes in hex: enough to tell keys apart in a log.
    pub fn short(&self) -> String {
        hex::encode(self.bytes.first_chunk::<5>().unwrap_or(&[0; 5]))
    }
}

impl<K> Clone for Public<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Public<K> {}
impl<K> PartialEq for Public<K> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}
impl<K> Eq for Public<K> {}
impl<K> PartialOrd for Public<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Public<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes.cmp(&other.bytes)
    }
}
impl<K> Hash for Public<K> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}
impl<K: Kind> fmt::Display for Public<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", K::PREFIX, hex::encode(self.bytes))
    }
}
impl<K: Kind> fmt::Debug for Public<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
impl<K: Kind> FromStr for Public<K> {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let error = KeyError { prefix: K::PREFIX };
        let digits = text.strip_prefix(K::PREFIX).ok_or_else(|| error.clone())?;
        let mut bytes = [0; KEY_LEN];
        hex::decode_to_slice(digits, &mut bytes).map_err(|_| error)?;
        Ok(Self::new(bytes))
    }
}
impl<K: Kind> Serialize for Public<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de, K: Kind> Deserialize<'de> for Public<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A private key. It is wiped when it is dropped.
pub struct Secret<K> {
    secret: StaticSecret,
    public: Public<K>,
}

impl<K: Kind> Secret<K> {
    /// The pair of this private key.
    pub fn new(bytes: [u8; KEY_LEN]) -> Self {
        let secret = StaticSecret::from(bytes);
        let public = Public::new(PublicKey::from(&secret).to_bytes());
        Self { secret, public }
    }

    /// A new pair, from the system's generator.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn generate() -> Result<Self, NoRandom> {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        fill_random(bytes.as_mut())?;
        Ok(Self::new(*bytes))
    }

    /// The public key.
    pub const fn public(&self) -> Public<K> {
        self.public
    }

    /// The private bytes: for what seals with them and for what keeps them over a restart.
    pub fn bytes(&self) -> Zeroizing<[u8; KEY_LEN]> {
        Zeroizing::new(self.secret.to_bytes())
    }

    /// The shared secret with the holder of another key; `None` if that key gives one that everybody knows (RFC 7748
    /// section 6.1).
    pub fn agree<P>(&self, other: &Public<P>) -> Option<Zeroizing<[u8; KEY_LEN]>> {
        let shared = self.secret.diffie_hellman(&PublicKey::from(other.bytes));
        shared.was_contributory().then(|| Zeroizing::new(*shared.as_bytes()))
    }
}

impl<K: Kind> Clone for Secret<K> {
    fn clone(&self) -> Self {
        Self::new(*self.bytes())
    }
}
impl<K: Kind> fmt::Debug for Secret<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the private key of {}", self.public)
    }
}

/// The system has no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the system's random generator gives nothing")]
pub struct NoRandom;

/// Fills a buffer from the system's generator.
///
/// # Errors
/// If it gives nothing.
pub fn fill_random(buffer: &mut [u8]) -> Result<(), NoRandom> {
    use ring::rand::SecureRandom as _;
    ring::rand::SystemRandom::new().fill(buffer).map_err(|_| NoRandom)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written_and_only_as_its_kind() {
        let key = Secret::<Node>::generate().unwrap().public();
        let text = key.to_string();
        assert_eq!(text.parse(), Ok(key));
        assert_eq!(text.parse::<Public<Disco>>(), Err(KeyError { prefix: "discokey:" }));
        for bad in [
            "",
            "nodekey:",
            "nodekey:00",
            &text[..71],
            &format!("{text}00"),
            &text.replace("nodekey:", "nodekey:g"),
        ] {
            assert_eq!(bad.parse::<Public<Node>>(), Err(KeyError { prefix: "nodekey:" }), "{bad:?}");
        }
    }

    #[test]
    fn a_private_key_says_nothing_of_itself() {
        let secret = Secret::<Machine>::new([7; KEY_LEN]);
        assert_eq!(format!("{secret:?}"), format!("the private key of {}", secret.public()));
        assert!(!format!("{secret:?}").contains(&hex::encode([7; 4])));
    }

    #[test]
    fn a_key_that_gives_a_known_secret_agrees_on_nothing() {
        let (ours, theirs) = (Secret::<Node>::generate().unwrap(), Secret::<Node>::generate().unwrap());
        assert_eq!(ours.agree(&theirs.public()), theirs.agree(&ours.public()));
        assert_eq!(ours.agree(&Public::<Node>::zero()), None);
    }
}
