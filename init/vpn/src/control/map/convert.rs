//! From the wire's texts to the map's types. Each list has a bound ([`crate::control::wire`]), each text is cut to what its kind can be.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::drops::{DropReason, MapDrops};
use crate::control::wire::{
    List, MAX_RESOLVERS, WireDerpMap, WireDerpNode, WireDns, WireNode, WireResolver, ZERO_TIME,
};
use crate::key::{Disco, Node, Public};
use crate::netmap::{DerpMap, DerpNode, DerpRegion, DnsConfig, ExtraRecord, NodeId, RegionId, TailnetNode};

/// The longest DNS name (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;
/// The longest tag: `tag:` and a DNS label.
const MAX_TAG: usize = 67;
/// `tailcfg.go`, `DERPNode.DERPPort` and `STUNPort`: what 0 means.
const DERP_PORT: u16 = 443;
const STUN_PORT: u16 = 3478;
/// What a certificate's digest is written with in `CertName` (`derphttp`).
const PIN_PREFIX: &str = "sha256-raw:";
/// What the home relay was written with before it was a number (`tailcfg.go`, `DerpMagicIP`).
const LEGACY_DERP: &str = "127.3.3.40:";

/// A time; `None`: none, or Go's zero, or one at the end of the calendar, to which nothing can be added and which no other time zone
/// can say.
pub(super) fn time(text: &str) -> Option<OffsetDateTime> {
    if text == ZERO_TIME {
        return None;
    }
    OffsetDateTime::parse(text, &Rfc3339).ok().filter(|time| (2..9999).contains(&time.year()))
}

/// The disco key of a text; `None`: none is known.
pub(super) fn disco(text: &str) -> Option<Public<Disco>> {
    text.parse().ok().filter(|key: &Public<Disco>| !key.is_zero())
}

/// A home relay; `None`: none.
pub(super) fn region(number: i64) -> Option<RegionId> {
    u32::try_from(number).ok().filter(|number| *number != 0).map(RegionId)
}

/// Where a node may be reached, as far as it reads.
pub(super) fn endpoints(texts: &[String]) -> Vec<SocketAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// A node without its addresses, and beside it the addresses that it claims, none judged yet but that each is one host.
pub(super) fn node(
    wire: &WireNode,
    key: Public<Node>,
    control_time: Option<OffsetDateTime>,
    drops: &mut MapDrops,
) -> (TailnetNode, Vec<IpNet>) {
    let legacy = || wire.derp.as_deref().and_then(|text| text.strip_prefix(LEGACY_DERP)?.parse().ok());
    let key_expiry = wire.key_expiry.as_deref().and_then(time);
    let node = TailnetNode {
        id: NodeId(wire.id),
        key,
        disco: wire.disco_key.as_deref().and_then(disco),
        name: name(&wire.name),
        addresses: Vec::new(),
        allowed: Vec::new(),
        endpoints: endpoints(&wire.endpoints),
        home: wire.home_derp.filter(|home| *home != 0).or_else(legacy).and_then(region),
        online: wire.online,
        // One that is cut would be another tag.
        tags: wire.tags.iter().filter(|tag| tag.len() <= MAX_TAG).cloned().collect(),
        key_expiry,
        expired: wire.expired || has_ended(key_expiry, control_time),
    };
    if wire.addresses.beyond > 0 {
        drops.count(DropReason::TooMany, &"addresses of one node");
    }
    drops.unreadable(wire.addresses.unreadable, &"an address");
    (node, hosts(&wire.addresses, drops))
}

/// Whether a key has ended by the server's clock.
pub(super) fn has_ended(expiry: Option<OffsetDateTime>, now: Option<OffsetDateTime>) -> bool {
    matches!((expiry, now), (Some(expiry), Some(now)) if expiry <= now)
}

/// Addresses of single hosts.
fn hosts(texts: &[String], drops: &mut MapDrops) -> Vec<IpNet> {
    let mut hosts = Vec::new();
    for text in texts {
        match net(text) {
            Some(net) if net.prefix_len() == net.max_prefix_len() => {
                if !hosts.contains(&net) {
                    hosts.push(net);
                }
            }
            Some(net) => drops.count(DropReason::NotAHost, &net),
            None => drops.count(DropReason::BadAddress, &cut(text)),
        }
    }
    hosts
}

/// An address with or without its length.
pub(super) fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// A full name in lower case, without the last dot. One that no name can be is none.
fn name(text: &str) -> String {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.len() > MAX_NAME { String::new() } else { text.to_ascii_lowercase() }
}

/// A text, cut to a length that a log bears.
fn cut(text: &str) -> String {
    text.chars().take(MAX_NAME).collect()
}

pub(super) fn derp_map(wire: WireDerpMap, drops: &mut MapDrops) -> DerpMap {
    let scores = wire.home_params.and_then(|home| home.region_score).unwrap_or_default().items;
    let mut map = DerpMap::default();
    drops.unreadable(wire.regions.unreadable, &"a relay region");
    if wire.regions.beyond > 0 {
        drops.count(DropReason::TooMany, &"relay regions");
    }
    for (number, region) in wire.regions.items {
        let Some(region) = region else {
            continue;
        };
        drops.unreadable(region.nodes.unreadable, &"a relay");
        let id = RegionId(number);
        let nodes = region
            .nodes
            .into_iter()
            .filter_map(|wire| {
                let node = derp_node(&wire);
                if node.is_none() {
                    drops.count(DropReason::BadRelay, &cut(&wire.host_name));
                }
                node
            })
            .collect();
        map.regions.insert(
            id,
            DerpRegion {
                id,
                code: cut(&region.region_code),
                not_home: region.avoid || region.no_measure_no_home,
                score_milli: score(scores.get(&number).copied()),
                nodes,
            },
        );
    }
    map
}

/// A score in thousandths. Go takes none that is not positive.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to what fits")]
fn score(score: Option<f64>) -> u32 {
    match score {
        Some(score) if score > 0.0 => (score * 1000.0).clamp(1.0, 1e6) as u32,
        _ => 1000,
    }
}

/// A relay; `None`: one whose ports or pin do not read, which must not be taken for one without.
fn derp_node(wire: &WireDerpNode) -> Option<DerpNode> {
    let (pin, cert_name) = match wire.cert_name.strip_prefix(PIN_PREFIX) {
        Some(digits) => {
            let mut pin = [0; 32];
            hex::decode_to_slice(digits, &mut pin).ok()?;
            (Some(pin), None)
        }
        None => (None, Some(wire.cert_name.clone()).filter(|name| !name.is_empty())),
    };
    let derp_port = match wire.derp_port {
        0 => DERP_PORT,
        port => u16::try_from(port).ok()?,
    };
    let stun_port = match wire.stun_port {
        0 => Some(STUN_PORT),
        -1 => None,
        port => Some(u16::try_from(port).ok()?),
    };
    if wire.host_name.len() > MAX_NAME || cert_name.as_ref().is_some_and(|name| name.len() > MAX_NAME) {
        return None;
    }
    let ipv4 = wire.ipv4.parse().ok().filter(IpAddr::is_ipv4);
    let ipv6 = wire.ipv6.parse().ok().filter(IpAddr::is_ipv6);
    Some(DerpNode {
        name: cut(&wire.name),
        // Names are compared with those of pins, which are written like this.
        host: wire.host_name.trim_end_matches('.').to_ascii_lowercase(),
        // Empty: its name says. Anything else that is no address, such as "none": there is none (tailscale
        // `derp/derphttp/derphttp_client.go`, `shouldDialProto`).
        without_ipv4: ipv4.is_none() && !wire.ipv4.is_empty(),
        without_ipv6: ipv6.is_none() && !wire.ipv6.is_empty(),
        ipv4,
        ipv6,
        derp_port,
        stun_port,
        stun_only: wire.stun_only,
        pin,
        cert_name,
        insecure_for_tests: wire.insecure_for_tests,
    })
}

pub(super) fn dns(wire: WireDns, drops: &mut MapDrops) -> DnsConfig {
    let unreadable = wire.domains.unreadable
        + wire.resolvers.unreadable
        + wire.routes.unreadable
        + wire.routes.items.values().flatten().map(|list| list.unreadable).sum::<usize>()
        + wire.extra_records.unreadable;
    drops.unreadable(unreadable, &"of names");
    let resolvers = |list: List<WireResolver, MAX_RESOLVERS>| {
        list.into_iter().map(|resolver| cut(&resolver.addr)).collect()
    };
    DnsConfig {
        magic: wire.proxied,
        domains: wire.domains.iter().map(|domain| name(domain)).collect(),
        resolvers: resolvers(wire.resolvers),
        routes: wire
            .routes
            .items
            .into_iter()
            .map(|(suffix, list)| (name(&suffix), resolvers(list.unwrap_or_default())))
            .collect(),
        extra_records: wire
            .extra_records
            .into_iter()
            .map(|record| ExtraRecord {
                name: name(&record.name),
                kind: cut(&record.kind),
                value: cut(&record.value),
            })
            .collect(),
    }
}
