//! Two peers behind NATs, in virtual time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::*;
use crate::disco::Message;
use crate::key::{Disco, Node, Public};
use crate::netmap::RegionId;

/// What stands between a host and the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nat {
    /// Nothing.
    Public,
    /// One mapping for all destinations; anybody may answer.
    FullCone,
    /// One mapping for all destinations; only who was sent to may answer.
    PortRestricted,
    /// A mapping for each destination, and only it may answer.
    Symmetric,
}

pub(super) struct Host {
    pub(super) key: Public<Node>,
    pub(super) disco: Public<Disco>,
    pub(super) home: RegionId,
    pub(super) paths: Paths,
    /// Whether it has something to send.
    pub(super) sends: bool,
    pub(super) got: Vec<(Instant, u64, Via)>,
    pub(super) sent: Vec<(Instant, u64)>,
    pub(super) outcomes: HashMap<Outcome, usize>,
    local: SocketAddr,
    public: IpAddr,
    nat: Nat,
    /// By destination (`None`: all of them) the port outside.
    mappings: HashMap<Option<SocketAddr>, u16>,
    /// Port outside and whom it was used to send to.
    opened: BTreeSet<(u16, SocketAddr)>,
    next_port: u16,
}

#[derive(Clone, Debug)]
enum Payload {
    Disco(Message),
    WireGuard(u64),
}

#[derive(Debug)]
enum Event {
    Udp { to: usize, at_port: u16, from: SocketAddr, payload: Payload },
    Relay { to: usize, region: RegionId, payload: Payload },
    Endpoints(usize),
}

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) hosts: [Host; 2],
    pub(super) udp_delay: Duration,
    pub(super) relay_delay: Duration,
    /// In percent.
    pub(super) loss: u64,
    pub(super) duplicates: u64,
    pub(super) jitter: Duration,
    pub(super) udp_blocked: bool,
    pub(super) dark: bool,
    /// Disco messages, by host and type.
    pub(super) disco_sent: [usize; 2],
    queue: BTreeMap<(Instant, u64), Event>,
    next_traffic: Instant,
    serial: u64,
    random: u64,
}

impl World {
    pub(super) fn new(nats: [Nat; 2]) -> Self {
        let now = Instant::now();
        let mut hosts = [0_u8, 1].map(|index| {
            let nat = nats[usize::from(index)];
            let key = Public::new([index + 1; 32]);
            let public = IpAddr::from([203, 0, 113, index + 1]);
            let inside = if nat == Nat::Public { public } else { IpAddr::from([192, 168, index, 2]) };
            Host {
                key,
                disco: Public::new([index + 101; 32]),
                home: RegionId(u32::from(index) + 1),
                paths: Paths::new(PathConfig { own: key, excluded: vec!["100.64.0.0/10".parse().unwrap()] }),
                sends: true,
                got: Vec::new(),
                sent: Vec::new(),
                outcomes: HashMap::new(),
                local: SocketAddr::new(inside, 41641),
                public,
                nat,
                mappings: HashMap::new(),
                opened: BTreeSet::new(),
                next_port: 20_000 + 1000 * u16::from(index),
            }
        });
        let endpoints = hosts.each_mut().map(Host::endpoints);
        let identities = hosts.each_ref().map(|host| (host.key, host.disco, host.home));
        for index in 0..2 {
            let other = 1 - index;
            let (key, disco, home) = identities[other];
            let config = PeerConfig { disco: Some(disco), home: Some(home), endpoints: &endpoints[other] };
            hosts[index].paths.set_peer(now, key, config, &mut Vec::new());
            let own = endpoints[index].clone();
            hosts[index].paths.set_endpoints(now, own, &mut Vec::new());
        }
        Self {
            now,
            hosts,
            udp_delay: Duration::from_millis(10),
            relay_delay: Duration::from_millis(30),
            loss: 0,
            duplicates: 0,
            jitter: Duration::ZERO,
            udp_blocked: false,
            dark: false,
            disco_sent: [0; 2],
            queue: BTreeMap::new(),
            next_traffic: now,
            serial: 0,
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    pub(super) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let deadlines = self.hosts.iter().filter_map(|host| host.paths.next_deadline()).min();
            let event = self.queue.keys().next().map(|key| key.0);
            let next = [deadlines, event, Some(self.next_traffic)].into_iter().flatten().min().unwrap();
            if next > end {
                self.now = end;
                return;
            }
            self.now = self.now.max(next);
            if let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= self.now) {
                let event = entry.remove();
                self.take(event);
            } else if self.next_traffic <= self.now {
                self.next_traffic = self.now + TRAFFIC;
                for host in 0..2 {
                    if self.hosts[host].sends {
                        self.traffic(host);
                    }
                }
            } else {
                for host in 0..2 {
                    let mut out = Vec::new();
                    self.hosts[host].paths.tick(self.now, &mut out);
                    self.act(host, out);
                }
            }
        }
    }

    /// The NAT forgets everything, and gives other ports from now on.
    pub(super) fn move_mapping(&mut self, host: usize) {
        let host = &mut self.hosts[host];
        host.mappings.clear();
        host.opened.clear();
        host.next_port += 100;
    }

    pub(super) fn route(&self, host: usize) -> Route {
        self.hosts[host].paths.route(&self.hosts[1 - host].key).unwrap()
    }

    pub(super) fn is_direct(&self, host: usize) -> bool {
        let route = self.route(host);
        route.direct.is_some() && route.relay.is_none()
    }

    /// Traffic of `host` that did not reach the other, sent in the given time and long enough ago to have arrived.
    pub(super) fn lost(&self, host: usize, from: Instant, to: Instant) -> usize {
        let got = self.hosts[1 - host].got.iter().map(|got| got.1).collect::<BTreeSet<_>>();
        let sent = self.hosts[host].sent.iter().filter(|sent| sent.0 >= from && sent.0 < to);
        sent.filter(|sent| !got.contains(&sent.1)).count()
    }

    pub(super) fn got_by_udp(&self, host: usize, since: Instant) -> usize {
        let got = self.hosts[host].got.iter();
        got.filter(|got| got.0 >= since && matches!(got.2, Via::Udp(_))).count()
    }

    fn traffic(&mut self, host: usize) {
        let other = self.hosts[1 - host].key;
        let mut out = Vec::new();
        self.hosts[host].paths.wanted(self.now, &other, &mut out);
        self.act(host, out);
        let route = self.route(host);
        self.serial += 1;
        let number = self.serial;
        self.hosts[host].sent.push((self.now, number));
        if let Some(address) = route.direct {
            self.send_udp(host, address, Payload::WireGuard(number));
        }
        if let Some(region) = route.relay {
            self.send_relay(host, region, Payload::WireGuard(number));
        }
    }

    fn act(&mut self, host: usize, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Disco { peer, to, message } => {
                    assert_eq!(peer, self.hosts[1 - host].key);
                    self.disco_sent[host] += 1;
                    match to {
                        Via::Udp(address) => self.send_udp(host, address, Payload::Disco(message)),
                        Via::Relay(region) => self.send_relay(host, region, Payload::Disco(message)),
                    }
                }
                Action::NeedEndpoints => self.enqueue(Duration::from_millis(40), Event::Endpoints(host)),
                Action::RouteChanged { .. } => {}
            }
        }
    }

    fn take(&mut self, event: Event) {
        let mut out = Vec::new();
        let host = match event {
            Event::Udp { to, at_port, from, payload } => {
                if !self.hosts[to].lets_in(at_port, from) {
                    return;
                }
                self.arrive(to, Source::Udp(from), Via::Udp(from), payload, &mut out);
                to
            }
            Event::Relay { to, region, payload } => {
                let source = Source::Relay { region, node: self.hosts[1 - to].key };
                self.arrive(to, source, Via::Relay(region), payload, &mut out);
                to
            }
            Event::Endpoints(host) => {
                let endpoints = self.hosts[host].endpoints();
                self.hosts[host].paths.set_endpoints(self.now, endpoints, &mut out);
                host
            }
        };
        self.act(host, out);
    }

    fn arrive(&mut self, to: usize, source: Source, via: Via, payload: Payload, out: &mut Vec<Action>) {
        let (key, disco) = (self.hosts[1 - to].key, self.hosts[1 - to].disco);
        let (now, host) = (self.now, &mut self.hosts[to]);
        match payload {
            Payload::Disco(message) => {
                let outcome = host.paths.on_disco(now, &disco, source, &message, out);
                *host.outcomes.entry(outcome).or_default() += 1;
            }
            Payload::WireGuard(number) => {
                // The engine refuses what it has seen: only the first copy is authentic news.
                if host.got.iter().all(|got| got.1 != number) {
                    host.got.push((now, number, via));
                    host.paths.received(now, &key, via, out);
                }
            }
        }
    }

    fn send_udp(&mut self, host: usize, to: SocketAddr, payload: Payload) {
        let from = self.hosts[host].outside(to);
        if self.udp_blocked || self.dark {
            return;
        }
        let Some(target) = self.hosts.iter().position(|target| target.public == to.ip()) else { return };
        for _ in 0..self.copies() {
            let delay = self.udp_delay + self.wobble();
            let event = Event::Udp { to: target, at_port: to.port(), from, payload: payload.clone() };
            self.enqueue(delay, event);
        }
    }

    fn send_relay(&mut self, host: usize, region: RegionId, payload: Payload) {
        if !self.dark {
            self.enqueue(self.relay_delay, Event::Relay { to: 1 - host, region, payload });
        }
    }

    fn copies(&mut self) -> usize {
        if self.random() % 100 < self.loss {
            0
        } else if self.random() % 100 < self.duplicates {
            2
        } else {
            1
        }
    }

    fn wobble(&mut self) -> Duration {
        self.jitter.mul_f64((self.random() % 1000) as f64 / 1000.0)
    }

    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn enqueue(&mut self, delay: Duration, event: Event) {
        self.serial += 1;
        self.queue.insert((self.now + delay, self.serial), event);
    }
}

impl Host {
    /// The local address, and what a STUN server sees.
    fn endpoints(&mut self) -> Vec<SocketAddr> {
        let mut endpoints = vec![self.local, self.outside("198.51.100.1:3478".parse().unwrap())];
        endpoints.dedup();
        endpoints
    }

    /// What the world sees as the source of a datagram.
    fn outside(&mut self, to: SocketAddr) -> SocketAddr {
        let by = match self.nat {
            Nat::Public => return self.local,
            Nat::FullCone | Nat::PortRestricted => None,
            Nat::Symmetric => Some(to),
        };
        let next = &mut self.next_port;
        let port = *self.mappings.entry(by).or_insert_with(|| {
            *next += 1;
            *next
        });
        self.opened.insert((port, to));
        SocketAddr::new(self.public, port)
    }

    fn lets_in(&self, port: u16, from: SocketAddr) -> bool {
        match self.nat {
            Nat::Public => port == self.local.port(),
            Nat::FullCone => self.mappings.values().any(|mapped| *mapped == port),
            Nat::PortRestricted | Nat::Symmetric => self.opened.contains(&(port, from)),
        }
    }
}

/// Between two packets of each host.
pub(super) const TRAFFIC: Duration = Duration::from_millis(500);
