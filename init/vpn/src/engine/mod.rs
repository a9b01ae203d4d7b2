//! The WireGuard engine: everything of WireGuard that is not a thread, a socket or a route.
//!
//! Written after the paper (`www.wireguard.com/papers/wireguard.pdf`), tested against boringtun, which it replaces: a `Tunn` takes
//! `&mut self` for both directions, so that two threads waited for each other (13 % of a receiver's time); it remembers 1024
//! messages, which is less than a fast stream holds back when its path moves; and it goes on sending by a session of its own that
//! wireguard-go has forgotten, if both began at once. Here:
//! - the two directions of a session share nothing ([`Sender`], [`Opener`]), and a message may be 8,128 late;
//! - what is sent by is the session that the peer was heard by, or made last;
//! - a session ends at Reject-After-Messages; a cookie covers the port;
//! - our times grow over restarts ([`Stamper`]); the latest time of each peer is kept by [`crate::plane`], and outlives its
//!   [`Tunnel`];
//! - who begins is known before anything is kept for it ([`Identity::beginning`], [`Initiation::prove`]).
//!
//! What is not here: source addresses are checked, and packets without a session kept, by [`crate::plane`]. There is no
//! pre-shared key and no persistent keepalive: a tailnet has neither. Packets are not filled up to sixteen bytes, which receivers
//! do not ask for.

mod cookie;
mod handshake;
mod session;
mod stamp;
mod tunnel;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::key::{Node, Public, Secret};

use cookie::{Judged, Limiter, REPLY};
use handshake::INITIATION;

pub use handshake::{Initiation, Proven};
pub use session::Sender;
pub use stamp::{Stamp, Stamper};
pub use tunnel::{Opener, Tunnel};

/// What a data packet has beside what it carries: its header and the tag (WireGuard paper section 5.4.6).
pub const OVERHEAD: usize = 32;
/// The shortest slot that any of our messages fits in: a handshake initiation.
pub const MIN_SLOT: usize = 148;
/// The length of a slot for a packet.
pub const fn slot_len(packet: usize) -> usize {
    if packet + OVERHEAD > MIN_SLOT { packet + OVERHEAD } else { MIN_SLOT }
}

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
    /// Too many handshakes: of all, and this one proves no address; or of its sender's own.
    UnderLoad,
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

/// Who we are: shared by all tunnels.
pub struct Identity {
    secret: Secret<Node>,
    limiter: Limiter,
    stamper: Arc<Stamper>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the identity of {}", self.key())
    }
}

/// What a beginning turned out to be.
#[derive(Debug)]
pub enum Beginning {
    /// It names a key that somebody could have taken from anywhere.
    From(Box<Initiation>),
    /// Not to be read for now: this is to be sent back.
    Cookie([u8; REPLY]),
    /// It is refused.
    Refused(Refused),
}

impl Identity {
    /// Of our node key, with what makes its times.
    pub fn new(key: &Secret<Node>, stamper: Arc<Stamper>) -> Self {
        Self { secret: key.clone(), limiter: Limiter::new(key), stamper }
    }

    /// Our public key.
    pub const fn key(&self) -> Public<Node> {
        self.secret.public()
    }

    /// What makes our times.
    pub const fn stamper(&self) -> &Arc<Stamper> {
        &self.stamper
    }

    /// Finds out who begins.
    pub fn beginning(&self, now: u64, from: SocketAddr, datagram: &[u8]) -> Beginning {
        let message = match <&[u8; INITIATION]>::try_from(datagram) {
            Ok(message) if Message::of(datagram) == Some(Message::Initiation) => message,
            _ => return Beginning::Refused(Refused::Malformed),
        };
        match self.limiter.judge(now, from, message) {
            Judged::Good => {}
            Judged::Cookie(reply) => return Beginning::Cookie(reply),
            Judged::Forged => return Beginning::Refused(Refused::Forged),
            Judged::TooMany => return Beginning::Refused(Refused::UnderLoad),
        }
        match Initiation::read(&self.secret, message) {
            Some(initiation) => Beginning::From(Box::new(initiation)),
            None => Beginning::Refused(Refused::Forged),
        }
    }

    /// A tunnel to a peer, whose messages carry this slot.
    pub fn tunnel(self: &Arc<Self>, now: u64, peer: &Public<Node>, slot: u32) -> Tunnel {
        Tunnel::new(now, Arc::clone(self), peer, slot)
    }
}
