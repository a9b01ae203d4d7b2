//! One place that requests go to, a backend or a target: its connections and how many requests are under way.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::client::conn::http1::SendRequest;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::body::{Progress, RequestBody};
use crate::dial::Dial;
use crate::failure::Failure;
use crate::limits;
use crate::peer::PeerIdentity;

/// A backend or a target.
#[derive(Debug)]
pub(crate) struct Upstream {
    dial: Dial,
    rested: Mutex<Vec<Rested>>,
    in_flight: Arc<Semaphore>,
}

#[derive(Debug)]
struct Rested {
    connection: Connection,
    since: Instant,
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

/// A connection lent to one exchange, with its place among those under way. Dropped before its end, it cuts the
/// connection: neither the rest of a body nor a late answer may meet the next request.
#[derive(Debug)]
pub(crate) struct Lease {
    upstream: Arc<Upstream>,
    connection: Connection,
    request: Arc<Progress>,
    place: OwnedSemaphorePermit,
}

impl Upstream {
    pub(crate) fn new(dial: Dial) -> Arc<Self> {
        let in_flight = Arc::new(Semaphore::new(limits::IN_FLIGHT));
        Arc::new(Self { dial, rested: Mutex::default(), in_flight })
    }

    /// A place among the requests under way.
    pub(crate) async fn place(&self) -> Result<OwnedSemaphorePermit, Failure> {
        let place = timeout(limits::BUSY, Arc::clone(&self.in_flight).acquire_owned()).await;
        place.map_err(|_| Failure::Busy)?.map_err(|_| Failure::Busy)
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

    fn rest(&self, connection: Connection) {
        let mut rested = self.lock();
        if rested.len() < limits::POOLED && !connection.sender.is_closed() {
            rested.push(Rested { connection, since: Instant::now() });
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
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { upstream, connection, request, place }
    }

    /// The answer has ended. The connection rests unless the request has not.
    pub(crate) fn end(self) {
        if self.request.ended() {
            self.upstream.rest(self.connection);
        }
    }

    /// The connection now speaks another protocol: hyper's part of it has ended by itself, its place is kept.
    pub(crate) fn switched(mut self) -> OwnedSemaphorePermit {
        drop(self.connection.task.0.take());
        self.place
    }
}
