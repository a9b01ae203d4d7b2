//! What goes into the state machine, and what comes out.

use std::time::{Duration, Instant};

use super::{Answer, AuthKey, RefusalKind};

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The register request was answered.
    Answered(Answer),
    /// The new node key is made and stored.
    Rotated {
        /// Its number among ours.
        key: usize,
    },
    /// It could not be made.
    RotationFailed,
    /// The first map of a stream came, and in it our own node key has ended. [`Self::MapReceived`] follows.
    FirstMapExpired,
    /// The first map of a stream came.
    MapReceived,
    /// A map request was answered 404.
    MapNotFound,
    /// A request was answered 429.
    RateLimited(Option<Duration>),
    /// The transport failed; `sent`: the request may have arrived.
    Transport {
        /// Whether the request was sent.
        sent: bool,
    },
    /// The stream ended after this long.
    StreamEnded(Duration),
    /// The server would not talk: it refuses our version, or is not the pinned one; with its words, where it gave any.
    Unwilling(RefusalKind, String),
    /// The map says whether our own key has ended.
    OwnKeyExpired(bool),
    /// The key to join with, as it is now.
    Offered(Option<AuthKey>),
}

/// What to do now. All but [`Command::Wait`] are answered by an [`Event`] before the next is given.
#[derive(Clone, Debug)]
pub enum Command {
    /// Send a register request.
    Register {
        /// With this pre-auth key, or without.
        auth: Option<AuthKey>,
        /// For this node key of ours: 0 is the one that was admitted last.
        key: usize,
        /// In place of this one.
        after: Option<usize>,
    },
    /// Make and store a new node key, beside the others.
    RotateNodeKey {
        /// The one that has ended.
        after: usize,
    },
    /// Update the server, then open the stream of maps.
    Stream,
    /// Nothing until then, or until something happens.
    Wait(Option<Instant>),
}

/// Where we are, for status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// On the way.
    Joining,
    /// Maps come.
    Joined,
    /// A pre-auth key is needed.
    KeyNeeded,
    /// The server is left alone for long.
    Unwilling,
}
