//! What relays carry does not pass through the node's own task: one task takes what comes, one what goes.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::AbortHandle;
use tracing::debug;

use super::NodeError;
use crate::derp::{Event, Pool, PoolConfig, PoolStatus, Trust};
use crate::dial::{Dial, Dialer};
use crate::disco::{Kind, MAX_LEN, classify};
use crate::key::{Node, Public, Secret};
use crate::plane::{Delivery, Plane, ToRelay};

/// What finds paths and waits for the node.
const EVENTS: usize = 256;
/// Connections that came or went and wait for the node: a map has at most 256 regions, each of which connects at most once a second.
const LINKS: usize = 512;

/// Where what relays bring goes, but for WireGuard. Connections that come and go have a place of their own: no relay's flood pushes
/// another one's out.
#[derive(Clone, Debug)]
struct Ends {
    links: mpsc::Sender<Event>,
    rest: mpsc::Sender<Event>,
}

/// The node's ends of that.
#[derive(Debug)]
pub(super) struct RelayEvents {
    links: mpsc::Receiver<Event>,
    rest: mpsc::Receiver<Event>,
}

impl RelayEvents {
    /// The next event; `None`: there are none any more.
    pub(super) async fn recv(&mut self) -> Option<Event> {
        tokio::select! {
            biased;
            event = self.links.recv() => event,
            event = self.rest.recv() => event,
        }
    }
}

fn ends() -> (Ends, RelayEvents) {
    let ((links, links_end), (rest, rest_end)) = (mpsc::channel(LINKS), mpsc::channel(EVENTS));
    (Ends { links, rest }, RelayEvents { links: links_end, rest: rest_end })
}

/// The relays' clients: of one node key, replaced with it.
pub(super) struct Relays {
    trust: Trust,
    dialer: Arc<Dialer>,
    plane: Arc<Plane>,
    pool: Arc<RwLock<Arc<Pool>>>,
    key: Public<Node>,
    /// What the clients of former keys dropped: out, in.
    past: (u64, u64),
    events: Ends,
    incoming: AbortHandle,
}

impl Relays {
    pub(super) fn start(
        trust: &Trust,
        dialer: &Arc<Dialer>,
        plane: &Arc<Plane>,
        mut outgoing: mpsc::Receiver<ToRelay>,
        key: &Secret<Node>,
    ) -> Result<(Self, RelayEvents), NodeError> {
        let (events, receiver) = ends();
        let (pool, incoming) = open(trust, dialer, plane, &events, key)?;
        let pool = Arc::new(RwLock::new(pool));
        let shared = Arc::clone(&pool);
        tokio::spawn(async move {
            while let Some(batch) = outgoing.recv().await {
                let pool = Arc::clone(&shared.read().unwrap_or_else(PoisonError::into_inner));
                pool.send(batch.region, batch.peer, Bytes::from(batch.bytes), batch.size);
            }
        });
        let relays = Self {
            trust: trust.clone(),
            dialer: Arc::clone(dialer),
            plane: Arc::clone(plane),
            pool,
            key: key.public(),
            past: (0, 0),
            events,
            incoming,
        };
        Ok((relays, receiver))
    }

    /// The clients now.
    pub(super) fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.pool.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// How they stand; what was dropped is counted over all keys.
    pub(super) fn status(&self) -> PoolStatus {
        let mut status = self.pool().status();
        status.dropped_out = status.dropped_out.saturating_add(self.past.0);
        status.dropped_in = status.dropped_in.saturating_add(self.past.1);
        status
    }

    /// Whose they are.
    pub(super) const fn key(&self) -> Public<Node> {
        self.key
    }

    /// Relays know a client by its node key: with another one, they are connected to anew.
    pub(super) fn set_key(&mut self, key: &Secret<Node>) -> Result<(), NodeError> {
        let ended = self.status();
        self.past = (ended.dropped_out, ended.dropped_in);
        self.incoming.abort();
        let (pool, incoming) = open(&self.trust, &self.dialer, &self.plane, &self.events, key)?;
        *self.pool.write().unwrap_or_else(PoisonError::into_inner) = pool;
        self.incoming = incoming;
        self.key = key.public();
        Ok(())
    }
}

fn open(
    trust: &Trust,
    dialer: &Arc<Dialer>,
    plane: &Arc<Plane>,
    events: &Ends,
    key: &Secret<Node>,
) -> Result<(Arc<Pool>, AbortHandle), NodeError> {
    let config =
        PoolConfig { ours: key.clone(), trust: trust.clone(), dial: Arc::clone(dialer) as Arc<dyn Dial> };
    let (pool, incoming) = Pool::new(config, Handle::current());
    let delivery = plane.delivery()?;
    let task = tokio::spawn(take(incoming, delivery, events.clone()));
    Ok((Arc::new(pool), task.abort_handle()))
}

/// WireGuard goes to the plane, disco and what happens to the node.
async fn take(mut incoming: mpsc::Receiver<Event>, mut delivery: Delivery, events: Ends) {
    while let Some(event) = incoming.recv().await {
        let event = match event {
            Event::Received { region, packets } => {
                let (sealed, mut rest): (Vec<_>, Vec<_>) =
                    packets.into_iter().partition(|packet| classify(&packet.packet) == Kind::WireGuard);
                for run in sealed.chunk_by(|a, b| a.src == b.src) {
                    if let Some(first) = run.first() {
                        delivery.deliver(first.src, region, run.iter().map(|packet| &*packet.packet));
                    }
                }
                rest.retain(|packet| {
                    packet.packet.len() <= MAX_LEN && classify(&packet.packet) == Kind::Disco
                });
                for packet in &mut rest {
                    // A copy: all that was read together with it would wait with it.
                    packet.packet = Bytes::copy_from_slice(&packet.packet);
                }
                if rest.is_empty() {
                    continue;
                }
                Event::Received { region, packets: rest }
            }
            event => event,
        };
        let place = match &event {
            Event::Connected { .. } | Event::Disconnected { .. } => &events.links,
            Event::Received { .. } | Event::PeerGone { .. } => &events.rest,
        };
        // A node that has no time for what finds paths must not hold up what relays carry.
        match place.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => debug!("an event of the relays is lost: the node is busy"),
            Err(TrySendError::Closed(_)) => return,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

    use std::time::Duration;

    use super::*;
    use crate::derp::Packet;
    use crate::disco::MAGIC;
    use crate::netmap::RegionId;

    /// A relay sends more than the node takes; another one's connection is heard of all the same. With the plane of a test.
    pub(in crate::node) async fn a_flood_pushes_no_connection_out(plane: &Plane) {
        let (relays, incoming) = mpsc::channel(16);
        let (events, mut node) = ends();
        let task = tokio::spawn(take(incoming, plane.delivery().unwrap(), events));
        let packet = |bytes: &[u8]| Packet { src: Public::zero(), packet: Bytes::copy_from_slice(bytes) };
        let disco = &*[&MAGIC[..], &[0; 80]].concat();
        let brings = |packets| Event::Received { region: RegionId(1), packets };
        relays.send(brings(vec![packet(b"neither"), packet(&[disco, &[0; 3000]].concat())])).await.unwrap();
        for _ in 0..3 * EVENTS {
            relays.send(brings(vec![packet(b"neither"), packet(disco)])).await.unwrap();
        }
        for region in 2..200 {
            let (region, took) = (RegionId(region), Duration::ZERO);
            relays.send(Event::Connected { region, took }).await.unwrap();
            relays.send(Event::Disconnected { region, why: None }).await.unwrap();
        }
        drop(relays);
        task.await.unwrap();
        let (mut connections, mut packets) = (0, Vec::new());
        while let Ok(event) = node.links.try_recv() {
            connections += usize::from(!matches!(event, Event::Received { .. }));
        }
        while let Ok(Event::Received { packets: more, .. }) = node.rest.try_recv() {
            packets.extend(more);
        }
        assert_eq!((connections, packets.len()), (2 * 198, EVENTS));
        assert!(packets.iter().all(|packet| packet.packet == disco), "nothing but disco, and no long one");
    }
}
