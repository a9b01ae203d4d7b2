mod flows;

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use ipnet::IpNet;
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::packet::{ICMP, ICMP6, SCTP, TCP, UDP};
use super::*;

fn compile(named: &[(&str, &str)]) -> Compiled {
    let texts: Vec<_> = named
        .iter()
        .map(|(name, text)| (*name, RawValue::from_string((*text).to_owned()).unwrap()))
        .collect();
    Filter::compile(texts.iter().map(|(name, text)| (*name, &**text)))
}

fn filter(text: &str) -> Filter {
    let compiled = compile(&[("base", text)]);
    assert_eq!(compiled.problems, []);
    compiled.filter
}

fn local() -> Vec<IpNet> {
    vec!["100.64.0.1/32".parse().unwrap(), "fd7a:115c:a1e0::1/128".parse().unwrap()]
}

fn flow(
    protocol: u8,
    source: &str,
    source_port: u16,
    destination: &str,
    destination_port: u16,
    kind: Kind,
) -> Flow {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    Flow { peer: 0, protocol, source, destination, source_port, destination_port, kind }
}

fn syn(source: &str, destination: &str, port: u16) -> Flow {
    flow(TCP, source, 40000, destination, port, Kind::Tcp { flags: 0x02 })
}

fn udp(source: &str, source_port: u16, destination: &str, destination_port: u16) -> Flow {
    flow(UDP, source, source_port, destination, destination_port, Kind::Udp)
}

fn judge(filter: &Filter, flow: &Flow) -> Verdict {
    filter.inbound(flow, &FlowTable::new(), &local(), 0)
}

const NO_RULE: Verdict = Verdict::Drop(Reason::NoRule);

/// From `map-policy-set-0.json` of Headscale 0.29.2: node 1 is a destination on port 22.
const RECORDED_0_29: &str = r#"[{"SrcIPs":["100.64.0.2/31","100.64.0.5-100.64.0.8","fd7a:115c:a1e0::2/127","fd7a:115c:a1e0::5-fd7a:115c:a1e0::8"],
    "DstPorts":[{"IP":"100.64.0.1","Ports":{"First":22,"Last":22}},{"IP":"fd7a:115c:a1e0::1","Ports":{"First":22,"Last":22}}]}]"#;
/// The same of 0.28.0.
const RECORDED_0_28: &str = r#"[{"SrcIPs":["100.64.0.2/31","100.64.0.5/32","100.64.0.6/31","100.64.0.8/32","fd7a:115c:a1e0::2/127","fd7a:115c:a1e0::5/128","fd7a:115c:a1e0::6/127","fd7a:115c:a1e0::8/128"],
    "DstPorts":[{"IP":"100.64.0.1/32","Ports":{"First":22,"Last":22}},{"IP":"fd7a:115c:a1e0::1/128","Ports":{"First":22,"Last":22}}],"IPProto":[6,17]}]"#;
/// From `map-policy-two-way-a-0.json` of 0.29.2.
const RECORDED_TWO_WAY: &str = r#"[{"SrcIPs":["100.64.0.2","fd7a:115c:a1e0::2"],"DstPorts":[{"IP":"100.64.0.1","Ports":{"First":22,"Last":22}},{"IP":"100.64.0.1","Ports":{"First":8000,"Last":8010}},
    {"IP":"fd7a:115c:a1e0::1","Ports":{"First":22,"Last":22}},{"IP":"fd7a:115c:a1e0::1","Ports":{"First":8000,"Last":8010}}],"IPProto":[6]}]"#;
/// What every Headscale sends without a policy.
const RECORDED_NO_POLICY: &str =
    r#"[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}]"#;

#[test]
fn recorded_policies_admit_whom_they_name() {
    for text in [RECORDED_0_29, RECORDED_0_28] {
        let filter = filter(text);
        assert!(!filter.allow_all());
        assert_eq!(filter.rules(), 1);
        for (source, admitted) in [
            ("100.64.0.2", true),
            ("100.64.0.3", true),
            ("100.64.0.4", false),
            ("100.64.0.5", true),
            ("100.64.0.8", true),
            ("100.64.0.9", false),
        ] {
            let expected = if admitted { Verdict::Accept } else { NO_RULE };
            assert_eq!(judge(&filter, &syn(source, "100.64.0.1", 22)), expected, "{source}");
            assert_eq!(judge(&filter, &syn(source, "100.64.0.1", 23)), NO_RULE, "{source}");
            assert_eq!(judge(&filter, &udp(source, 9, "100.64.0.1", 22)), expected, "{source}");
        }
        assert_eq!(judge(&filter, &syn("fd7a:115c:a1e0::6", "fd7a:115c:a1e0::1", 22)), Verdict::Accept);
        assert_eq!(judge(&filter, &syn("fd7a:115c:a1e0::4", "fd7a:115c:a1e0::1", 22)), NO_RULE);
    }
    let filter = filter(RECORDED_TWO_WAY);
    assert_eq!(judge(&filter, &syn("100.64.0.2", "100.64.0.1", 8010)), Verdict::Accept);
    assert_eq!(judge(&filter, &syn("100.64.0.2", "100.64.0.1", 8011)), NO_RULE);
    assert_eq!(judge(&filter, &udp("100.64.0.2", 1, "100.64.0.1", 8010)), NO_RULE);
}

#[test]
fn no_policy_is_seen() {
    assert!(filter(RECORDED_NO_POLICY).allow_all());
    assert!(
        filter(
            r#"[{"SrcIPs":["0.0.0.0/0"],"DstPorts":[{"IP":"0.0.0.0/0","Ports":{"First":0,"Last":65535}}]}]"#
        )
        .allow_all()
    );
    for text in [
        r#"[{"SrcIPs":["100.64.0.0/10"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}]"#,
        r#"[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":1,"Last":65535}}]}]"#,
        r#"[{"SrcIPs":["*"],"DstPorts":[{"IP":"100.64.0.1","Ports":{"First":0,"Last":65535}}]}]"#,
        r#"[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}],"IPProto":[17]}]"#,
        "[]",
    ] {
        assert!(!filter(text).allow_all(), "{text}");
    }
}

#[test]
fn nothing_said_denies() {
    for named in [
        &[][..],
        &[("base", "null")],
        &[("base", "[]")],
        &[("base", "[null]")],
        &[("base", "[{}]")],
        &[("base", r#"[{"SrcIPs":null,"DstPorts":null}]"#)],
    ] {
        let compiled = compile(named);
        assert_eq!(compiled.problems, [], "{named:?}");
        assert_eq!(judge(&compiled.filter, &syn("100.64.0.2", "100.64.0.1", 22)), NO_RULE, "{named:?}");
    }
    assert_eq!(compile(&[("base", "null")]).filter, Filter::deny_all());
}

#[test]
fn a_filter_that_does_not_parse_denies_as_a_whole() {
    let open = r#"{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}"#;
    for bad in [
        "{}",
        "\"*\"",
        "7",
        r#"[7]"#,
        r#"[{"SrcIPs":"*"}]"#,
        r#"[{"SrcIPs":["100.64.0.1/33"]}]"#,
        r#"[{"SrcIPs":["100.64.0.1/24"]}]"#,
        r#"[{"SrcIPs":["100.64.0.9-100.64.0.1"]}]"#,
        r#"[{"SrcIPs":["100.64.0.1-fd7a::1"]}]"#,
        r#"[{"SrcIPs":["100.64.0.1-100.64.0.2-100.64.0.3"]}]"#,
        r#"[{"SrcIPs":["everybody"]}]"#,
        r#"[{"SrcIPs":[""]}]"#,
        r#"[{"SrcIPs":["*"],"SrcBits":[32]}]"#,
        r#"[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Bits":8}]}]"#,
        r#"[{"SrcIPs":["*"],"DstPorts":[{"IP":"cap:x"}]}]"#,
        r#"[{"SrcIPs":["*"],"DstPorts":[{"Ports":{"First":1,"Last":2}}]}]"#,
        r#"[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65536}}]}]"#,
        r#"[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":-1,"Last":2}}]}]"#,
    ] {
        // Behind and before a rule that is well: neither helps it.
        let inner = bad.strip_prefix('[').and_then(|bad| bad.strip_suffix(']'));
        let texts = inner.map_or_else(
            || vec![bad.to_owned()],
            |inner| vec![bad.to_owned(), format!("[{open},{inner}]"), format!("[{inner},{open}]")],
        );
        for text in texts {
            let compiled = compile(&[("base", &text), ("other", RECORDED_TWO_WAY)]);
            assert!(
                matches!(&compiled.problems[..], [problem] if problem.name == "base" && problem.kind.denies()),
                "{text}: {:?}",
                compiled.problems
            );
            assert_eq!(compiled.filter.rules(), 1);
            assert!(!compiled.filter.allow_all());
            assert_eq!(judge(&compiled.filter, &syn("100.64.0.9", "100.64.0.1", 80)), NO_RULE, "{text}");
            assert_eq!(
                judge(&compiled.filter, &syn("100.64.0.2", "100.64.0.1", 22)),
                Verdict::Accept,
                "{text}"
            );
        }
    }
}

#[test]
fn capabilities_match_nobody_and_are_told() {
    let compiled = compile(&[(
        "base",
        r#"[{"SrcIPs":["cap:x","100.64.0.2"],"DstPorts":[{"IP":"*","Ports":{"First":1,"Last":9}}],"CapGrant":[{"Dsts":["100.64.0.1/32"]}]}]"#,
    )]);
    assert_eq!(
        compiled.problems,
        [FilterProblem { name: "base".into(), kind: ProblemKind::Capabilities(1) }]
    );
    assert_eq!(judge(&compiled.filter, &syn("100.64.0.2", "100.64.0.1", 9)), Verdict::Accept);
    assert_eq!(judge(&compiled.filter, &syn("100.64.0.3", "100.64.0.1", 9)), NO_RULE);
}

#[test]
fn too_large_a_filter_denies() {
    let destination = r#"{"IP":"*","Ports":{"First":1,"Last":9}}"#;
    let rule = format!(r#"{{"SrcIPs":["*"],"DstPorts":[{}]}}"#, vec![destination; 1000].join(","));
    let text = format!("[{}]", vec![rule; 100].join(","));
    let compiled = compile(&[("base", &text)]);
    assert_eq!(compiled.problems[0].kind, ProblemKind::TooLarge);
    assert_eq!(compiled.filter, Filter::deny_all());
    let many: Vec<_> = (0..300)
        .map(|n| (n.to_string(), RawValue::from_string(RECORDED_NO_POLICY.to_owned()).unwrap()))
        .collect();
    let compiled = Filter::compile(many.iter().map(|(name, text)| (name.as_str(), &**text)));
    assert_eq!((compiled.problems.len(), compiled.filter), (1, Filter::deny_all()));
}

#[test]
fn what_a_hostile_name_says_is_cut() {
    let name = "n".repeat(10_000);
    let bad = format!(r#"[{{"SrcIPs":["{}"]}}]"#, "\\u001b".repeat(10_000));
    let compiled = compile(&[(&name, &bad)]);
    let shown = compiled.problems[0].to_string();
    assert!(shown.len() < 1000 && !shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn equal_rules_make_equal_filters() {
    let a = compile(&[("a", RECORDED_0_29), ("b", RECORDED_TWO_WAY)]).filter;
    let b = compile(&[("b", RECORDED_TWO_WAY), ("a", RECORDED_0_29)]).filter;
    assert_eq!(a, b);
    assert_ne!(a, compile(&[("a", RECORDED_0_29)]).filter);
    assert_ne!(filter(RECORDED_0_29), filter(&RECORDED_0_29.replace("\"Last\":22", "\"Last\":23")));
}

#[test]
fn only_our_own_addresses_are_reached() {
    let filter = filter(RECORDED_NO_POLICY);
    let all = ["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
    for (destination, verdict, as_exit) in [
        ("100.64.0.1", Verdict::Accept, Verdict::Accept),
        ("100.64.0.2", Verdict::Drop(Reason::NotOurs), Verdict::Accept),
        ("224.0.0.251", Verdict::Drop(Reason::NotOurs), Verdict::Drop(Reason::Multicast)),
        ("169.254.169.254", Verdict::Drop(Reason::NotOurs), Verdict::Drop(Reason::LinkLocal)),
    ] {
        assert_eq!(judge(&filter, &syn("100.64.0.9", destination, 1)), verdict, "{destination}");
        assert_eq!(
            filter.inbound(&syn("100.64.0.9", destination, 1), &FlowTable::new(), &all, 0),
            as_exit,
            "{destination}"
        );
    }
    for (destination, as_exit) in [("ff02::1", Reason::Multicast), ("fe80::1", Reason::LinkLocal)] {
        assert_eq!(judge(&filter, &syn("fd7a::2", destination, 1)), Verdict::Drop(Reason::NotOurs));
        assert_eq!(
            filter.inbound(&syn("fd7a::2", destination, 1), &FlowTable::new(), &all, 0),
            Verdict::Drop(as_exit)
        );
    }
    // A later fragment, too, must be for us.
    let fragment = Flow { kind: Kind::LaterFragment, ..syn("100.64.0.9", "100.64.0.2", 0) };
    assert_eq!(judge(&filter, &fragment), Verdict::Drop(Reason::NotOurs));
}

#[test]
fn only_opening_packets_of_tcp_need_a_rule() {
    let deny = Filter::deny_all();
    for (flags, verdict) in [
        (0x02, NO_RULE),
        (0x12, Verdict::Accept),
        (0x10, Verdict::Accept),
        (0x04, Verdict::Accept),
        (0x03, NO_RULE),
        (0xc2, NO_RULE),
        (0, Verdict::Accept),
    ] {
        let packet = Flow { kind: Kind::Tcp { flags }, ..syn("100.64.0.2", "100.64.0.1", 22) };
        assert_eq!(judge(&deny, &packet), verdict, "{flags:#x}");
    }
}

#[test]
fn icmp_answers_pass_and_requests_need_any_rule_to_the_address() {
    let tcp_only = filter(RECORDED_TWO_WAY);
    let icmp = |protocol, source, destination, kind, code| {
        flow(protocol, source, 0, destination, 0, Kind::Icmp { kind, code })
    };
    for (kind, passes) in [(0, true), (3, true), (11, true), (12, true), (8, false), (5, false), (13, false)]
    {
        let expected = if passes { Verdict::Accept } else { NO_RULE };
        assert_eq!(
            judge(&Filter::deny_all(), &icmp(ICMP, "100.64.0.2", "100.64.0.1", kind, 0)),
            expected,
            "{kind}"
        );
    }
    for (kind, passes) in
        [(129, true), (1, true), (2, true), (3, true), (4, true), (128, false), (135, false), (134, false)]
    {
        let expected = if passes { Verdict::Accept } else { NO_RULE };
        assert_eq!(
            judge(&Filter::deny_all(), &icmp(ICMP6, "fd7a:115c:a1e0::2", "fd7a:115c:a1e0::1", kind, 0)),
            expected,
            "{kind}"
        );
    }
    // As the Go client: a rule for TCP to one port lets its source ping that address, and nobody else.
    assert_eq!(judge(&tcp_only, &icmp(ICMP, "100.64.0.2", "100.64.0.1", 8, 0)), Verdict::Accept);
    assert_eq!(
        judge(&tcp_only, &icmp(ICMP6, "fd7a:115c:a1e0::2", "fd7a:115c:a1e0::1", 128, 0)),
        Verdict::Accept
    );
    assert_eq!(judge(&tcp_only, &icmp(ICMP, "100.64.0.3", "100.64.0.1", 8, 0)), NO_RULE);
}

#[test]
fn other_protocols_need_a_rule_over_all_ports() {
    let gre = flow(47, "100.64.0.2", 0, "100.64.0.1", 0, Kind::Other);
    let rule = |ports: &str, protocols: &str| {
        filter(&format!(r#"[{{"SrcIPs":["*"],"DstPorts":[{{"IP":"*","Ports":{ports}}}]{protocols}}}]"#))
    };
    let all = r#"{"First":0,"Last":65535}"#;
    assert_eq!(judge(&rule(all, r#","IPProto":[47]"#), &gre), Verdict::Accept);
    assert_eq!(judge(&rule(r#"{"First":1,"Last":65535}"#, r#","IPProto":[47]"#), &gre), NO_RULE);
    assert_eq!(judge(&rule(all, ""), &gre), NO_RULE);
    assert_eq!(judge(&rule(all, r#","IPProto":[303]"#), &gre), NO_RULE);
    let sctp = flow(SCTP, "100.64.0.2", 1, "100.64.0.1", 2, Kind::Sctp);
    assert_eq!(judge(&rule(all, ""), &sctp), NO_RULE);
    assert_eq!(judge(&rule(r#"{"First":2,"Last":2}"#, r#","IPProto":[132]"#), &sctp), Verdict::Accept);
    assert_eq!(judge(&Filter::deny_all(), &Flow { protocol: 99, kind: Kind::Tsmp, ..gre }), Verdict::Accept);
}

fn v4(protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let [f0, f1] = fragment.to_be_bytes();
    let header =
        [0x45, 0, total[0], total[1], 0, 0, f0, f1, 64, protocol, 0, 0, 100, 64, 0, 2, 100, 64, 0, 1];
    [&header[..], payload].concat()
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let source: std::net::Ipv6Addr = "fd7a:115c:a1e0::2".parse().unwrap();
    let destination: std::net::Ipv6Addr = "fd7a:115c:a1e0::1".parse().unwrap();
    [&[0x60, 0, 0, 0, length[0], length[1], next, 64][..], &source.octets(), &destination.octets(), payload]
        .concat()
}

fn tcp_header(flags: u8) -> Vec<u8> {
    let mut header = vec![0x9c, 0x40, 0, 22];
    header.extend([0; 8]);
    header.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
    header
}

#[test]
fn packets_are_read() {
    let syn4 = syn("100.64.0.2", "100.64.0.1", 22);
    let syn6 = syn("fd7a:115c:a1e0::2", "fd7a:115c:a1e0::1", 22);
    let options = |next: u8| vec![next, 0, 1, 4, 0, 0, 0, 0];
    let fragment = |next: u8, field: u16| [&[next, 0][..], &field.to_be_bytes(), &[0; 4]].concat();
    let tcp = tcp_header(2);
    let padded = [v4(TCP, 0, &tcp), vec![0; 13]].concat();
    let later6 = Flow { kind: Kind::LaterFragment, source_port: 0, destination_port: 0, ..syn6 };
    for (packet, read) in [
        (v4(TCP, 0, &tcp), Ok(syn4)),
        (padded, Ok(syn4)),
        (v4(TCP, 0x4000, &tcp), Ok(syn4)),
        (v4(TCP, 0x2000, &tcp), Ok(syn4)),
        (v4(TCP, 0x2000, &tcp[..19]), Err(Malformed::Truncated)),
        (v4(UDP, 0x2000, &[0; 7]), Err(Malformed::Truncated)),
        (v4(TCP, 0x2001, &tcp), Err(Malformed::FragmentOverHeaders)),
        (v4(TCP, 9, &tcp), Err(Malformed::FragmentOverHeaders)),
        (
            v4(TCP, 10, &[]),
            Ok(Flow { kind: Kind::LaterFragment, source_port: 0, destination_port: 0, ..syn4 }),
        ),
        (v4(0, 0, &[0; 20]), Err(Malformed::UnknownProtocol)),
        (
            v4(ICMP6, 0, &[128, 0, 0, 0]),
            Ok(Flow { protocol: ICMP6, source_port: 0, destination_port: 0, kind: Kind::Other, ..syn4 }),
        ),
        (v6(TCP, &tcp), Ok(syn6)),
        (v6(0, &[options(TCP), tcp.clone()].concat()), Ok(syn6)),
        (v6(0, &[options(60), options(TCP), tcp.clone()].concat()), Ok(syn6)),
        (v6(60, &[options(0), options(TCP), tcp.clone()].concat()), Err(Malformed::ExtensionHeaders)),
        (v6(43, &[options(TCP), tcp.clone()].concat()), Err(Malformed::ExtensionHeaders)),
        (
            v6(60, &[options(60), options(60), options(60), options(60), options(TCP), tcp.clone()].concat()),
            Err(Malformed::ExtensionHeaders),
        ),
        (v6(44, &[fragment(TCP, 0), tcp.clone()].concat()), Ok(syn6)),
        (v6(44, &[fragment(TCP, 1), tcp.clone()].concat()), Ok(syn6)),
        (v6(44, &[fragment(TCP, 1), tcp[..10].to_vec()].concat()), Err(Malformed::Truncated)),
        (v6(44, &[fragment(60, 1), options(TCP), tcp.clone()].concat()), Err(Malformed::ExtensionHeaders)),
        (v6(44, &[fragment(TCP, 8), tcp.clone()].concat()), Err(Malformed::FragmentOverHeaders)),
        (v6(44, &fragment(TCP, 80)), Ok(later6)),
        (v6(0, &[options(TCP)[..4].to_vec()].concat()), Err(Malformed::Truncated)),
        (v6(0, &[TCP, 255, 0, 0, 0, 0, 0, 0]), Err(Malformed::Truncated)),
        (v6(ICMP6, &[128, 0, 0]), Err(Malformed::Truncated)),
        (vec![], Err(Malformed::NotIp)),
        (vec![0x55; 60], Err(Malformed::NotIp)),
        (vec![0x45; 19], Err(Malformed::Truncated)),
        (v4(TCP, 0, &tcp)[..39].to_vec(), Err(Malformed::Truncated)),
        (v6(TCP, &tcp)[..59].to_vec(), Err(Malformed::Truncated)),
    ] {
        assert_eq!(Flow::parse(&packet), read, "{packet:02x?}");
    }
    let mut short_header = v4(TCP, 0, &tcp);
    short_header[0] = 0x44;
    assert_eq!(Flow::parse(&short_header), Err(Malformed::Truncated));
    let mut with_options = v4(TCP, 0, &[&[0; 4][..], &tcp].concat());
    with_options[0] = 0x46;
    assert_eq!(Flow::parse(&with_options), Ok(syn4));
}

/// A rule of the model: sources, destination, ports, protocols (none: the usual four).
type ModelRule = (Vec<IpNet>, IpNet, (u16, u16), Vec<u8>);

fn any_net() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (0_u32..16, 26_u8..=32).prop_map(|(host, length)| IpNet::new(
            IpAddr::V4((0x6440_0000 + host).into()),
            length
        )
        .unwrap()
        .trunc()),
        (0_u128..16, 122_u8..=128).prop_map(|(host, length)| IpNet::new(
            IpAddr::V6(((0xfd7a_115c_a1e0 << 80) + host).into()),
            length
        )
        .unwrap()
        .trunc()),
    ]
}

fn any_rule() -> impl Strategy<Value = ModelRule> {
    let ports = prop_oneof![Just((0, 65535)), (0_u16..6, 0_u16..6)];
    let protocols = proptest::collection::vec(prop_oneof![Just(TCP), Just(UDP), Just(SCTP), Just(47)], 0..3);
    (proptest::collection::vec(any_net(), 0..6), any_net(), ports, protocols)
}

/// The Go client's decision, rule by rule, for packets that open something.
fn model(rules: &[ModelRule], flow: &Flow) -> bool {
    rules.iter().any(|(sources, destination, ports, protocols)| {
        let named = if protocols.is_empty() {
            [TCP, UDP, ICMP, ICMP6].contains(&flow.protocol)
        } else {
            protocols.contains(&flow.protocol)
        };
        let ported = match flow.kind {
            Kind::Icmp { .. } => true,
            Kind::Other => named && *ports == (0, 65535),
            _ => named && (ports.0..=ports.1).contains(&flow.destination_port),
        };
        ported
            && destination.contains(&flow.destination)
            && sources.iter().any(|net| net.contains(&flow.source))
    })
}

proptest! {
    #[test]
    fn it_agrees_with_a_reading_rule_by_rule(rules in proptest::collection::vec(any_rule(), 0..8), hosts in (0_u32..16, 0_u32..16), port in 0_u16..6, six: bool) {
        let text: Vec<_> = rules.iter().map(|(sources, destination, ports, protocols)| serde_json::json!({
            "SrcIPs": sources, "DstPorts": [{"IP": destination, "Ports": {"First": ports.0, "Last": ports.1}}], "IPProto": protocols,
        })).collect();
        let filter = filter(&serde_json::Value::from(text).to_string());
        let address = |host: u32| if six { IpAddr::V6(((0xfd7a_115c_a1e0 << 80) + u128::from(host)).into()) } else { IpAddr::V4((0x6440_0000 + host).into()) };
        let local = [IpNet::from(address(hosts.1))];
        let echo = if six { (ICMP6, Kind::Icmp { kind: 128, code: 0 }) } else { (ICMP, Kind::Icmp { kind: 8, code: 0 }) };
        for (protocol, kind) in [(TCP, Kind::Tcp { flags: 2 }), (UDP, Kind::Udp), (SCTP, Kind::Sctp), (47, Kind::Other), echo] {
            let flow = Flow { peer: 0, protocol, source: address(hosts.0), destination: address(hosts.1), source_port: 9, destination_port: port, kind };
            let expected = if model(&rules, &flow) { Verdict::Accept } else { NO_RULE };
            prop_assert_eq!(filter.inbound(&flow, &FlowTable::new(), &local, 0), expected, "{:?}", flow);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), version in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()]) {
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        if let Ok(flow) = Flow::parse(&bytes) {
            let _verdict = judge(&filter(RECORDED_NO_POLICY), &flow);
        }
    }

    #[test]
    fn any_text_compiles_or_denies(text in "[\\[\\]{}\",:*0-9a-z/. -]{0,60}") {
        if let Ok(raw) = RawValue::from_string(text) {
            let compiled = Filter::compile([("base", &*raw)].into_iter());
            prop_assert!(compiled.problems.is_empty() || compiled.filter.rules() == 0);
        }
    }

    #[test]
    fn any_source_text_is_taken_or_refused(text in "[*0-9a-f:./-]{0,40}") {
        let rule = serde_json::json!([{ "SrcIPs": [text], "DstPorts": [] }]).to_string();
        let compiled = compile(&[("base", &rule)]);
        prop_assert_eq!(compiled.filter.rules(), usize::from(compiled.problems.is_empty()));
    }
}
