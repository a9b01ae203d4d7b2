//! From the peers to the TUN.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::peer::Peer;
use super::queues::Queues;
use super::table::Table;
use super::{EVENT_EVERY_MS, Event, Outside, Reason, Shared, Source, UNKNOWN_EVERY_MS, policy, tsmp};
use crate::disco::{self, Kind, classify};
use crate::engine::{Beginning, Initiation, MIN_SLOT, Message, Opened, Refused};
use crate::filter;
use crate::key::{Node, Public};
use crate::netmap::RegionId;
use crate::packet::{Coalescer, Packet, TSMP};
use crate::published::Reader;
use crate::sys::{Features, Ready, ReceiveBuffers, wait, wait_for_any};

/// How long a socket that fails is left alone, and how often: then the thread ends, and the node with it.
const PAUSE: Duration = Duration::from_millis(100);
const MAX_FAILURES: u32 = 50;
/// Opened packets of one batch.
const ARENA: usize = 3 * 65_536;

/// One pipeline from sealed messages to the TUN.
#[derive(Debug)]
struct Inbound {
    queues: Queues,
    table: Reader<Table>,
    arena: Vec<u8>,
    filled: usize,
    /// Packets of the run that is being opened.
    opened: Vec<(usize, usize)>,
    coalescer: Coalescer,
}

/// What takes packets that came by a relay. Each has its own pipeline.
#[derive(Debug)]
pub struct Delivery {
    shared: Arc<Shared>,
    inbound: Inbound,
}

impl Delivery {
    pub(super) fn new(shared: Arc<Shared>, queues: Queues, features: Features) -> Self {
        let inbound = Inbound::new(&shared, queues, features);
        Self { shared, inbound }
    }

    /// Takes WireGuard messages that a region's relay brought from the holder of a key.
    pub fn deliver<'a>(
        &mut self,
        from: Public<Node>,
        region: RegionId,
        messages: impl IntoIterator<Item = &'a [u8]>,
    ) {
        let source = Source::Relay(region, from);
        for message in messages {
            self.inbound.take(&self.shared, source, message, message.len());
        }
        self.inbound.flush(&self.shared);
    }
}

pub(super) fn run(shared: &Shared, queues: Queues, features: Features) {
    let mut buffers = ReceiveBuffers::default();
    let mut inbound = Inbound::new(shared, queues, features);
    let sockets: Vec<_> = shared.v4.iter().chain(&shared.v6).collect();
    let fds: Vec<_> = sockets.iter().map(|udp| udp.as_fd()).collect();
    let mut failures = 0;
    while !shared.stopped() {
        let (mut came, mut failed) = (false, false);
        for udp in &sockets {
            match udp.receive(&mut buffers) {
                Ok(_) => {
                    came = true;
                    for message in buffers.messages() {
                        inbound.take(shared, Source::Udp(message.from), message.bytes, message.size);
                    }
                    inbound.flush(shared);
                }
                Err(error) => {
                    failed |= !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
                }
            }
        }
        // An error that passes is of one call; with one that stays, poll would say at once that there is something.
        failures = if failed { failures + 1 } else { 0 };
        let waited = match (came, failures) {
            (true, 0) => continue,
            (_, 0) => wait_for_any(&fds, &shared.wake, None),
            (_, ..MAX_FAILURES) => {
                shared.counters.count(Reason::ReceiveFailed, 1);
                wait(None, &shared.wake, Some(PAUSE))
            }
            _ => return,
        };
        if !matches!(waited, Ok(Ready::Descriptor | Ready::TimedOut)) {
            return;
        }
    }
}

impl Inbound {
    fn new(shared: &Shared, queues: Queues, features: Features) -> Self {
        Self {
            queues,
            table: shared.table.reader(),
            arena: vec![0; ARENA],
            filled: 0,
            opened: Vec::new(),
            coalescer: Coalescer::new(features.tcp, features.udp),
        }
    }

    /// Takes datagrams of one size from one source.
    fn take(&mut self, shared: &Shared, source: Source, bytes: &[u8], size: usize) {
        let table = Arc::clone(self.table.get());
        if self.arena.len() - self.filled < bytes.len() + MIN_SLOT {
            self.flush(shared);
        }
        let mut datagrams = bytes.chunks(size.max(1)).peekable();
        while let Some(datagram) = datagrams.next() {
            match Message::of(datagram) {
                Some(Message::Data(slot)) => {
                    let Some(peer) = table.slot(slot) else {
                        Self::unknown(shared, source);
                        continue;
                    };
                    let same = |next: &&[u8]| Message::of(next) == Some(Message::Data(slot));
                    let run = std::iter::once(datagram).chain(std::iter::from_fn(|| datagrams.next_if(same)));
                    self.open(shared, &table, peer, source, run);
                }
                Some(Message::Initiation) => Self::begin(shared, &table, source, datagram),
                Some(Message::Response(slot) | Message::Cookie(slot)) => match table.slot(slot) {
                    Some(peer) => Self::shake_hands(shared, &table, peer, source, datagram),
                    None => shared.counters.count(Reason::NoSession, 1),
                },
                None => Self::outside(shared, source, datagram),
            }
        }
    }

    /// Finds out who begins a handshake, and answers.
    fn begin(shared: &Shared, table: &Table, source: Source, datagram: &[u8]) {
        match table.identity.beginning(shared.now(), address_of(source), datagram) {
            Beginning::From(initiation) => match Self::respond(shared, table, source, *initiation) {
                Ok(()) => {}
                Err(why) => shared.counters.count(why, 1),
            },
            Beginning::Cookie(reply) => shared.send_back(&source, &reply),
            Beginning::Refused(why) => shared.counters.count(reason(why), 1),
        }
    }

    /// Answers who begins. Anybody can name a peer's key: memory is for who has it.
    fn respond(shared: &Shared, table: &Table, source: Source, initiation: Initiation) -> Result<(), Reason> {
        let peer = table.peer(&initiation.key()).ok_or(Reason::Stranger)?;
        let proven = initiation.prove(&table.identity).ok_or(Reason::Forged)?;
        if !peer.is_later(proven.stamp()) {
            return Err(Reason::Replayed);
        }
        let now = shared.now();
        let tunnel = shared.tunnel(table, peer).ok_or(Reason::Stranger)?;
        let response = tunnel.respond(now, proven).map_err(reason)?;
        shared.answer(peer, &source, &response);
        // It may be an old one that somebody kept back: it says nothing of where the peer is.
        peer.received(0, 0, now);
        Ok(())
    }

    /// Takes a peer's part of a handshake of ours.
    fn shake_hands(shared: &Shared, table: &Table, peer: &Arc<Peer>, source: Source, message: &[u8]) {
        let Some(tunnel) = peer.tunnel() else {
            return shared.counters.count(Reason::NoSession, 1);
        };
        let mut slot = [0; MIN_SLOT];
        let now = shared.now();
        match tunnel.shake(now, address_of(source), message, &mut slot) {
            Opened::Answer(length) => {
                shared.answer(peer, &source, slot.get(..length).unwrap_or_default());
                peer.received(0, 0, now);
                Self::authentic(shared, peer, source);
                shared.send_waiting(table, peer);
            }
            Opened::Cookie(length) => shared.send_back(&source, slot.get(..length).unwrap_or_default()),
            Opened::Packet(_) | Opened::Nothing => {}
            Opened::Refused(why) => shared.counters.count(reason(why), 1),
        }
    }

    /// Opens data of one peer, its session held; then judges what came out, without it.
    fn open<'a>(
        &mut self,
        shared: &Shared,
        table: &Table,
        peer: &Arc<Peer>,
        source: Source,
        messages: impl Iterator<Item = &'a [u8]>,
    ) {
        let (mut bytes, mut taken, mut sessions_lost) = (0, 0_usize, 0_usize);
        let now = shared.now();
        self.opened.clear();
        let tunnel = peer.tunnel();
        let mut opener = tunnel.as_ref().map(|tunnel| tunnel.opener(now));
        for message in messages {
            let Some(slot) = self.arena.get_mut(self.filled..) else { break };
            let opened = match &mut opener {
                Some(opener) => opener.open(message, slot),
                None => Opened::Refused(Refused::NoSession),
            };
            match opened {
                Opened::Packet(length) => {
                    self.opened.push((self.filled, length));
                    self.filled += length;
                    bytes += length;
                    taken += 1;
                }
                Opened::Nothing | Opened::Answer(_) | Opened::Cookie(_) => taken += 1,
                Opened::Refused(Refused::NoSession) => sessions_lost += 1,
                Opened::Refused(why) => shared.counters.count(reason(why), 1),
            }
        }
        drop(opener);
        if sessions_lost > 0 {
            shared.counters.count(Reason::NoSession, sessions_lost - 1);
            Self::unknown(shared, source);
        }
        if taken == 0 {
            return;
        }
        peer.received(self.opened.len(), bytes, now);
        Self::authentic(shared, peer, source);
        shared.send_waiting(table, peer);
        self.judge(shared, table, peer);
    }

    /// Tells of a peer's own packets by a way that is not its direct route, and notes those by it.
    fn authentic(shared: &Shared, peer: &Peer, source: Source) {
        if matches!(source, Source::Udp(from) if peer.route().direct == Some(from)) {
            peer.came_direct(shared.now());
        } else if peer.authentic.due(shared.now(), EVENT_EVERY_MS) {
            shared.tell(Event::Authentic(peer.key(), source));
        }
    }

    /// Source, TSMP, filter: then to the others that are written together.
    fn judge(&mut self, shared: &Shared, table: &Table, peer: &Arc<Peer>) {
        let mut owned = None;
        let seconds = shared.seconds();
        for &(start, length) in &self.opened {
            let Some(packet) =
                self.arena.get(start..start + length).and_then(|bytes| Packet::parse(bytes).ok())
            else {
                shared.counters.count(Reason::BadMessage, 1);
                continue;
            };
            let source = packet.source();
            if owned != Some(source) {
                if !table.owner(source).is_some_and(|owner| Arc::ptr_eq(owner, peer)) {
                    shared.counters.count(Reason::Spoofed, 1);
                    continue;
                }
                owned = Some(source);
            }
            if packet.protocol() == TSMP {
                if !table.is_ours(packet.destination()) {
                    shared.counters.filtered(filter::Reason::NotOurs);
                } else if let Some(answer) = tsmp::answer(&packet) {
                    shared.send_plain(table, peer, &[answer]);
                }
                continue;
            }
            if !policy::admits(table, &shared.flows, peer, &packet, seconds, &shared.counters) {
                // Nor is this said in the name of another address: to the peer it would be a spoofed source.
                if table.is_ours(packet.destination())
                    && let Some(rejection) = tsmp::rejection(&packet)
                {
                    shared.send_plain(table, peer, &[rejection]);
                }
                continue;
            }
            self.coalescer.push(&self.arena, start, &packet);
        }
    }

    /// Writes what waits to the TUN.
    fn flush(&mut self, shared: &Shared) {
        let queues = &self.queues;
        self.coalescer.flush(&mut self.arena, |write| {
            let Some(tun) = queues.of(write.chunks().next().unwrap_or_default()) else { return };
            if write.with_slices(|parts| tun.write(parts)).is_err() {
                shared.counters.count(Reason::TunFailed, write.packets());
            }
        });
        self.filled = 0;
    }

    fn unknown(shared: &Shared, source: Source) {
        shared.counters.count(Reason::NoSession, 1);
        let now = shared.now();
        let last = shared.unknown_told.load(Ordering::Relaxed);
        if now >= last + UNKNOWN_EVERY_MS
            && shared.unknown_told.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            shared.tell(Event::Unknown(source));
        }
    }

    fn outside(shared: &Shared, source: Source, datagram: &[u8]) {
        match source {
            // Only what the paths read is worth a place in their queue.
            Source::Udp(_)
                if datagram.len() > disco::MAX_LEN
                    || !matches!(classify(datagram), Kind::Stun | Kind::Disco) =>
            {
                shared.counters.count(Reason::UnknownKind, 1);
            }
            Source::Udp(from) => {
                let outside = Outside { from, bytes: datagram.to_vec() };
                if shared.channels.outside.try_send(outside).is_err() {
                    shared.counters.count(Reason::OutsideQueueFull, 1);
                }
            }
            Source::Relay(..) => shared.counters.count(Reason::BadMessage, 1),
        }
    }
}

/// What a cookie proves: an address and a port; or, behind a relay, the key that the relay knows its client by.
fn address_of(source: Source) -> SocketAddr {
    match source {
        Source::Udp(from) => from,
        Source::Relay(_, key) => {
            let address = Ipv6Addr::from(key.bytes().first_chunk().copied().unwrap_or_default());
            SocketAddr::new(IpAddr::V6(address), 0)
        }
    }
}

const fn reason(why: Refused) -> Reason {
    match why {
        Refused::NoSession => Reason::NoSession,
        Refused::Replayed => Reason::Replayed,
        Refused::Forged => Reason::Forged,
        Refused::Malformed => Reason::BadMessage,
        Refused::UnderLoad => Reason::UnderLoad,
    }
}
