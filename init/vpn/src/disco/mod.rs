//! Disco: the sealed messages by which two nodes find paths to each other (tailscale `disco/disco.go`).
//!
//! A message is the magic, the sender's disco key, a nonce, and a NaCl box of type, version and payload. Who may be believed is
//! not decided here: [`crate::path`] takes messages only from disco keys in the map.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crypto_box::aead::{AeadInPlace as _, Nonce, Tag};
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use thiserror::Error;

use crate::key::{Disco, KEY_LEN, NoRandom, Node, Public, Secret, fill_random};

mod boxes;
mod demux;
#[cfg(test)]
mod tests;

pub use boxes::{Boxes, Unopened};
pub use demux::{Kind, classify};

/// What every message begins with.
pub const MAGIC: &[u8; 6] = b"TS\xf0\x9f\x92\xac";
/// The shortest message that has a type and a version in its box.
pub const MIN_LEN: usize = HEADER_LEN + TAG_LEN + 2;
/// The most that a message may be: bigger ones cannot come through a path that carries our own.
pub const MAX_LEN: usize = 2048;
/// The most endpoints of one peer that are believed (tailscale `wgengine/magicsock`, at most 100 candidates per peer).
pub const MAX_ENDPOINTS: usize = 100;
/// The length of a ping's number.
pub const TXID_LEN: usize = 12;

/// A ping's number.
pub type TxId = [u8; TXID_LEN];

/// What is no message for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DiscoError {
    /// No magic, too short or too long.
    #[error("not a disco message")]
    NotDisco,
    /// The box does not open with these keys.
    #[error("the seal is broken")]
    Seal,
    /// A message of another version than 0.
    #[error("unknown version {0}")]
    Version(u8),
    /// A payload that is too short or has more endpoints than [`MAX_ENDPOINTS`].
    #[error("a message of type {0} with a wrong length")]
    Length(u8),
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Answer this if you read it.
    Ping {
        /// Comes back in the pong.
        txid: TxId,
        /// The sender's node key; old senders leave it out.
        node: Option<Public<Node>>,
    },
    /// The answer.
    Pong {
        /// The ping's number.
        txid: TxId,
        /// Where the ping came from, as its receiver saw it.
        source: SocketAddr,
    },
    /// "I have just sent to you, so my firewall is open: ping me." Only valid over a relay.
    CallMeMaybe {
        /// Where the sender may be reached.
        endpoints: Vec<SocketAddr>,
    },
    /// A type that we do not know: to be ignored.
    Unknown(u8),
}

/// Whether a packet is a disco message by its magic and length.
pub fn looks_like_disco(packet: &[u8]) -> bool {
    packet.len() >= MIN_LEN && packet.starts_with(MAGIC)
}

/// The sender's key, as it claims: true only if the box opens.
pub fn sender(packet: &[u8]) -> Option<Public<Disco>> {
    looks_like_disco(packet).then_some(())?;
    packet.get(MAGIC.len()..)?.first_chunk::<KEY_LEN>().map(|bytes| Public::new(*bytes))
}

/// The box between us and one peer: a scalar multiplication, so keep it. `None` if the peer's key is a weak one.
pub fn shared_box(ours: &Secret<Disco>, theirs: &Public<Disco>) -> Option<SalsaBox> {
    // `SalsaBox` multiplies again; this look at the result is the only way to refuse a point of low order.
    ours.agree(theirs)?;
    Some(SalsaBox::new(&PublicKey::from(*theirs.bytes()), &SecretKey::from(*ours.bytes())))
}

/// Seals a message with a fresh nonce and appends it to `out`.
///
/// # Errors
/// If the system has no random bytes; `out` is as before.
pub fn seal(
    message: &Message,
    from: &Public<Disco>,
    shared: &SalsaBox,
    out: &mut Vec<u8>,
) -> Result<(), NoRandom> {
    let mut nonce = [0; NONCE_LEN];
    fill_random(&mut nonce)?;
    let mut body = Vec::with_capacity(64);
    encode(message, &mut body);
    let tag = shared.encrypt_in_place_detached(&Nonce::<SalsaBox>::from(nonce), &[], &mut body);
    let Ok(tag) = tag else { return Err(NoRandom) };
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(from.bytes());
    out.extend_from_slice(&nonce);
    out.extend_from_slice(&tag);
    out.extend_from_slice(&body);
    Ok(())
}

/// Opens a message with the box of its [`sender`].
///
/// # Errors
/// If it does not open or says nothing that the protocol knows.
pub fn open(packet: &[u8], shared: &SalsaBox) -> Result<Message, DiscoError> {
    if !looks_like_disco(packet) || packet.len() > MAX_LEN {
        return Err(DiscoError::NotDisco);
    }
    let rest = packet.get(MAGIC.len() + KEY_LEN..).ok_or(DiscoError::NotDisco)?;
    let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(DiscoError::NotDisco)?;
    let (tag, body) = rest.split_first_chunk::<TAG_LEN>().ok_or(DiscoError::NotDisco)?;
    let mut body = body.to_vec();
    let (nonce, tag) = (Nonce::<SalsaBox>::from(*nonce), Tag::<SalsaBox>::from(*tag));
    shared.decrypt_in_place_detached(&nonce, &[], &mut body, &tag).map_err(|_| DiscoError::Seal)?;
    decode(&body)
}

/// What a message is inside its box.
pub fn encode(message: &Message, out: &mut Vec<u8>) {
    match message {
        Message::Ping { txid, node } => {
            out.extend([PING, VERSION]);
            out.extend(txid);
            if let Some(node) = node {
                out.extend(node.bytes());
            }
        }
        Message::Pong { txid, source } => {
            out.extend([PONG, VERSION]);
            out.extend(txid);
            endpoint(*source, out);
        }
        Message::CallMeMaybe { endpoints } => {
            out.extend([CALL_ME_MAYBE, VERSION]);
            for address in endpoints.iter().take(MAX_ENDPOINTS) {
                endpoint(*address, out);
            }
        }
        Message::Unknown(kind) => out.extend([*kind, VERSION]),
    }
}

/// Reads what is inside a box.
///
/// # Errors
/// If it says nothing that the protocol knows.
pub fn decode(body: &[u8]) -> Result<Message, DiscoError> {
    let (&[kind, version], rest) = body.split_first_chunk::<2>().ok_or(DiscoError::NotDisco)?;
    if !matches!(kind, PING | PONG | CALL_ME_MAYBE) {
        return Ok(Message::Unknown(kind));
    }
    if version != VERSION {
        return Err(DiscoError::Version(version));
    }
    let length = DiscoError::Length(kind);
    if kind == CALL_ME_MAYBE {
        let (entries, rest) = rest.as_chunks::<ENDPOINT_LEN>();
        if !rest.is_empty() || entries.len() > MAX_ENDPOINTS {
            return Err(length);
        }
        return Ok(Message::CallMeMaybe { endpoints: entries.iter().map(read_endpoint).collect() });
    }
    let (txid, rest) = rest.split_first_chunk::<TXID_LEN>().ok_or(length)?;
    if kind == PONG {
        let source = rest.first_chunk::<ENDPOINT_LEN>().map(read_endpoint).ok_or(length)?;
        return Ok(Message::Pong { txid: *txid, source });
    }
    // What follows the key is padding by which Go measures how big a packet may be.
    let node = rest.first_chunk::<KEY_LEN>().map(|bytes| Public::new(*bytes));
    Ok(Message::Ping { txid: *txid, node: node.filter(|key| !key.is_zero()) })
}

fn endpoint(address: SocketAddr, out: &mut Vec<u8>) {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    out.extend(ip.octets());
    out.extend(address.port().to_be_bytes());
}

fn read_endpoint(bytes: &[u8; ENDPOINT_LEN]) -> SocketAddr {
    let ip = bytes.first_chunk::<16>().map_or(Ipv6Addr::UNSPECIFIED, |octets| Ipv6Addr::from(*octets));
    let port = bytes.last_chunk::<2>().map_or(0, |port| u16::from_be_bytes(*port));
    SocketAddr::new(IpAddr::V6(ip).to_canonical(), port)
}

const NONCE_LEN: usize = 24;
const TAG_LEN: usize = 16;
const HEADER_LEN: usize = MAGIC.len() + KEY_LEN + NONCE_LEN;
/// An IPv6 or mapped IPv4 address and a port.
const ENDPOINT_LEN: usize = 18;
const VERSION: u8 = 0;
const PING: u8 = 1;
const PONG: u8 = 2;
const CALL_ME_MAYBE: u8 = 3;
