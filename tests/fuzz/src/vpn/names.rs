//! MagicDNS: whoever is let in asks.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use casemate_vpn::control::map::{MapSettings, MapState};
use casemate_vpn::dns::{Answer, Outcome, Policy, Transport, Zone, answer};
use casemate_vpn::key::Public;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{Name, RData};

use super::{PREFIXES, inside};
use crate::Verdict;

/// The map that the zones are made of: hand-made, of the documents' addresses.
const MAP: &[u8] = include_bytes!("names.json");
const MEASURED: &str = "9.9.9.9:53";
/// The peer that the map names for `corp.example`.
const PEER: &str = "100.64.0.2:53";

/// `U` (UDP) or `T` (TCP), in lower case for a node that asks nobody else, and a query.
///
/// The answer is one to this query, as long as its asker takes; what it says is in the map; nothing is said for names that the
/// owner's allowlist has; what is passed on is a question for others, to those that the owner measured or the map may name.
pub(crate) fn query(input: &[u8]) -> Verdict {
    static ZONES: OnceLock<[Zone; 2]> = OnceLock::new();
    let [open, closed] = ZONES.get_or_init(|| [zone(false), zone(true)]);
    let Some((kind, query)) = input.split_first() else { return Verdict::Refused };
    let (zone, internal_only, transport) = match kind {
        b'U' => (open, false, Transport::Udp),
        b'T' => (open, false, Transport::Tcp),
        b'u' => (closed, true, Transport::Udp),
        b't' => (closed, true, Transport::Tcp),
        _ => return Verdict::Refused,
    };
    match answer(query, zone, transport) {
        Answer::Ignore => {
            assert!(query.len() < 12 || query[2] & 0x80 != 0, "a query was ignored");
            Verdict::Refused
        }
        Answer::Reply { message, outcome } => {
            replied(query, &message, outcome, transport);
            Verdict::accepted(outcome == Outcome::Answered)
        }
        Answer::Forward(forward) => {
            assert!(!internal_only, "asked somebody else");
            assert!(!forward.upstreams.is_empty());
            let name = forward.question.name();
            let corp = under(name, "corp.example.");
            let upstream = if corp { PEER } else { MEASURED }.parse::<SocketAddr>();
            assert!(forward.upstreams.iter().all(|to| Ok(*to) == upstream), "{:?}", forward.upstreams);
            assert!(!is_ours(name), "{name} was passed on");
            let sent = forward.query.to_vec().unwrap_or_else(|error| panic!("{error}"));
            let sent = Message::from_vec(&sent).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(sent.queries.as_slice(), std::slice::from_ref(&forward.question));
            assert_eq!((sent.metadata.id, sent.metadata.message_type), (0, MessageType::Query));
            assert!(sent.answers.is_empty() && sent.authorities.is_empty() && sent.additionals.is_empty());
            Verdict::Accepted
        }
    }
}

fn replied(query: &[u8], bytes: &[u8], outcome: Outcome, transport: Transport) {
    let plain = query.get(10..12) == Some(&[0, 0]);
    let most = match transport {
        Transport::Udp if plain => 512,
        Transport::Udp => 1232,
        Transport::Tcp => 65_535,
    };
    assert!(bytes.len() <= most, "{} bytes", bytes.len());
    let reply = Message::from_vec(bytes).unwrap_or_else(|error| panic!("the answer does not read: {error}"));
    assert_eq!(query.get(..2), Some(reply.metadata.id.to_be_bytes().as_slice()));
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    assert!(transport == Transport::Udp || !reply.metadata.truncation);
    let asked = Message::from_vec(query).ok();
    let Some(question) = reply.queries.first() else {
        assert_eq!(outcome, Outcome::Failed);
        assert!(reply.answers.is_empty());
        return;
    };
    assert_eq!(asked.map(|asked| asked.queries), Some(vec![question.clone()]));
    if reply.metadata.authoritative {
        assert!(is_ours(question.name()), "we have no authority for {}", question.name());
    }
    if outcome != Outcome::Answered || reply.metadata.response_code != ResponseCode::NoError {
        assert!(reply.answers.is_empty());
    }
    for record in &reply.answers {
        assert_eq!(&record.name, question.name());
        assert!(is_ours(&record.name), "a record of {}", record.name);
        let address = match &record.data {
            RData::A(address) => IpAddr::V4(address.0),
            RData::AAAA(address) => IpAddr::V6(address.0),
            RData::PTR(name) => {
                assert!(under(&name.0, "t.internal."), "{name}");
                continue;
            }
            RData::SOA(_) => continue,
            other => panic!("a record of another kind: {other:?}"),
        };
        // One record of the map points elsewhere.
        assert!(inside(&address.into()) || address == IpAddr::from([192, 0, 2, 7]), "{address}");
    }
}

/// Whether the map speaks for this name, and the owner does not.
fn is_ours(name: &Name) -> bool {
    let listed = under(name, "listed.t.internal.") || under(name, "example.com.");
    let mut above =
        std::iter::successors(Some(name.clone()), |name| (!name.is_root()).then(|| name.base_name()));
    let net = above.find_map(|name| name.parse_arpa_name().ok());
    let reverse = net.is_some_and(|net| PREFIXES.iter().any(|prefix| prefix.contains(&net)));
    reverse || !listed && under(name, "t.internal.")
}

fn under(name: &Name, zone: &str) -> bool {
    Name::from_ascii(zone).is_ok_and(|zone| zone.zone_of(name))
}

fn zone(internal_only: bool) -> Zone {
    let read = serde_json::from_slice(MAP).unwrap_or_else(|error| panic!("names.json: {error}"));
    let settings = MapSettings { prefixes: PREFIXES.to_vec(), require_policy: false };
    let mut state = MapState::new(settings, Public::new([0x11; 32]), None);
    let update = state
        .apply(read, std::time::Instant::now())
        .ok()
        .flatten()
        .unwrap_or_else(|| panic!("names.json gives no map"));
    let policy = Policy {
        internal_only,
        allowlist: vec!["listed.t.internal".to_owned(), "*.example.com:443".to_owned()],
        resolvers: MEASURED.parse().into_iter().collect(),
        prefixes: PREFIXES.to_vec(),
        base_domain: None,
    };
    let zone = Zone::new(&update.map, &Arc::new(policy));
    assert_eq!(zone.base_domain(), Some("t.internal"));
    zone
}
