//! The node: everything put together.
//!
//! One task holds all that is not a packet: it hears the coordination server, the relays, the plane and whoever asks for status,
//! and drives the pure machines of paths and probes by the clock. Packets do not pass through it: the plane has threads of its
//! own, and what relays carry goes through two tasks beside it.

mod addresses;
mod assignment;
mod clock;
mod coalesce;
mod control;
mod datagrams;
mod identity;
mod keep;
mod look_ups;
mod network;
mod pace;
mod ping;
mod probes;
mod reached;
mod register;
mod relays;
mod report;
mod settings;
mod sockets;
mod stamp;
mod totals;

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::control::join::{AuthKey, Phase, Refusal};
use crate::control::map::{MapDrops, PolicyState};
use crate::control::pace::LogPace;
use crate::control::session::{self, ControlEvent, HostState, Identity};
use crate::control::wire::EndpointType;
use crate::derp::Pool;
use crate::dial::{Dialer, Locked};
use crate::disco::Boxes;
use crate::dns::{self, Zone};
use crate::key::{Machine, NoRandom, Node as NodeKind, Public};
use crate::netcheck::{self, Netcheck};
use crate::netmap::Netmap;
use crate::parent::slots::Slots;
use crate::parent::{Config, Handover, RequestError, Requests};
use crate::path::{Action, PathConfig, Paths, Via};
use crate::plane::{self, Plane};
use crate::published::Published;
use crate::registration::Registration;
use crate::state::{NodeKey, StateError};
use crate::status::{self, Ask, Request};
use crate::sys::{Features, Tun, Udp, probe};

use assignment::Assignment;
use clock::Sleep;
use coalesce::Coalescer;
use control::MadeKey;
use keep::{Keeper, Told};
use look_ups::{LookUps, LookedUp};
use pace::Pace;
use reached::Reached;
use register::Registering;
use relays::{RelayEvents, Relays};
use settings::Settings;
use sockets::{listeners, sockets};
use totals::{Bytes, Totals};

/// How often what nobody tells us of is looked at: our own addresses, traffic, the report.
const LOOK: Duration = Duration::from_secs(1);
/// How often our own addresses are read: a machine that moved is without its tunnels until then.
const ADDRESSES: Duration = Duration::from_secs(2);
/// Between two changes of the relays that take effect: each may cost connections.
const RELAYS: Duration = Duration::from_secs(10);
/// Between two changes of the names, for each thousand of them: all are made anew.
const NAMES: Duration = Duration::from_secs(1);

/// Why the node ended.
#[derive(Debug, Error)]
pub enum NodeError {
    /// What the parent said cannot be.
    #[error("configuration: {0}")]
    Config(String),
    /// The system.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// No randomness.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
    /// The guest agent gives no keys.
    #[error("the guest agent: {0}")]
    Agent(String),
    /// The state cannot be written.
    #[error(transparent)]
    State(#[from] StateError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Session(#[from] session::SessionError),
    /// A part of the node is gone.
    #[error("{0} ended")]
    Ended(&'static str),
}

/// Runs until something ends it that a restart may mend. `ready` is called once, when its sockets are open and nothing hostile
/// was read yet: the caller then closes what only a start needs, and says that the process is up.
///
/// # Errors
/// What a restart may mend.
pub async fn run(mut handover: Handover, ready: impl FnOnce() + Send) -> Result<Infallible, NodeError> {
    let tun = std::mem::take(&mut handover.tun).into_iter().map(Tun::adopt).collect::<Result<Vec<_>, _>>()?;
    let first = tun.first().ok_or_else(|| NodeError::Config("descriptors: no TUN queue".to_owned()))?;
    let features = probe(first.as_fd(), Features { tcp: true, udp: true })?;
    run_on(tun, features, handover, ready).await
}

async fn run_on(
    tun: Vec<Tun>,
    features: Features,
    handover: Handover,
    ready: impl FnOnce() + Send,
) -> Result<Infallible, NodeError> {
    let Handover { config, state, requests, status, dns, udp, registration, tun: _ } = handover;
    let settings = Arc::new(Settings::new(&config, registration.is_some())?);
    let slots = Slots::new(state)?;
    let udp = sockets(udp, config.port)?;
    let port = udp
        .first()
        .ok_or_else(|| NodeError::Config("port: no UDP socket".to_owned()))?
        .local_address()?
        .port();
    let dns = listeners(dns)?;
    let opened =
        Opened { config, settings, registration, slots, requests, status, dns, tun, features, udp, port };
    let (node, ends, map) = start(opened, ready).await?;
    node.drive(ends, map).await
}

/// What was handed over, opened.
struct Opened {
    config: Config,
    settings: Arc<Settings>,
    registration: Option<Registration>,
    slots: Slots,
    requests: Requests,
    status: Option<std::os::unix::net::UnixListener>,
    dns: dns::Listeners,
    tun: Vec<Tun>,
    features: Features,
    udp: Vec<Arc<Udp>>,
    port: u16,
}

/// Starts everything beside the node's own task: what that drives, what it hears by, and the map that was kept.
async fn start(
    opened: Opened,
    ready: impl FnOnce() + Send,
) -> Result<(Node, Ends, Option<Arc<Netmap>>), NodeError> {
    let Opened { config, settings, registration, slots, requests, status, dns, tun, features, udp, port } =
        opened;
    let (kept, policy, origin) = identity::load(&config, &slots).await?;
    let others = identity::others(&config, &kept).await?;
    let parent = Arc::new(requests);
    let mut keeper = Keeper::new(slots, kept.clone());
    if origin == identity::Origin::New {
        // A server that admits a key which we then lose has lost us.
        keeper.write(Instant::now(), &parent)?;
    }

    let (channels, receivers) = plane::channels();
    let key = kept.node.secret.clone();
    // Everything is open. From the next line on, others are read.
    ready();
    let plane = Arc::new(Plane::start(plane::Config { tun, features, udp, key: key.clone(), channels })?);
    plane.stamper().raise(stamp::used(kept.stamp));
    info!(port, ?features, node = %key.public(), "the plane runs");

    let zone = Published::new(Zone::empty(&settings.names));
    let dns_counters = Arc::new(dns::Counters::default());
    tokio::spawn(dns::serve(dns, Arc::clone(&zone), Arc::clone(&dns_counters)));

    let (asks, asked) = mpsc::channel(4);
    if let Some(listener) = status {
        listener.set_nonblocking(true)?;
        tokio::spawn(status::serve(tokio::net::UnixListener::from_std(listener)?, asks.clone()));
    }

    let locked = settings.server.as_ref().filter(|_| config.login_server.locked);
    let locked = locked.map(|server| Locked { host: server.host.clone(), parent: Arc::clone(&parent) });
    let dialer = Arc::new(Dialer::new(config.dns.resolvers.clone(), settings.authenticated.clone(), locked));
    let (relays, relay_events) = Relays::start(&settings.trust, &dialer, &plane, receivers.relay, &key)?;
    let boxes = Boxes::new(kept.disco.clone());
    let map = kept.map.clone().map(Arc::new);
    let host = watch::Sender::new(HostState {
        hostname: config.hostname.clone(),
        disco: kept.disco.public(),
        endpoints: Vec::new(),
        home: kept.home,
        working_udp: true,
        network: 0,
        slept: Duration::ZERO,
    });
    let (control, heard) = mpsc::channel(16);
    let (auth, offered) = watch::channel(settings.authkey.clone());
    let known = register::server(&settings, registration.as_ref(), &kept);
    let phase = if known.is_some() { Phase::Joining } else { Phase::KeyNeeded };
    let (server, servers) = watch::channel(known);
    let (registering, answers) = match &registration {
        None => (None, mpsc::channel(1).1),
        Some(registration) => {
            let dial = Arc::clone(&dialer) as Arc<dyn crate::dial::Dial>;
            let (registering, answers) =
                Registering::start(registration, &config, &settings, &kept, server, dial)?;
            (Some(registering), answers)
        }
    };
    let who = Identity {
        machine: kept.machine.clone(),
        node: kept.node.secret.clone(),
        others: others.iter().map(|other| other.secret.clone()).collect(),
        known: identity::may_be_known(&config, &kept),
        refused: kept.refused.clone(),
        map: map.clone(),
    };
    let (dial, told) = (Arc::clone(&dialer) as Arc<dyn crate::dial::Dial>, host.subscribe());
    let run = move |config| session::run(config, dial, who, told, offered, control);
    let session = tokio::spawn(register::session(Arc::clone(&settings), servers, run));
    let mut netcheck = Netcheck::new();
    netcheck.restore_home(kept.home);
    let (resolved, names) = mpsc::channel(8);
    let (made, made_keys) = mpsc::channel(1);
    let (assigned, assignments) = mpsc::channel(1);
    let mut node = Node {
        pool: relays.pool(),
        relays,
        paths: Paths::new(PathConfig { own: key.public(), excluded: config.prefixes.clone() }),
        parent,
        keeper,
        config,
        port,
        plane,
        boxes,
        netcheck,
        dialer,
        zone,
        dns_counters,
        host,
        auth,
        others,
        made,
        maps: Coalescer::default(),
        map: None,
        assignment: Assignment::default(),
        assigned,
        relays_pace: Pace::new(RELAYS),
        names_pace: Pace::new(NAMES),
        reached: Reached::default(),
        totals: Totals::default(),
        local: None,
        sleep: Sleep::default(),
        phase,
        registering,
        refusal: None,
        policy: PolicyState::default(),
        connected: false,
        server: None,
        asked: false,
        heard: None,
        map_drops: Box::default(),
        disco_refused: 0,
        log: LogPace::default(),
        actions: Vec::new(),
        sealed: Vec::new(),
        pings: Vec::new(),
        netchecks: Vec::new(),
        wishes: Vec::new(),
        look_ups: LookUps::new(resolved),
    };
    node.set_policy(Instant::now(), policy);
    node.pool.set_home(node.keeper.kept.home);
    let ends = Ends {
        heard,
        relay_events,
        events: receivers.events,
        outside: receivers.outside,
        asked,
        names,
        made_keys,
        assignments,
        answers,
        session,
    };
    Ok((node, ends, map))
}

/// What the node hears by.
struct Ends {
    heard: mpsc::Receiver<ControlEvent>,
    relay_events: RelayEvents,
    events: mpsc::Receiver<plane::Event>,
    outside: mpsc::Receiver<plane::Outside>,
    asked: mpsc::Receiver<Ask>,
    names: mpsc::Receiver<LookedUp>,
    made_keys: mpsc::Receiver<MadeKey>,
    assignments: mpsc::Receiver<Result<(), RequestError>>,
    answers: register::Answers,
    session: tokio::task::JoinHandle<Result<(), session::SessionError>>,
}

/// All that is not a packet.
struct Node {
    config: Config,
    port: u16,
    parent: Arc<Requests>,
    keeper: Keeper,
    plane: Arc<Plane>,
    relays: Relays,
    pool: Arc<Pool>,
    paths: Paths,
    boxes: Boxes,
    netcheck: Netcheck,
    dialer: Arc<Dialer>,
    zone: Arc<Published<Zone>>,
    dns_counters: Arc<dns::Counters>,
    host: watch::Sender<HostState>,
    /// What the session may join with.
    auth: watch::Sender<Option<AuthKey>>,
    /// Node keys of former lives that the server may know us by.
    others: Vec<NodeKey>,
    /// Where new node keys go.
    made: mpsc::Sender<MadeKey>,
    /// Maps that have not taken effect yet.
    maps: Coalescer,
    map: Option<Arc<Netmap>>,
    /// Our addresses in the network, and where the parent's answer to them goes.
    assignment: Assignment,
    assigned: mpsc::Sender<Result<(), RequestError>>,
    /// How often the relays change.
    relays_pace: Pace,
    /// How often the names change.
    names_pace: Pace,
    reached: Reached,
    totals: Totals,
    /// This machine's addresses; `None`: not looked at yet.
    local: Option<Vec<IpAddr>>,
    sleep: Sleep,
    phase: Phase,
    /// Where keys to join with come from, if not from the configuration.
    registering: Option<Registering>,
    refusal: Option<Refusal>,
    policy: PolicyState,
    /// Whether maps come: a server that refuses us talks to us as well.
    connected: bool,
    /// Whose key the connection that stands, or stood last, was made with.
    server: Option<Public<Machine>>,
    asked: bool,
    heard: Option<Instant>,
    map_drops: Box<MapDrops>,
    disco_refused: u64,
    /// Of what a server makes us say.
    log: LogPace,
    /// Scratch.
    actions: Vec<Action>,
    sealed: Vec<u8>,
    pings: Vec<ping::Job>,
    netchecks: Vec<status::Asked>,
    wishes: Vec<netcheck::Action>,
    look_ups: LookUps,
}

impl Node {
    async fn drive(mut self, mut ends: Ends, kept: Option<Arc<Netmap>>) -> Result<Infallible, NodeError> {
        self.sleep.look();
        self.look_at_addresses(Instant::now(), None);
        if let Some(map) = kept {
            info!(peers = map.peers.len(), "the last map is in force until a new one comes");
            self.adopt(Instant::now(), map);
        }
        let (mut look, mut addresses) = (Instant::now(), Instant::now());
        let mut told = Told::default();
        loop {
            let now = Instant::now();
            let due = [
                Some(look),
                self.paths.next_deadline(),
                self.netcheck.next_deadline(),
                self.keeper.due(),
                self.assignment.due(),
                self.relays_pace.due(),
                self.names_pace.due(),
                self.pings_due(now),
                self.maps.due(),
            ];
            let due = due.into_iter().flatten().min().unwrap_or(look);
            tokio::select! {
                // Why there are none any more, the session's own end says.
                Some(event) = ends.heard.recv() => self.on_control(Instant::now(), event).await?,
                event = ends.events.recv() => {
                    self.on_plane(Instant::now(), event.ok_or(NodeError::Ended("the plane"))?);
                }
                outside = ends.outside.recv() => {
                    self.on_outside(Instant::now(), &outside.ok_or(NodeError::Ended("the plane"))?);
                }
                event = ends.relay_events.recv() => {
                    self.on_relay(Instant::now(), event.ok_or(NodeError::Ended("the relays"))?);
                }
                Some(ask) = ends.asked.recv() => self.on_ask(Instant::now(), ask),
                Some((host, addresses)) = ends.names.recv() => {
                    self.look_ups.ended(&host);
                    if !addresses.is_empty() {
                        self.netcheck.resolved(host, addresses);
                        self.netcheck.request(Instant::now());
                    }
                }
                Some(made) = ends.made_keys.recv() => self.on_made_key(Instant::now(), made),
                Some(answer) = ends.answers.recv() => self.on_registered(Instant::now(), answer),
                Some(outcome) = ends.assignments.recv() => self.on_assigned(Instant::now(), outcome),
                ended = &mut ends.session => {
                    return Err(match ended {
                        Ok(Err(error)) => error.into(),
                        Ok(Ok(())) | Err(_) => NodeError::Ended("the session"),
                    });
                }
                () = tokio::time::sleep_until(due.into()) => {}
            }
            let now = Instant::now();
            if let Some((map, changes)) = self.maps.take(now) {
                self.apply(now, map, &changes);
            }
            self.paths.tick(now, &mut self.actions);
            self.act(now);
            self.assign(now);
            self.set_relays(now);
            self.set_names(now);
            self.check(now);
            self.tend_pings(now);
            self.keeper.write_if_due(now, &self.parent);
            if now >= look {
                look = now + LOOK;
                if !self.plane.runs() {
                    return Err(NodeError::Ended("a thread of the plane"));
                }
                self.keep_stamp(now);
                self.look_at_traffic(now);
                let slept = self.sleep.look();
                if now >= addresses || slept.is_some() {
                    addresses = now + ADDRESSES;
                    self.look_at_addresses(now, slept);
                }
                told.tell(now, self.parent_report(now), &self.parent);
            }
        }
    }

    /// The time of the last handshake is kept, so that none of a next run is earlier.
    fn keep_stamp(&mut self, now: Instant) {
        if let Some(last) = stamp::to_keep(self.keeper.kept.stamp, self.plane.stamper().last()) {
            self.keeper.kept.stamp = last;
            self.keeper.touch(now);
        }
    }

    /// Paths with traffic are kept, and looked for.
    fn look_at_traffic(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.plane.started() + LOOK);
        let since = u64::try_from(since.as_millis()).unwrap_or(0);
        let mut active = false;
        for peer in self.plane.peers() {
            let traffic = peer.traffic();
            self.totals.note(peer.key(), Bytes { rx: traffic.rx_bytes, tx: traffic.tx_bytes });
            if traffic.last_tx > 0 && traffic.last_tx >= since {
                active = true;
                self.paths.wanted(now, &peer.key(), &mut self.actions);
            }
            if let Some(direct) =
                peer.route().direct.filter(|_| traffic.last_direct > 0 && traffic.last_direct >= since)
            {
                self.paths.received(now, &peer.key(), Via::Udp(direct), &mut self.actions);
            }
        }
        self.act(now);
        self.netcheck.set_active(now, active);
        let status = self.pool.status();
        for region in status.connected {
            if let Some(at) = self.pool.last_frame(region) {
                self.netcheck.relay_alive(region, at);
            }
        }
    }

    /// The machine's own addresses may have changed; if it slept, everything may have.
    fn look_at_addresses(&mut self, now: Instant, slept: Option<Duration>) {
        let found = match addresses::local(&self.config.interface, &self.config.prefixes) {
            Ok(found) => found,
            Err(error) => {
                warn!(%error, "this machine's addresses cannot be read");
                self.local.clone().unwrap_or_default()
            }
        };
        self.take_addresses(now, found, slept);
    }

    fn take_addresses(&mut self, now: Instant, found: Vec<IpAddr>, slept: Option<Duration>) {
        if self.local.as_ref() == Some(&found) && slept.is_none() {
            return;
        }
        info!(addresses = ?found, ?slept, "this machine's network");
        let first = self.local.replace(found).is_none();
        // What STUN saw belongs to the network that was: the end of the round that this begins tells where we are.
        self.netcheck.network_changed(now);
        self.paths.network_changed(now, &mut self.actions);
        self.pool.network_changed(slept.is_some());
        // Where we begin is no change.
        if !first {
            self.host.send_modify(|host| {
                host.network = host.network.wrapping_add(1);
                host.slept += slept.unwrap_or_default();
            });
        }
        self.act(now);
        if slept.is_some() {
            // By the ways that are left now.
            self.plane.slept();
        }
    }

    /// Where we may be reached: told to the server, and to whoever is called.
    fn tell_endpoints(&mut self, now: Instant) {
        let own = self
            .local
            .iter()
            .flatten()
            .map(|address| (SocketAddr::new(*address, self.port), EndpointType::Local));
        let seen = self.netcheck.report().endpoints().map(|address| (address, EndpointType::Stun));
        let mut endpoints: Vec<(SocketAddr, EndpointType)> = Vec::new();
        for (address, kind) in own.chain(seen) {
            if !endpoints.iter().any(|(known, _)| *known == address) {
                endpoints.push((address, kind));
            }
        }
        let addresses = endpoints.iter().map(|(address, _)| *address).collect();
        self.paths.set_endpoints(now, addresses, &mut self.actions);
        self.act(now);
        // Before it is known, it is hoped.
        let working_udp = self.netcheck.report().udp != Some(false);
        self.host.send_if_modified(|host| {
            let changed = host.endpoints != endpoints || host.working_udp != working_udp;
            host.endpoints = endpoints;
            host.working_udp = working_udp;
            changed
        });
    }

    /// The peer that is, or was, reached at an address.
    fn peer_at(&self, from: SocketAddr) -> Option<Public<NodeKind>> {
        let kept = self.keeper.kept.paths.iter().find(|(_, address)| **address == from).map(|(key, _)| *key);
        let listed = || {
            let map = self.map.as_ref()?;
            map.peers.values().find(|peer| peer.endpoints.contains(&from)).map(|peer| peer.key)
        };
        kept.or_else(listed)
    }

    fn on_ask(&mut self, now: Instant, ask: Ask) {
        let Ask { request, answer } = ask;
        let line = match request {
            Request::Status {} => serde_json::to_string(&self.status(now)).unwrap_or_default(),
            Request::Metrics {} => status::metrics(&self.status(now)),
            Request::Ping { name, count, until_direct } => {
                return self.ping(now, &name, count, until_direct, answer);
            }
            Request::Netcheck {} => return self.ask_outside(now, answer),
            Request::Offer { authkey } => match settings::authkey(authkey.expose()) {
                Some(key) => {
                    info!("another pre-auth key is offered");
                    self.auth.send_replace(Some(key));
                    "{}".to_owned()
                }
                None => r#"{"error":"expected a pre-auth key of visible ASCII characters"}"#.to_owned(),
            },
        };
        // The first line always has room.
        drop(answer.try_send(line));
    }
}
