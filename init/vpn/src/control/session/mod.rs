//! The task that keeps us joined: it carries out what [`super::join`] decides, over [`super::client`], and hands out maps.

mod moves;
mod stream;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use time::OffsetDateTime;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout_at;

use self::moves::Moves;
use super::client::{Client, ClientSettings, ConnectError, Connection, KeyError, RequestError, WATCHDOG};
use super::harmless;
use super::join::{Answer, AuthKey, Command, Event, Joiner, Phase, Refusal, RefusalKind};
use super::map::{Changes, MapDrops, MapSettings, MapState, PolicyState, Update};
use super::pace::LogPace;
use super::wire::{EndpointType, Hostinfo, MapRequest, RegisterRequest};
use crate::dial::{Dial, has_source};
use crate::key::{Disco, Machine, NoRandom, Node, Public, Secret, fill_random};
use crate::netmap::{Netmap, RegionId};
use crate::state::Refused;

/// How often the server is told of us although nothing changed: a deleted node learns of it no other way.
pub const UPDATE_INTERVAL: Duration = Duration::from_secs(300);
/// Between two updates for changes: whatever flaps here is no storm there.
pub const MIN_UPDATE_INTERVAL: Duration = Duration::from_secs(1);
/// Between two answers to the server's pings. Headscale asks only nodes with routes for them, of which we are none.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// How often it is looked whether a key has ended: a peer's, or our own.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(30);
/// A wait longer than this is not worth a connection, which may be dead at its end without having said so.
const KEPT_CONNECTION: Duration = Duration::from_secs(15);
/// A close after the upgrade may be a server that was just killed: only so many in a row are a refusal.
const CLOSES_TO_BELIEVE: u32 = 2;

/// Why a connection was given up that nobody else ended.
const MOVED: &str = "our network changed";

/// What does not change while we run.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The server.
    pub client: ClientSettings,
    /// What maps are judged by.
    pub map: MapSettings,
    /// How long things take.
    pub timing: Timing,
}

/// How long things take: as the protocol wants it by default, shorter in tests.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two updates although nothing changed.
    pub update: Duration,
    /// After which a stream without a message is dead, or one that has not begun with a map.
    pub watchdog: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { update: UPDATE_INTERVAL, watchdog: WATCHDOG }
    }
}

/// Who we are, and what a former life left.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The machine's key.
    pub machine: Secret<Machine>,
    /// The node's key.
    pub node: Secret<Node>,
    /// Further node keys of ours that the server may know us by: one that was made and of which no answer came, or those of former
    /// lives.
    pub others: Vec<Secret<Node>>,
    /// Whether a server may have admitted one of these node keys before: then we ask without a pre-auth key first.
    pub known: bool,
    /// The pre-auth keys that were refused before.
    pub refused: Vec<Refused>,
    /// The map that is in force until a new one comes.
    pub map: Option<Arc<Netmap>>,
}

/// What the server is told of us. Each change is told at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState {
    /// Our name: a DNS label, the same in every request.
    pub hostname: String,
    /// Our disco key.
    pub disco: Public<Disco>,
    /// Where we may be reached, and how we know.
    pub endpoints: Vec<(SocketAddr, EndpointType)>,
    /// Our home relay.
    pub home: Option<RegionId>,
    /// Whether UDP gets out, as far as is known.
    pub working_udp: bool,
    /// How often the network under us became another one. What failed is tried anew then, unless it changes all the time; a connection
    /// ends only if our address of it is gone.
    pub network: u64,
    /// How long the machine slept since it runs us: with each change no connection stands any more. `network` changes too.
    pub slept: Duration,
}

/// What happens.
#[derive(Debug)]
pub enum ControlEvent {
    /// A tunnel to the server with this key stands.
    Connected {
        /// The server's key.
        server: Public<Machine>,
    },
    /// It does not stand any more, or did not come about. What is in force stays.
    Disconnected {
        /// Why, for people.
        reason: String,
    },
    /// Where joining is, whenever that changes.
    Joining {
        /// The phase.
        phase: Phase,
        /// The last refusal, until it is overcome.
        refusal: Option<Refusal>,
    },
    /// A pre-auth key was refused: to be kept over a restart.
    KeyRefused(Refused),
    /// A new node key is needed. Whoever keeps the state makes it, stores it beside the other, and then answers; dropping the reply
    /// means that there is none now. The other one stays in force until [`ControlEvent::Admitted`] names the new one.
    NodeKeyNeeded {
        /// The node key that has ended.
        after: Public<Node>,
        /// The answer.
        reply: oneshot::Sender<Secret<Node>>,
    },
    /// The server admitted us under this node key.
    Admitted {
        /// The key.
        node: Public<Node>,
    },
    /// A new map.
    Netmap {
        /// The map.
        map: Arc<Netmap>,
        /// What changed from the one before.
        changes: Changes,
        /// What its filter is.
        policy: PolicyState,
        /// What of all maps so far was not accepted.
        drops: Box<MapDrops>,
    },
    /// Keys have ended by the clock, peers' or our own. The map in force without them; no server said it.
    Expired {
        /// The map.
        map: Arc<Netmap>,
        /// What changed from the one before.
        changes: Changes,
    },
    /// A message came, after a stream's first map, that changed nothing.
    Alive,
}

/// Why the session cannot begin.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SessionError {
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// No jitter.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
}

/// Nobody listens any more.
#[derive(Debug)]
struct Closed;

/// Joins and stays joined until nobody listens to `events`, or the senders of `host` or `auth` are gone.
///
/// # Errors
/// If it cannot begin. Nothing that the server does is an error.
pub async fn run(
    config: SessionConfig,
    dial: Arc<dyn Dial>,
    identity: Identity,
    host: watch::Receiver<HostState>,
    auth: watch::Receiver<Option<AuthKey>>,
    events: mpsc::Sender<ControlEvent>,
) -> Result<(), SessionError> {
    let mut seed = [0; 8];
    fill_random(&mut seed)?;
    let client = Arc::new(Client::new(config.client, dial)?);
    let (network, slept) = network_of(&host);
    let map = MapState::new(config.map, identity.node.public(), identity.map);
    let mut keys = vec![identity.node];
    keys.extend(identity.others);
    let mut session = Session {
        client,
        machine: identity.machine,
        joiner: Joiner::new(identity.known, keys.len(), identity.refused, u64::from_ne_bytes(seed)),
        keys,
        map,
        timing: config.timing,
        connection: None,
        network,
        slept,
        moves: Moves::default(),
        server: None,
        closes: 0,
        said: None,
        last_refused: None,
        answered: None,
        log: LogPace::default(),
        host,
        auth,
        events,
    };
    // The end of the listeners is the end of the session, not an error.
    session.last_refused = session.joiner.refused().back().map(|refused| refused.digest);
    let Err(Closed) = session.drive().await;
    Ok(())
}

struct Session {
    client: Arc<Client>,
    machine: Secret<Machine>,
    /// Our node keys, by the numbers that the joiner gives them: the first was admitted last, or is the first ever.
    keys: Vec<Secret<Node>>,
    joiner: Joiner,
    map: MapState,
    timing: Timing,
    connection: Option<Connection>,
    /// The network that we know of, and how long the machine had slept then.
    network: u64,
    slept: Duration,
    /// When it became another one.
    moves: Moves,
    /// The server's key as `/key` said it, where none is pinned.
    server: Option<Public<Machine>>,
    closes: u32,
    said: Option<(Phase, Option<Refusal>)>,
    last_refused: Option<[u8; 32]>,
    /// The last answer to a ping, and when it began.
    answered: Option<(Instant, JoinHandle<()>)>,
    /// Of refusals: a map can show our node key as one that has ended and one that has not in turn.
    log: LogPace,
    host: watch::Receiver<HostState>,
    auth: watch::Receiver<Option<AuthKey>>,
    events: mpsc::Sender<ControlEvent>,
}

impl Session {
    async fn drive(&mut self) -> Result<std::convert::Infallible, Closed> {
        loop {
            self.look_at_network();
            let offered = self.auth.borrow_and_update().clone();
            self.on(Event::Offered(offered)).await?;
            self.expire().await?;
            let event = match self.joiner.poll(Instant::now()) {
                Command::Wait(until) => {
                    self.wait(until).await?;
                    continue;
                }
                Command::Register { auth, key, after } => self.register(auth.as_ref(), key, after).await?,
                Command::RotateNodeKey { after } => self.rotate(after).await?,
                Command::Stream => self.stream().await?,
            };
            self.on(event).await?;
        }
    }

    /// What was lost with an earlier network, or failed in it, is tried in this one.
    fn look_at_network(&mut self) {
        let kept = self.connection.take();
        let stands = self.stands(kept.as_ref().and_then(Connection::local));
        self.connection = kept.filter(|_| stands);
    }

    /// Takes note of another network, if it counts. Whether a connection from this address of ours may still stand.
    fn stands(&mut self, local: Option<SocketAddr>) -> bool {
        let (network, slept) = network_of(&self.host);
        if (network, slept) == (self.network, self.slept) {
            return true;
        }
        let asleep = slept.saturating_sub(self.slept);
        // What is there after a sleep is another network in any case.
        if self.moves.take(Instant::now()) || !asleep.is_zero() {
            self.map.slept(asleep);
            (self.network, self.slept) = (network, slept);
            self.joiner.network_changed();
        }
        asleep.is_zero() && local.is_none_or(has_source)
    }

    /// Ends when the network is another, and that counts, or who tells of it is gone. It borrows nothing.
    fn network_changed(&self) -> impl Future<Output = Result<(), Closed>> + Send + use<> {
        let (mut host, network, slept) = (self.host.clone(), self.network, self.slept);
        let counts_from = self.moves.next();
        async move {
            if let Some(from) = counts_from {
                // Until then, only a sleep does.
                let sleep = host.wait_for(|host| host.slept != slept);
                if let Ok(ended) = timeout_at(from.into(), sleep).await {
                    return ended.map(drop).map_err(|_| Closed);
                }
            }
            host.wait_for(|host| host.network != network).await.map(drop).map_err(|_| Closed)
        }
    }

    /// Tells the state machine, and the listeners what they should know of it.
    async fn on(&mut self, event: Event) -> Result<(), Closed> {
        self.joiner.on(event, Instant::now());
        let newest = self.joiner.refused().back().cloned();
        if let Some(refused) = newest.filter(|refused| self.last_refused != Some(refused.digest)) {
            self.last_refused = Some(refused.digest);
            self.tell(ControlEvent::KeyRefused(refused)).await?;
        }
        let now = (self.joiner.phase(), self.joiner.refusal().cloned());
        if self.said.as_ref() != Some(&now) {
            self.log.at(Instant::now());
            if let Some(refusal) = &now.1
                && let Some(unsaid) = self.log.line()
            {
                tracing::warn!(
                    kind = refusal.kind.name(),
                    text = refusal.text,
                    unsaid,
                    "the server refuses us"
                );
            }
            self.tell(ControlEvent::Joining { phase: now.0, refusal: now.1.clone() }).await?;
            self.said = Some(now);
        }
        Ok(())
    }

    async fn tell(&self, event: ControlEvent) -> Result<(), Closed> {
        self.events.send(event).await.map_err(|_| Closed)
    }

    /// Ends keys by the clock.
    async fn expire(&mut self) -> Result<(), Closed> {
        let Some(Update { map, changes, .. }) = self.map.expire(Instant::now(), OffsetDateTime::now_utc())
        else {
            return Ok(());
        };
        let ours = changes.node && map.node.expired;
        self.tell(ControlEvent::Expired { map, changes }).await?;
        if ours {
            self.on(Event::OwnKeyExpired(true)).await?;
        }
        Ok(())
    }

    async fn wait(&mut self, until: Option<Instant>) -> Result<(), Closed> {
        let now = Instant::now();
        if until.is_none_or(|until| until.saturating_duration_since(now) > KEPT_CONNECTION) {
            self.connection = None;
        }
        // Keys end also while there is nothing else to do.
        let until = until.map_or(now + EXPIRY_INTERVAL, |until| until.min(now + EXPIRY_INTERVAL));
        let moved = self.network_changed();
        tokio::select! {
            () = tokio::time::sleep_until(until.into()) => Ok(()),
            changed = self.auth.changed() => changed.map_err(|_| Closed),
            () = self.events.closed() => Err(Closed),
            changed = moved => changed,
        }
    }

    /// A connection that stands, or what to tell the state machine.
    async fn connect(&mut self) -> Result<Result<Connection, Event>, Closed> {
        if let Some(connection) = self.connection.take().filter(|connection| !connection.is_closed()) {
            return Ok(Ok(connection));
        }
        let pin = self.client.settings().pin;
        let server = match pin.or(self.server) {
            Some(server) => server,
            None => match self.unless_moved(self.client.server_key()).await? {
                Some(Ok(server)) => *self.server.insert(server),
                Some(Err(error)) => {
                    self.lost(&error).await?;
                    return Ok(Err(no_key(&error)));
                }
                None => return self.moved(false).await.map(Err),
            },
        };
        let Some(connected) = self.unless_moved(self.client.connect(&self.machine, &server)).await? else {
            return self.moved(false).await.map(Err);
        };
        match connected {
            Ok(connection) => {
                self.closes = 0;
                self.tell(ControlEvent::Connected { server }).await?;
                Ok(Ok(connection))
            }
            Err(error) => {
                self.lost(&error).await?;
                Ok(Err(match error {
                    ConnectError::ClosedAfterUpgrade => self.why_closed(server).await?,
                    ConnectError::RateLimited(after) => Event::RateLimited(after),
                    ConnectError::Handshake(_) => {
                        // It may have another key now; where none is pinned, it is asked for it.
                        self.server = None;
                        Event::Transport { sent: false }
                    }
                    _ => Event::Transport { sent: false },
                }))
            }
        }
    }

    /// The server closed after the upgrade without a byte: does it have another key, or does it refuse our version?
    async fn why_closed(&mut self, server: Public<Machine>) -> Result<Event, Closed> {
        let transport = Event::Transport { sent: false };
        let Some(shown) = self.unless_moved(self.client.shown_key()).await? else {
            return Ok(transport);
        };
        Ok(match shown {
            Ok(shown) if shown == server => {
                self.closes += 1;
                if self.closes < CLOSES_TO_BELIEVE {
                    transport
                } else {
                    Event::Unwilling(RefusalKind::Version, String::new())
                }
            }
            Ok(shown) if self.client.settings().pin.is_some() => {
                tracing::error!(pinned = %server, %shown, "the server has another key than the pinned one");
                Event::Unwilling(RefusalKind::Pin, String::new())
            }
            // Not pinned: its new key is asked for anew, and believed as the old one was.
            Ok(_) => {
                self.server = None;
                transport
            }
            Err(error) => {
                tracing::debug!(error = reason(&error), "the server does not show its key");
                no_key(&error)
            }
        })
    }

    /// What waits for the server, unless the network under us becomes another, which counts: `None`. What was sent into the old one is
    /// lost, and would be waited for until its time is over.
    async fn unless_moved<T>(&self, what: impl Future<Output = T>) -> Result<Option<T>, Closed> {
        tokio::select! {
            biased;
            done = what => Ok(Some(done)),
            changed = self.network_changed() => changed.map(|()| None),
        }
    }

    /// Tells that the network is another. `sent`: a request may have arrived.
    async fn moved(&self, sent: bool) -> Result<Event, Closed> {
        self.tell(ControlEvent::Disconnected { reason: MOVED.into() }).await?;
        Ok(Event::Transport { sent })
    }

    async fn lost(&self, error: &(dyn std::error::Error + Sync)) -> Result<(), Closed> {
        let reason = reason(error);
        tracing::info!(reason, "no connection to the coordination server");
        self.tell(ControlEvent::Disconnected { reason }).await
    }

    async fn register(
        &mut self,
        auth: Option<&AuthKey>,
        key: usize,
        after: Option<usize>,
    ) -> Result<Event, Closed> {
        let Some(node) = self.public(key) else {
            return Ok(Event::Transport { sent: false });
        };
        let after = after.and_then(|after| self.public(after));
        let connection = match self.connect().await? {
            Ok(connection) => connection,
            Err(event) => return Ok(event),
        };
        let hostinfo = hostinfo(&self.host.borrow());
        let request = RegisterRequest::new(node, after, auth.map(AuthKey::expose), &hostinfo);
        let Some(answer) = self.unless_moved(connection.register(&request)).await? else {
            return self.moved(true).await;
        };
        let answer = match answer {
            Ok(response) => Answer::from(response),
            Err(RequestError::Status { status, text, .. })
                if status.is_client_error() && status != hyper::StatusCode::TOO_MANY_REQUESTS =>
            {
                Answer::Status(status.as_u16(), text)
            }
            Err(error) => return self.request_failed(&error).await,
        };
        self.connection = Some(connection);
        if answer == Answer::Authorized {
            self.keys.swap(0, key);
            self.keys.truncate(1);
            self.map.set_own(node);
            self.tell(ControlEvent::Admitted { node }).await?;
        }
        Ok(Event::Answered(answer))
    }

    /// What a request without an answer of the protocol's means. Its connection is gone.
    async fn request_failed(&self, error: &RequestError) -> Result<Event, Closed> {
        self.lost(error).await?;
        Ok(match error {
            RequestError::Status { status, retry_after, .. }
                if *status == hyper::StatusCode::TOO_MANY_REQUESTS =>
            {
                Event::RateLimited(*retry_after)
            }
            RequestError::Status { status, .. } if *status == hyper::StatusCode::NOT_FOUND => {
                Event::MapNotFound
            }
            // Headscale's word for a version in the body that is too low.
            RequestError::Status { status, text, .. } if *status == hyper::StatusCode::BAD_REQUEST => {
                Event::Unwilling(RefusalKind::Version, text.clone())
            }
            _ => Event::Transport { sent: true },
        })
    }

    /// A new node key, beside the others: nothing of what is in force goes before the server has taken it.
    async fn rotate(&mut self, after: usize) -> Result<Event, Closed> {
        let Some(ended) = self.public(after) else {
            return Ok(Event::RotationFailed);
        };
        let (reply, answer) = oneshot::channel();
        self.tell(ControlEvent::NodeKeyNeeded { after: ended, reply }).await?;
        let node = match answer.await {
            Ok(node) if node.public() != ended => node,
            _ => {
                tracing::warn!("there is no new node key");
                return Ok(Event::RotationFailed);
            }
        };
        let known = self.keys.iter().position(|key| key.public() == node.public());
        let key = known.unwrap_or_else(|| {
            self.keys.push(node);
            self.keys.len() - 1
        });
        Ok(Event::Rotated { key })
    }

    /// The node key with this number.
    fn public(&self, key: usize) -> Option<Public<Node>> {
        self.keys.get(key).map(Secret::public)
    }
}

/// What it means that the server's key is not known.
fn no_key(error: &KeyError) -> Event {
    match error {
        KeyError::Empty => Event::Unwilling(RefusalKind::Version, String::new()),
        KeyError::RateLimited(after) => Event::RateLimited(*after),
        _ => Event::Transport { sent: false },
    }
}

/// An error with its causes, as far as it does not say them itself. A server's words may be in it: it is made harmless.
fn reason(error: &(dyn std::error::Error + Sync)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let own = error.to_string();
        if !text.contains(&own) {
            text = format!("{text}: {own}");
        }
        cause = error.source();
    }
    harmless(&text)
}

fn network_of(host: &watch::Receiver<HostState>) -> (u64, Duration) {
    let host = host.borrow();
    (host.network, host.slept)
}

fn hostinfo(host: &HostState) -> Hostinfo {
    Hostinfo::new(&host.hostname, host.home, host.working_udp)
}

/// The request for a host's state.
fn update<'a>(node: Public<Node>, host: &HostState, hostinfo: &'a Hostinfo) -> MapRequest<'a> {
    MapRequest::update(node, host.disco, &host.endpoints, hostinfo)
}
