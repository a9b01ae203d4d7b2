//! A coordinator that says more than it may.

use super::*;

#[test]
fn records_of_the_coordinator_hold_only_under_its_base_domain() {
    let given = vec![
        record("db.t.internal", "A", "100.64.0.77"),
        record("db.t.internal.", "AAAA", "fd7a:115c:a1e0::77"),
        record("any.t.internal", "", "100.64.0.78"),
        record("node-2.t.internal", "A", "100.64.0.79"),
        // None of these.
        record("evil.example.com", "A", "100.64.0.66"),
        record("api.example.com", "A", "100.64.0.66"),
        record("t.internal", "A", "100.64.0.66"),
        record("internal", "A", "100.64.0.66"),
        record("", "A", "100.64.0.66"),
        record(".", "A", "100.64.0.66"),
        record("..t.internal", "A", "100.64.0.66"),
        record("a b.t.internal", "A", "100.64.0.66"),
        record("*.t.internal", "A", "100.64.0.66"),
        record("e\\.x.t.internal", "A", "100.64.0.66"),
        record("xt.internal", "A", "100.64.0.66"),
        record("a.search.example", "A", "100.64.0.66"),
        record(&format!("{}.t.internal", "l".repeat(64)), "A", "100.64.0.66"),
        record(&format!("{}t.internal", "l.".repeat(9)), "A", "100.64.0.66"),
        record(&format!("{}t.internal", "l.".repeat(200)), "A", "100.64.0.66"),
        record("c.t.internal", "CNAME", "evil.example.com"),
        record("c.t.internal", "A", "fd7a::1"),
        record("c.t.internal", "AAAA", "100.64.0.66"),
        record("c.t.internal", "A", "evil"),
        record("c.t.internal", "A", "127.0.0.1"),
        record("c.t.internal", "A", "169.254.169.254"),
        record("c.t.internal", "A", "0.0.0.0"),
        record("c.t.internal", "A", "224.0.0.1"),
        record("c.t.internal", "AAAA", "::1"),
        record("c.t.internal", "AAAA", "::ffff:127.0.0.1"),
        record("c.t.internal", "AAAA", "fe80::1"),
    ];
    let good = 4;
    let ignored = given.len() - good;
    let zone = zone_of(DnsConfig { extra_records: given.clone(), ..dns("t.internal") }, policy());
    assert_eq!(zone.ignored().records, ignored);
    assert_eq!(told(&zone, "db.t.internal.", RecordType::ANY), "NoError 100.64.0.77 fd7a:115c:a1e0::77");
    assert_eq!(told(&zone, "any.t.internal.", RecordType::A), "NoError 100.64.0.78");
    assert_eq!(told(&zone, "node-2.t.internal.", RecordType::A), "NoError 100.64.0.2 100.64.0.79");
    assert_eq!(told(&zone, "c.t.internal.", RecordType::ANY), "NXDomain ");
    for record in &given[good..] {
        if let Ok(name) = Name::from_ascii(format!("{}.", record.name.trim_end_matches('.'))) {
            assert!(!told(&zone, &name.to_ascii(), RecordType::A).contains("100.64.0.66"), "{name}");
        }
    }
    // Without MagicDNS the coordinator says nothing about names.
    let zone = zone_of(DnsConfig { extra_records: given, magic: false, ..dns("t.internal") }, policy());
    assert_eq!(told(&zone, "db.t.internal.", RecordType::A), FORWARDED);
}

#[test]
fn a_base_domain_is_not_taken_from_others() {
    for base in [
        "",
        ".",
        "com",
        "internal",
        "example.com..",
        ".example.com",
        "api.example.com",
        "x.api.example.com",
        "wild.example",
        "in.wild.example",
        "100.in-addr.arpa",
        "x.local",
        "x.localhost",
        "a b.example",
        "64.100",
        "exa\u{301}mple.com",
    ] {
        let (name, text) = (format!("node-2.{base}"), base.trim_matches('.').to_owned());
        let config = DnsConfig {
            extra_records: vec![
                record(&text, "A", "100.64.0.66"),
                record(&format!("www.{text}"), "A", "100.64.0.66"),
            ],
            ..dns(base)
        };
        let zone = Zone::new(&map(config, &[node(2, &name, &["100.64.0.2"])]), &Arc::new(policy()));
        assert_eq!(zone.base_domain(), None, "{base}");
        assert_eq!(zone.ignored().base_domain.as_deref(), Some(base));
        for asked in
            [name, text.clone(), format!("www.{text}"), "api.example.com".to_owned(), "bank.com".to_owned()]
        {
            let Ok(asked) = Name::from_ascii(format!("{}.", asked.trim_matches('.'))) else { continue };
            let told = told(&zone, &asked.to_ascii(), RecordType::A);
            assert!(!told.contains("100.64.0"), "{base} {asked} {told}");
        }
    }
    // An owner may fix it.
    let fixed = |domain: &str| Policy { base_domain: Some(domain.to_owned()), ..policy() };
    assert_eq!(zone_of(dns("t.internal"), fixed("T.internal.")).base_domain(), Some("t.internal"));
    assert_eq!(zone_of(dns("t.internal"), fixed("u.internal")).base_domain(), None);
    assert_eq!(zone_of(dns("t.internal"), fixed("not a name")).base_domain(), None);
}

#[test]
fn the_allowlist_comes_before_the_base_domain() {
    // A base domain around the allowlist: its names, and those below, are not the coordinator's.
    let config = DnsConfig {
        extra_records: vec![
            record("api.example.com", "A", "100.64.0.66"),
            record("x.api.example.com", "A", "100.64.0.66"),
            record("ok.example.com", "A", "100.64.0.67"),
        ],
        ..dns("example.com")
    };
    let peers = [node(2, "api.example.com", &["100.64.0.2"])];
    let zone = Zone::new(&map(config, &peers), &Arc::new(policy()));
    assert_eq!((zone.ignored().records, zone.ignored().nodes), (2, 2));
    for name in ["api.example.com.", "API.example.COM.", "x.api.example.com."] {
        assert_eq!(told(&zone, name, RecordType::A), FORWARDED, "{name}");
    }
    assert_eq!(told(&zone, "ok.example.com.", RecordType::A), "NoError 100.64.0.67");
    assert_eq!(told(&zone, "2.0.64.100.in-addr.arpa.", RecordType::PTR), "NXDomain ");
}

#[test]
fn addresses_of_nodes_are_the_tailnets() {
    let peers = [
        node(2, "node-2.t.internal", &["8.8.8.8", "100.64.0.2"]),
        node(3, "node-3.u.internal", &["100.64.0.3"]),
    ];
    let zone = Zone::new(&map(dns("t.internal"), &peers), &Arc::new(policy()));
    assert_eq!(told(&zone, "node-2.t.internal.", RecordType::A), "NoError 100.64.0.2");
    assert_eq!(told(&zone, "node-3.u.internal.", RecordType::A), FORWARDED);
    assert_eq!(zone.ignored().nodes, 1);
}

#[test]
fn upstreams_of_the_map_are_peers_or_nothing() {
    let route =
        |resolvers: &[&str]| resolvers.iter().map(|&resolver| resolver.to_owned()).collect::<Vec<_>>();
    let routes = BTreeMap::from([
        (
            "corp.example".to_owned(),
            route(&["100.64.0.2", "100.64.0.3:5353", "[fd7a:115c:a1e0::2]:53", "8.8.8.8"]),
        ),
        ("sub.corp.example".to_owned(), route(&["100.64.0.3"])),
        (
            "stranger.example".to_owned(),
            route(&["100.64.0.99", "8.8.8.8:53", "https://100.64.0.2/dns-query", "100.64.0.1", "192.0.2.53"]),
        ),
        ("com".to_owned(), route(&["100.64.0.2"])),
        (".".to_owned(), route(&["100.64.0.2"])),
        ("example.com".to_owned(), route(&["100.64.0.2"])),
        ("api.example.com".to_owned(), route(&["100.64.0.2"])),
        ("t.internal".to_owned(), route(&["100.64.0.2"])),
        ("99.100.in-addr.arpa".to_owned(), vec![]),
    ]);
    let config = DnsConfig {
        routes,
        resolvers: vec!["100.64.0.2".to_owned(), "8.8.8.8".to_owned()],
        ..dns("t.internal")
    };
    let zone = zone_of(config.clone(), policy());
    assert_eq!(zone.ignored().routes, 4);
    for (name, expected) in [
        ("a.corp.example.", "-> [100.64.0.2:53, 100.64.0.3:5353, [fd7a:115c:a1e0::2]:53]"),
        ("a.sub.corp.example.", "-> [100.64.0.3:53]"),
        ("a.stranger.example.", FORWARDED),
        ("bank.com.", FORWARDED),
        ("www.example.com.", "-> [100.64.0.2:53]"),
        ("api.example.com.", FORWARDED),
        ("x.api.example.com.", FORWARDED),
        ("x.wild.example.", FORWARDED),
        ("nobody.t.internal.", "NXDomain "),
    ] {
        assert_eq!(told(&zone, name, RecordType::A), expected, "{name}");
    }
    let zone = zone_of(config, Policy { internal_only: true, ..policy() });
    assert_eq!(told(&zone, "a.corp.example.", RecordType::A), "Refused ");
}

#[test]
fn ten_thousand_records_are_too_many() {
    let extra_records = (0..10_000).map(|n| record(&format!("r{n}.t.internal"), "A", "100.64.1.1")).collect();
    let zone = zone_of(DnsConfig { extra_records, ..dns("t.internal") }, policy());
    assert_eq!(zone.ignored().records, 10_000 - 4096);
    assert_eq!(told(&zone, "r4095.t.internal.", RecordType::A), "NoError 100.64.1.1");
    assert_eq!(told(&zone, "r4096.t.internal.", RecordType::A), "NXDomain ");
    let one_name = (0..10_000_u32)
        .map(|n| record("r.t.internal", "A", &Ipv4Addr::from(0x6440_0000 + n).to_string()))
        .collect();
    let zone = zone_of(DnsConfig { extra_records: one_name, ..dns("t.internal") }, policy());
    assert_eq!(zone.addresses("r.t.internal").len(), 64);
}
