//! One place that requests go to, a backend or a target, and its connections.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::client::conn::http1::SendRequest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::body::{Progress, RequestBody};
use crate::dial::Dial;
use crate::failure::Failure;
use crate::limits;
use crate::peer::PeerIdentity;
use crate::tunnel::Keep;

/// A backend or a target.
#[derive(Debug)]
pub(crate) struct Upstream {
    dial: Dial,
    rested: Mutex<Vec<Rested>>,
    /// Places of all that rest anywhere.
    all_rested: Arc<Semaphore>,
}

#[derive(Debug)]
struct Rested {
    connection: Connection,
    since: Instant,
    _place: OwnedSemaphorePermit,
}

/// An HTTP/1.1 connection. Dropping it cuts it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<RequestBody>,
    /// Who is at the other end; `None` for a backend, which is ours.
    pub(crate) peer: Option<Arc<PeerIdentity>>,
    task: AbortOnDrop,
}

#[derive(Debug)]
struct AbortOnDrop(Option<JoinHandle<()>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(task) = self.0.take() {
            task.abort();
        }
    }
}

/// A connection lent to one exchange, with the places that the exchange has. Dropped before its end, it cuts the
/// connection: neither the rest of a body nor a late answer may meet the next request.
#[derive(Debug)]
pub(crate) struct Lease {
    upstream: Arc<Upstream>,
    connection: Connection,
    request: Arc<Progress>,
    keep: Keep,
}

impl Upstream {
    /// `all_rested` is shared by all of them.
    pub(crate) fn new(dial: Dial, all_rested: &Arc<Semaphore>) -> Arc<Self> {
        Arc::new(Self { dial, rested: Mutex::default(), all_rested: Arc::clone(all_rested) })
    }

    /// The connection that rested last, if one is fit for use.
    pub(crate) fn rested(&self) -> Option<Connection> {
        let mut rested = self.lock();
        rested.retain(|one| !one.connection.sender.is_closed() && one.since.elapsed() < limits::POOL_REST);
        let fit = rested.iter().rposition(|one| one.connection.sender.is_ready())?;
        Some(rested.remove(fit).connection)
    }

    /// A new connection.
    pub(crate) async fn connect(&self) -> Result<Connection, Failure> {
        let opened = self.dial.open().await?;
        let task = AbortOnDrop(Some(tokio::spawn(opened.driver)));
        Ok(Connection { sender: opened.sender, peer: opened.peer.map(Arc::new), task })
    }

    /// A new connection broke before it brought an answer.
    pub(crate) fn broke(&self) {
        self.dial.broke();
    }

    fn rest(&self, connection: Connection) {
        let mut rested = self.lock();
        if rested.len() < limits::POOLED
            && !connection.sender.is_closed()
            && let Ok(place) = Arc::clone(&self.all_rested).try_acquire_owned()
        {
            rested.push(Rested { connection, since: Instant::now(), _place: place });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Rested>> {
        self.rested.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    pub(crate) const fn new(
        upstream: Arc<Upstream>,
        connection: Connection,
        request: Arc<Progress>,
        keep: Keep,
    ) -> Self {
        Self { upstream, connection, request, keep }
    }

    /// Its places, for what outlives it.
    pub(crate) fn keep(&self) -> Keep {
        Arc::clone(&self.keep)
    }

    /// The answer has ended. The connection rests unless the request has not.
    pub(crate) fn end(self) {
        if self.request.ended() {
            self.upstream.rest(self.connection);
        }
    }

    /// The connection now speaks another protocol: hyper's part of it has ended by itself, its places are kept.
    pub(crate) fn switched(mut self) -> Keep {
        drop(self.connection.task.0.take());
        self.keep
    }
}
