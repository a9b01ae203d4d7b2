//! The machines of all peers.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use ipnet::IpNet;

use super::peer::{Env, PeerConfig, PeerPath};
use super::{Action, PING_INTERVAL, PING_TIMEOUT, PathStatus, Route, Via};
use crate::disco::{Message, TxId};
use crate::key::{Disco, Node, Public};
use crate::netmap::RegionId;

/// What the machines need to know beforehand.
#[derive(Clone, Debug)]
pub struct PathConfig {
    /// Our node key.
    pub own: Public<Node>,
    /// The tailnet's prefixes: no peer's UDP address is inside.
    pub excluded: Vec<IpNet>,
}

/// Where a disco message came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The UDP socket.
    Udp(SocketAddr),
    /// A relay, that says who sent it.
    Relay {
        /// Which.
        region: RegionId,
        /// Who.
        node: Public<Node>,
    },
}

/// What became of a disco message, to be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was what it should be.
    Taken,
    /// Its disco key is not in the map.
    UnknownSender,
    /// The relay says that it came from a node with another disco key.
    WrongNode,
    /// A call-me-maybe that did not come over a relay.
    NotByRelay,
    /// A pong that we did not ask for, or that comes too late.
    UnknownPong,
    /// A ping that was answered before, or from an address that nobody can have.
    Refused,
    /// A type that we do not know.
    Ignored,
}

/// Where every peer of the map is reached.
#[derive(Debug)]
pub struct Paths {
    env: Env,
    peers: HashMap<Public<Node>, Entry>,
    /// Several nodes can have one disco key: one process that was in the map under other keys before, or whoever says so.
    by_disco: BTreeSet<(Public<Disco>, Public<Node>)>,
    deadlines: BTreeSet<(Instant, Public<Node>)>,
    /// Whose call-me-maybe waits for our addresses.
    waiting: BTreeSet<Public<Node>>,
    asked: Option<Instant>,
    pings: Pings,
}

/// Whom each ping on its way went to. A disco key does not say it: whoever joins may give itself that of another node.
#[derive(Debug, Default)]
struct Pings {
    to: HashMap<TxId, Public<Node>>,
    /// When each was sent, the oldest first.
    sent: VecDeque<(Instant, TxId)>,
}

impl Pings {
    /// Notes those among actions.
    fn note(&mut self, now: Instant, actions: &[Action]) {
        for action in actions {
            if let Action::Disco { peer, message: Message::Ping { txid, .. }, .. } = action {
                self.to.insert(*txid, *peer);
                self.sent.push_back((now, *txid));
            }
        }
        while let Some((at, txid)) = self.sent.front()
            && now.duration_since(*at) >= PING_TIMEOUT
        {
            self.to.remove(txid);
            self.sent.pop_front();
        }
    }
}

#[derive(Debug)]
struct Entry {
    path: PeerPath,
    deadline: Option<Instant>,
}

impl Paths {
    /// Without peers.
    pub fn new(config: PathConfig) -> Self {
        let PathConfig { own, excluded } = config;
        Self {
            env: Env { own, excluded, endpoints: Vec::new(), endpoints_at: None },
            peers: HashMap::new(),
            by_disco: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            waiting: BTreeSet::new(),
            asked: None,
            pings: Pings::default(),
        }
    }

    /// A peer is in the map, or the map says something else of it.
    pub fn set_peer(
        &mut self,
        now: Instant,
        key: Public<Node>,
        config: PeerConfig<'_>,
        out: &mut Vec<Action>,
    ) {
        let entry =
            self.peers.entry(key).or_insert_with(|| Entry { path: PeerPath::new(key), deadline: None });
        let (before, after) = (entry.path.disco(), config.disco);
        if before != after {
            self.unlink(before, key);
            if let Some(disco) = after {
                self.by_disco.insert((disco, key));
            }
        }
        self.with(now, &key, out, |path, env, out| path.configure(now, env, config, out));
    }

    /// A peer is no longer in the map.
    pub fn remove_peer(&mut self, key: &Public<Node>) {
        if let Some(entry) = self.peers.remove(key) {
            self.unlink(entry.path.disco(), *key);
            if let Some(deadline) = entry.deadline {
                self.deadlines.remove(&(deadline, *key));
            }
            self.waiting.remove(key);
        }
    }

    /// Another node key of ours: pings carry it.
    pub const fn set_own(&mut self, own: Public<Node>) {
        self.env.own = own;
    }

    /// Where we may be reached, as far as it could be found out now.
    pub fn set_endpoints(&mut self, now: Instant, endpoints: Vec<SocketAddr>, out: &mut Vec<Action>) {
        self.env.endpoints = endpoints;
        self.env.endpoints_at = Some(now);
        self.asked = None;
        for key in std::mem::take(&mut self.waiting) {
            self.with(now, &key, out, |path, env, out| path.endpoints_known(now, env, out));
        }
    }

    /// There is traffic for a peer; about once a second is enough.
    pub fn wanted(&mut self, now: Instant, key: &Public<Node>, out: &mut Vec<Action>) {
        self.with(now, key, out, |path, env, out| path.wanted(now, env, out));
    }

    /// Looks for a path to a peer now, whether there is traffic or not.
    pub fn discover(&mut self, now: Instant, key: &Public<Node>, out: &mut Vec<Action>) {
        self.with(now, key, out, |path, env, out| path.discover(now, env, out));
    }

    /// An authentic WireGuard packet of a peer came that way; about once a second, and at each change, is enough. It must have come
    /// just now: on the path in use it stands for a pong.
    pub fn received(&mut self, now: Instant, key: &Public<Node>, from: Via, out: &mut Vec<Action>) {
        self.with(now, key, out, |path, env, out| path.received(now, env, from, out));
    }

    /// A disco message that opened with the box of `sender`.
    pub fn on_disco(
        &mut self,
        now: Instant,
        sender: &Public<Disco>,
        source: Source,
        message: &Message,
        out: &mut Vec<Action>,
    ) -> Outcome {
        let Some(first) = self.nodes_of(sender).next() else { return Outcome::UnknownSender };
        let is_theirs = |node: &Public<Node>| self.by_disco.contains(&(*sender, *node));
        let via = match source {
            Source::Udp(address) => Via::Udp(address),
            Source::Relay { region, .. } => Via::Relay(region),
        };
        if let Source::Relay { node, .. } = source
            && !is_theirs(&node)
        {
            return Outcome::WrongNode;
        }
        match (message, source) {
            (Message::Ping { txid, node }, _) => {
                let claimed = match source {
                    Source::Relay { node, .. } => Some(node),
                    Source::Udp(_) => node.filter(is_theirs),
                };
                let key = claimed.unwrap_or(first);
                let mut taken = false;
                self.with(now, &key, out, |path, env, out| {
                    taken = path.on_ping(now, env, *txid, via, out);
                });
                if taken { Outcome::Taken } else { Outcome::Refused }
            }
            (Message::Pong { txid, .. }, _) => {
                let pinged = self.pings.to.get(txid).copied().filter(is_theirs);
                let mut taken = false;
                if let Some(key) = pinged {
                    self.with(now, &key, out, |path, _, out| taken = path.on_pong(now, txid, via, out));
                }
                if taken { Outcome::Taken } else { Outcome::UnknownPong }
            }
            (Message::CallMeMaybe { endpoints }, Source::Relay { node, .. }) => {
                self.with(now, &node, out, |path, env, out| path.on_call_me_maybe(now, env, endpoints, out));
                Outcome::Taken
            }
            (Message::CallMeMaybe { .. }, Source::Udp(_)) => Outcome::NotByRelay,
            (Message::Unknown(_), _) => Outcome::Ignored,
        }
    }

    /// A relay says that it does not have a peer.
    pub fn peer_gone(&mut self, now: Instant, region: RegionId, key: &Public<Node>, out: &mut Vec<Action>) {
        self.with(now, key, out, |path, _, out| path.relay_lost(now, region, out));
    }

    /// A region's connection ended: replies no longer go there.
    pub fn region_lost(&mut self, now: Instant, region: RegionId, out: &mut Vec<Action>) {
        for key in self.keys() {
            self.with(now, &key, out, |path, _, out| path.relay_lost(now, region, out));
        }
    }

    /// Our own addresses or routes changed.
    pub fn network_changed(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.env.endpoints_at = None;
        for key in self.keys() {
            self.with(now, &key, out, |path, env, out| path.network_changed(now, env, out));
        }
    }

    /// Does what is due: looks at no peer for which nothing is.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        while let Some((deadline, key)) = self.deadlines.first().copied()
            && deadline <= now
        {
            self.with(now, &key, out, |path, env, out| path.tick(now, env, out));
            // A machine whose deadline does not move would hang us here: it waits for its next event instead.
            if self.deadlines.remove(&(deadline, key))
                && let Some(entry) = self.peers.get_mut(&key)
            {
                debug_assert!(false, "a deadline that does not move");
                entry.deadline = None;
            }
        }
        let again = self.asked.is_none_or(|at| now.duration_since(at) >= PING_INTERVAL);
        if !self.waiting.is_empty() && again {
            self.asked = Some(now);
            out.push(Action::NeedEndpoints);
        }
    }

    /// When [`Paths::tick`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let asked = self.asked.filter(|_| !self.waiting.is_empty()).map(|at| at + PING_INTERVAL);
        let first = self.deadlines.first().map(|(at, _)| *at);
        [asked, first].into_iter().flatten().min()
    }

    /// Where to send a peer's packets.
    pub fn route(&self, key: &Public<Node>) -> Option<Route> {
        self.peers.get(key).map(|entry| entry.path.route())
    }

    /// How a peer is reached.
    pub fn status(&self, now: Instant, key: &Public<Node>) -> Option<PathStatus> {
        self.peers.get(key).map(|entry| entry.path.status(now))
    }

    /// How many peers are reached by a direct way that is trusted.
    pub fn trusted(&self, now: Instant) -> usize {
        self.peers.values().filter(|entry| entry.path.status(now).trusted).count()
    }

    /// A peer's disco key: for whom its messages are sealed.
    pub fn disco(&self, key: &Public<Node>) -> Option<Public<Disco>> {
        self.peers.get(key)?.path.disco()
    }

    /// The nodes with a disco key, in the order of their keys.
    fn nodes_of(&self, disco: &Public<Disco>) -> impl Iterator<Item = Public<Node>> {
        let (first, last) = (Public::zero(), Public::new([0xff; 32]));
        self.by_disco.range((*disco, first)..=(*disco, last)).map(|(_, node)| *node)
    }

    fn unlink(&mut self, disco: Option<Public<Disco>>, key: Public<Node>) {
        if let Some(disco) = disco {
            self.by_disco.remove(&(disco, key));
        }
    }

    fn keys(&self) -> Vec<Public<Node>> {
        self.peers.keys().copied().collect()
    }

    /// Lets one machine work, and notes when it is next due and what it waits for.
    fn with(
        &mut self,
        now: Instant,
        key: &Public<Node>,
        out: &mut Vec<Action>,
        work: impl FnOnce(&mut PeerPath, &Env, &mut Vec<Action>),
    ) {
        let Some(entry) = self.peers.get_mut(key) else { return };
        let before = out.len();
        work(&mut entry.path, &self.env, out);
        self.pings.note(now, out.get(before..).unwrap_or_default());
        let deadline = entry.path.next_deadline(now);
        if deadline != entry.deadline {
            if let Some(before) = entry.deadline {
                self.deadlines.remove(&(before, *key));
            }
            if let Some(deadline) = deadline {
                self.deadlines.insert((deadline, *key));
            }
            entry.deadline = deadline;
        }
        if entry.path.call_waits() && self.waiting.insert(*key) && self.asked.is_none() {
            self.asked = Some(now);
            out.push(Action::NeedEndpoints);
        }
    }
}
