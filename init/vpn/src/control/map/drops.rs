//! What of the maps was not accepted: counted, and logged as far as a log bears it.

use std::fmt::Display;
use std::time::Instant;

use crate::control::harmless;
use crate::control::pace::LogPace;

/// Why something of a map was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum DropReason {
    /// A message before the stream's first map.
    BeforeFirst,
    /// A peer whose key is none.
    BadKey,
    /// A peer with our own key.
    OwnKey,
    /// A peer with the key of another one of the same message.
    DuplicateKey,
    /// A text that is no address.
    BadAddress,
    /// An address that is a whole network.
    NotAHost,
    /// An address outside the tailnet's prefixes.
    OutsidePrefixes,
    /// A peer that claims our address.
    OwnAddress,
    /// An address that a later message gave to another peer.
    AddressMoved,
    /// A peer of whose addresses none was accepted.
    NoAddress,
    /// A route beyond a peer's own addresses.
    Route,
    /// A change of a peer that we do not know.
    UnknownPeer,
    /// A relay that we cannot use.
    BadRelay,
    /// More than we take.
    TooMany,
    /// An element of a list that is `null` or does not read.
    Unreadable,
}

impl DropReason {
    /// All of them, in order.
    pub const ALL: [Self; 15] = [
        Self::BeforeFirst,
        Self::BadKey,
        Self::OwnKey,
        Self::DuplicateKey,
        Self::BadAddress,
        Self::NotAHost,
        Self::OutsidePrefixes,
        Self::OwnAddress,
        Self::AddressMoved,
        Self::NoAddress,
        Self::Route,
        Self::UnknownPeer,
        Self::BadRelay,
        Self::TooMany,
        Self::Unreadable,
    ];

    /// Its name in status and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BeforeFirst => "map_before_first",
            Self::BadKey => "map_bad_key",
            Self::OwnKey => "map_own_key",
            Self::DuplicateKey => "map_duplicate_key",
            Self::BadAddress => "map_bad_address",
            Self::NotAHost => "map_address_not_a_host",
            Self::OutsidePrefixes => "map_outside_prefixes",
            Self::OwnAddress => "map_own_address",
            Self::AddressMoved => "map_address_moved",
            Self::NoAddress => "map_peer_without_address",
            Self::Route => "map_route",
            Self::UnknownPeer => "map_unknown_peer",
            Self::BadRelay => "map_bad_relay",
            Self::TooMany => "map_too_many",
            Self::Unreadable => "map_unreadable",
        }
    }
}

/// The counters. Two are equal that counted the same.
#[derive(Clone, Debug, Default)]
pub struct MapDrops {
    counts: [u64; DropReason::ALL.len()],
    log: LogPace,
}

impl PartialEq for MapDrops {
    fn eq(&self, other: &Self) -> bool {
        self.counts == other.counts
    }
}

impl Eq for MapDrops {}

impl MapDrops {
    /// How often, by reason.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.into_iter().zip(self.counts)
    }

    /// How often for this reason.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.counts.get(reason as usize).copied().unwrap_or_default()
    }

    pub(super) fn begin_message(&mut self, now: Instant) {
        self.log.at(now);
    }

    /// Whether there may be a log line, and how many there were not since the last.
    pub(super) const fn line(&mut self) -> Option<u64> {
        self.log.line()
    }

    /// So many elements of a list that do not read, logged as one.
    pub(super) fn unreadable(&mut self, number: usize, what: &dyn Display) {
        let Some(others) = number.checked_sub(1) else {
            return;
        };
        self.count(DropReason::Unreadable, what);
        if let Some(count) = self.counts.get_mut(DropReason::Unreadable as usize) {
            *count += others as u64;
        }
    }

    pub(super) fn count(&mut self, reason: DropReason, what: &dyn Display) {
        if let Some(count) = self.counts.get_mut(reason as usize) {
            *count += 1;
        }
        if let Some(unsaid) = self.line() {
            let what = harmless(&what.to_string());
            tracing::warn!(reason = reason.name(), what, unsaid, "not accepted from the map");
        }
    }
}
