//! What our network looks like from outside, by STUN: where we may be reached, how far each region is, which is to be home
//! (tailscale `net/netcheck/netcheck.go`).
//!
//! Pure: the caller sends the requests from the UDP socket that carries everything else (else the answers would be about
//! another mapping), looks names up, and hands the answers in.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::key::fill_random;
use crate::netmap::{DerpMap, DerpNode, DerpRegion, RegionId};
use crate::stun::{self, StunError, TxId};

mod home;
#[cfg(test)]
mod tests;

use home::History;
pub use home::{HomeInputs, choose_home};

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send this from the UDP socket.
    Send {
        /// To a STUN server.
        to: SocketAddr,
        /// The request.
        packet: [u8; stun::REQUEST_LEN],
    },
    /// Look this name up and call [`Netcheck::resolved`].
    Resolve {
        /// The name of a STUN server without addresses in the map.
        host: String,
    },
    /// No STUN server answers: connect to these regions' relays and call [`Netcheck::relay_connected`] for those that take us.
    TryRelays {
        /// Which.
        regions: Vec<RegionId>,
    },
    /// A round is over: tell [`crate::path::Paths::set_endpoints`], and whoever else asked.
    Finished,
    /// [`Report::home`] is another now.
    HomeChanged {
        /// Which.
        home: Option<RegionId>,
    },
}

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The region to be home.
    pub home: Option<RegionId>,
    /// The last round trip to each region.
    pub latency: BTreeMap<RegionId, Duration>,
    /// Our IPv4 addresses as servers see them: more than one if our NAT maps by destination.
    pub global_v4: Vec<SocketAddr>,
    /// Our IPv6 addresses as servers see them.
    pub global_v6: Vec<SocketAddr>,
    /// Whether our NAT gives another address for each destination; `None`: fewer than two servers answered.
    pub mapping_varies: Option<bool>,
    /// Whether UDP reaches any server; `None`: not known yet.
    pub udp: Option<bool>,
}

impl Report {
    /// Where we may be reached from outside.
    pub fn endpoints(&self) -> impl Iterator<Item = SocketAddr> {
        self.global_v4.iter().chain(&self.global_v6).copied()
    }
}

/// Asks STUN servers, round after round.
#[derive(Debug)]
pub struct Netcheck {
    map: Arc<DerpMap>,
    /// Whether that is a map's: before, nothing speaks against the home of an earlier run.
    mapped: bool,
    names: HashMap<String, Vec<IpAddr>>,
    report: Report,
    report_at: Option<Instant>,
    /// The network is another than the one that the report is about.
    stale: bool,
    /// Rounds in a row in which a family was silent: IPv4, IPv6.
    silent: [u32; 2],
    history: History,
    round: Option<Round>,
    next_round: Option<Instant>,
    /// Somebody asked while a round was under way.
    again: bool,
    last_full: Option<Instant>,
    active: bool,
    /// When each region's relay last sent a frame.
    alive: BTreeMap<RegionId, Instant>,
    relays: BTreeMap<RegionId, Duration>,
    /// When relays were last tried because home was lost.
    tried: Option<Instant>,
}

#[derive(Debug)]
struct Round {
    started: Instant,
    probes: Vec<Probe>,
    sent: HashMap<TxId, Sent>,
    answers: Vec<Answer>,
}

impl Round {
    /// Who answered nothing yet is not waited for as long as if nobody had: a family without a route never answers.
    fn end(&self) -> Instant {
        self.started + if self.answers.is_empty() { PROBE_TIMEOUT } else { PATIENCE }
    }
}

/// One region by one family: asked up to [`TRIES`] times, one server after the other.
#[derive(Debug)]
struct Probe {
    region: RegionId,
    v6: bool,
    tries: u32,
    next: Instant,
    answered: bool,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    region: RegionId,
    to: SocketAddr,
    at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    region: RegionId,
    server: SocketAddr,
    mapped: SocketAddr,
    latency: Duration,
}

impl Netcheck {
    /// Without a map nothing is asked.
    pub fn new() -> Self {
        Self {
            map: Arc::default(),
            mapped: false,
            names: HashMap::new(),
            report: Report::default(),
            report_at: None,
            stale: false,
            silent: [0; 2],
            history: History::default(),
            round: None,
            next_round: None,
            again: false,
            last_full: None,
            active: false,
            alive: BTreeMap::new(),
            relays: BTreeMap::new(),
            tried: None,
        }
    }

    /// What is known now.
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// The relays of the map. `home` of an earlier run may be given by [`Netcheck::restore_home`] before.
    pub fn set_map(&mut self, now: Instant, map: Arc<DerpMap>, out: &mut Vec<Action>) {
        if std::mem::replace(&mut self.mapped, true) && self.map == map {
            return;
        }
        self.map = map;
        self.history.keep(&self.map);
        self.report.latency.retain(|region, _| self.map.regions.contains_key(region));
        self.relays.retain(|region, _| self.map.regions.contains_key(region));
        self.alive.retain(|region, _| self.map.regions.contains_key(region));
        let hosts: HashSet<String> = self.nodes().map(|node| node.host.clone()).collect();
        self.names.retain(|host, _| hosts.contains(host));
        self.last_full = None;
        self.next_round = Some(now);
        self.round = None;
        // A home that left the map is none; a single region needs no measuring.
        self.settle_home(now, &BTreeMap::new(), out);
    }

    /// The home of an earlier run: kept while nothing speaks against it.
    pub const fn restore_home(&mut self, home: Option<RegionId>) {
        self.report.home = home;
    }

    /// A name's addresses.
    pub fn resolved(&mut self, host: String, addresses: Vec<IpAddr>) {
        if self.nodes().any(|node| node.host == host) {
            self.names.insert(host, addresses);
        }
    }

    /// Whether there is traffic: then our mapping must stay known (and open).
    pub fn set_active(&mut self, now: Instant, active: bool) {
        if active && !self.active && self.round.is_none() {
            let due = self.report_at.map_or(now, |at| at + random_between(RE_STUN_MIN, RE_STUN_MAX));
            self.next_round = Some(self.next_round.map_or(due, |at| at.min(due)));
        }
        self.active = active;
    }

    /// Somebody needs to know where we are: a round now; if one is under way, another after it, since what it asked was asked before.
    pub const fn request(&mut self, now: Instant) {
        if self.round.is_none() {
            self.next_round = Some(now);
        } else {
            self.again = true;
        }
    }

    /// Our network changed: everything is asked anew.
    pub fn network_changed(&mut self, now: Instant) {
        self.round = None;
        self.again = false;
        self.last_full = None;
        self.stale = true;
        self.report.udp = None;
        // How near a region was in the network that we left says nothing of this one.
        self.history = History::default();
        self.report.latency.clear();
        // Home is connected to, or will be: unless it is lost, it is not worse than those that are tried beside it.
        let home = self.report.home;
        self.relays.retain(|region, _| Some(*region) == home);
        self.next_round = Some(now);
    }

    /// A region's relay sent a frame.
    pub fn relay_alive(&mut self, region: RegionId, at: Instant) {
        if self.map.regions.contains_key(&region) {
            self.alive.insert(region, at);
        }
    }

    /// A relay took us, after so long: counts where STUN does not get through.
    pub fn relay_connected(&mut self, now: Instant, region: RegionId, took: Duration, out: &mut Vec<Action>) {
        // Of one that has left the map meanwhile, nothing is kept.
        if !self.map.regions.contains_key(&region) {
            return;
        }
        self.alive.insert(region, now);
        self.relays.insert(region, took);
        if self.report.udp == Some(false) || self.report.home.is_none() {
            let relays = self.relays.clone();
            self.settle_home(now, &relays, out);
        }
    }

    /// A region's relay was lost, or did not take us. Where STUN does not get through, home moves to one that takes us, once it was
    /// away for a while.
    pub fn relay_lost(&mut self, now: Instant, region: RegionId, out: &mut Vec<Action>) {
        self.relays.remove(&region);
        if self.report.udp != Some(false) || self.report.home != Some(region) {
            return;
        }
        let relays = self.relays.clone();
        self.settle_home(now, &relays, out);
        let others = self.eligible().map(|region| region.id).filter(|other| *other != region);
        let others = others.collect::<Vec<_>>();
        let due = self.tried.is_none_or(|at| now.duration_since(at) >= TRY_AGAIN);
        if self.report.home == Some(region) && due && !others.is_empty() {
            self.tried = Some(now);
            out.push(Action::TryRelays { regions: others });
        }
    }

    /// A STUN answer came. It is ours only if its number is.
    ///
    /// # Errors
    /// If it is no answer at all.
    pub fn on_stun(
        &mut self,
        now: Instant,
        from: SocketAddr,
        packet: &[u8],
        out: &mut Vec<Action>,
    ) -> Result<bool, StunError> {
        let (txid, mapped) = stun::parse_response(packet)?;
        let Some(round) = &mut self.round else { return Ok(false) };
        // The address of whoever answers must be the one that was asked: a number alone could have been overheard.
        let known = round.sent.get(&txid).filter(|sent| sent.to == from).copied();
        let Some(sent) = known else { return Ok(false) };
        round.sent.remove(&txid);
        let answer =
            Answer { region: sent.region, server: from, mapped, latency: now.duration_since(sent.at) };
        round.answers.push(answer);
        for probe in &mut round.probes {
            if probe.region == sent.region && probe.v6 == from.is_ipv6() {
                probe.answered = true;
            }
        }
        if round.probes.iter().all(|probe| probe.answered) {
            self.finish(now, out);
        }
        Ok(true)
    }

    /// Does what is due.
    pub fn tick(&mut self, now: Instant, out: &mut Vec<Action>) {
        if self.round.is_none() && self.next_round.is_some_and(|at| at <= now) {
            self.begin(now, out);
        }
        self.probe(now, out);
        let over = self.round.as_ref().is_some_and(|round| now >= round.end());
        if over || self.round.as_ref().is_some_and(|round| round.probes.is_empty()) {
            self.finish(now, out);
        }
    }

    /// When [`Netcheck::tick`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        let Some(round) = &self.round else { return self.next_round };
        let open = round.probes.iter().filter(|probe| !probe.answered && probe.tries < TRIES);
        open.map(|probe| probe.next).chain([round.end()]).min()
    }

    fn begin(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.next_round = None;
        let full = self.last_full.is_none_or(|at| now.duration_since(at) >= FULL_INTERVAL);
        if full {
            self.last_full = Some(now);
        }
        // A look-up may have failed, and a name may lead elsewhere meanwhile.
        out.extend(self.names_to_look_up(full).into_iter().map(|host| Action::Resolve { host }));
        let wanted = if full { None } else { Some(self.nearest()) };
        let mut probes = Vec::new();
        for (id, region) in &self.map.regions {
            if wanted.as_ref().is_some_and(|wanted| !wanted.contains(id)) {
                continue;
            }
            for v6 in [false, true] {
                if self.servers(region, v6).next().is_some() {
                    probes.push(Probe { region: *id, v6, tries: 0, next: now, answered: false });
                }
            }
        }
        self.round = Some(Round { started: now, probes, sent: HashMap::new(), answers: Vec::new() });
    }

    /// What is asked between full reports: home, and the regions that could take its place.
    fn nearest(&self) -> Vec<RegionId> {
        let mut regions =
            self.report.latency.iter().map(|(region, latency)| (*latency, *region)).collect::<Vec<_>>();
        regions.sort_unstable();
        let nearest = regions.into_iter().map(|(_, region)| region).take(INCREMENTAL);
        let mut nearest = nearest.collect::<Vec<_>>();
        nearest.extend(self.report.home);
        if nearest.is_empty() {
            nearest.extend(self.map.regions.keys());
        }
        nearest
    }

    fn probe(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(mut round) = self.round.take() else { return };
        for probe in &mut round.probes {
            while !probe.answered && probe.tries < TRIES && probe.next <= now {
                let region = self.map.regions.get(&probe.region);
                let turn = usize::try_from(probe.tries).unwrap_or(0);
                let servers = region.map(|region| self.servers(region, probe.v6).collect::<Vec<_>>());
                let servers = servers.unwrap_or_default();
                probe.tries += 1;
                probe.next = now + RETRANSMIT;
                let mut txid = TxId::default();
                let server = turn.checked_rem(servers.len()).and_then(|turn| servers.get(turn));
                if let (Some(to), Ok(())) = (server.copied(), fill_random(&mut txid)) {
                    round.sent.insert(txid, Sent { region: probe.region, to, at: now });
                    out.push(Action::Send { to, packet: stun::request(&txid) });
                }
            }
        }
        self.round = Some(round);
    }

    fn finish(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(round) = self.round.take() else { return };
        let mut latency = BTreeMap::<RegionId, Duration>::new();
        for answer in &round.answers {
            let best = latency.entry(answer.region).or_insert(answer.latency);
            *best = (*best).min(answer.latency);
        }
        let blocked = round.answers.is_empty() && !round.probes.is_empty();
        if !round.probes.is_empty() {
            self.report.udp = Some(!blocked);
        }
        if blocked {
            // One lost round is not the end of a mapping; five minutes are, and another network is.
            if self.stale || self.report_at.is_none_or(|at| now.duration_since(at) >= FULL_INTERVAL) {
                self.report.global_v4.clear();
                self.report.global_v6.clear();
                self.report.mapping_varies = None;
            }
        } else if !round.answers.is_empty() {
            self.report_at = Some(now);
            self.take_mapped(&round.answers);
        }
        if !round.probes.is_empty() {
            self.stale = false;
        }
        for (region, latency) in &latency {
            self.report.latency.insert(*region, *latency);
        }
        self.history.add(now, latency.clone());
        if blocked || round.probes.is_empty() {
            // Each try is a connection: of those that took us, all are tried again with a full report. Home has one, by which it is
            // asked whether it is still there.
            let full = self.last_full == Some(round.started);
            let several = self.eligible().nth(1).is_some();
            let untried = |region: RegionId| full || !self.relays.contains_key(&region);
            let tried = |region: &RegionId| untried(*region) || self.report.home == Some(*region);
            let regions = self.eligible().map(|region| region.id).filter(tried).collect::<Vec<_>>();
            if several && !regions.is_empty() {
                out.push(Action::TryRelays { regions });
            }
            latency.clone_from(&self.relays);
        }
        self.settle_home(now, &latency, out);
        let wait = if self.active { random_between(RE_STUN_MIN, RE_STUN_MAX) } else { FULL_INTERVAL };
        let wait = if self.names_to_look_up(false).is_empty() { wait } else { wait.min(NAMES_AGAIN) };
        let homeless = self.report.home.is_none() && self.eligible().next().is_some();
        let wait = if homeless { wait.min(HOME_AGAIN) } else { wait };
        self.next_round = Some(if std::mem::take(&mut self.again) { now } else { now + wait });
        out.push(Action::Finished);
    }

    /// Where servers see us. A family that is silent once may have lost a few packets; twice, or in another network, it is gone.
    fn take_mapped(&mut self, answers: &[Answer]) {
        let families = [&mut self.report.global_v4, &mut self.report.global_v6];
        for ((known, silent), v6) in families.into_iter().zip(&mut self.silent).zip([false, true]) {
            let seen = mapped(answers, v6);
            *silent = if seen.is_empty() { silent.saturating_add(1) } else { 0 };
            if !seen.is_empty() || *silent >= SILENT_ROUNDS || self.stale {
                *known = seen;
            }
        }
        // A round with a single server says nothing about what another one sees.
        let before = self.report.mapping_varies.filter(|_| !self.stale);
        self.report.mapping_varies = varies(answers).or(before);
    }

    fn settle_home(&mut self, now: Instant, latency: &BTreeMap<RegionId, Duration>, out: &mut Vec<Action>) {
        if !self.mapped {
            return;
        }
        let eligible = self.eligible().map(|region| (region.id, region.score_milli)).collect();
        let before = self.report.home;
        let home = choose_home(&HomeInputs {
            now,
            before,
            eligible: &eligible,
            latency,
            recent: &self.history.best(now),
            alive: before.and_then(|home| self.alive.get(&home).copied()),
        });
        if home != before {
            self.report.home = home;
            out.push(Action::HomeChanged { home });
        }
    }

    /// Regions that may be home.
    fn eligible(&self) -> impl Iterator<Item = &DerpRegion> {
        let relays = |region: &&DerpRegion| region.nodes.iter().any(|node| !node.stun_only);
        self.map.regions.values().filter(|region| !region.not_home).filter(relays)
    }

    fn nodes(&self) -> impl Iterator<Item = &DerpNode> {
        self.map.regions.values().flat_map(|region| &region.nodes)
    }

    /// The STUN servers of a region.
    fn servers<'a>(&'a self, region: &'a DerpRegion, v6: bool) -> impl Iterator<Item = SocketAddr> + 'a {
        region.nodes.iter().filter_map(move |node| {
            let port = node.stun_port?;
            let (given, without) =
                if v6 { (node.ipv6, node.without_ipv6) } else { (node.ipv4, node.without_ipv4) };
            let ip = match given {
                Some(ip) => ip,
                None if without => return None,
                None if node.ipv4.is_some() || node.ipv6.is_some() => return None,
                None => match node.host.parse::<IpAddr>() {
                    Ok(ip) => Some(ip).filter(|ip| ip.is_ipv6() == v6)?,
                    Err(_) => *self.names.get(&node.host)?.iter().find(|ip| ip.is_ipv6() == v6)?,
                },
            };
            Some(SocketAddr::new(ip, port))
        })
    }

    /// Names of servers without addresses: `all`, or those that are not known yet.
    fn names_to_look_up(&self, all: bool) -> Vec<String> {
        let mut names = self
            .nodes()
            .filter(|node| node.ipv4.is_none() && node.ipv6.is_none() && node.stun_port.is_some())
            .filter(|node| node.host.parse::<IpAddr>().is_err())
            .filter(|node| all || !self.names.contains_key(&node.host))
            .map(|node| node.host.clone())
            .collect::<Vec<_>>();
        names.sort_unstable();
        names.dedup();
        names.truncate(MAX_NAMES);
        names
    }
}

impl Default for Netcheck {
    fn default() -> Self {
        Self::new()
    }
}

fn mapped(answers: &[Answer], v6: bool) -> Vec<SocketAddr> {
    let mut mapped = Vec::new();
    for answer in answers.iter().filter(|answer| answer.server.is_ipv6() == v6) {
        if !mapped.contains(&answer.mapped) && mapped.len() < MAX_MAPPED {
            mapped.push(answer.mapped);
        }
    }
    mapped
}

/// Whether two servers see us at different IPv4 addresses.
fn varies(answers: &[Answer]) -> Option<bool> {
    let mut by_server = BTreeMap::new();
    for answer in answers.iter().filter(|answer| answer.server.is_ipv4()) {
        by_server.insert(answer.server, answer.mapped);
    }
    let mut mapped = by_server.into_values();
    let first = mapped.next()?;
    let mut others = mapped.peekable();
    others.peek()?;
    Some(others.any(|other| other != first))
}

fn random_between(least: Duration, most: Duration) -> Duration {
    let mut random = [0; 2];
    let part = fill_random(&mut random).map_or(0, |()| u16::from_be_bytes(random));
    least + (most.saturating_sub(least)).mul_f64(f64::from(part) / 65_535.0)
}

/// More names of one map are not looked up.
const MAX_NAMES: usize = 64;
/// Between two looks at names that nobody knew.
const NAMES_AGAIN: Duration = Duration::from_secs(30);
/// Between two rounds while there is no home: nobody reaches us through a relay, and so nobody makes us look sooner.
const HOME_AGAIN: Duration = Duration::from_secs(10);
/// Between two full reports.
const FULL_INTERVAL: Duration = Duration::from_secs(300);
/// While there is traffic: below the 30 s after which a NAT may forget a mapping (RFC 4787 allows no less than 2 minutes, real
/// ones do not care).
const RE_STUN_MIN: Duration = Duration::from_secs(20);
const RE_STUN_MAX: Duration = Duration::from_secs(26);
/// In so many rounds a family may be silent before what is known of it is forgotten.
const SILENT_ROUNDS: u32 = 2;
/// Between two looks for another home.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// `stunProbeTimeout`.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);
/// When a round ends in which somebody has answered (ours): peers wait for what it finds.
const PATIENCE: Duration = Duration::from_secs(1);
/// `defaultActiveRetransmitTime`.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// Requests to one region by one family.
const TRIES: u32 = 3;
/// Regions beside home that are asked between full reports.
const INCREMENTAL: usize = 3;
/// More mappings of ours than these are not worth telling.
const MAX_MAPPED: usize = 4;
