//! The map's rules, checked and compiled (`tailcfg.FilterRule`; `wgengine/filter/tailcfg.go`).

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::packet::{ICMP, ICMP6, SCTP, TCP, UDP};
use super::{Filter, Flow, Kind};

/// A filter, and what was wrong with its sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// What holds from now on.
    pub filter: Filter,
    /// What the coordinator should hear of.
    pub problems: Vec<FilterProblem>,
}

/// What is wrong with one named filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("packet filter {name:?}: {kind}")]
pub struct FilterProblem {
    /// Its name in the map, cut to a length that a log bears.
    pub name: String,
    /// What is wrong.
    pub kind: ProblemKind,
}

/// What is wrong with a named filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProblemKind {
    /// It is no list of rules. It denies as a whole.
    #[error("not a list of rules (line {line}, column {column}); it denies")]
    NotRules {
        /// Where reading ended.
        line: usize,
        /// Where reading ended.
        column: usize,
    },
    /// An address, prefix or range that is none. The filter denies as a whole.
    #[error("{0:?} is no address, prefix or range; it denies")]
    Address(String),
    /// `SrcBits` or `Bits`, which current clients refuse as well. The filter denies as a whole.
    #[error("it uses SrcBits or Bits; it denies")]
    Bits,
    /// It is larger than any policy. The filter denies as a whole.
    #[error("too large; it denies")]
    TooLarge,
    /// Sources by capability match nobody here; the other sources of the rule hold.
    #[error("{0} sources by capability match nobody")]
    Capabilities(usize),
}

impl Compiled {
    /// Whether one of them does not read: then what they were meant to be together is not known.
    pub fn is_unreadable(&self) -> bool {
        self.problems.iter().any(|problem| problem.kind.denies())
    }

    /// The filter; one that does not read denies, whatever the others allow.
    pub fn whole(self) -> Filter {
        if self.is_unreadable() { Filter::deny_all() } else { self.filter }
    }
}

impl ProblemKind {
    /// Whether the whole named filter denies because of it.
    pub fn denies(&self) -> bool {
        !matches!(self, Self::Capabilities(_))
    }
}

impl Filter {
    /// Compiles the map's named filters. `null` and `[]` deny; one that does not parse denies as a whole and is reported.
    pub fn compile<'a>(named: impl Iterator<Item = (&'a str, &'a RawValue)>) -> Compiled {
        let mut named: Vec<_> = named.take(MAX_FILTERS + 1).collect();
        let mut problems = Vec::new();
        if named.len() > MAX_FILTERS {
            problems.push(FilterProblem { name: String::new(), kind: ProblemKind::TooLarge });
            named.clear();
        }
        named.sort_unstable_by_key(|(name, _)| *name);
        let mut builder = Builder::default();
        for (name, text) in named {
            let mut report = |kind| problems.push(FilterProblem { name: shortened(name), kind });
            match read(text).and_then(|parsed| builder.add(&parsed.rules).map(|()| parsed.capabilities)) {
                Ok(0) => {}
                Ok(capabilities) => report(ProblemKind::Capabilities(capabilities)),
                Err(kind) => report(kind),
            }
        }
        Compiled {
            filter: Self { v4: builder.v4.finish(), v6: builder.v6.finish(), rules: builder.rules },
            problems,
        }
    }
}

/// A rule as it is sent. Go's lists may be null; fields that are not named here grant nothing that we serve.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireRule {
    #[serde(rename = "SrcIPs")]
    sources: Option<Vec<String>>,
    src_bits: Option<Vec<i64>>,
    dst_ports: Option<Vec<WireDestination>>,
    #[serde(rename = "IPProto")]
    protocols: Option<Vec<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WireDestination {
    #[serde(rename = "IP")]
    address: String,
    bits: Option<i64>,
    ports: WirePorts,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct WirePorts {
    first: u16,
    last: u16,
}

/// A named filter, checked.
#[derive(Default)]
struct Parsed {
    rules: Vec<Rule>,
    capabilities: usize,
}

struct Rule {
    sources: Ranges,
    destinations: Vec<(Ranges, (u16, u16))>,
    protocols: Vec<u8>,
}

/// Inclusive ranges of both families.
#[derive(Default)]
struct Ranges {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

fn read(text: &RawValue) -> Result<Parsed, ProblemKind> {
    if text.get().len() > MAX_TEXT {
        return Err(ProblemKind::TooLarge);
    }
    let rules: Option<Vec<Option<WireRule>>> = serde_json::from_str(text.get())
        .map_err(|error| ProblemKind::NotRules { line: error.line(), column: error.column() })?;
    let mut parsed = Parsed::default();
    for rule in rules.into_iter().flatten().flatten() {
        if rule.src_bits.is_some_and(|bits| !bits.is_empty()) {
            return Err(ProblemKind::Bits);
        }
        let mut sources = Ranges::default();
        for source in rule.sources.iter().flatten() {
            if source.starts_with("cap:") {
                parsed.capabilities += 1;
            } else {
                sources.add(source)?;
            }
        }
        sources.merge();
        let mut destinations = Vec::new();
        for destination in rule.dst_ports.iter().flatten() {
            if destination.bits.is_some() {
                return Err(ProblemKind::Bits);
            }
            let mut ranges = Ranges::default();
            ranges.add(&destination.address)?;
            destinations.push((ranges, (destination.ports.first, destination.ports.last)));
        }
        let mut protocols = match rule.protocols {
            Some(numbers) if !numbers.is_empty() => {
                numbers.into_iter().filter_map(|n| u8::try_from(n).ok()).collect()
            }
            _ => DEFAULT_PROTOCOLS.to_vec(),
        };
        protocols.sort_unstable();
        protocols.dedup();
        parsed.rules.push(Rule { sources, destinations, protocols });
    }
    Ok(parsed)
}

impl Ranges {
    /// An address, a prefix without host bits, `first-last`, or `*` for everything.
    fn add(&mut self, text: &str) -> Result<(), ProblemKind> {
        let bad = || ProblemKind::Address(shortened(text));
        if text == "*" {
            self.v4.push((0, u32::MAX));
            self.v6.push((0, u128::MAX));
            return Ok(());
        }
        if text.contains('/') {
            match text.parse::<IpNet>().map_err(|_| bad())? {
                net if net.trunc() != net => return Err(bad()),
                IpNet::V4(net) => self.v4.push((net.network().to_bits(), net.broadcast().to_bits())),
                IpNet::V6(net) => self.v6.push((net.network().to_bits(), net.broadcast().to_bits())),
            }
            return Ok(());
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?) {
            (IpAddr::V4(first), IpAddr::V4(last)) if first <= last => {
                self.v4.push((first.to_bits(), last.to_bits()))
            }
            (IpAddr::V6(first), IpAddr::V6(last)) if first <= last => {
                self.v6.push((first.to_bits(), last.to_bits()))
            }
            _ => return Err(bad()),
        }
        Ok(())
    }

    fn merge(&mut self) {
        merge(&mut self.v4, |last| last.checked_add(1));
        merge(&mut self.v6, |last| last.checked_add(1));
    }
}

/// Sorts ranges and joins those that meet.
fn merge<A: Copy + Ord>(ranges: &mut Vec<(A, A)>, after: impl Fn(A) -> Option<A>) {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let meets = after(kept.1).is_none_or(|after| next.0 <= after);
        if meets {
            kept.1 = kept.1.max(next.1);
        }
        meets
    });
}

/// Sorted inclusive ranges that do not meet.
type SourceSet<A> = Box<[(A, A)]>;

/// The rules of one address family, by what a packet of it must show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Family<A> {
    /// Source sets, each once.
    sources: Box<[SourceSet<A>]>,
    tcp: Box<[Entry<A>]>,
    udp: Box<[Entry<A>]>,
    sctp: Box<[Entry<A>]>,
    /// Every destination, whatever its ports and protocols: a rule to any port of an address admits ICMP to it
    /// (`wgengine/filter/match.go`, `matchIPsOnly`).
    icmp: Box<[Entry<A>]>,
    /// Protocols without ports: only from rules over all ports (`matchProtoAndIPsOnlyIfAllPorts`).
    other: Box<[Entry<A>]>,
}

/// One destination of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry<A> {
    first: A,
    last: A,
    ports: (u16, u16),
    protocol: u8,
    /// Which of the source sets.
    sources: usize,
}

impl<A: Copy + Ord> Family<A> {
    /// Whether a rule lets the packet in.
    pub(super) fn admits(&self, flow: &Flow, source: A, destination: A) -> bool {
        let (entries, port) = match flow.kind {
            Kind::Tcp { .. } => (&self.tcp, flow.destination_port),
            Kind::Udp => (&self.udp, flow.destination_port),
            Kind::Sctp => (&self.sctp, flow.destination_port),
            Kind::Icmp { .. } => (&self.icmp, 0),
            Kind::Other | Kind::Tsmp => (&self.other, 0),
            Kind::LaterFragment => return false,
        };
        // The cheap questions first: sets of sources can be long.
        entries.iter().any(|entry| {
            entry.first <= destination
                && destination <= entry.last
                && entry.ports.0 <= port
                && port <= entry.ports.1
                && (entry.protocol == flow.protocol || matches!(flow.kind, Kind::Icmp { .. }))
                && self.sources.get(entry.sources).is_some_and(|ranges| contains(ranges, source))
        })
    }
}

impl<A: Bounds> Family<A> {
    /// Whether everybody may open everything.
    pub(super) fn allows_all(&self) -> bool {
        let (lowest, highest) = A::ALL;
        self.tcp.iter().any(|entry| {
            entry.ports == ALL_PORTS
                && (entry.first, entry.last) == (lowest, highest)
                && self.sources.get(entry.sources).is_some_and(|ranges| **ranges == [(lowest, highest)])
        })
    }
}

/// The lowest and the highest address of a family.
pub(super) trait Bounds: Copy + Ord {
    /// The pair.
    const ALL: (Self, Self);
}

impl Bounds for u32 {
    const ALL: (Self, Self) = (Self::MIN, Self::MAX);
}

impl Bounds for u128 {
    const ALL: (Self, Self) = (Self::MIN, Self::MAX);
}

/// Whether sorted ranges that do not meet hold the address.
fn contains<A: Copy + Ord>(ranges: &[(A, A)], address: A) -> bool {
    let behind = ranges.partition_point(|range| range.0 <= address);
    behind.checked_sub(1).and_then(|index| ranges.get(index)).is_some_and(|range| address <= range.1)
}

#[derive(Default)]
struct Builder {
    v4: FamilyBuilder<u32>,
    v6: FamilyBuilder<u128>,
    rules: usize,
}

impl Builder {
    /// Adds all the rules of a named filter, or none.
    fn add(&mut self, rules: &[Rule]) -> Result<(), ProblemKind> {
        let cost: usize = rules
            .iter()
            .map(|rule| {
                let destinations: usize =
                    rule.destinations.iter().map(|(ranges, _)| ranges.v4.len() + ranges.v6.len()).sum();
                destinations.saturating_mul(rule.protocols.len() + 1)
            })
            .fold(0, usize::saturating_add);
        if self.v4.entries.len() + self.v6.entries.len() + cost > MAX_ENTRIES {
            return Err(ProblemKind::TooLarge);
        }
        for rule in rules {
            let (v4, v6) = (self.v4.sources(&rule.sources.v4), self.v6.sources(&rule.sources.v6));
            for (ranges, ports) in &rule.destinations {
                self.v4.add(v4, &ranges.v4, *ports, &rule.protocols);
                self.v6.add(v6, &ranges.v6, *ports, &rule.protocols);
            }
        }
        self.rules += rules.len();
        Ok(())
    }
}

#[derive(Default)]
struct FamilyBuilder<A> {
    known: HashMap<Vec<(A, A)>, usize>,
    entries: Vec<(Class, Entry<A>)>,
}

/// Which of the lists an entry belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Other,
}

impl<A: Copy + Ord + std::hash::Hash + Default> FamilyBuilder<A> {
    /// The number of a source set; `None` for one that holds nobody.
    fn sources(&mut self, ranges: &[(A, A)]) -> Option<usize> {
        if ranges.is_empty() {
            return None;
        }
        let next = self.known.len();
        Some(*self.known.entry(ranges.to_vec()).or_insert(next))
    }

    fn add(&mut self, sources: Option<usize>, ranges: &[(A, A)], ports: (u16, u16), protocols: &[u8]) {
        let Some(sources) = sources else { return };
        for &(first, last) in ranges {
            let entry = |protocol| Entry { first, last, ports, protocol, sources };
            self.entries.push((Class::Icmp, Entry { ports: ALL_PORTS, ..entry(0) }));
            for &protocol in protocols {
                let class = match protocol {
                    TCP => Class::Tcp,
                    UDP => Class::Udp,
                    SCTP => Class::Sctp,
                    _ if ports == ALL_PORTS => Class::Other,
                    _ => continue,
                };
                self.entries.push((class, entry(protocol)));
            }
        }
    }

    fn finish(self) -> Family<A> {
        let list = |class| {
            let mut list: Vec<_> =
                self.entries.iter().filter(|(of, _)| *of == class).map(|(_, entry)| *entry).collect();
            list.sort_unstable();
            list.dedup();
            list.into_boxed_slice()
        };
        let (tcp, udp, sctp) = (list(Class::Tcp), list(Class::Udp), list(Class::Sctp));
        let (icmp, other) = (list(Class::Icmp), list(Class::Other));
        let mut sources: Vec<_> = self.known.into_iter().collect();
        sources.sort_unstable_by_key(|(_, number)| *number);
        let sources = sources.into_iter().map(|(ranges, _)| ranges.into_boxed_slice()).collect();
        Family { sources, tcp, udp, sctp, icmp, other }
    }
}

/// What a coordinator wrote, made fit for a log.
fn shortened(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

const ALL_PORTS: (u16, u16) = (0, u16::MAX);
/// `wgengine/filter/tailcfg.go`, `defaultProtos`.
const DEFAULT_PROTOCOLS: [u8; 4] = [TCP, UDP, ICMP, ICMP6];
/// Headscale sends one.
const MAX_FILTERS: usize = 256;
/// A rule that names each of 3,000 peers takes 100 KB.
const MAX_TEXT: usize = 16 << 20;
/// Destinations times protocols. A node is the destination in a few.
const MAX_ENTRIES: usize = 1 << 17;
const MAX_SHOWN: usize = 64;
