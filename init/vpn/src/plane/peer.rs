//! One peer, as the packet path knows it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::path::RouteCell;
use crate::engine::{Stamp, Tunnel};
use crate::key::{Node, Public};
use crate::path::Route;

/// Packets that wait for a session. Enough for what a connection sends before its first answer.
const MAX_WAITING: usize = 64;

/// Bytes that wait for sessions, of all peers: a service may speak to many that are away.
const MAX_WAITING_BYTES: usize = 4 << 20;

/// How many bytes wait for sessions.
#[derive(Debug, Default)]
pub(super) struct Waiting(AtomicUsize);

impl Waiting {
    fn take(&self, bytes: usize) -> bool {
        let more = |held: usize| Some(held + bytes).filter(|held| *held <= MAX_WAITING_BYTES);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// One peer.
pub struct Peer {
    key: Public<Node>,
    slot: u32,
    /// Made on first use: it is big. Taken for as long as it takes to clone it.
    tunnel: RwLock<Option<Arc<Tunnel>>>,
    waiting: Mutex<VecDeque<Vec<u8>>>,
    /// Whether anything waits: what each batch looks at.
    waits: AtomicBool,
    /// The time of its last beginning. It outlives the tunnel: an old beginning that somebody kept must not make one.
    begun: Mutex<Stamp>,
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
    /// When the last session was made.
    pub last_handshake: u64,
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
            tunnel: RwLock::default(),
            waiting: Mutex::default(),
            waits: AtomicBool::new(false),
            begun: Mutex::default(),
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

    /// What its flows are known by.
    pub(super) fn mark(&self) -> u64 {
        self.key.bytes().first_chunk().map_or(0, |eight| u64::from_le_bytes(*eight))
    }

    pub(super) const fn slot(&self) -> u32 {
        self.slot
    }

    /// Its tunnel, if it has one.
    pub(super) fn tunnel(&self) -> Option<Arc<Tunnel>> {
        self.tunnel.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Its tunnel, made if there is none; `None` if the peer is gone. `made` is called with the tunnel held.
    pub(super) fn tunnel_or_make(
        &self,
        make: impl FnOnce() -> Tunnel,
        made: impl FnOnce(),
    ) -> Option<Arc<Tunnel>> {
        if let Some(tunnel) = self.tunnel() {
            return Some(tunnel);
        }
        let mut tunnel = self.tunnel.write().unwrap_or_else(PoisonError::into_inner);
        if tunnel.is_none() && !self.is_retired() {
            *tunnel = Some(Arc::new(make()));
            made();
        }
        tunnel.clone()
    }

    /// Drops its tunnel if that is so, and `dropped` is called with it held: who makes a new one comes after.
    pub(super) fn drop_tunnel(&self, if_so: impl FnOnce(&Tunnel) -> bool, dropped: impl FnOnce()) {
        let mut tunnel = self.tunnel.write().unwrap_or_else(PoisonError::into_inner);
        if tunnel.as_deref().is_none_or(if_so) {
            *tunnel = None;
            dropped();
        }
    }

    /// Whether a beginning of its own is later than all before; it is the last from now on.
    pub(super) fn is_later(&self, stamp: Stamp) -> bool {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let later = stamp > *begun;
        if later {
            *begun = stamp;
        }
        later
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

    /// Whether packets wait for a session.
    pub(super) fn has_waiting(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// Whether a handshake with it was begun, and no session came of it.
    pub(super) fn lacks_session(&self, now: u64) -> bool {
        self.tunnel().is_some_and(|tunnel| tunnel.sender(now).is_none())
    }

    /// Whether there is a session with it, at so many milliseconds after [`super::Plane::started`].
    pub(super) fn has_session(&self, now: u64) -> bool {
        self.tunnel().is_some_and(|tunnel| tunnel.sender(now).is_some())
    }

    /// Keeps a packet until there is a session; `false` if too many wait.
    pub(super) fn wait(&self, all: &Waiting, packet: &[u8]) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let room = waiting.len() < MAX_WAITING && !self.is_retired() && all.take(packet.len());
        if room {
            waiting.push_back(packet.to_vec());
            self.waits.store(true, Ordering::Relaxed);
        }
        room
    }

    /// What waited.
    pub(super) fn take_waiting(&self, all: &Waiting) -> Vec<Vec<u8>> {
        if self.has_waiting() { self.empty_waiting(all) } else { Vec::new() }
    }

    fn empty_waiting(&self, all: &Waiting) -> Vec<Vec<u8>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        self.waits.store(false, Ordering::Relaxed);
        let taken = std::mem::take(&mut *waiting);
        all.give_back(taken.iter().map(Vec::len).sum());
        taken.into()
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

    pub(super) fn shook_hands(&self, made: u64) {
        self.last_handshake.store(made, Ordering::Relaxed);
    }

    /// Its sessions end, and no new one is made.
    pub(super) fn retire(&self, all: &Waiting) {
        // With the tunnel held: who makes one looks first.
        self.drop_tunnel(|_| true, || self.retired.store(true, Ordering::Relaxed));
        // Without a look first: who waits now has not seen that it is retired, and holds the packets.
        drop(self.empty_waiting(all));
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
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
