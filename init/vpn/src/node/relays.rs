//! What relays carry does not pass through the node's own task: one task takes what comes, one what goes.

use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::AbortHandle;
use tracing::debug;

use super::NodeError;
use crate::derp::{Event, Pool, PoolConfig, Trust};
use crate::dial::{Dial, Dialer};
use crate::disco::{Kind, classify};
use crate::key::{Node, Public, Secret};
use crate::plane::{Delivery, Plane, ToRelay};

/// Events that wait for the node.
const EVENTS: usize = 256;

/// The relays' clients: of one node key, replaced with it.
pub(super) struct Relays {
    trust: Trust,
    dialer: Arc<Dialer>,
    plane: Arc<Plane>,
    pool: Arc<RwLock<Arc<Pool>>>,
    key: Public<Node>,
    events: mpsc::Sender<Event>,
    incoming: AbortHandle,
}

impl Relays {
    pub(super) fn start(
        trust: &Trust,
        dialer: &Arc<Dialer>,
        plane: &Arc<Plane>,
        mut outgoing: mpsc::Receiver<ToRelay>,
        key: &Secret<Node>,
    ) -> Result<(Self, mpsc::Receiver<Event>), NodeError> {
        let (events, receiver) = mpsc::channel(EVENTS);
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
            events,
            incoming,
        };
        Ok((relays, receiver))
    }

    /// The clients now.
    pub(super) fn pool(&self) -> Arc<Pool> {
        Arc::clone(&self.pool.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whose they are.
    pub(super) const fn key(&self) -> Public<Node> {
        self.key
    }

    /// Relays know a client by its node key: with another one, they are connected to anew.
    pub(super) fn set_key(&mut self, key: &Secret<Node>) -> Result<(), NodeError> {
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
    events: &mpsc::Sender<Event>,
    key: &Secret<Node>,
) -> Result<(Arc<Pool>, AbortHandle), NodeError> {
    let config =
        PoolConfig { ours: key.clone(), trust: trust.clone(), dial: Arc::clone(dialer) as Arc<dyn Dial> };
    let (pool, incoming) = Pool::new(config, Handle::current());
    let delivery = plane.delivery()?;
    let task = tokio::spawn(take(incoming, delivery, events.clone()));
    Ok((Arc::new(pool), task.abort_handle()))
}

/// WireGuard goes to the plane, everything else to the node.
async fn take(mut incoming: mpsc::Receiver<Event>, mut delivery: Delivery, events: mpsc::Sender<Event>) {
    while let Some(event) = incoming.recv().await {
        let event = match event {
            Event::Received { region, packets } => {
                let (sealed, rest): (Vec<_>, Vec<_>) =
                    packets.into_iter().partition(|packet| classify(&packet.packet) == Kind::WireGuard);
                for run in sealed.chunk_by(|a, b| a.src == b.src) {
                    if let Some(first) = run.first() {
                        delivery.deliver(first.src, region, run.iter().map(|packet| &*packet.packet));
                    }
                }
                if rest.is_empty() {
                    continue;
                }
                Event::Received { region, packets: rest }
            }
            event => event,
        };
        // A node that has no time for what finds paths must not hold up what relays carry.
        match events.try_send(event) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => debug!("an event of the relays is lost: the node is busy"),
            Err(TrySendError::Closed(_)) => return,
        }
    }
}
