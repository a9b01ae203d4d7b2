//! The WireGuard engine: one session with one peer, behind a trait, so that it can be another.
//!
//! The one there is stands on boringtun's `noise::Tunn`. Measured at 1280 bytes on one core (README), its seal costs 3 % and
//! its open 6 % over the bare AEAD of ring, so it is taken as it is. What it lacks and what becomes of it here:
//! - it checks no source addresses: [`crate::plane`] does;
//! - its replay window is 1024 packets, at most 2.5 ms of a fast stream: what comes later than that is dropped;
//! - it counts no messages towards Reject-After-Messages (2^60, which no session of 180 s can send);
//! - it does not fill packets up to sixteen bytes, which receivers do not ask for;
//! - the cookie does not cover the port;
//! - it queues 256 packets without a session: so it is not given any, and [`crate::plane`] keeps a few.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};

use crate::key::{Node, Public, Secret};

#[cfg(test)]
mod tests;

/// What a data packet has beside what it carries: its header and the tag (WireGuard paper section 5.4.6).
pub const OVERHEAD: usize = 32;
/// The shortest slot that any of our messages fits in: a handshake initiation.
pub const MIN_SLOT: usize = 148;
/// The length of a slot for a packet.
pub const fn slot_len(packet: usize) -> usize {
    if packet + OVERHEAD > MIN_SLOT { packet + OVERHEAD } else { MIN_SLOT }
}

/// Handshake messages in a second before a cookie is asked for. Each is counted where it comes in, and again by its peer's
/// session. A tailnet of 3,000 that comes back at once is over it, and gets through with cookies.
const HANDSHAKES_PER_SECOND: u64 = 2 * 200;

/// What kind of WireGuard message it is, by its first four bytes and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Somebody begins.
    Initiation,
    /// An answer to our beginning: for the slot.
    Response(u32),
    /// Asks for a proof of the address: for the slot.
    Cookie(u32),
    /// Data: for the slot.
    Data(u32),
}

impl Message {
    /// Looks at a datagram; `None` if it is no WireGuard.
    pub fn of(datagram: &[u8]) -> Option<Self> {
        let &[kind, 0, 0, 0, ref rest @ ..] = datagram else { return None };
        let slot = |at: usize| {
            let index = rest.get(at..)?.first_chunk().map(|&four| u32::from_le_bytes(four))?;
            Some(index >> 8)
        };
        match (kind, datagram.len()) {
            (1, 148) => Some(Self::Initiation),
            (2, 92) => slot(4).map(Self::Response),
            (3, 64) => slot(0).map(Self::Cookie),
            (4, OVERHEAD..) => slot(0).map(Self::Data),
            _ => None,
        }
    }
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is none of this session, or of none that is left.
    NoSession,
    /// It was seen before, or is too old to know.
    Replayed,
    /// Its seal is wrong.
    Forged,
    /// It is no message that we know, or carries no IP packet.
    Malformed,
    /// Too many handshakes, and this one proves no address.
    UnderLoad,
}

impl From<WireGuardError> for Refused {
    fn from(error: WireGuardError) -> Self {
        match error {
            WireGuardError::WrongIndex
            | WireGuardError::NoCurrentSession
            | WireGuardError::UnexpectedPacket
            | WireGuardError::ConnectionExpired => Self::NoSession,
            WireGuardError::InvalidCounter
            | WireGuardError::DuplicateCounter
            | WireGuardError::WrongTai64nTimestamp => Self::Replayed,
            WireGuardError::WrongKey | WireGuardError::InvalidMac | WireGuardError::InvalidAeadTag => {
                Self::Forged
            }
            WireGuardError::UnderLoad => Self::UnderLoad,
            _ => Self::Malformed,
        }
    }
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// An IP packet of this length lies at the start of the slot.
    Packet(usize),
    /// It was taken and carries nothing.
    Nothing,
    /// It was taken; an answer of this length lies in the slot.
    Answer(usize),
    /// It was not taken, for now: a cookie of this length lies in the slot, to be sent back.
    Cookie(usize),
    /// It was not taken.
    Refused(Refused),
}

/// What the clock asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Nothing.
    Nothing,
    /// A message of this length lies in the slot, to be sent.
    Send(usize),
    /// The session and all attempts have ended.
    Ended,
}

/// One peer's WireGuard. It is taken for a batch at a time, by one thread.
pub trait Engine: Send {
    /// Whether there is a session to seal with.
    fn has_session(&self) -> bool;

    /// Seals a packet into a slot of at least [`slot_len`]; `None` if there is no session.
    fn seal(&mut self, packet: &[u8], slot: &mut [u8]) -> Option<usize>;

    /// Opens a message into a slot at least as long, and as [`MIN_SLOT`].
    fn open(&mut self, from: IpAddr, datagram: &[u8], slot: &mut [u8]) -> Opened;

    /// Begins a handshake, unless one is under way; or begins `again`, since the last one may have gone nowhere.
    fn initiate(&mut self, again: bool, slot: &mut [u8]) -> Option<usize>;

    /// To be called four times a second or so.
    fn tick(&mut self, slot: &mut [u8]) -> Tick;

    /// How long ago the session was made.
    fn session_age(&self) -> Option<Duration>;
}

/// Who we are: shared by all peers' engines.
pub struct Identity {
    secret: StaticSecret,
    public: PublicKey,
    key: Public<Node>,
    limiter: Arc<RateLimiter>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the identity of {}", self.key)
    }
}

/// What an initiation turned out to be.
#[derive(Debug)]
pub enum Beginning {
    /// It is from the holder of this key, so far as one can know before the handshake.
    From(Public<Node>),
    /// A cookie of this length lies in the slot, to be sent back.
    Cookie(usize),
    /// It is refused.
    Refused(Refused),
}

impl Identity {
    /// Of our node key.
    pub fn new(key: &Secret<Node>) -> Self {
        let secret = StaticSecret::from(*key.bytes());
        let public = PublicKey::from(&secret);
        let limiter = Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_SECOND));
        Self { secret, public, key: key.public(), limiter }
    }

    /// Our public key.
    pub const fn key(&self) -> Public<Node> {
        self.key
    }

    /// Finds out who begins. `slot` has room for a cookie.
    pub fn beginning(&self, from: IpAddr, datagram: &[u8], slot: &mut [u8]) -> Beginning {
        let packet = match self.limiter.verify_packet(Some(from), datagram, slot) {
            Ok(Packet::HandshakeInit(packet)) => packet,
            Ok(_) => return Beginning::Refused(Refused::Malformed),
            Err(TunnResult::WriteToNetwork(cookie)) => return Beginning::Cookie(cookie.len()),
            Err(TunnResult::Err(error)) => return Beginning::Refused(error.into()),
            Err(_) => return Beginning::Refused(Refused::Malformed),
        };
        match parse_handshake_anon(&self.secret, &self.public, &packet) {
            Ok(half) => Beginning::From(Public::new(half.peer_static_public)),
            Err(error) => Beginning::Refused(error.into()),
        }
    }

    /// A second has passed.
    pub fn reset_limit(&self) {
        self.limiter.reset_count();
    }

    /// The engine for a peer, whose messages carry this slot.
    pub fn engine(&self, peer: &Public<Node>, slot: u32) -> Box<dyn Engine> {
        let peer = PublicKey::from(*peer.bytes());
        Box::new(Boringtun {
            tunn: Tunn::new(self.secret.clone(), peer, None, None, slot, Some(Arc::clone(&self.limiter))),
        })
    }
}

struct Boringtun {
    tunn: Tunn,
}

impl Engine for Boringtun {
    fn has_session(&self) -> bool {
        self.tunn.time_since_last_handshake().is_some()
    }

    fn seal(&mut self, packet: &[u8], slot: &mut [u8]) -> Option<usize> {
        // It asserts the length, and would keep a packet that it cannot seal.
        if slot.len() < slot_len(packet.len()) {
            return None;
        }
        match self.tunn.encapsulate(packet, slot) {
            TunnResult::WriteToNetwork(sealed) if sealed.first() == Some(&4) => Some(sealed.len()),
            _ => None,
        }
    }

    fn open(&mut self, from: IpAddr, datagram: &[u8], slot: &mut [u8]) -> Opened {
        // An empty one means something else to it, and it asserts the length of the slot.
        if datagram.is_empty() || slot.len() < datagram.len().max(MIN_SLOT) {
            return Opened::Refused(Refused::Malformed);
        }
        match self.tunn.decapsulate(Some(from), datagram, slot) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Opened::Packet(packet.len())
            }
            TunnResult::WriteToNetwork(answer) if answer.first() == Some(&3) => Opened::Cookie(answer.len()),
            TunnResult::WriteToNetwork(answer) => Opened::Answer(answer.len()),
            TunnResult::Done => Opened::Nothing,
            TunnResult::Err(error) => Opened::Refused(error.into()),
        }
    }

    fn initiate(&mut self, again: bool, slot: &mut [u8]) -> Option<usize> {
        match self.tunn.format_handshake_initiation(slot, again) {
            TunnResult::WriteToNetwork(message) => Some(message.len()),
            _ => None,
        }
    }

    fn tick(&mut self, slot: &mut [u8]) -> Tick {
        match self.tunn.update_timers(slot) {
            TunnResult::WriteToNetwork(message) => Tick::Send(message.len()),
            TunnResult::Err(WireGuardError::ConnectionExpired) => Tick::Ended,
            _ => Tick::Nothing,
        }
    }

    fn session_age(&self) -> Option<Duration> {
        self.tunn.time_since_last_handshake()
    }
}
