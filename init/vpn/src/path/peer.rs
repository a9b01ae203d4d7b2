//! The machine of one peer.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::candidates::{Candidates, canonical, is_usable};
use super::quality::is_better;
use super::{
    Action, CALL_INTERVAL, DATA_TRUST, ENDPOINTS_FRESH, GOOD_ENOUGH, HEARTBEAT, PING_BACK_INTERVAL,
    PING_INTERVAL, PING_TIMEOUT, PathStatus, RELAY_PING, REPLY_ROUTE, Route, SESSION_ACTIVE, TRUST, UPGRADE,
    Via,
};
use crate::disco::{MAX_ENDPOINTS, Message, TxId};
use crate::key::{Disco, Node, Public, fill_random};
use crate::netmap::RegionId;

/// What is the same for all peers.
#[derive(Clone, Debug)]
pub struct Env {
    /// Our node key, for the pings.
    pub own: Public<Node>,
    /// Prefixes in which no peer's address is believed: the tailnet's own.
    pub excluded: Vec<IpNet>,
    /// Where we may be reached.
    pub endpoints: Vec<SocketAddr>,
    /// When that was last found out.
    pub endpoints_at: Option<Instant>,
}

impl Env {
    fn is_fresh(&self, now: Instant) -> bool {
        self.endpoints_at.is_some_and(|at| now.duration_since(at) <= ENDPOINTS_FRESH)
    }
}

/// What the map says of a peer.
#[derive(Clone, Copy, Debug)]
pub struct PeerConfig<'a> {
    /// Its disco key; without one nothing is found, but everything is tried.
    pub disco: Option<Public<Disco>>,
    /// Its home region.
    pub home: Option<RegionId>,
    /// Where it may be reached.
    pub endpoints: &'a [SocketAddr],
}

/// Where one peer is reached.
#[derive(Clone, Debug)]
pub struct PeerPath {
    key: Public<Node>,
    disco: Option<Public<Disco>>,
    home: Option<RegionId>,
    /// The region that it last used to reach us, if that is not its home: there we have a connection, and so has it, for
    /// [`REPLY_ROUTE`]. Its tunnel's packets say so and nothing else: what relays carry besides can be kept and sent again.
    reply: Option<(RegionId, Instant)>,
    /// The last round trip through a relay, and through which.
    relay_latency: Option<(RegionId, Duration)>,
    /// When the relay was last pinged.
    relay_pinged: Option<Instant>,
    /// Pongs that were taken, by any way.
    pongs: u64,
    candidates: Candidates,
    best: Option<(SocketAddr, Duration)>,
    trust_until: Option<Instant>,
    /// When the best path last gave a pong.
    confirmed: Option<Instant>,
    /// Where an authentic packet came from that is not the best path.
    hint: Option<(SocketAddr, Instant)>,
    /// When there was last something to send.
    wanted: Option<Instant>,
    heartbeat: Option<Instant>,
    full_ping: Option<Instant>,
    /// Sent pings, the oldest first.
    pings: VecDeque<Sent>,
    /// The last pings that were answered: each is answered once.
    answered: VecDeque<TxId>,
    ping_back_from: Option<Instant>,
    /// When the last call-me-maybe was followed, and a later one that came too soon.
    called: Option<Instant>,
    call: Option<Vec<SocketAddr>>,
    /// When ours was last sent, and whether one waits for our own addresses.
    calling: Option<Instant>,
    call_waits: bool,
    /// Without anything known: whose turn it is among the candidates.
    turn: usize,
    route: Route,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    txid: TxId,
    to: Via,
    at: Instant,
}

/// What became of a pong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pong {
    Taken,
    Unknown,
}

impl PeerPath {
    /// A peer of which nothing is known.
    pub fn new(key: Public<Node>) -> Self {
        Self {
            key,
            disco: None,
            home: None,
            reply: None,
            relay_latency: None,
            relay_pinged: None,
            pongs: 0,
            candidates: Candidates::default(),
            best: None,
            trust_until: None,
            confirmed: None,
            hint: None,
            wanted: None,
            heartbeat: None,
            full_ping: None,
            pings: VecDeque::new(),
            answered: VecDeque::new(),
            ping_back_from: None,
            called: None,
            call: None,
            calling: None,
            call_waits: false,
            turn: 0,
            route: Route::default(),
        }
    }

    /// Its disco key, if it has one.
    pub const fn disco(&self) -> Option<Public<Disco>> {
        self.disco
    }

    /// What the map says now.
    pub fn configure(&mut self, now: Instant, env: &Env, config: PeerConfig<'_>, out: &mut Vec<Action>) {
        self.set_disco(config.disco);
        self.set_home(config.home);
        self.set_candidates(env, config.endpoints);
        // New addresses are worth a try at once if there is traffic that has no good path.
        if self.is_active(now) && !self.is_trusted(now) {
            self.full_ping(now, env, true, out);
        }
        self.refresh(now, out);
    }

    /// Another disco key is another process: what was found with the old one does not hold.
    pub fn set_disco(&mut self, disco: Option<Public<Disco>>) {
        if disco == self.disco {
            return;
        }
        self.disco = disco;
        self.lose_path();
        self.candidates.forget();
        self.answered.clear();
        self.call = None;
    }

    /// The region that it listens at.
    pub fn set_home(&mut self, home: Option<RegionId>) {
        if home != self.home {
            self.home = home;
            self.reply = None;
            self.relay_latency = None;
            self.relay_pinged = None;
        }
    }

    /// The addresses that the map gives it.
    pub fn set_candidates(&mut self, env: &Env, addresses: &[SocketAddr]) {
        let usable = |address: &SocketAddr| is_usable(*address, &env.excluded);
        let addresses = addresses.iter().copied().map(canonical).filter(usable).take(MAX_ENDPOINTS);
        let addresses = addresses.collect::<Vec<_>>();
        self.candidates.set_map(&addresses);
    }

    /// There is traffic for it. Cheap: to be called about once a second while there is.
    pub fn wanted(&mut self, now: Instant, env: &Env, out: &mut Vec<Action>) {
        self.wanted = Some(now);
        if self.heartbeat.is_none() {
            self.heartbeat = Some(now + HEARTBEAT);
        }
        let full = self.full_ping.is_none_or(|at| now.duration_since(at) >= PING_INTERVAL);
        if !self.is_trusted(now) && full {
            self.full_ping(now, env, true, out);
        }
        self.refresh(now, out);
    }

    /// Looks for a path now, and measures the relay: for `vpn ping`.
    pub fn discover(&mut self, now: Instant, env: &Env, out: &mut Vec<Action>) {
        if let (Some(region), true) = (self.relay(now), self.disco.is_some()) {
            self.ping(now, env, Via::Relay(region), out);
        }
        if let Some((best, _)) = self.best {
            self.ping(now, env, Via::Udp(best), out);
        }
        self.wanted(now, env, out);
    }

    /// An authentic WireGuard packet came that way.
    pub fn received(&mut self, now: Instant, env: &Env, from: Via, out: &mut Vec<Action>) {
        match from {
            Via::Relay(region) => self.note_relay(now, region),
            Via::Udp(address) => {
                if self.best.is_some_and(|best| best.0 == address) && self.is_trusted(now) {
                    // A pong is lost in a full queue as easily as anything: what comes out of the tunnel says the same, for a while.
                    let most = self.confirmed.map(|at| at + DATA_TRUST);
                    self.trust_until = self.trust_until.max(most.map(|most| most.min(now + TRUST)));
                    return;
                }
                if !is_usable(address, &env.excluded) {
                    return;
                }
                if self.best.is_none_or(|best| best.0 != address) {
                    self.hint = Some((address, now));
                }
                let Some(candidate) = self.candidates.heard(now, address) else { return };
                if is_due(candidate.pinged, now) {
                    self.ping(now, env, Via::Udp(address), out);
                }
            }
        }
        self.refresh(now, out);
    }

    /// A ping of this peer came. `false`: it was answered before, or comes from where nobody can be.
    pub fn on_ping(&mut self, now: Instant, env: &Env, txid: TxId, from: Via, out: &mut Vec<Action>) -> bool {
        if self.answered.contains(&txid) {
            return false;
        }
        let source = match from {
            Via::Relay(region) => relay_address(region),
            Via::Udp(address) => {
                if !is_usable(address, &env.excluded) {
                    return false;
                }
                address
            }
        };
        if self.answered.len() >= ANSWERED {
            self.answered.pop_front();
        }
        self.answered.push_back(txid);
        out.push(self.disco_action(from, Message::Pong { txid, source }));
        if let Via::Udp(address) = from {
            let due = self.candidates.heard(now, address).is_some_and(|found| is_due(found.pinged, now));
            if due && !self.is_trusted(now) && self.ping_back_from.is_none_or(|at| at <= now) {
                self.ping_back_from = Some(now + PING_BACK_INTERVAL);
                self.ping(now, env, from, out);
            }
        }
        self.refresh(now, out);
        true
    }

    /// A pong of this peer came. `false`: we did not ask, or asked another way.
    pub fn on_pong(&mut self, now: Instant, txid: &TxId, from: Via, out: &mut Vec<Action>) -> bool {
        self.pong(now, txid, from, out) == Pong::Taken
    }

    /// A call-me-maybe of this peer came over a relay that says that it is from this peer.
    pub fn on_call_me_maybe(
        &mut self,
        now: Instant,
        env: &Env,
        endpoints: &[SocketAddr],
        out: &mut Vec<Action>,
    ) {
        let usable = |address: &SocketAddr| is_usable(*address, &env.excluded);
        let endpoints = endpoints.iter().copied().filter(usable).take(MAX_ENDPOINTS).collect::<Vec<_>>();
        match self.called {
            Some(at) if now.duration_since(at) < CALL_INTERVAL => self.call = Some(endpoints),
            _ => self.follow_call(now, env, &endpoints, out),
        }
        self.refresh(now, out);
    }

    /// A relay does not have this peer, or is not connected: replies go to its home again.
    pub fn relay_lost(&mut self, now: Instant, region: RegionId, out: &mut Vec<Action>) {
        if self.reply.is_some_and(|reply| reply.0 == region) {
            self.reply = None;
        }
        self.refresh(now, out);
    }

    /// Our own addresses changed under us: what was believed is a guess again.
    pub fn network_changed(&mut self, now: Instant, env: &Env, out: &mut Vec<Action>) {
        self.trust_until = None;
        self.confirmed = None;
        self.relay_pinged = None;
        self.pings.clear();
        for candidate in self.candidates.iter_mut() {
            candidate.forget_measures();
        }
        self.calling = None;
        if self.is_active(now) {
            self.full_ping(now, env, true, out);
        }
        self.refresh(now, out);
    }

    /// Whether a call-me-maybe waits for our own addresses.
    pub const fn call_waits(&self) -> bool {
        self.call_waits
    }

    /// Our own addresses are known: what waited for them goes out.
    pub fn endpoints_known(&mut self, now: Instant, env: &Env, out: &mut Vec<Action>) {
        if std::mem::take(&mut self.call_waits) {
            self.send_call(now, env, out);
        }
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant, env: &Env, out: &mut Vec<Action>) {
        while self.pings.front().is_some_and(|sent| now >= sent.at + PING_TIMEOUT) {
            self.pings.pop_front();
        }
        if self.call.is_some() && self.called.is_none_or(|at| now >= at + CALL_INTERVAL) {
            let call = self.call.take().unwrap_or_default();
            self.follow_call(now, env, &call, out);
        }
        if self.heartbeat.is_some_and(|at| at <= now) {
            self.beat(now, env, out);
        }
        self.refresh(now, out);
    }

    /// When [`PeerPath::tick`] has something to do; `None`: not before another event.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        [
            self.heartbeat,
            self.pings.front().map(|sent| sent.at + PING_TIMEOUT),
            self.trust_until.filter(|at| *at > now),
            self.hint.map(|(_, at)| at + TRUST).filter(|at| *at > now),
            self.reply.map(|(_, at)| at + REPLY_ROUTE).filter(|at| *at > now),
            self.call.is_some().then(|| self.called.map_or(now, |at| at + CALL_INTERVAL)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Where to send.
    pub const fn route(&self) -> Route {
        self.route
    }

    /// How it is reached.
    pub fn status(&self, now: Instant) -> PathStatus {
        let relay = self.relay(now);
        let measured = self.relay_latency.filter(|(region, _)| relay == Some(*region));
        PathStatus {
            best: self.best,
            trusted: self.is_trusted(now),
            relay,
            relay_latency: measured.map(|(_, latency)| latency),
            candidates: self.candidates.len(),
            pongs: self.pongs,
        }
    }

    fn beat(&mut self, now: Instant, env: &Env, out: &mut Vec<Action>) {
        if !self.is_active(now) {
            self.heartbeat = None;
            return;
        }
        self.heartbeat = Some(now + HEARTBEAT);
        self.turn = self.turn.wrapping_add(1);
        if let Some((best, _)) = self.best {
            self.ping(now, env, Via::Udp(best), out);
        }
        if self.wants_full_ping(now) {
            self.full_ping(now, env, true, out);
        }
        let due = self.relay_pinged.is_none_or(|at| now.duration_since(at) >= RELAY_PING);
        if let Some(region) = self.relay(now).filter(|_| due && !self.is_trusted(now)) {
            self.ping(now, env, Via::Relay(region), out);
        }
    }

    fn wants_full_ping(&self, now: Instant) -> bool {
        match (self.best, self.full_ping) {
            (Some(best), Some(at)) if self.is_trusted(now) => {
                self.judged(best) > GOOD_ENOUGH && now.duration_since(at) >= UPGRADE
            }
            _ => true,
        }
    }

    /// Pings every address that was not pinged lately, and lets the peer do the same.
    fn full_ping(&mut self, now: Instant, env: &Env, call: bool, out: &mut Vec<Action>) {
        if self.disco.is_none() {
            return;
        }
        self.full_ping = Some(now);
        let keep = self.best.map(|best| best.0).filter(|_| self.is_trusted(now));
        self.candidates.prune(now, keep);
        if let Some((best, _)) = self.best
            && self.candidates.find(best).is_none()
        {
            self.best = None;
            self.trust_until = None;
        }
        let due = self.candidates.iter_mut().filter(|candidate| is_due(candidate.pinged, now));
        let due = due.map(|candidate| candidate.address).collect::<Vec<_>>();
        for address in due {
            self.ping(now, env, Via::Udp(address), out);
        }
        if call && is_due(self.calling, now) {
            self.send_call(now, env, out);
        }
    }

    fn send_call(&mut self, now: Instant, env: &Env, out: &mut Vec<Action>) {
        let (Some(region), true) = (self.relay(now), self.disco.is_some()) else { return };
        if !env.is_fresh(now) {
            self.call_waits = true;
            return;
        }
        self.calling = Some(now);
        let endpoints = env.endpoints.iter().copied().take(MAX_ENDPOINTS).collect();
        out.push(self.disco_action(Via::Relay(region), Message::CallMeMaybe { endpoints }));
    }

    fn follow_call(&mut self, now: Instant, env: &Env, endpoints: &[SocketAddr], out: &mut Vec<Action>) {
        self.called = Some(now);
        self.call = None;
        self.candidates.set_called(endpoints);
        // The peer has just sent to us, so its firewall is open now: do not wait for anybody's turn.
        for candidate in self.candidates.iter_mut() {
            candidate.pinged = candidate.pinged.filter(|at| now.duration_since(*at) < CALL_INTERVAL);
        }
        self.full_ping(now, env, false, out);
    }

    fn ping(&mut self, now: Instant, env: &Env, to: Via, out: &mut Vec<Action>) {
        let mut txid = TxId::default();
        // Without a number that nobody can guess there is no ping.
        if self.disco.is_none() || fill_random(&mut txid).is_err() {
            return;
        }
        if self.pings.len() >= PINGS {
            self.pings.pop_front();
        }
        self.pings.push_back(Sent { txid, to, at: now });
        match to {
            Via::Udp(address) => {
                if let Some(candidate) = self.candidates.find(address) {
                    candidate.pinged = Some(now);
                }
            }
            Via::Relay(_) => self.relay_pinged = Some(now),
        }
        out.push(self.disco_action(to, Message::Ping { txid, node: Some(env.own) }));
    }

    fn pong(&mut self, now: Instant, txid: &TxId, from: Via, out: &mut Vec<Action>) -> Pong {
        let Some(at) = self.pings.iter().position(|sent| sent.txid == *txid) else { return Pong::Unknown };
        let sent = self.pings.get(at).copied();
        let Some(sent) = sent.filter(|sent| now < sent.at + PING_TIMEOUT) else { return Pong::Unknown };
        // A ping by UDP that is answered by a relay proves nothing of the path.
        if matches!(sent.to, Via::Udp(_)) != matches!(from, Via::Udp(_)) {
            return Pong::Unknown;
        }
        self.pings.remove(at);
        self.pongs += 1;
        let latency = now.duration_since(sent.at);
        match sent.to {
            Via::Relay(region) => self.relay_latency = Some((region, latency)),
            Via::Udp(address) => {
                let Some(candidate) = self.candidates.find(address) else { return Pong::Taken };
                candidate.measured(now, latency);
                let new = (address, latency);
                let better = |best: (SocketAddr, Duration)| {
                    is_better((address, self.judged(new)), (best.0, self.judged(best)))
                };
                let replaces = match self.best {
                    Some(best) => best.0 == address || !self.is_trusted(now) || better(best),
                    None => true,
                };
                if replaces {
                    self.best = Some(new);
                    self.trust_until = Some(now + TRUST);
                    self.confirmed = Some(now);
                    if self.hint.is_some_and(|hint| hint.0 == address) {
                        self.hint = None;
                    }
                }
            }
        }
        self.refresh(now, out);
        Pong::Taken
    }

    /// What a path's latency is in a comparison: the shortest of late.
    fn judged(&self, path: (SocketAddr, Duration)) -> Duration {
        self.candidates.floor(path.0).unwrap_or(path.1)
    }

    /// Works the route out anew.
    fn refresh(&mut self, now: Instant, out: &mut Vec<Action>) {
        let route = self.work_out(now);
        if route != self.route {
            self.route = route;
            out.push(Action::RouteChanged { peer: self.key });
        }
    }

    fn work_out(&mut self, now: Instant) -> Route {
        let relay = self.relay(now);
        let best = self.best.map(|best| best.0);
        if best.is_some() && self.is_trusted(now) {
            return Route { direct: best, relay: None };
        }
        self.hint = self.hint.filter(|(_, at)| now.duration_since(*at) < SESSION_ACTIVE);
        let fresh = self.hint.filter(|(_, at)| now < *at + TRUST).map(|hint| hint.0);
        if self.disco.is_none() && fresh.is_some() {
            // No pong will ever come: the tunnel's own traffic is all the proof there is.
            return Route { direct: fresh, relay: None };
        }
        let guess = self.disco.is_none() || relay.is_none();
        let direct = fresh.or(best).or_else(|| self.hint.map(|hint| hint.0));
        let direct = direct.or_else(|| self.candidates.nth(self.turn).filter(|_| guess));
        Route { direct, relay }
    }

    fn lose_path(&mut self) {
        self.best = None;
        self.trust_until = None;
        self.confirmed = None;
        self.hint = None;
        self.pings.clear();
        self.full_ping = None;
        self.calling = None;
        self.relay_latency = None;
        self.relay_pinged = None;
    }

    fn note_relay(&mut self, now: Instant, region: RegionId) {
        self.reply = Some((region, now)).filter(|_| self.home != Some(region));
    }

    fn relay(&self, now: Instant) -> Option<RegionId> {
        let reply = self.reply.filter(|(_, at)| now < *at + REPLY_ROUTE);
        reply.map(|reply| reply.0).or(self.home)
    }

    fn is_trusted(&self, now: Instant) -> bool {
        self.trust_until.is_some_and(|until| now < until)
    }

    fn is_active(&self, now: Instant) -> bool {
        self.wanted.is_some_and(|at| now.duration_since(at) <= SESSION_ACTIVE)
    }

    const fn disco_action(&self, to: Via, message: Message) -> Action {
        Action::Disco { peer: self.key, to, message }
    }
}

fn is_due(last: Option<Instant>, now: Instant) -> bool {
    last.is_none_or(|at| now.duration_since(at) >= PING_INTERVAL)
}

/// The address that stands for a relay in a pong (tailscale `tailcfg.DerpMagicIP`).
fn relay_address(region: RegionId) -> SocketAddr {
    let port = u16::try_from(region.0).unwrap_or(0);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 3, 3, 40)), port)
}

/// Pings on their way to one peer: every candidate, and a few heartbeats.
const PINGS: usize = 128;
/// Answered pings that are remembered: more than a peer sends within the time that a datagram lives.
const ANSWERED: usize = 32;
