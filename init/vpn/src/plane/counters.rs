//! What was dropped, by reason.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::filter;

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Reason {
    /// From the TUN: no IP packet, or a super-packet that is not as its header says.
    Malformed,
    /// From the TUN: no peer has the destination.
    NoPeer,
    /// From the TUN: a source that is not ours.
    ForeignSource,
    /// To a peer: no way leads there.
    NoPath,
    /// To a peer: too many packets wait for a session.
    WaitingFull,
    /// To a peer: it never answered.
    NoAnswer,
    /// To a peer: the kernel did not take it.
    SendFailed,
    /// To a peer: the relay's queue is full.
    RelayQueueFull,
    /// From somebody: the socket said so, however much it was.
    ReceiveFailed,
    /// From a peer: no session of ours.
    NoSession,
    /// From a peer: seen before, or too old.
    Replayed,
    /// From a peer: a wrong seal.
    Forged,
    /// From somebody: no message, or no IP packet in it.
    BadMessage,
    /// From somebody: neither WireGuard nor STUN nor disco.
    UnknownKind,
    /// From somebody: a handshake too much.
    UnderLoad,
    /// From somebody who is no peer.
    Stranger,
    /// From a peer: a source that is not the peer's.
    Spoofed,
    /// From a peer: the packet filter says no.
    Filtered,
    /// To the TUN: the kernel did not take it.
    TunFailed,
    /// STUN or disco: too many wait.
    OutsideQueueFull,
    /// An event: too many wait.
    EventQueueFull,
}

impl Reason {
    /// All.
    pub const ALL: [Self; 21] = [
        Self::Malformed,
        Self::NoPeer,
        Self::ForeignSource,
        Self::NoPath,
        Self::WaitingFull,
        Self::NoAnswer,
        Self::SendFailed,
        Self::RelayQueueFull,
        Self::ReceiveFailed,
        Self::NoSession,
        Self::Replayed,
        Self::Forged,
        Self::BadMessage,
        Self::UnknownKind,
        Self::UnderLoad,
        Self::Stranger,
        Self::Spoofed,
        Self::Filtered,
        Self::TunFailed,
        Self::OutsideQueueFull,
        Self::EventQueueFull,
    ];

    /// Its name in the status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoPeer => "no-peer",
            Self::ForeignSource => "foreign-source",
            Self::NoPath => "no-path",
            Self::WaitingFull => "waiting-full",
            Self::NoAnswer => "no-answer",
            Self::SendFailed => "send-failed",
            Self::RelayQueueFull => "relay-queue-full",
            Self::ReceiveFailed => "receive-failed",
            Self::NoSession => "no-session",
            Self::Replayed => "replayed",
            Self::Forged => "forged",
            Self::BadMessage => "bad-message",
            Self::UnknownKind => "unknown-kind",
            Self::UnderLoad => "under-load",
            Self::Stranger => "stranger",
            Self::Spoofed => "spoofed",
            Self::Filtered => "filtered",
            Self::TunFailed => "tun-failed",
            Self::OutsideQueueFull => "outside-queue-full",
            Self::EventQueueFull => "event-queue-full",
        }
    }
}

/// How many packets were dropped for each reason.
#[derive(Debug, Default)]
pub struct Counters {
    dropped: [AtomicU64; Reason::ALL.len()],
    /// What [`Reason::Filtered`] is made of.
    filtered: [AtomicU64; filter::Reason::ALL.len()],
}

impl Counters {
    pub(super) fn count(&self, reason: Reason, packets: usize) {
        if packets > 0
            && let Some(counter) = self.dropped.get(reason as usize)
        {
            counter.fetch_add(u64::try_from(packets).unwrap_or(0), Ordering::Relaxed);
        }
    }

    pub(super) fn filtered(&self, reason: filter::Reason) {
        self.count(Reason::Filtered, 1);
        if let Some(counter) = self.filtered.get(reason.index()) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many the packet filter dropped for a reason of its own.
    pub fn by_filter(&self, reason: filter::Reason) -> u64 {
        self.filtered.get(reason.index()).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// How many for this reason.
    pub fn get(&self, reason: Reason) -> u64 {
        self.dropped.get(reason as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// Those that are not zero.
    pub fn nonzero(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.into_iter().map(|reason| (reason, self.get(reason))).filter(|&(_, count)| count > 0)
    }
}
