mod authenticated;
mod coordinator;
mod peers;
mod server;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use proptest::prelude::*;

use super::*;
use crate::filter::Filter;
use crate::key::Public;
use crate::netmap::{DerpMap, DnsConfig, ExtraRecord, Netmap, NodeId, TailnetNode};

fn node(id: u64, name: &str, addresses: &[&str]) -> Arc<TailnetNode> {
    let addresses: Vec<_> =
        addresses.iter().map(|address| address.parse::<IpAddr>().unwrap().into()).collect();
    Arc::new(TailnetNode {
        id: NodeId(id),
        key: Public::zero(),
        disco: None,
        name: name.to_owned(),
        allowed: addresses.clone(),
        addresses,
        endpoints: Vec::new(),
        home: None,
        online: None,
        tags: Vec::new(),
        key_expiry: None,
        expired: false,
    })
}

fn dns(base: &str) -> DnsConfig {
    DnsConfig {
        magic: true,
        domains: vec![base.to_owned(), "search.example".to_owned()],
        ..DnsConfig::default()
    }
}

fn record(name: &str, kind: &str, value: &str) -> ExtraRecord {
    ExtraRecord { name: name.to_owned(), kind: kind.to_owned(), value: value.to_owned() }
}

fn map(dns: DnsConfig, peers: &[Arc<TailnetNode>]) -> Netmap {
    Netmap {
        node: node(1, "node-1.t.internal", &["100.64.0.1", "fd7a:115c:a1e0::1"]),
        peers: Arc::new(peers.iter().map(|peer| (peer.id, Arc::clone(peer))).collect()),
        derp: Arc::new(DerpMap::default()),
        dns: Arc::new(dns),
        filter: Arc::new(Filter::deny_all()),
        filters: Arc::default(),
    }
}

fn peers() -> Vec<Arc<TailnetNode>> {
    vec![
        node(2, "node-2.t.internal", &["100.64.0.2", "fd7a:115c:a1e0::2"]),
        node(3, "v4only.t.internal", &["100.64.0.3"]),
        node(4, "deep.er.t.internal", &["100.64.0.4"]),
    ]
}

fn policy() -> Policy {
    Policy {
        internal_only: false,
        allowlist: vec!["api.example.com".to_owned(), "*.wild.example:443".to_owned()],
        resolvers: vec!["192.0.2.53:53".parse().unwrap()],
        prefixes: vec!["100.64.0.0/10".parse().unwrap(), "fd7a:115c:a1e0::/48".parse().unwrap()],
        base_domain: None,
    }
}

fn zone_of(dns: DnsConfig, policy: Policy) -> Zone {
    Zone::new(&map(dns, &peers()), &Arc::new(policy))
}

fn zone() -> Zone {
    zone_of(dns("t.internal"), policy())
}

fn internal() -> Zone {
    zone_of(dns("t.internal"), Policy { internal_only: true, ..policy() })
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn with_edns(mut message: Message, size: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(size);
    message.set_edns(edns);
    message
}

fn read(answer: Answer) -> Message {
    let Answer::Reply { message, .. } = answer else { panic!("{answer:?}") };
    Message::from_vec(&message).unwrap()
}

fn ask(zone: &Zone, name: &str, kind: RecordType) -> Message {
    read(answer(&query(name, kind).to_vec().unwrap(), zone, Transport::Udp))
}

/// What an answer holds, as text: its code and its records; `-> addresses` if it goes to a resolver.
fn told(zone: &Zone, name: &str, kind: RecordType) -> String {
    match answer(&query(name, kind).to_vec().unwrap(), zone, Transport::Udp) {
        Answer::Forward(forward) => format!("-> {:?}", forward.upstreams),
        Answer::Ignore => "ignored".to_owned(),
        reply => {
            let message = read(reply);
            let data: Vec<_> = message.answers.iter().map(|record| record.data.to_string()).collect();
            format!("{:?} {}", message.metadata.response_code, data.join(" "))
        }
    }
}

const FORWARDED: &str = "-> [192.0.2.53:53]";

#[test]
fn names_of_the_tailnet() {
    use RecordType::{A, AAAA, ANY, HTTPS, MX, PTR, SOA};
    let zone = zone();
    assert_eq!(zone.base_domain(), Some("t.internal"));
    assert_eq!(
        zone.addresses("Node-2.t.internal."),
        ["100.64.0.2".parse::<IpAddr>().unwrap(), "fd7a:115c:a1e0::2".parse().unwrap()]
    );
    for (name, kind, expected) in [
        ("node-1.t.internal.", A, "NoError 100.64.0.1"),
        ("node-2.t.internal.", A, "NoError 100.64.0.2"),
        ("NODE-2.T.internal.", AAAA, "NoError fd7a:115c:a1e0::2"),
        ("node-2.t.internal.", ANY, "NoError 100.64.0.2 fd7a:115c:a1e0::2"),
        ("node-2.t.internal.", MX, "NoError "),
        ("node-2.t.internal.", HTTPS, "NoError "),
        ("v4only.t.internal.", AAAA, "NoError "),
        ("nobody.t.internal.", A, "NXDomain "),
        ("a.node-2.t.internal.", A, "NXDomain "),
        ("www.example.com.t.internal.", A, "NXDomain "),
        ("deep.er.t.internal.", A, "NoError 100.64.0.4"),
        ("er.t.internal.", A, "NoError "),
        ("t.internal.", A, "NoError "),
        ("t.internal.", SOA, "NoError t.internal. t.internal. 1 600 600 600 10"),
        ("2.0.64.100.in-addr.arpa.", PTR, "NoError node-2.t.internal."),
        ("2.0.64.100.in-addr.arpa.", A, "NoError "),
        ("9.0.64.100.in-addr.arpa.", PTR, "NXDomain "),
        ("64.100.in-addr.arpa.", PTR, "NoError "),
        (
            "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa.",
            PTR,
            "NoError node-2.t.internal.",
        ),
        (
            "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.e.1.a.c.5.1.1.a.7.d.f.IP6.arpa.",
            PTR,
            "NoError node-2.t.internal.",
        ),
        // Where services are looked for, and what is no number.
        ("lb._dns-sd._udp.0.0.64.100.in-addr.arpa.", PTR, "NXDomain "),
        ("b._dns-sd._udp.2.0.64.100.in-addr.arpa.", PTR, "NXDomain "),
        ("x.64.100.IN-ADDR.ARPA.", PTR, "NXDomain "),
        ("300.0.64.100.in-addr.arpa.", ANY, "NXDomain "),
        ("1.2.0.64.100.in-addr.arpa.", PTR, "NXDomain "),
        ("r._dns-sd._udp.0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa.", PTR, "NXDomain "),
        // Not the tailnet's.
        ("4.3.2.1.in-addr.arpa.", PTR, FORWARDED),
        ("lb._dns-sd._udp.0.2.0.192.in-addr.arpa.", PTR, FORWARDED),
        ("x.100.in-addr.arpa.", PTR, FORWARDED),
        ("in-addr.arpa.", PTR, FORWARDED),
        ("x.arpa.", PTR, FORWARDED),
        ("www.example.com.", A, FORWARDED),
        ("internal.example.", A, FORWARDED),
        ("xt.internal.", A, FORWARDED),
        ("host.search.example.", A, FORWARDED),
        (".", RecordType::NS, FORWARDED),
        // For a search list.
        ("node-2.", A, "NXDomain "),
        ("node-2.", HTTPS, "NXDomain "),
        ("*.", A, "NXDomain "),
        // Of a top-level domain; to deny it would deny all below.
        ("com.", RecordType::DS, FORWARDED),
        ("com.", RecordType::NS, FORWARDED),
        ("64.100.in-addr.arpa.", SOA, "NoError 64.100.in-addr.arpa. 64.100.in-addr.arpa. 1 600 600 600 10"),
    ] {
        assert_eq!(told(&zone, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn reverse_names_of_ipv6() {
    let mut name = String::new();
    for nibble in format!("{:032x}", "fd7a:115c:a1e0::2".parse::<Ipv6Addr>().unwrap().to_bits()).chars().rev()
    {
        name.push(nibble);
        name.push('.');
    }
    name.push_str("ip6.arpa.");
    assert_eq!(told(&zone(), &name, RecordType::PTR), "NoError node-2.t.internal.");
    let negative = ask(&zone(), &name.replacen('2', "3", 1), RecordType::PTR);
    assert_eq!(negative.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(negative.authorities[0].name.to_ascii(), "0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa.");
}

#[test]
fn times_and_authority() {
    let zone = zone();
    let found = ask(&zone, "node-2.t.internal.", RecordType::A);
    assert!(
        found.metadata.authoritative
            && found.metadata.recursion_available
            && found.metadata.recursion_desired
    );
    assert_eq!((found.metadata.id, found.answers[0].ttl, found.authorities.len()), (0x1234, 5, 0));
    for (name, owner) in [
        ("nobody.t.internal.", "t.internal."),
        ("v4only.t.internal.", "t.internal."),
        ("9.0.64.100.in-addr.arpa.", "64.100.in-addr.arpa."),
    ] {
        let negative = ask(&zone, name, RecordType::AAAA);
        assert_eq!(negative.authorities.len(), 1, "{name}");
        assert_eq!(
            (negative.authorities[0].name.to_ascii().as_str(), negative.authorities[0].ttl),
            (owner, 10),
            "{name}"
        );
        assert_eq!(negative.authorities[0].record_type(), RecordType::SOA);
    }
}

#[test]
fn internal_only_refuses_everything_else_and_says_why() {
    let zone = internal();
    assert_eq!(told(&zone, "node-2.t.internal.", RecordType::A), "NoError 100.64.0.2");
    assert_eq!(told(&zone, "nobody.t.internal.", RecordType::A), "NXDomain ");
    for name in
        ["www.example.com.", "api.example.com.", "node-2.", ".", "4.3.2.1.in-addr.arpa.", "x.corp.example."]
    {
        let bytes = with_edns(query(name, RecordType::A), 4096).to_vec().unwrap();
        let Answer::Reply { message, outcome } = answer(&bytes, &zone, Transport::Udp) else {
            panic!("{name}")
        };
        assert_eq!(outcome, Outcome::Refused);
        let message = Message::from_vec(&message).unwrap();
        assert_eq!(message.metadata.response_code, ResponseCode::Refused, "{name}");
        let option = message.edns.as_ref().unwrap().option(EdnsCode::Unknown(15)).cloned();
        assert_eq!(option, Some(EdnsOption::Unknown(15, vec![0, 18])), "{name}");
        // Without EDNS in the query there is none in the answer.
        assert!(ask(&zone, name, RecordType::A).edns.is_none());
    }
}

#[test]
fn without_resolvers_nothing_leaves() {
    let zone = zone_of(
        dns("t.internal"),
        Policy { resolvers: vec!["100.100.100.100:53".parse().unwrap()], ..policy() },
    );
    assert_eq!(told(&zone, "www.example.com.", RecordType::A), "Refused ");
}

#[test]
fn long_answers_are_cut_to_what_the_asker_takes() {
    let many = (0..60_u32)
        .map(|n| record("many.t.internal", "A", &Ipv4Addr::from(0x6440_0000 + n).to_string()))
        .collect();
    let zone = zone_of(DnsConfig { extra_records: many, ..dns("t.internal") }, policy());
    let asked = query("many.t.internal.", RecordType::A);
    for (message, transport, cut) in [
        (asked.clone(), Transport::Udp, true),
        (with_edns(asked.clone(), 100), Transport::Udp, true),
        (with_edns(asked.clone(), 1100), Transport::Udp, false),
        (with_edns(asked.clone(), 65535), Transport::Udp, false),
        (asked, Transport::Tcp, false),
    ] {
        let edns = message.edns.is_some();
        let Answer::Reply { message, .. } = answer(&message.to_vec().unwrap(), &zone, transport) else {
            panic!()
        };
        assert!(!cut || message.len() <= 512);
        let message = Message::from_vec(&message).unwrap();
        assert_eq!(
            (message.metadata.truncation, message.answers.is_empty(), message.edns.is_some()),
            (cut, cut, edns)
        );
        assert_eq!(message.queries.len(), 1);
    }
}

#[test]
fn other_kinds_of_queries() {
    let zone = zone();
    let good = query("node-2.t.internal.", RecordType::A);
    let code = |message: &Message| {
        read(answer(&message.to_vec().unwrap(), &zone, Transport::Udp)).metadata.response_code
    };
    let changed = |change: &dyn Fn(&mut Message)| {
        let mut message = good.clone();
        change(&mut message);
        message
    };
    assert_eq!(code(&good), ResponseCode::NoError);
    assert_eq!(code(&changed(&|m| m.metadata.op_code = OpCode::Notify)), ResponseCode::NotImp);
    assert_eq!(code(&changed(&|m| m.metadata.truncation = true)), ResponseCode::FormErr);
    assert_eq!(code(&changed(&|m| m.queries.clear())), ResponseCode::FormErr);
    assert_eq!(code(&changed(&|m| m.queries.push(m.queries[0].clone()))), ResponseCode::FormErr);
    assert_eq!(
        code(&changed(&|m| m.answers.push(Record::from_rdata(
            Name::root(),
            1,
            RData::A(A::new(1, 2, 3, 4))
        )))),
        ResponseCode::FormErr
    );
    for class in [DNSClass::CH, DNSClass::ANY, DNSClass::HS] {
        assert_eq!(code(&changed(&|m| m.queries[0].query_class = class)), ResponseCode::Refused);
    }
    assert_eq!(code(&changed(&|m| m.queries[0].query_type = RecordType::AXFR)), ResponseCode::Refused);
    let newer = changed(&|m| {
        let mut edns = Edns::new();
        edns.set_version(1);
        m.set_edns(edns);
    });
    let reply = read(answer(&newer.to_vec().unwrap(), &zone, Transport::Udp));
    // 16 stands for two codes; the reader takes the other.
    assert_eq!((u16::from(reply.metadata.response_code), reply.edns.unwrap().version()), (16, 0));
    let bytes = good.to_vec().unwrap();
    assert!(matches!(answer(&bytes[..11], &zone, Transport::Udp), Answer::Ignore));
    assert_eq!(
        read(answer(&bytes[..14], &zone, Transport::Udp)).metadata.response_code,
        ResponseCode::FormErr
    );
    // Counts without records cost nothing.
    let mut many = bytes.clone();
    many[4..6].fill(0xff);
    assert_eq!(read(answer(&many, &zone, Transport::Udp)).metadata.response_code, ResponseCode::FormErr);
    let mut response = bytes;
    response[2] |= 0x80;
    assert!(matches!(answer(&response, &zone, Transport::Udp), Answer::Ignore));
}

#[test]
fn a_dot_inside_a_label_is_no_dot() {
    let zone = zone();
    let mut asked = query("x.", RecordType::A);
    for labels in [&[&b"node-2.t"[..], b"internal"][..], &[b"node-2.t.internal"], &[b"node-2", b"t.internal"]]
    {
        asked.queries[0].name = Name::from_labels(labels.iter().copied()).unwrap();
        let answer = answer(&asked.to_vec().unwrap(), &zone, Transport::Udp);
        assert!(
            !matches!(&answer, Answer::Reply { message, .. } if Message::from_vec(message).unwrap().metadata.response_code == ResponseCode::NoError),
            "{labels:?}"
        );
    }
    asked.queries[0].name = Name::from_labels([&b"node-2\0"[..], b"t", b"internal"]).unwrap();
    assert_eq!(
        read(answer(&asked.to_vec().unwrap(), &zone, Transport::Udp)).metadata.response_code,
        ResponseCode::NXDomain
    );
}

#[test]
fn a_zone_is_made_again_only_if_names_change() {
    let peers = peers();
    let first = map(dns("t.internal"), &peers);
    let zone = Zone::new(&first, &Arc::new(policy()));
    assert!(zone.updated(&first).is_none());
    // Another endpoint is nothing to us.
    let mut moved = (*peers[0]).clone();
    moved.endpoints.push("192.0.2.1:41641".parse().unwrap());
    let mut later = peers.clone();
    later[0] = Arc::new(moved.clone());
    assert!(zone.updated(&map(dns("t.internal"), &later)).is_none());
    moved.name = "renamed.t.internal".to_owned();
    later[0] = Arc::new(moved);
    let renamed = zone.updated(&map(dns("t.internal"), &later)).unwrap();
    assert_eq!(told(&renamed, "renamed.t.internal.", RecordType::A), "NoError 100.64.0.2");
    assert_eq!(told(&renamed, "node-2.t.internal.", RecordType::A), "NXDomain ");
    assert!(zone.updated(&map(dns("t.internal"), &peers[1..])).is_some());
    assert!(zone.updated(&map(dns("u.internal"), &peers)).is_some());
}

#[test]
fn forwarded_queries_carry_nothing_of_the_askers() {
    let mut asked = with_edns(query("www.example.com.", RecordType::AAAA), 4096);
    asked.edns.as_mut().unwrap().options_mut().insert(EdnsOption::Unknown(10, vec![7; 8]));
    let Answer::Forward(forward) = answer(&asked.to_vec().unwrap(), &zone(), Transport::Udp) else {
        panic!()
    };
    assert_eq!(forward.query.metadata.id, 0);
    assert!(forward.query.metadata.recursion_desired);
    assert!(forward.query.edns.as_ref().unwrap().option(EdnsCode::Cookie).is_none());
    assert_eq!(forward.query.queries, asked.queries);
}

proptest! {
    #[test]
    fn any_bytes_are_answered_or_ignored(bytes in proptest::collection::vec(any::<u8>(), 0..120), internal_only: bool, tcp: bool) {
        check(&bytes, internal_only, tcp)?;
    }

    #[test]
    fn damaged_queries_are_answered_or_ignored(name in "[a-z0-9.]{0,20}\\.?(t\\.internal|example\\.com|arpa)", kind: u16, cuts in proptest::collection::vec((0_usize..60, any::<u8>()), 0..4), internal_only: bool, tcp: bool) {
        let Ok(name) = Name::from_ascii(name) else { return Ok(()) };
        let mut message = with_edns(query("x.", RecordType::from(kind)), 1232);
        message.queries[0].name = name;
        let mut bytes = message.to_vec().unwrap();
        for (at, value) in cuts {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
        }
        check(&bytes, internal_only, tcp)?;
    }
}

fn check(bytes: &[u8], internal_only: bool, tcp: bool) -> Result<(), TestCaseError> {
    let zone = if internal_only { internal() } else { zone() };
    let transport = if tcp { Transport::Tcp } else { Transport::Udp };
    match answer(bytes, &zone, transport) {
        Answer::Ignore => {}
        Answer::Reply { message, .. } => {
            prop_assert_eq!(&message[..2], &bytes[..2]);
            prop_assert!(message[2] & 0x80 != 0 && message.len() <= 1232);
            prop_assert!(Message::from_vec(&message).is_ok(), "{message:02x?}");
        }
        Answer::Forward(forward) => {
            prop_assert!(!internal_only && !forward.upstreams.is_empty());
            prop_assert!(forward.query.to_vec().is_ok());
        }
    }
    Ok(())
}
