//! The packet filter: a coordinator's rules, a peer's packets, and a second judge without any cleverness.

use std::net::IpAddr;

use casemate_vpn::filter::{Filter, Flow, FlowTable, Kind, Reason, Verdict as Judgement};
use casemate_vpn::packet::{Fragment, Packet};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::pieces;
use crate::Verdict;

const LOCAL: [IpNet; 2] = [
    IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new(100, 64, 0, 1), 32)),
    IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::new(0xfd7a, 0x115c, 0xa1e0, 0, 0, 0, 0, 1), 128)),
];
/// When everything happens, in seconds.
const NOW: u32 = 1000;

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Rule {
    #[serde(rename = "SrcIPs")]
    sources: Option<Vec<String>>,
    src_bits: Option<Vec<i64>>,
    dst_ports: Option<Vec<Destination>>,
    #[serde(rename = "IPProto")]
    protocols: Option<Vec<i64>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Destination {
    #[serde(rename = "IP")]
    address: String,
    bits: Option<i64>,
    ports: Ports,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Ports {
    first: u16,
    last: u16,
}

/// A line of rules, and packets behind their lengths.
///
/// A packet is let in exactly if one of the rules, read one by one, lets it in; what we began is answered as long as we remember
/// it; and what the filter reads of a packet is what those behind it read.
pub(crate) fn filter(input: &[u8]) -> Verdict {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return Verdict::Refused };
    let (text, packets) = input.split_at(end);
    let Ok(rules) = serde_json::from_slice::<Box<RawValue>>(text) else { return Verdict::Refused };
    let compiled = Filter::compile(std::iter::once(("base", &*rules)));
    for problem in &compiled.problems {
        crate::measured::check_printable(&problem.to_string());
    }
    let denies = compiled.problems.iter().any(|problem| problem.kind.denies());
    let filter = compiled.filter;
    let read = serde_json::from_str::<Option<Vec<Option<Rule>>>>(rules.get()).ok();
    let read: Option<Vec<Rule>> = read.map(|rules| rules.into_iter().flatten().flatten().collect());
    assert!(read.is_some() || denies, "no list of rules was taken for one");
    if denies {
        assert_eq!(filter, Filter::deny_all());
    }
    let judge = if denies { Vec::new() } else { read.unwrap_or_default() };
    let mut judged = false;
    for packet in pieces(packets.get(1..).unwrap_or_default()).take(16) {
        let Ok(flow) = Flow::parse(packet) else { continue };
        judged = true;
        same_reading(packet, &flow);
        let flows = FlowTable::new();
        let verdict = filter.inbound(&flow, &flows, &LOCAL, NOW);
        let expected = expected(&flow, || judge.iter().any(|rule| admits(rule, &flow)));
        assert_eq!(verdict, expected, "{flow:?}");
        answered(&filter, &flow, verdict);
    }
    Verdict::accepted(judged && !denies)
}

/// A packet must not be one thing to the filter and another to whoever it is handed to.
fn same_reading(bytes: &[u8], flow: &Flow) {
    let packet = Packet::parse(bytes).unwrap_or_else(|error| panic!("judged, and no packet: {error}"));
    assert_eq!((packet.source(), packet.destination()), (flow.source, flow.destination));
    assert_eq!(packet.protocol(), flow.protocol);
    assert_eq!(packet.fragment() == Fragment::Later, flow.kind == Kind::LaterFragment);
    match flow.kind {
        Kind::Tcp { flags } => {
            assert_eq!(packet.tcp_flags(), Some(flags));
            assert_eq!(packet.ports(), Some((flow.source_port, flow.destination_port)));
        }
        Kind::Udp | Kind::Sctp => {
            assert_eq!(packet.ports(), Some((flow.source_port, flow.destination_port)));
        }
        Kind::Icmp { kind, code } => assert_eq!(packet.icmp(), Some((kind, code))),
        Kind::Tsmp | Kind::Other | Kind::LaterFragment => {}
    }
}

/// What we began is answered, until it is too old; what keeps no state is judged as before.
fn answered(filter: &Filter, flow: &Flow, before: Judgement) {
    let flows = FlowTable::new();
    let ours = Flow {
        source: flow.destination,
        destination: flow.source,
        source_port: flow.destination_port,
        destination_port: flow.source_port,
        ..*flow
    };
    flows.record_outbound(&ours, NOW);
    let after = filter.inbound(flow, &flows, &LOCAL, NOW + 1);
    let state = matches!(flow.kind, Kind::Udp | Kind::Sctp) && before == Judgement::Drop(Reason::NoRule);
    assert_eq!(after, if state { Judgement::Accept } else { before }, "{flow:?}");
    assert_eq!(filter.inbound(flow, &flows, &LOCAL, NOW + 10_000), before, "{flow:?}");
}

fn expected(flow: &Flow, admitted: impl FnOnce() -> bool) -> Judgement {
    let to = flow.destination;
    let link_local = match to {
        IpAddr::V4(to) => to.is_link_local(),
        IpAddr::V6(to) => to.is_unicast_link_local(),
    };
    if !LOCAL.iter().any(|net| net.addr() == to) {
        return Judgement::Drop(Reason::NotOurs);
    }
    assert!(!to.is_multicast() && !link_local);
    let stateless = match flow.kind {
        Kind::LaterFragment | Kind::Tsmp => true,
        // No SYN, or an answer to ours.
        Kind::Tcp { flags } => flags & 0x02 == 0 || flags & 0x10 != 0,
        Kind::Icmp { kind, code } => match to {
            IpAddr::V4(_) => (kind, code) == (0, 0) || [3, 11, 12].contains(&kind),
            IpAddr::V6(_) => (kind, code) == (129, 0) || (1..=4).contains(&kind),
        },
        Kind::Udp | Kind::Sctp | Kind::Other => false,
    };
    if stateless || admitted() { Judgement::Accept } else { Judgement::Drop(Reason::NoRule) }
}

fn admits(rule: &Rule, flow: &Flow) -> bool {
    assert!(rule.src_bits.as_ref().is_none_or(Vec::is_empty), "SrcBits were taken");
    let source =
        rule.sources.iter().flatten().any(|text| !text.starts_with("cap:") && holds(text, flow.source));
    let protocols = rule.protocols.as_deref().filter(|list| !list.is_empty()).unwrap_or(&[6, 17, 1, 58]);
    let protocol = protocols.contains(&i64::from(flow.protocol));
    let destination = rule.dst_ports.iter().flatten().any(|to| {
        assert!(to.bits.is_none(), "Bits were taken");
        let ports = to.ports.first..=to.ports.last;
        let service = match flow.kind {
            Kind::Tcp { .. } | Kind::Udp | Kind::Sctp => protocol && ports.contains(&flow.destination_port),
            Kind::Icmp { .. } => true,
            _ => protocol && ports == (0..=u16::MAX),
        };
        service && holds(&to.address, flow.destination)
    });
    source && destination
}

/// One address of a rule.
fn holds(text: &str, address: IpAddr) -> bool {
    if text == "*" {
        return true;
    }
    if let Ok(net) = text.parse::<IpNet>() {
        return net.contains(&address);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse::<IpAddr>(), last.parse::<IpAddr>()) {
        (Ok(first), Ok(last)) => first.is_ipv4() == address.is_ipv4() && first <= address && address <= last,
        _ => panic!("{text:?} was taken for addresses"),
    }
}
