//! The connections to relays: the home region's always, others while they are used.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::AbortHandle;

use super::frame::{GoneReason, MAX_PACKET};
use super::region::{self, Timing};
use super::trust::Trust;
use crate::dial::Dial;
use crate::key::{Node, Public, Secret};
use crate::netmap::{DerpMap, RegionId};

/// What a pool needs.
#[derive(Clone)]
pub struct PoolConfig {
    /// Our node key, by which relays know us.
    pub ours: Secret<Node>,
    /// How relays prove themselves.
    pub trust: Trust,
    /// How connections are opened.
    pub dial: Arc<dyn Dial>,
}

impl std::fmt::Debug for PoolConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a relay client of {}", self.ours.public())
    }
}

/// A packet that a relay brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// From whom, as the relay says.
    pub src: Public<Node>,
    /// WireGuard or disco: see [`crate::disco::classify`].
    pub packet: Bytes,
}

/// What happens at the relays.
#[derive(Debug)]
pub enum Event {
    /// Packets that were read together.
    Received {
        /// Through which region.
        region: RegionId,
        /// The packets, in their order.
        packets: Vec<Packet>,
    },
    /// A region's relay accepted us.
    Connected {
        /// Which.
        region: RegionId,
        /// From the first SYN to its info: for the choice of home where UDP is blocked.
        took: Duration,
    },
    /// A connection ended, or none came about.
    Disconnected {
        /// Which.
        region: RegionId,
        /// Why; `None`: it was idle, or is no longer in the map.
        why: Option<String>,
    },
    /// A relay does not have a peer, or no longer.
    PeerGone {
        /// Which relay.
        region: RegionId,
        /// Which peer.
        peer: Public<Node>,
        /// Why.
        reason: GoneReason,
    },
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// It is in its region's queue.
    Queued,
    /// The queue is full, or a datagram too big: dropped and counted.
    Dropped,
    /// The map has no such region: dropped and counted.
    NoRegion,
}

/// The pool's state, for the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolStatus {
    /// The home region.
    pub home: Option<RegionId>,
    /// Regions with a connection.
    pub connected: Vec<RegionId>,
    /// Batches that were dropped on their way out.
    pub dropped_out: u64,
    /// Packets that were dropped because there was nobody to take them.
    pub dropped_in: u64,
}

/// What all regions' tasks see.
#[derive(Clone, Debug, Default)]
pub(super) struct Wanted {
    pub(super) map: Arc<DerpMap>,
    pub(super) home: Option<RegionId>,
    pub(super) network: Network,
}

/// What happened to the network under the connections, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Network {
    /// Addresses of ours came or went.
    pub(super) changes: u64,
    /// No connection can have survived.
    pub(super) losses: u64,
}

/// A batch on its way out.
pub(super) struct Outgoing {
    pub(super) to: Public<Node>,
    pub(super) bytes: Bytes,
    /// The length of each datagram in it but the last.
    pub(super) segment: usize,
}

/// What a region's task and the pool share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) connected: AtomicBool,
    pub(super) queued: AtomicUsize,
    pub(super) dropped_out: AtomicU64,
    pub(super) dropped_in: AtomicU64,
    /// When its relay last sent a frame.
    pub(super) last_frame: Mutex<Option<Instant>>,
    /// When a word of its relay was last written to the log.
    pub(super) logged: Mutex<Option<Instant>>,
}

impl Shared {
    /// Whether a word of the relay goes to the log: one in a while does, over all connections to its region.
    pub(super) fn may_log(&self, now: Instant) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let due = logged.is_none_or(|at| now.saturating_duration_since(at) >= LOGGED_EVERY);
        if due {
            *logged = Some(now);
        }
        due
    }
}

#[derive(Debug)]
struct Slot {
    queue: mpsc::Sender<Outgoing>,
    shared: Arc<Shared>,
    task: AbortHandle,
}

/// A client of all relays of the map. Dropping it ends every connection.
#[derive(Debug)]
pub struct Pool {
    config: Arc<PoolConfig>,
    runtime: Handle,
    wanted: watch::Sender<Wanted>,
    events: mpsc::Sender<Event>,
    slots: Mutex<HashMap<RegionId, Slot>>,
    /// Places for dials of regions that are only tried.
    probes: Arc<Semaphore>,
    /// What was dropped of regions that left the map, or were never in it: out, in.
    past: Mutex<(u64, u64)>,
    timing: Timing,
}

impl Pool {
    /// A pool without a map. Its tasks run on `runtime`; its events must be taken.
    pub fn new(config: PoolConfig, runtime: Handle) -> (Self, mpsc::Receiver<Event>) {
        Self::with_timing(config, runtime, Timing::REAL)
    }

    pub(super) fn with_timing(
        config: PoolConfig,
        runtime: Handle,
        timing: Timing,
    ) -> (Self, mpsc::Receiver<Event>) {
        let (events, receiver) = mpsc::channel(EVENTS);
        let pool = Self {
            config: Arc::new(config),
            runtime,
            wanted: watch::Sender::new(Wanted::default()),
            events,
            slots: Mutex::default(),
            probes: Arc::new(Semaphore::new(PROBES)),
            past: Mutex::default(),
            timing,
        };
        (pool, receiver)
    }

    /// The map changed: connections to servers that left it end.
    pub fn set_map(&self, map: Arc<DerpMap>) {
        let mut slots = self.slots();
        slots.retain(|region, slot| {
            let stays = map.regions.contains_key(region);
            if !stays {
                slot.task.abort();
                let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
                past.0 += slot.shared.dropped_out.load(Ordering::Relaxed);
                past.1 += slot.shared.dropped_in.load(Ordering::Relaxed);
                // Its task does not tell any more; who is reached through it must be reached another way.
                let (events, region) = (self.events.clone(), *region);
                self.runtime.spawn(async move {
                    drop(events.send(Event::Disconnected { region, why: None }).await);
                });
            }
            stays
        });
        drop(slots);
        self.wanted.send_if_modified(|wanted| {
            let differs = wanted.map != map;
            wanted.map = map;
            differs
        });
        self.start_home();
    }

    /// The home region: connected at all times.
    pub fn set_home(&self, home: Option<RegionId>) {
        self.wanted.send_if_modified(|wanted| {
            let differs = wanted.home != home;
            wanted.home = home;
            differs
        });
        self.start_home();
    }

    /// This machine's addresses changed, or it slept. Connections from an address that is gone are made anew, after a sleep all are;
    /// the others must answer within a few seconds.
    pub fn network_changed(&self, slept: bool) {
        self.wanted.send_modify(|wanted| {
            wanted.network.changes += 1;
            wanted.network.losses += u64::from(slept);
        });
    }

    /// Opens a connection to a region, which goes when it is idle: to see whether it answers. A few at a time are opened.
    pub fn probe(&self, region: RegionId) -> SendOutcome {
        self.queue(region, Outgoing { to: Public::zero(), bytes: Bytes::new(), segment: 0 })
    }

    /// Sends a batch of datagrams of `segment` bytes each (the last may be shorter; 0: it is one datagram) to a node through a
    /// region. It never waits, and may be called outside the runtime.
    pub fn send(&self, region: RegionId, to: Public<Node>, bytes: Bytes, segment: usize) -> SendOutcome {
        let segment = if segment == 0 { bytes.len() } else { segment };
        self.queue(region, Outgoing { to, bytes, segment })
    }

    /// When a region's relay last sent a frame on the connection that stands.
    pub fn last_frame(&self, region: RegionId) -> Option<Instant> {
        let shared = Arc::clone(&self.slots().get(&region)?.shared);
        let last = *shared.last_frame.lock().unwrap_or_else(PoisonError::into_inner);
        last.filter(|_| shared.connected.load(Ordering::Relaxed))
    }

    /// How things stand.
    pub fn status(&self) -> PoolStatus {
        let (dropped_out, dropped_in) = *self.past.lock().unwrap_or_else(PoisonError::into_inner);
        let mut status =
            PoolStatus { home: self.wanted.borrow().home, dropped_out, dropped_in, ..PoolStatus::default() };
        for (region, slot) in self.slots().iter() {
            if slot.shared.connected.load(Ordering::Relaxed) {
                status.connected.push(*region);
            }
            status.dropped_out += slot.shared.dropped_out.load(Ordering::Relaxed);
            status.dropped_in += slot.shared.dropped_in.load(Ordering::Relaxed);
        }
        status.connected.sort_unstable();
        status
    }

    fn queue(&self, region: RegionId, batch: Outgoing) -> SendOutcome {
        let mut slots = self.slots();
        let Some(slot) = self.slot(&mut slots, region) else {
            // A probe has nothing in it that could be lost.
            let lost = u64::from(!batch.bytes.is_empty());
            self.past.lock().unwrap_or_else(PoisonError::into_inner).0 += lost;
            return SendOutcome::NoRegion;
        };
        let bytes = batch.bytes.len();
        let full = slot.shared.queued.load(Ordering::Relaxed) + bytes > QUEUE_BYTES;
        if full || batch.segment > MAX_PACKET {
            slot.shared.dropped_out.fetch_add(1, Ordering::Relaxed);
            return SendOutcome::Dropped;
        }
        slot.shared.queued.fetch_add(bytes, Ordering::Relaxed);
        match slot.queue.try_send(batch) {
            Ok(()) => SendOutcome::Queued,
            Err(_) => {
                slot.shared.queued.fetch_sub(bytes, Ordering::Relaxed);
                slot.shared.dropped_out.fetch_add(1, Ordering::Relaxed);
                SendOutcome::Dropped
            }
        }
    }

    fn start_home(&self) {
        let home = self.wanted.borrow().home;
        if let Some(home) = home {
            self.slot(&mut self.slots(), home);
        }
    }

    /// The region's task, started if it does not run yet.
    fn slot<'a>(
        &self,
        slots: &'a mut MutexGuard<'_, HashMap<RegionId, Slot>>,
        region: RegionId,
    ) -> Option<&'a Slot> {
        if !self.wanted.borrow().map.regions.contains_key(&region) {
            return None;
        }
        Some(slots.entry(region).or_insert_with(|| {
            let (queue, receiver) = mpsc::channel(QUEUE_BATCHES);
            let shared = Arc::<Shared>::default();
            let task = region::Task {
                region,
                config: Arc::clone(&self.config),
                wanted: self.wanted.subscribe(),
                queue: receiver,
                events: self.events.clone(),
                shared: Arc::clone(&shared),
                probes: Arc::clone(&self.probes),
                timing: self.timing,
            };
            Slot { queue, shared, task: self.runtime.spawn(task.run()).abort_handle() }
        }))
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<RegionId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for slot in self.slots().values() {
            slot.task.abort();
        }
    }
}

/// Batches that wait for one region. A relay's own queue for a client holds 32 packets: more here is only delay.
const QUEUE_BATCHES: usize = 64;
/// And their bytes.
const QUEUE_BYTES: usize = 512 << 10;
/// Events that wait to be taken: each holds what was read at a time.
const EVENTS: usize = 256;
/// Between two words of a region's relays in the log.
const LOGGED_EVERY: Duration = Duration::from_secs(30);
/// Regions that are tried at a time: a map of hundreds is no reason for hundreds of sockets.
const PROBES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_that_talks_without_end_is_heard_now_and_then() {
        let (shared, start) = (Shared::default(), Instant::now());
        let at = |second| start + Duration::from_secs(second);
        let logged: Vec<u64> = (0..100).filter(|second| shared.may_log(at(*second))).collect();
        assert_eq!(logged, [0, 30, 60, 90]);
        assert!(!shared.may_log(start), "a clock that goes back is none");
    }
}
