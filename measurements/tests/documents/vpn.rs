//! The private network: what its keys say together.

use serde_json::{Value, json};

use crate::bad::refused;
use crate::support::{changed, parse, refusal};

#[test]
fn a_login_server_belongs_to_a_tunnel_and_is_who_it_must_be() {
    let login = |url: &str, more: &[(&str, Value)]| {
        let mut login = json!({ "url": url, "authkey": "k" });
        for (key, value) in more {
            login[key] = value.clone();
        }
        json!({ "login_server": login })
    };
    let (http, key) = ("http://192.0.2.1:8080", json!(format!("mkey:{}", "0a".repeat(32))));
    let at = "/casemate/vpn";
    refused(&[
        (
            "/casemate/vpn/login_server",
            json!({ "url": "https://192.0.2.1", "authkey": "k" }),
            "casemate.vpn.login_server: expected null (mode is direct), found an object",
        ),
        (
            "/casemate/vpn/derp_pins",
            json!({ "derp.example": "00".repeat(32) }),
            "casemate.vpn.derp_pins: expected {} (mode is direct), found an object",
        ),
        (
            "/casemate/vpn/require_policy",
            json!(false),
            "casemate.vpn.require_policy: expected true (mode is direct), found false",
        ),
        (
            at,
            login(http, &[]),
            "casemate.vpn.login_server.url: expected https://HOST or https://HOST:PORT (or http://, to loopback or with plain_http), found \"http://192.0.2.1:8080\"",
        ),
        (
            at,
            login(http, &[("plain_http", json!(true))]),
            "casemate.vpn.login_server.noise_key: expected mkey: and 64 hex digits (plain_http is true), found null",
        ),
        // The node would not take it.
        (
            at,
            login("https://192.0.2.1/headscale", &[]),
            "casemate.vpn.login_server.url: expected https://HOST or https://HOST:PORT (or http://, to loopback or with plain_http), found \"https://192.0.2.1/headscale\"",
        ),
    ]);
    for good in [
        login("https://192.0.2.1:8443", &[]),
        login("https://192.0.2.1:8443/", &[]),
        login("https://192.0.2.1", &[("noise_key", key.clone())]),
        login(http, &[("plain_http", json!(true)), ("noise_key", key)]),
    ] {
        parse(&changed(&[(at, good)])).unwrap();
    }
}

#[test]
fn a_servers_name_needs_somebody_to_ask() {
    let vpn = |url: &str| json!({ "login_server": { "url": url, "authkey": "k" } });
    for url in ["https://hs.example", "https://hs.example:8443"] {
        let expected = format!(
            "casemate.vpn.login_server.url: expected an IPv4 address as host, or in casemate.dns.resolvers one to ask for the name, found \"{url}\""
        );
        refused(&[("/casemate/vpn", vpn(url), &expected)]);
        let dns =
            json!({ "resolvers": [{ "kind": "dot", "address": "9.9.9.9:853", "name": "dns.quad9.net" }] });
        let config = parse(&changed(&[("/casemate/vpn", vpn(url)), ("/casemate/dns", dns.clone())])).unwrap();
        assert_eq!(config.section().vpn.login_server.as_ref().unwrap().url, url);
        assert_eq!(config.section().dns.resolvers.len(), 1);
        // An address needs nobody, and may have one: relays have names, too.
        parse(&changed(&[("/casemate/vpn", vpn("https://192.0.2.1")), ("/casemate/dns", dns)])).unwrap();
    }
    let dns = json!({ "resolvers": [{ "kind": "dot", "address": "9.9.9.9:853", "name": "dns.quad9.net" }] });
    for url in ["http://localhost", "http://127.0.0.1:8080", "https://127.8.0.1"] {
        assert_eq!(
            refusal(&changed(&[("/casemate/vpn", vpn(url)), ("/casemate/dns", dns.clone())])),
            format!(
                "doc.json: not implemented in this version: casemate.vpn.login_server.url \"{url}\" (implemented: only another machine's IPv4 address or DNS name as host; the link has no IPv6)"
            )
        );
    }
}

/// What the lock would drop in any case is not promised: to the network's own addresses by the link, and to no place outside.
#[test]
fn who_is_called_by_the_link_is_outside_of_the_network() {
    let tunnel =
        |url: &str| json!({ "login_server": { "url": url, "authkey": "k" }, "prefixes": ["100.64.0.0/16"] });
    let elsewhere = || ("/casemate/vpn", tunnel("https://192.0.2.1"));
    let resolvers = |address: &str| {
        json!({ "resolvers": [
            { "kind": "dot", "address": "9.9.9.9:853", "name": "dns.quad9.net" },
            { "kind": "dot", "address": address, "name": "dns.t.internal" },
        ] })
    };
    let inside = "expected an address outside casemate.vpn.prefixes, and not 100.100.100.100";
    let lock =
        "expected an address that the egress lock can open (not in 0/8, 169.254/16, 198.18/15, 224/4, 240/4)";
    let static_at =
        |address: &str, gateway: &str| json!({ "mode": "static", "address": address, "gateway": gateway });
    let cases = [
        (
            "dns.resolvers[1].address",
            inside,
            "100.64.0.53:853",
            vec![elsewhere(), ("/casemate/dns", resolvers("100.64.0.53:853"))],
        ),
        (
            "dns.resolvers[1].address",
            inside,
            "100.100.100.100:853",
            vec![elsewhere(), ("/casemate/dns", resolvers("100.100.100.100:853"))],
        ),
        (
            "dns.resolvers[1].address",
            lock,
            "169.254.169.254:853",
            vec![elsewhere(), ("/casemate/dns", resolvers("169.254.169.254:853"))],
        ),
        (
            "vpn.login_server.url",
            inside,
            "https://100.64.3.4:8443",
            vec![("/casemate/vpn", tunnel("https://100.64.3.4:8443"))],
        ),
        (
            "vpn.login_server.url",
            inside,
            "https://100.100.100.100",
            vec![("/casemate/vpn", tunnel("https://100.100.100.100"))],
        ),
        (
            "vpn.login_server.url",
            lock,
            "https://169.254.169.254",
            vec![("/casemate/vpn", tunnel("https://169.254.169.254"))],
        ),
        (
            "vpn.login_server.url",
            lock,
            "https://198.18.1.2",
            vec![("/casemate/vpn", tunnel("https://198.18.1.2"))],
        ),
        ("vpn.login_server.url", lock, "https://0.0.0.0", vec![("/casemate/vpn", tunnel("https://0.0.0.0"))]),
        (
            "vpn.login_server.url",
            lock,
            "https://224.0.0.1",
            vec![("/casemate/vpn", tunnel("https://224.0.0.1"))],
        ),
        (
            "vpn.login_server.url",
            lock,
            "https://255.255.255.255",
            vec![("/casemate/vpn", tunnel("https://255.255.255.255"))],
        ),
        (
            "time.nts[0].address",
            inside,
            "100.64.0.9:4460",
            vec![
                elsewhere(),
                ("/casemate/time", json!({ "nts": [{ "address": "100.64.0.9:4460", "name": "t.example" }] })),
            ],
        ),
        (
            "network.address",
            inside,
            "100.64.0.5/24",
            vec![elsewhere(), ("/casemate/network", static_at("100.64.0.5/24", "100.64.0.1"))],
        ),
        (
            "network.gateway",
            inside,
            "100.64.255.1",
            vec![elsewhere(), ("/casemate/network", static_at("100.65.0.5/8", "100.64.255.1"))],
        ),
    ];
    for (key, expected, found, changes) in cases {
        assert_eq!(
            refusal(&changed(&changes)),
            format!("doc.json: casemate.{key}: {expected}, found \"{found}\"")
        );
    }
    // Where there is no such network, these are addresses as any others; beside it, too.
    parse(&changed(&[("/casemate/network", static_at("100.64.0.5/24", "100.64.0.1"))])).unwrap();
    parse(&changed(&[elsewhere(), ("/casemate/network", static_at("100.65.0.5/24", "100.65.0.1"))])).unwrap();
    parse(&changed(&[
        ("/casemate/vpn", tunnel("https://100.65.0.1")),
        ("/casemate/dns", resolvers("100.65.0.53:853")),
    ]))
    .unwrap();
}

#[test]
fn relays_have_the_ports_that_the_document_lists() {
    let vpn = |ports: Value| json!({ "login_server": { "url": "https://192.0.2.1", "authkey": "k" }, "derp_ports": ports });
    refused(&[
        (
            "/casemate/vpn",
            vpn(json!([443, 53])),
            "casemate.vpn.derp_ports[1]: expected another port than 53, which is for names, found 53",
        ),
        (
            "/casemate/vpn",
            vpn(json!([443, 8443, 443])),
            "casemate.vpn.derp_ports[2]: expected a port that is not there twice, found 443",
        ),
        (
            "/casemate/vpn",
            vpn(json!([0])),
            "casemate.vpn.derp_ports[0]: expected a whole number from 1 to 65535, found 0",
        ),
        (
            "/casemate/vpn",
            vpn(json!([1, 2, 3, 4, 5, 6, 7, 8, 9])),
            "casemate.vpn.derp_ports: expected a list of 0 to 8, found a list of 9",
        ),
        (
            "/casemate/vpn/derp_ports",
            json!([443, 8443]),
            "casemate.vpn.derp_ports: expected [443] (mode is direct), found a list of 2",
        ),
    ]);
    let ports =
        |vpn: Value| parse(&changed(&[("/casemate/vpn", vpn)])).unwrap().section().vpn.derp_ports.clone();
    assert_eq!(ports(vpn(json!([8443, 443]))), [8443, 443]);
    assert_eq!(ports(vpn(json!([]))), [0_u16; 0]);
    assert_eq!(ports(json!({ "login_server": { "url": "https://192.0.2.1", "authkey": "k" } })), [443]);
}
