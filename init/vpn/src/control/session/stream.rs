//! One stream of maps: an update before it, updates beside it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::{
    Closed, ControlEvent, EXPIRY_INTERVAL, HostState, MIN_UPDATE_INTERVAL, PING_INTERVAL, Session, hostinfo,
    update,
};
use crate::control::client::{Connection, RequestError, StreamError};
use crate::control::join::{Event, limited_pause};
use crate::control::map::{MapError, Update};
use crate::control::wire::{BadJson, MapResponse, PingRequest};
use crate::key::{Node, Public};

type Pending<'a> = Pin<Box<dyn Future<Output = Result<(), RequestError>> + Send + 'a>>;

/// Why a stream is over.
enum End {
    Server,
    Stream(StreamError),
    Map(MapError),
    Update(RequestError),
    /// For a new node key; the connection is still good.
    Ours,
    /// Our network is another.
    Moved,
    /// Signs of life, and no map.
    NoMap,
}

impl Session {
    /// Updates the server and follows a stream until it ends.
    pub(super) async fn stream(&mut self) -> Result<Event, Closed> {
        let connection = match self.connect().await? {
            Ok(connection) => connection,
            Err(event) => return Ok(event),
        };
        let Some(node) = self.public(0) else {
            return Ok(Event::Transport { sent: false });
        };
        let host = self.host.borrow_and_update().clone();
        match self.unless_moved(tell_host(&connection, node, host.clone())).await? {
            Some(Ok(())) => {}
            Some(Err(error)) => return self.request_failed(&error).await,
            None => return self.moved(true).await,
        }
        let info = hostinfo(&host);
        let request = update(node, &host, &info).streaming();
        let mut stream = match self.unless_moved(connection.stream(&request, self.timing.watchdog)).await? {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return self.request_failed(&error).await,
            None => return self.moved(true).await,
        };
        self.map.begin_stream(node);
        let began = Instant::now();
        let end = self.follow(&connection, &mut stream, node).await?;
        let lived = began.elapsed();
        drop(stream);
        match end {
            End::Ours => {
                self.connection = Some(connection);
                return Ok(Event::StreamEnded(lived));
            }
            End::Update(error) => return self.request_failed(&error).await,
            End::Server => {
                self.tell(ControlEvent::Disconnected { reason: "the server ended the stream".into() }).await?
            }
            End::Moved => drop(self.moved(true).await?),
            End::NoMap => {
                let reason = format!("the stream gave no map within {:?}", self.timing.watchdog);
                self.tell(ControlEvent::Disconnected { reason }).await?;
                return Ok(Event::StreamEnded(Duration::ZERO));
            }
            End::Stream(error) => self.lost(&error).await?,
            End::Map(error) => {
                self.lost(&error).await?;
                // A map that we refuse is no life: the next one comes later and later.
                return Ok(Event::StreamEnded(Duration::ZERO));
            }
        }
        Ok(Event::StreamEnded(lived))
    }

    async fn follow(
        &mut self,
        connection: &Connection,
        stream: &mut crate::control::client::MapStream,
        node: Public<Node>,
    ) -> Result<End, Closed> {
        let mut received = false;
        let mut pending: Option<Pending<'_>> = None;
        let mut due = false;
        // The updates in a row that were answered 429.
        let mut limited = 0;
        let mut next_update = tokio::time::Instant::now();
        let start = tokio::time::Instant::now();
        let first_map = start + self.timing.watchdog;
        let mut updates = tokio::time::interval_at(start + self.timing.update, self.timing.update);
        let mut expiries = tokio::time::interval_at(start + EXPIRY_INTERVAL, EXPIRY_INTERVAL);
        updates.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        expiries.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            // One that stands is asked by the update that the change is told with.
            if !self.stands(connection.local()) {
                return Ok(End::Moved);
            }
            let may_update = due && pending.is_none();
            let update_time = async {
                match may_update {
                    true => tokio::time::sleep_until(next_update).await,
                    false => std::future::pending().await,
                }
            };
            let updated = async {
                match &mut pending {
                    Some(pending) => pending.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                frame = stream.next() => {
                    let frame = match frame {
                        Ok(Some(frame)) => frame,
                        Ok(None) => return Ok(End::Server),
                        Err(error) => return Ok(End::Stream(error)),
                    };
                    let update = match self.message(&frame) {
                        Ok(update) => update,
                        Err(error) => return Ok(End::Map(error)),
                    };
                    drop(frame);
                    let Some(update) = update else {
                        // Without a map, a sign of life is none: what is in force is an earlier stream's.
                        if received {
                            self.tell(ControlEvent::Alive).await?;
                        }
                        continue;
                    };
                    if !received {
                        received = true;
                        if update.map.node.expired {
                            self.on(Event::FirstMapExpired).await?;
                        }
                        self.on(Event::MapReceived).await?;
                    }
                    self.publish(update).await?;
                }
                () = tokio::time::sleep_until(first_map), if !received => return Ok(End::NoMap),
                () = update_time => {
                    due = false;
                    next_update = tokio::time::Instant::now() + MIN_UPDATE_INTERVAL;
                    let host = self.host.borrow_and_update().clone();
                    pending = Some(Box::pin(tell_host(connection, node, host)));
                }
                result = updated => {
                    pending = None;
                    match result {
                        Ok(()) => limited = 0,
                        // It says when it wants to hear of us; the stream is good.
                        Err(RequestError::Status { status, retry_after, .. })
                            if status == hyper::StatusCode::TOO_MANY_REQUESTS =>
                        {
                            let pause = limited_pause(retry_after, limited);
                            limited = limited.saturating_add(1);
                            tracing::debug!(?pause, "an update of ours was answered 429");
                            next_update = tokio::time::Instant::now() + pause;
                            due = true;
                        }
                        Err(error) => return Ok(End::Update(error)),
                    }
                }
                changed = self.host.changed() => {
                    changed.map_err(|_| Closed)?;
                    due = true;
                }
                _ = updates.tick() => due = true,
                _ = expiries.tick() => self.expire().await?,
                changed = self.auth.changed() => {
                    changed.map_err(|_| Closed)?;
                    let offered = self.auth.borrow_and_update().clone();
                    self.on(Event::Offered(offered)).await?;
                }
                () = self.events.closed() => return Err(Closed),
            }
            if self.joiner.wants_stream_closed(Instant::now()) {
                return Ok(End::Ours);
            }
        }
    }

    /// Reads one message.
    fn message(&mut self, frame: &Bytes) -> Result<Option<Update>, MapError> {
        let mut message: MapResponse = serde_json::from_slice(frame).map_err(BadJson::from)?;
        if let Some(request) = message.ping_request.take() {
            self.answer(&request);
        }
        self.map.apply(message, Instant::now())
    }

    /// Answers a sign of life that is asked of us, if none was a moment ago, on this stream or the one before: each is a connection, which
    /// costs us, and the parent too where names are locked.
    fn answer(&mut self, request: &PingRequest) {
        let now = Instant::now();
        let is_over = |(begun, answer): &(Instant, JoinHandle<()>)| {
            answer.is_finished() && now.saturating_duration_since(*begun) >= PING_INTERVAL
        };
        if !self.answered.as_ref().is_none_or(is_over) {
            return;
        }
        let Some(path) = self.client.ping_path(request) else {
            tracing::debug!("a ping that is not answered");
            return;
        };
        let client = Arc::clone(&self.client);
        self.answered = Some((now, tokio::spawn(async move { client.answer_ping(&path).await })));
    }

    async fn publish(&mut self, update: Update) -> Result<(), Closed> {
        let expired = update.map.node.expired;
        let Update { map, changes, policy } = update;
        let drops = Box::new(self.map.drops().clone());
        self.tell(ControlEvent::Netmap { map, changes, policy, drops }).await?;
        self.on(Event::OwnKeyExpired(expired)).await
    }
}

/// Tells the server of us.
async fn tell_host(connection: &Connection, node: Public<Node>, host: HostState) -> Result<(), RequestError> {
    let info = hostinfo(&host);
    connection.update(&update(node, &host, &info)).await
}
