//! What we answer ourselves, made from the map and checked against the local policy.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hickory_proto::rr::Name;
use ipnet::IpNet;

use super::peers::{Allowlist, Peers};
use super::{ADDRESS_V4, ADDRESS_V6};
use crate::netmap::{DnsConfig, Netmap, NodeId, TailnetNode};

/// What the node's owner says, over the coordinator's head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Refuse every name that is not the tailnet's.
    pub internal_only: bool,
    /// The names of the egress allowlist; the coordinator answers for none of them, nor for names below. `*.` and ports are cut off.
    pub allowlist: Vec<String>,
    /// The resolvers for everything else.
    pub resolvers: Vec<SocketAddr>,
    /// The tailnet's prefixes: addresses of nodes lie in them, and their reverse names never leave the node.
    pub prefixes: Vec<IpNet>,
    /// The only base domain that is accepted, if the owner fixes it.
    pub base_domain: Option<String>,
}

/// Everything that an answer is made of. Immutable; a change of the map makes a new one.
#[derive(Debug)]
pub struct Zone {
    policy: Arc<Policy>,
    allowlist: Allowlist,
    base: Option<Base>,
    /// Names under the base, also those between it and a record, which have no addresses.
    names: HashMap<Arc<str>, Vec<IpAddr>>,
    reverse: HashMap<IpAddr, Arc<str>>,
    measured: Arc<[SocketAddr]>,
    /// Resolvers that are peers, by suffix.
    routes: HashMap<String, Arc<[SocketAddr]>>,
    /// Our own addresses.
    own: Arc<[IpAddr]>,
    ignored: Ignored,
    made_from: Option<MadeFrom>,
}

/// What of the coordinator's words was not believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// A base domain that we answer nothing under.
    pub base_domain: Option<String>,
    /// Nodes whose name is not under the base domain, or on the allowlist.
    pub nodes: usize,
    /// Further records outside the base domain, on the allowlist, malformed, or too many.
    pub records: usize,
    /// Routes whose suffix is on the allowlist or too wide, or whose resolvers are no peers.
    pub routes: usize,
}

#[derive(Debug)]
struct Base {
    text: String,
    name: Name,
}

#[derive(Debug)]
struct MadeFrom {
    node: Arc<TailnetNode>,
    peers: Arc<BTreeMap<NodeId, Arc<TailnetNode>>>,
    dns: Arc<DnsConfig>,
}

/// Where a name belongs.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// Under the base domain, with its addresses; none: there are only names below it.
    Here(&'a [IpAddr]),
    /// The base domain itself.
    Apex,
    /// Under the base domain, and not there.
    Nowhere,
    /// Not ours: its resolvers, none if it is to be refused.
    Elsewhere(&'a Arc<[SocketAddr]>),
    /// Not ours: its resolvers are peers.
    AtPeers(&'a Arc<[SocketAddr]>),
}

impl Zone {
    /// The zone before there is a map: nothing is ours.
    pub fn empty(policy: &Arc<Policy>) -> Self {
        Self {
            policy: Arc::clone(policy),
            allowlist: Allowlist::new(policy.allowlist.iter().filter_map(|entry| allowlisted_name(entry))),
            base: None,
            names: HashMap::new(),
            reverse: HashMap::new(),
            measured: policy.resolvers.iter().copied().filter(|resolver| !is_ourselves(resolver)).collect(),
            routes: HashMap::new(),
            own: Arc::default(),
            ignored: Ignored::default(),
            made_from: None,
        }
    }

    /// Makes the zone of a map.
    pub fn new(map: &Netmap, policy: &Arc<Policy>) -> Self {
        let mut zone = Self::empty(policy);
        zone.own = map.node.addresses.iter().filter_map(host).filter(|own| zone.is_inside(*own)).collect();
        if map.dns.magic {
            zone.take_base(&map.dns);
            zone.take_nodes(map);
            zone.take_records(&map.dns);
        }
        if !policy.internal_only {
            zone.take_routes(map);
        }
        zone.made_from = Some(MadeFrom {
            node: Arc::clone(&map.node),
            peers: Arc::clone(&map.peers),
            dns: Arc::clone(&map.dns),
        });
        zone
    }

    /// The zone of a newer map; `None` if nothing in it concerns names, so that the old one holds.
    pub fn updated(&self, map: &Netmap) -> Option<Self> {
        let same = |a: &Arc<TailnetNode>, b: &Arc<TailnetNode>| {
            Arc::ptr_eq(a, b) || (a.name == b.name && a.addresses == b.addresses)
        };
        let Some(old) = &self.made_from else { return Some(Self::new(map, &self.policy)) };
        let unchanged = (Arc::ptr_eq(&old.dns, &map.dns) || old.dns == map.dns)
            && same(&old.node, &map.node)
            && (Arc::ptr_eq(&old.peers, &map.peers)
                || (old.peers.len() == map.peers.len()
                    && old.peers.values().zip(map.peers.values()).all(|(a, b)| same(a, b))));
        (!unchanged).then(|| Self::new(map, &self.policy))
    }

    /// The base domain that we answer under: also what a search list should name.
    pub fn base_domain(&self) -> Option<&str> {
        self.base.as_ref().map(|base| base.text.as_str())
    }

    /// What was not believed.
    pub fn ignored(&self) -> &Ignored {
        &self.ignored
    }

    /// The addresses behind one of the tailnet's full names, for our own use.
    pub fn addresses(&self, name: &str) -> &[IpAddr] {
        checked_name(name).and_then(|name| self.names.get(name.as_str())).map_or(&[], Vec::as_slice)
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    pub(super) fn base_name(&self) -> Option<&Name> {
        self.base.as_ref().map(|base| &base.name)
    }

    pub(super) fn reverse(&self, address: IpAddr) -> Option<Name> {
        self.reverse.get(&address).and_then(|text| absolute(text))
    }

    /// Where a queried name belongs.
    pub(super) fn find(&self, name: &Name) -> Found<'_> {
        // A label with other bytes in it is in no map; as a text it could be taken for two labels. The names above it decide.
        let (text, whole) = plain_tail(name);
        if self.allowlist.has(&text) {
            return Found::Elsewhere(&self.measured);
        }
        if let Some(base) = &self.base
            && base.name.zone_of(name)
        {
            return match self.names.get(text.as_str()) {
                _ if !whole => Found::Nowhere,
                _ if text == base.text => Found::Apex,
                Some(addresses) => Found::Here(addresses),
                None => Found::Nowhere,
            };
        }
        let route = suffixes(&text).find_map(|suffix| self.routes.get(suffix));
        route.map_or(Found::Elsewhere(&self.measured), Found::AtPeers)
    }

    /// What holds of resolvers that are peers.
    pub(super) fn peers(&self) -> Peers {
        Peers { own: Arc::clone(&self.own), allowlist: self.allowlist.clone() }
    }

    fn is_inside(&self, address: IpAddr) -> bool {
        self.policy.prefixes.iter().any(|prefix| prefix.contains(&address))
    }

    fn take_base(&mut self, map: &DnsConfig) {
        let Some(given) = map.domains.first() else { return };
        let fixed = self.policy.base_domain.as_deref().map(checked_name);
        let base = checked_name(given)
            .filter(|name| is_base_domain(name) && !self.allowlist.has(name))
            .filter(|name| fixed.as_ref().is_none_or(|fixed| fixed.as_ref() == Some(name)));
        self.base = base.and_then(|text| Some(Base { name: absolute(&text)?, text }));
        if self.base.is_none() {
            self.ignored.base_domain = Some(given.chars().take(MAX_SHOWN).collect());
        }
    }

    fn take_nodes(&mut self, map: &Netmap) {
        self.names.reserve(map.peers.len());
        self.reverse.reserve(map.peers.len() * 2);
        for node in [&map.node].into_iter().chain(map.peers.values()) {
            let Some(text) = self.own_name(&node.name) else {
                self.ignored.nodes += 1;
                continue;
            };
            for address in node.addresses.iter().filter_map(host) {
                if self.is_inside(address) {
                    self.reverse.entry(address).or_insert_with(|| Arc::clone(&text));
                    self.add(&text, address);
                }
            }
            self.add_ancestors(&text);
        }
    }

    fn take_records(&mut self, map: &DnsConfig) {
        self.ignored.records = map.extra_records.len().saturating_sub(MAX_RECORDS);
        for record in map.extra_records.iter().take(MAX_RECORDS) {
            let value = record.value.parse().ok().filter(|value| {
                matches!(
                    (record.kind.as_str(), value),
                    ("", _) | ("A", IpAddr::V4(_)) | ("AAAA", IpAddr::V6(_))
                ) && is_unicast(value)
            });
            match (self.own_name(&record.name), value) {
                (Some(text), Some(value)) if self.add(&text, value) => self.add_ancestors(&text),
                _ => self.ignored.records += 1,
            }
        }
    }

    fn take_routes(&mut self, map: &Netmap) {
        let (dns, peers) = (&map.dns, &map.peers);
        if dns.routes.values().all(Vec::is_empty) {
            return;
        }
        let peers: HashSet<IpAddr> =
            peers.values().flat_map(|peer| peer.addresses.iter().filter_map(host)).collect();
        for (suffix, resolvers) in
            dns.routes.iter().filter(|(_, resolvers)| !resolvers.is_empty()).take(MAX_RECORDS)
        {
            let resolvers: Arc<[SocketAddr]> = resolvers
                .iter()
                .filter_map(|text| resolver(text))
                .filter(|address| peers.contains(&address.ip()) && self.is_inside(address.ip()))
                .take(MAX_RESOLVERS)
                .collect();
            let suffix =
                checked_name(suffix).filter(|suffix| suffix.contains('.') && !self.allowlist.has(suffix));
            match suffix {
                Some(suffix) if !resolvers.is_empty() => {
                    self.routes.insert(suffix, resolvers);
                }
                _ => self.ignored.routes += 1,
            }
        }
    }

    /// A name that the coordinator may speak for: strictly under the base domain, and not on the allowlist.
    fn own_name(&self, given: &str) -> Option<Arc<str>> {
        let base = self.base.as_ref()?;
        let text = checked_name(given)?;
        let under = text.strip_suffix(base.text.as_str())?.strip_suffix('.')?;
        if under.split('.').count() > MAX_DEPTH || self.allowlist.has(&text) {
            return None;
        }
        Some(text.into())
    }

    /// Adds an address; not more than an answer bears.
    fn add(&mut self, text: &Arc<str>, address: IpAddr) -> bool {
        let addresses = match self.names.get_mut(text) {
            Some(addresses) => addresses,
            None => self.names.entry(Arc::clone(text)).or_default(),
        };
        let room = addresses.len() < MAX_ADDRESSES && !addresses.contains(&address);
        if room {
            addresses.push(address);
        }
        room
    }

    /// Names between a record and the base exist, though without records (RFC 8020).
    fn add_ancestors(&mut self, text: &str) {
        let base = self.base.as_ref().map_or(0, |base| base.text.len());
        for suffix in suffixes(text).take_while(|suffix| suffix.len() > base) {
            if !self.names.contains_key(suffix) {
                self.names.insert(suffix.into(), Vec::new());
            }
        }
    }
}

/// A name in lower case without its last dot, of labels of letters, digits, hyphens and underscores.
fn checked_name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let fits = text.len() <= MAX_NAME && text.split('.').all(is_label);
    fits.then(|| text.to_ascii_lowercase())
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len()) && label.bytes().all(is_label_byte)
}

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Two labels at least, and nothing that belongs to everybody (RFC 6761, RFC 6762, RFC 3172).
fn is_base_domain(name: &str) -> bool {
    let top = name.rsplit('.').next();
    name.contains('.')
        && !top.is_some_and(|top| {
            ["arpa", "localhost", "local"].contains(&top) || top.bytes().all(|byte| byte.is_ascii_digit())
        })
}

/// A queried name as the text that we look up, and whether that is all of it: what stands before a label with a byte that no name of
/// ours has is left out, with that label.
pub(super) fn plain_tail(name: &Name) -> (String, bool) {
    let mut text = String::with_capacity(name.len());
    let mut whole = true;
    for label in name.iter() {
        if !label.iter().copied().all(is_label_byte) {
            text.clear();
            whole = false;
            continue;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|byte| char::from(byte.to_ascii_lowercase())));
    }
    (text, whole)
}

/// The name, the name without its first label, and so on.
pub(super) fn suffixes(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(name), |name| name.split_once('.').map(|(_, rest)| rest))
}

fn absolute(text: &str) -> Option<Name> {
    let mut name = Name::from_ascii(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// `*.example.com:443` is about `example.com`. What is no name is no entry.
fn allowlisted_name(entry: &str) -> Option<String> {
    let host = entry.split_once(':').map_or(entry, |(host, _)| host);
    checked_name(host.strip_prefix("*.").unwrap_or(host))
}

fn host(net: &IpNet) -> Option<IpAddr> {
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

/// An address that a record may point to: one machine, and not this one.
fn is_unicast(address: &IpAddr) -> bool {
    let of_the_link = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.to_ipv4_mapped().is_some(),
    };
    !(of_the_link || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// `dnstype.Resolver.Addr`: an address, with or without a port. URLs are for public resolvers, which we do not take from a map.
fn resolver(text: &str) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| Some(SocketAddr::new(text.parse().ok()?, DNS_PORT)))
}

/// Asking ourselves would not end.
fn is_ourselves(resolver: &SocketAddr) -> bool {
    resolver.ip() == IpAddr::V4(ADDRESS_V4) || resolver.ip() == IpAddr::V6(ADDRESS_V6)
}

const DNS_PORT: u16 = 53;
/// RFC 1035, section 3.1: 255 octets with a length before each label and a root behind.
const MAX_NAME: usize = 253;
/// Headscale's records come from a file that people write.
const MAX_RECORDS: usize = 4096;
/// Addresses of one name: what fits in an answer over UDP, about.
const MAX_ADDRESSES: usize = 64;
/// Labels under the base domain.
const MAX_DEPTH: usize = 8;
const MAX_RESOLVERS: usize = 4;
const MAX_SHOWN: usize = 64;
