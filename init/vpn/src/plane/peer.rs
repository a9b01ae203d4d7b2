//! One peer, as the packet path knows it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::path::RouteCell;
use crate::engine::Engine;
use crate::key::{Node, Public};
use crate::path::Route;

/// Packets that wait for a session. Enough for what a connection sends before its first answer.
const MAX_WAITING: usize = 64;

/// One peer.
pub struct Peer {
    key: Public<Node>,
    slot: u32,
    tunnel: Mutex<Tunnel>,
    retired: AtomicBool,
    route: RouteCell,
    rx_bytes: AtomicU64,
    rx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    tx_packets: AtomicU64,
    last_rx: AtomicU64,
    last_direct: AtomicU64,
    last_tx: AtomicU64,
    last_handshake: AtomicU64,
    pub(super) wanted: Every,
    pub(super) authentic: Every,
}

/// What went to and came from a peer. Times are milliseconds after [`super::Plane::started`]; zero: never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// IP bytes received.
    pub rx_bytes: u64,
    /// IP packets received.
    pub rx_packets: u64,
    /// IP bytes sent.
    pub tx_bytes: u64,
    /// IP packets sent.
    pub tx_packets: u64,
    /// When a message of its own came last.
    pub last_rx: u64,
    /// When one came from where the direct route goes to; anew with each such route.
    pub last_direct: u64,
    /// When a packet went last.
    pub last_tx: u64,
    /// When the last session was made, to a second.
    pub last_handshake: u64,
}

/// The part that is taken by one thread for a batch.
#[derive(Default)]
pub(super) struct Tunnel {
    /// Made on first use: it is big.
    pub(super) engine: Option<Box<dyn Engine>>,
    waiting: VecDeque<Vec<u8>>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the peer {}", self.key.short())
    }
}

impl Peer {
    pub(super) fn new(key: Public<Node>, slot: u32) -> Arc<Self> {
        Arc::new(Self {
            key,
            slot,
            tunnel: Mutex::default(),
            retired: AtomicBool::new(false),
            route: RouteCell::default(),
            rx_bytes: AtomicU64::new(0),
            rx_packets: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            tx_packets: AtomicU64::new(0),
            last_rx: AtomicU64::new(0),
            last_direct: AtomicU64::new(0),
            last_tx: AtomicU64::new(0),
            last_handshake: AtomicU64::new(0),
            wanted: Every::default(),
            authentic: Every::default(),
        })
    }

    /// Its key.
    pub const fn key(&self) -> Public<Node> {
        self.key
    }

    pub(super) const fn slot(&self) -> u32 {
        self.slot
    }

    pub(super) fn tunnel(&self) -> MutexGuard<'_, Tunnel> {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it is reached.
    pub fn route(&self) -> Route {
        self.route.load()
    }

    pub(super) fn set_route(&self, route: Route) -> Route {
        let before = self.route.store(route);
        if before.direct != route.direct {
            self.last_direct.store(0, Ordering::Relaxed);
        }
        before
    }

    /// A message of its own came from where the direct route goes to.
    pub(super) fn came_direct(&self, now: u64) {
        self.last_direct.store(now, Ordering::Relaxed);
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.tunnel().waiting.is_empty()
    }

    /// Whether a handshake with it was begun, and no session came of it.
    pub(super) fn lacks_session(&self) -> bool {
        self.tunnel().engine.as_ref().is_some_and(|engine| !engine.has_session())
    }

    /// Whether there is a session with it.
    pub fn has_session(&self) -> bool {
        self.tunnel().engine.as_ref().is_some_and(|engine| engine.has_session())
    }

    /// What went and came.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            rx_bytes: self.rx_bytes.load(Ordering::Relaxed),
            rx_packets: self.rx_packets.load(Ordering::Relaxed),
            tx_bytes: self.tx_bytes.load(Ordering::Relaxed),
            tx_packets: self.tx_packets.load(Ordering::Relaxed),
            last_rx: self.last_rx.load(Ordering::Relaxed),
            last_direct: self.last_direct.load(Ordering::Relaxed),
            last_tx: self.last_tx.load(Ordering::Relaxed),
            last_handshake: self.last_handshake.load(Ordering::Relaxed),
        }
    }

    pub(super) fn sent(&self, packets: usize, bytes: usize, now: u64) {
        add(&self.tx_packets, packets);
        add(&self.tx_bytes, bytes);
        self.last_tx.store(now, Ordering::Relaxed);
    }

    pub(super) fn received(&self, packets: usize, bytes: usize, now: u64) {
        add(&self.rx_packets, packets);
        add(&self.rx_bytes, bytes);
        self.last_rx.store(now, Ordering::Relaxed);
    }

    pub(super) fn shook_hands(&self, now: u64, age: Duration) {
        let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.last_handshake.store(now.saturating_sub(age).max(1), Ordering::Relaxed);
    }

    /// Its sessions end, and no new one is made.
    pub(super) fn retire(&self) {
        let mut tunnel = self.tunnel();
        // With the session held: who makes one looks first.
        self.retired.store(true, Ordering::Relaxed);
        tunnel.end();
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }
}

impl Tunnel {
    /// Keeps a packet until there is a session; `false` if too many wait.
    pub(super) fn wait(&mut self, packet: &[u8]) -> bool {
        let room = self.waiting.len() < MAX_WAITING;
        if room {
            self.waiting.push_back(packet.to_vec());
        }
        room
    }

    /// What waited, if there is a session now.
    pub(super) fn take_waiting(&mut self) -> Vec<Vec<u8>> {
        if self.waiting.is_empty() || !self.engine.as_ref().is_some_and(|engine| engine.has_session()) {
            return Vec::new();
        }
        std::mem::take(&mut self.waiting).into()
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Ends all sessions; returns how many packets waited for one.
    pub(super) fn end(&mut self) -> usize {
        self.engine = None;
        std::mem::take(&mut self.waiting).len()
    }
}

/// Something that is done once in a while, by whoever comes first.
#[derive(Debug, Default)]
pub(super) struct Every(AtomicU64);

impl Every {
    pub(super) fn due(&self, now: u64, period: u64) -> bool {
        let last = self.0.load(Ordering::Relaxed);
        (last == 0 || now >= last + period)
            && self.0.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(u64::try_from(count).unwrap_or(0), Ordering::Relaxed);
}
