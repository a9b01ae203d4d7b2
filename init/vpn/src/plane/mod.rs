//! The data plane: packets between the TUN and the peers.
//!
//! One thread reads each queue of the TUN, one all UDP sockets, one keeps time; what comes from relays is delivered by a task
//! beside them, through a [`Delivery`] of its own. They share a [`Table`], which is replaced as a whole. What opens a peer's
//! messages is taken for a batch; what seals is shared. A change of the table, a route or the filter never stops them.

mod counters;
mod inbound;
mod outbound;
mod path;
mod peer;
mod policy;
mod queues;
mod table;
mod tsmp;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::engine::{Identity, Stamper, Tick, Tunnel};
use crate::filter::{Filter, FlowTable};
use crate::key::{Node, Public, Secret};
use crate::netmap::RegionId;
pub use crate::path::Route;
use crate::published::Published;
use crate::sys::{Event as Wake, Features, Ready, Tun, Udp, wait};

pub use counters::{Counters, Reason};
pub use inbound::Delivery;

use peer::Waiting;
pub use peer::{Peer, Traffic};
use queues::Queues;
pub use table::{Network, PeerSpec, Table};

/// How often sessions are asked what the clock wants.
const TICK: Duration = Duration::from_millis(250);
/// An event of a kind is told of a peer once in this time.
const EVENT_EVERY_MS: u64 = 1000;
/// How often datagrams of sessions that nobody knows are told of, all together.
const UNKNOWN_EVERY_MS: u64 = 20;
/// Batches that wait for a relay: at most 64 KiB each.
const RELAY_QUEUE: usize = 64;
/// Events that wait.
const EVENT_QUEUE: usize = 256;
/// Datagrams that are not WireGuard and wait.
const OUTSIDE_QUEUE: usize = 256;

/// Where something came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// By UDP, from this address.
    Udp(SocketAddr),
    /// By this region's relay, from the holder of this key.
    Relay(RegionId, Public<Node>),
}

/// Sealed packets for a peer by a relay.
#[derive(Clone, Debug)]
pub struct ToRelay {
    /// The relay's region.
    pub region: RegionId,
    /// The peer.
    pub peer: Public<Node>,
    /// All datagrams.
    pub bytes: Vec<u8>,
    /// The length of each, the last perhaps shorter.
    pub size: usize,
}

/// What the plane tells the side that finds paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is traffic for a peer that has no direct route.
    Wanted(Public<Node>),
    /// A peer's own packets came by a way that is not its direct route.
    Authentic(Public<Node>, Source),
    /// Somebody sends data of a session that we do not have: perhaps we were started anew.
    Unknown(Source),
}

/// A datagram that is not WireGuard: STUN or disco.
#[derive(Clone, Debug)]
pub struct Outside {
    /// Who sent it.
    pub from: SocketAddr,
    /// It.
    pub bytes: Vec<u8>,
}

/// The plane's ends of the channels.
#[derive(Clone, Debug)]
pub struct Channels {
    relay: mpsc::Sender<ToRelay>,
    events: mpsc::Sender<Event>,
    outside: mpsc::Sender<Outside>,
}

/// The other ends.
#[derive(Debug)]
pub struct Receivers {
    /// For the relays.
    pub relay: mpsc::Receiver<ToRelay>,
    /// For the paths.
    pub events: mpsc::Receiver<Event>,
    /// For STUN and disco.
    pub outside: mpsc::Receiver<Outside>,
}

/// The channels between the plane and the rest. All are bounded; what finds one full is counted and dropped.
pub fn channels() -> (Channels, Receivers) {
    let (relay, relay_end) = mpsc::channel(RELAY_QUEUE);
    let (events, events_end) = mpsc::channel(EVENT_QUEUE);
    let (outside, outside_end) = mpsc::channel(OUTSIDE_QUEUE);
    (
        Channels { relay, events, outside },
        Receivers { relay: relay_end, events: events_end, outside: outside_end },
    )
}

/// What the plane stands on.
#[derive(Debug)]
pub struct Config {
    /// The TUN's queues.
    pub tun: Vec<Tun>,
    /// What the TUN takes as super-packets ([`crate::sys::probe`]).
    pub features: Features,
    /// At most one socket of each family.
    pub udp: Vec<Arc<Udp>>,
    /// Our node key.
    pub key: Secret<Node>,
    /// Its ends of the channels.
    pub channels: Channels,
}

/// What all threads share.
#[derive(Debug)]
struct Shared {
    table: Arc<Published<Table>>,
    flows: FlowTable,
    v4: Option<Arc<Udp>>,
    v6: Option<Arc<Udp>>,
    channels: Channels,
    counters: Counters,
    /// Peers that have an engine.
    active: Mutex<Vec<Arc<Peer>>>,
    started: Instant,
    unknown_told: AtomicU64,
    /// What waits for sessions, of all peers.
    waiting: Waiting,
    wake: Wake,
    stopped: AtomicBool,
}

/// The running plane. It stops when it is dropped.
#[derive(Debug)]
pub struct Plane {
    shared: Arc<Shared>,
    slots: Mutex<table::Slots>,
    /// What a [`Delivery`] writes to.
    queues: Queues,
    features: Features,
    threads: Vec<JoinHandle<()>>,
}

impl Plane {
    /// Starts the threads, with no peers.
    ///
    /// # Errors
    /// If there is no TUN, or what the system says.
    pub fn start(config: Config) -> io::Result<Self> {
        if config.tun.is_empty() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let queues = config.tun.iter().map(Tun::try_clone).collect::<io::Result<_>>().map(Queues::new)?;
        let of = |v6: bool| config.udp.iter().find(|udp| udp.is_ipv6() == v6).map(Arc::clone);
        let identity = Identity::new(&config.key, Arc::default());
        let table = Published::new(Table::empty(Arc::new(identity)));
        let shared = Arc::new(Shared {
            table,
            flows: FlowTable::new(),
            v4: of(false),
            v6: of(true),
            channels: config.channels,
            counters: Counters::default(),
            active: Mutex::default(),
            started: Instant::now(),
            unknown_told: AtomicU64::new(0),
            waiting: Waiting::default(),
            wake: Wake::new()?,
            stopped: AtomicBool::new(false),
        });
        let mut plane =
            Self { shared, slots: Mutex::default(), queues, features: config.features, threads: Vec::new() };
        // One thread for both families: a path that moves from one to the other keeps its order.
        let queues = plane.queues.try_clone()?;
        let shared = Arc::clone(&plane.shared);
        plane.spawn("vpn-udp", move || inbound::run(&shared, queues, config.features))?;
        for queue in config.tun {
            let shared = Arc::clone(&plane.shared);
            plane.spawn("vpn-tun", move || outbound::run(&shared, queue))?;
        }
        let shared = Arc::clone(&plane.shared);
        plane.spawn("vpn-tick", move || keep_time(&shared))?;
        Ok(plane)
    }

    fn spawn(&mut self, name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(256 << 10).spawn(work)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Replaces peers, addresses and filter. Peers that stay keep their sessions; those of the others end at once.
    pub fn set_network(&self, network: &Network) {
        if *self.shared.table.load().addresses != *network.addresses {
            // What was sent from another address expects no answer at this one.
            self.shared.flows.clear();
        }
        self.rebuild(|slots, now| slots.build(Arc::clone(&now.identity), network));
    }

    /// Replaces the filter alone.
    pub fn set_filter(&self, filter: Arc<Filter>) {
        self.rebuild(|_, now| (now.with_filter(filter), Vec::new()));
    }

    /// Replaces our node key. All sessions end.
    pub fn set_key(&self, key: &Secret<Node>) {
        self.shared.flows.clear();
        self.rebuild(|slots, now| {
            slots.rekey(Arc::new(Identity::new(key, Arc::clone(now.identity.stamper()))), now)
        });
    }

    /// What makes the times of our handshakes: what it used last must survive a restart.
    pub fn stamper(&self) -> Arc<Stamper> {
        Arc::clone(self.shared.table.load().identity.stamper())
    }

    /// Whether all of its threads run. One that does not has met what cannot be mended.
    pub fn runs(&self) -> bool {
        !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Whether there is a session with a peer.
    pub fn has_session(&self, peer: &Peer) -> bool {
        peer.has_session(self.shared.now())
    }

    fn rebuild(&self, build: impl FnOnce(&mut table::Slots, &Table) -> (Table, Vec<Arc<Peer>>)) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.shared.table.load();
        let (table, gone) = build(&mut slots, &now);
        self.shared.table.publish(table);
        // After the publication: a thread that still has the old table finds them retired.
        for peer in &gone {
            peer.retire(&self.shared.waiting);
        }
        if !gone.is_empty() {
            self.shared.active().retain(|peer| !peer.is_retired());
        }
    }

    /// A peer, by its key.
    pub fn peer(&self, key: &Public<Node>) -> Option<Arc<Peer>> {
        self.shared.table.load().peer(key).map(Arc::clone)
    }

    /// All peers.
    pub fn peers(&self) -> Vec<Arc<Peer>> {
        self.shared.table.load().peers().map(Arc::clone).collect()
    }

    /// Sets how a peer is reached; it must be one already. If packets wait for a session, or one was begun and not made, its
    /// handshake goes by the new way too.
    pub fn set_route(&self, key: &Public<Node>, route: Route) {
        let Some(peer) = self.peer(key) else { return };
        let before = peer.set_route(route);
        let other_way = route.direct.is_some() && route.direct != before.direct;
        if route != before && (peer.has_waiting() || other_way && peer.lacks_session(self.shared.now())) {
            self.shared.initiate(&self.shared.table.load(), &peer, true);
        }
    }

    /// Begins a handshake with a peer, unless one is under way.
    pub fn initiate(&self, key: &Public<Node>) {
        let table = self.shared.table.load();
        if let Some(peer) = table.peer(key) {
            self.shared.initiate(&table, peer, false);
        }
    }

    /// The machine slept, which our clock did not count: sessions are older than they seem, and peers have given theirs up. All end,
    /// and those that were in use are begun anew.
    pub fn slept(&self) {
        let table = self.shared.table.load();
        let active: Vec<_> = self.shared.active().clone();
        for peer in active {
            peer.drop_tunnel(|_| true, || self.shared.active().retain(|active| !Arc::ptr_eq(active, &peer)));
            self.shared.initiate(&table, &peer, false);
        }
    }

    /// Sends a datagram of the paths' own: STUN or disco. `false` if the kernel does not take it.
    pub fn send_outside(&self, to: SocketAddr, bytes: &[u8]) -> bool {
        self.shared.socket(to).is_some_and(|udp| udp.send(to, bytes, bytes.len()) == 0)
    }

    /// A pipeline for what relays bring.
    ///
    /// # Errors
    /// What the system says.
    pub fn delivery(&self) -> io::Result<Delivery> {
        Ok(Delivery::new(Arc::clone(&self.shared), self.queues.try_clone()?, self.features))
    }

    /// What was dropped, and why.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// When the plane was started: what [`Traffic`] counts from.
    pub fn started(&self) -> Instant {
        self.shared.started
    }

    /// Stops the threads and waits for them.
    pub fn stop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.shared.wake.set();
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so.
            drop(thread.join());
        }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Milliseconds since the start, never zero.
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Seconds, as the filter's flows count them.
    fn seconds(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_secs()).unwrap_or(u32::MAX)
    }

    fn active(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Peer>>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn socket(&self, to: SocketAddr) -> Option<&Arc<Udp>> {
        if to.is_ipv6() { self.v6.as_ref() } else { self.v4.as_ref() }
    }

    fn tell(&self, event: Event) {
        if self.channels.events.try_send(event).is_err() {
            self.counters.count(Reason::EventQueueFull, 1);
        }
    }

    /// Sends a batch of sealed packets by all ways that the peer has now.
    fn send(&self, peer: &Peer, bytes: &[u8], size: usize) {
        let route = peer.route();
        if let Some(to) = route.direct {
            self.send_direct(to, bytes, size);
        }
        if let Some(region) = route.relay {
            self.send_relayed(region, peer.key(), bytes, size);
        }
        if route == Route::default() {
            self.counters.count(Reason::NoPath, bytes.len().div_ceil(size.max(1)));
        }
        if route.direct.is_none() {
            self.want(peer);
        }
    }

    fn want(&self, peer: &Peer) {
        if peer.wanted.due(self.now(), EVENT_EVERY_MS) {
            self.tell(Event::Wanted(peer.key()));
        }
    }

    fn send_direct(&self, to: SocketAddr, bytes: &[u8], size: usize) {
        let packets = bytes.len().div_ceil(size.max(1));
        let lost = self.socket(to).map_or(packets, |udp| udp.send(to, bytes, size));
        self.counters.count(Reason::SendFailed, lost);
    }

    fn send_relayed(&self, region: RegionId, peer: Public<Node>, bytes: &[u8], size: usize) {
        let batch = ToRelay { region, peer, bytes: bytes.to_vec(), size };
        if self.channels.relay.try_send(batch).is_err() {
            self.counters.count(Reason::RelayQueueFull, bytes.len().div_ceil(size.max(1)));
        }
    }

    /// Answers a peer the way that something came, and by the ways that it is reached: what came first may have come by one that
    /// leads back nowhere, and its copy by another way is not answered.
    fn answer(&self, peer: &Peer, source: &Source, bytes: &[u8]) {
        self.send_back(source, bytes);
        let route = peer.route();
        if let Some(to) = route.direct
            && *source != Source::Udp(to)
        {
            self.send_direct(to, bytes, bytes.len());
        }
        if let Some(region) = route.relay
            && *source != Source::Relay(region, peer.key())
        {
            self.send_relayed(region, peer.key(), bytes, bytes.len());
        }
    }

    /// Sends something the way that something came.
    fn send_back(&self, source: &Source, bytes: &[u8]) {
        match *source {
            Source::Udp(to) => self.send_direct(to, bytes, bytes.len()),
            Source::Relay(region, key) => self.send_relayed(region, key, bytes, bytes.len()),
        }
    }

    /// Begins a handshake, if the peer has a way; if one is under way, only if the way is another one (`elsewhere`).
    fn initiate(&self, table: &Table, peer: &Arc<Peer>, elsewhere: bool) {
        if peer.route() == Route::default() {
            self.want(peer);
            return;
        }
        let Some(tunnel) = self.tunnel(table, peer) else { return };
        let now = self.now();
        let message = if elsewhere { tunnel.initiate_elsewhere(now) } else { tunnel.initiate(now) };
        if let Some(message) = message {
            self.send(peer, &message, message.len());
        }
    }

    /// The peer's tunnel, made if there is none; `None` if the peer is gone.
    fn tunnel(&self, table: &Table, peer: &Arc<Peer>) -> Option<Arc<Tunnel>> {
        peer.tunnel_or_make(
            || table.identity.tunnel(self.now(), &peer.key(), peer.slot()),
            || self.active().push(Arc::clone(peer)),
        )
    }

    /// Drops the peer's tunnel: it is not active until it has a new one.
    fn forget(&self, peer: &Arc<Peer>) {
        // A beginning may have been answered since its end was found.
        let over = |tunnel: &Tunnel| tunnel.is_over(self.now());
        peer.drop_tunnel(over, || self.active().retain(|active| !Arc::ptr_eq(active, peer)));
    }

    /// Seals packets of our own making, or those that waited, and sends them. Without a session they wait.
    fn send_plain(&self, table: &Table, peer: &Arc<Peer>, packets: &[Vec<u8>]) {
        let Some(tunnel) = self.tunnel(table, peer) else { return };
        let now = self.now();
        for packet in packets {
            let Some(sender) = tunnel.sender(now) else {
                self.counters.count(Reason::WaitingFull, usize::from(!peer.wait(&self.waiting, packet)));
                continue;
            };
            let mut slot = vec![0; crate::engine::slot_len(packet.len())];
            if let Some(sealed) = sender.seal(packet, &mut slot).and_then(|length| slot.get(..length)) {
                self.send(peer, sealed, sealed.len());
                peer.sent(1, packet.len(), now);
                tunnel.sent(now);
            } else {
                self.counters.count(Reason::NoSession, 1);
            }
        }
    }

    /// Sends what waited, if there is a session now.
    fn send_waiting(&self, table: &Table, peer: &Arc<Peer>) {
        if peer.has_waiting() && peer.has_session(self.now()) {
            self.send_plain(table, peer, &peer.take_waiting(&self.waiting));
        }
    }

    /// Asks each session what the clock wants.
    fn tick(&self) {
        let now = self.now();
        let active: Vec<_> = self.active().clone();
        let mut message = [0; crate::engine::MIN_SLOT];
        for peer in active {
            let Some(tunnel) = peer.tunnel() else { continue };
            let tick = tunnel.tick(now, &mut message);
            if tunnel.made() > 0 {
                peer.shook_hands(tunnel.made());
            }
            match tick {
                Tick::Nothing => {}
                Tick::Send(length) => {
                    if let Some(message) = message.get(..length) {
                        self.send(&peer, message, message.len());
                    }
                }
                Tick::Ended => {
                    self.counters.count(Reason::NoAnswer, peer.take_waiting(&self.waiting).len());
                    self.forget(&peer);
                }
            }
        }
    }
}

fn keep_time(shared: &Shared) {
    // An error of poll cannot be mended; the plane is stopped by its owner.
    while matches!(wait(None, &shared.wake, Some(TICK)), Ok(Ready::TimedOut)) {
        shared.tick();
    }
}
