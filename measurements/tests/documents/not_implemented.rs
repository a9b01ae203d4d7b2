//! What no stage carries out yet is refused in those words, after everything else was found right.

use crate::support::{changed, parse, refusal, remove, set, small};
use casemate_measure::{KeyProvider, MeasuredConfig, Platform};
use serde_json::{Value, json};

const APP: &str = "3763bc34552cf3a27ff71ad5f7a90471562a1a2d";

#[test]
fn keys_of_the_section() {
    for (pointer, value, expected) in [
        (
            "/casemate/dns",
            json!({"resolvers": [{"kind": "dot", "address": "9.9.9.9:853", "name": "dns.quad9.net"}]}),
            "casemate.dns.resolvers a list of 1 with mode \"direct\" (implemented: only []; they are asked for the names of a tunnel's login server and relays)",
        ),
        (
            "/casemate/dns",
            json!({"resolvers": [{"kind": "doh", "address": "9.9.9.9:443", "name": "dns.quad9.net"}]}),
            "casemate.dns.resolvers[0].kind \"doh\" (implemented: only \"dot\")",
        ),
        (
            "/casemate/dns",
            json!({"resolvers": [{"kind": "dot", "address": "[2620:fe::fe]:853", "name": "dns.quad9.net"}]}),
            "casemate.dns.resolvers[0].address \"[2620:fe::fe]:853\" (implemented: only IPv4)",
        ),
        (
            "/casemate/time",
            json!({"nts": [{"address": "[2001:db8::1]:4460", "name": "nts.example"}]}),
            "casemate.time.nts[0].address \"[2001:db8::1]:4460\" (implemented: only IPv4)",
        ),
        (
            "/casemate/collateral",
            json!({"pccs": {"url": "https://pccs.example", "address": "[2001:db8::1]:443"}}),
            "casemate.collateral.pccs.address \"[2001:db8::1]:443\" (implemented: only IPv4)",
        ),
        (
            "/casemate/gateway",
            json!({"domain": "gw.example", "addresses": ["192.0.2.1:443"]}),
            "casemate.gateway an object (implemented: only null)",
        ),
        (
            "/casemate/vpn",
            json!({}),
            "casemate.vpn.login_server null, the default, with mode \"tunnel\" (implemented: an object; there is no VPC server to register at yet)",
        ),
        (
            "/casemate/vpn",
            json!({"login_server": {"url": "https://192.0.2.1", "authkey": "k"}, "prefixes": ["fd7a:115c:a1e0::/48"]}),
            "casemate.vpn.prefixes a list of 1 without an IPv4 prefix (implemented: only with one; the machine has no IPv6)",
        ),
        (
            "/casemate/vpn",
            json!({"server_app_id": APP}),
            "casemate.vpn.server_app_id \"3763bc34552cf3a27ff71ad5f7a90471562a1a2d\" (implemented: only \"self\"; there is no VPC server to register at yet)",
        ),
        (
            "/casemate/vpn",
            json!({"login_server": {"url": "https://[2001:db8::1]", "authkey": "k"}}),
            "casemate.vpn.login_server.url \"https://[2001:db8::1]\" (implemented: only another machine's IPv4 address or DNS name as host; the link has no IPv6)",
        ),
        (
            "/casemate/egress",
            json!({"mode": "allowlist", "allow": [{"host": "api.example.com", "port": 443}]}),
            "casemate.egress.allow[0].host \"api.example.com\" (implemented: only null)",
        ),
        (
            "/casemate/egress",
            json!({"mode": "allowlist", "allow": [{"cidr": "2001:db8::/32", "port": 443}]}),
            "casemate.egress.allow[0].cidr \"2001:db8::/32\" (implemented: only IPv4)",
        ),
        (
            "/casemate/egress",
            json!({"log_denied": true}),
            "casemate.egress.log_denied true (implemented: only false)",
        ),
        (
            "/casemate/mesh/backends/0/kind",
            json!("tcp"),
            "casemate.mesh.backends[0].kind \"tcp\" (implemented: only \"http\")",
        ),
        (
            "/casemate/mesh/backends/0/allow",
            json!(["tag:x"]),
            "casemate.mesh.backends[0].allow[0] \"tag:x\" (implemented: only \"any\" and app ids)",
        ),
        (
            "/casemate/logs",
            json!({"readers": ["00".repeat(20), "operators"]}),
            "casemate.logs.readers[1] \"operators\" (implemented: only app ids)",
        ),
        (
            "/casemate/operators",
            json!({"certificates": [{"sha256": "00".repeat(32), "projects": ["p"]}]}),
            "casemate.operators.certificates a list of 1 (implemented: only [])",
        ),
    ] {
        let found = refusal(&changed(&[(pointer, value.clone())]));
        assert_eq!(
            found,
            format!("doc.json: not implemented in this version: {expected}"),
            "{pointer} = {value}"
        );
    }
}

#[test]
fn what_is_wrong_is_said_first() {
    let document = changed(&[
        ("/kms_enabled", json!(true)),
        ("/casemate/vpn", json!({})),
        ("/casemate/node/name", json!("!")),
    ]);
    assert_eq!(refusal(&document), "doc.json: casemate.node.name: expected a DNS label, found \"!\"");
}

#[test]
fn fields_of_dstack() {
    for (field, value, expected) in [
        ("kms_enabled", json!(true), "true (implemented: false; the only key provider is none)"),
        ("gateway_enabled", json!(true), "true (implemented: false; there is no gateway client)"),
        ("tproxy_enabled", json!(true), "true (implemented: false; the old name of gateway_enabled)"),
        (
            "local_key_provider_enabled",
            json!(true),
            "true (implemented: false; the only key provider is none)",
        ),
        (
            "key_provider",
            json!("kms"),
            "\"kms\" (implemented: null or \"none\"; the only key provider is none; null follows the two booleans)",
        ),
        ("key_provider_id", json!("0102"), "\"0102\" (implemented: \"\"; there is no provider to pin)"),
        ("allowed_envs", json!(["A"]), "a list of 1 (implemented: []; there is no encrypted environment)"),
        ("features", json!(["kms"]), "a list of 1 (implemented: []; old switches for KMS and gateway)"),
        ("no_instance_id", json!(true), "true (implemented: false; each boot has an instance id)"),
        ("storage_fs", json!("zfs"), "\"zfs\" (implemented: null; there is no data disk)"),
        ("swap_size", json!("1G"), "\"1G\" (implemented: 0 or \"0\"; there is no swap)"),
        ("event_log_version", json!(2), "2 (implemented: 1; dstack 0.5 reads version 1 only)"),
        ("public_logs", json!(true), "true (implemented: false; logs leave by casemate.logs.readers only)"),
        ("public_sysinfo", json!(true), "true (implemented: false; port 8090 is not served)"),
        (
            "port_policy",
            json!({"restrict_mode": true}),
            "an object (implemented: null or {\"ports\": [], \"restrict_mode\": false}; carried out by a gateway)",
        ),
        ("requirements", json!({}), "{} (implemented: null; none is checked)"),
        ("verity_volumes", json!([{}]), "a list of 1 (implemented: []; there are no volumes)"),
    ] {
        let found = refusal(&changed(&[(&format!("/{field}"), value)]));
        assert_eq!(found, format!("doc.json: not implemented in this version: {field} {expected}"));
    }
}

/// dstack's default is a promise too, and without servers it cannot be kept.
#[test]
fn secure_time_needs_servers() {
    const REFUSED: &str = "expected false, or servers in casemate.time.nts that can make it true, found";
    let nts = json!({"nts": [{"address": "192.0.2.1:4460", "name": "nts.example"}]});
    for (written, with_servers, without) in [
        (Some(true), true, Err("true")),
        (Some(false), false, Ok(false)),
        (None, true, Err("nothing, which to dstack means true")),
    ] {
        let mut document = small();
        match written {
            Some(value) => set(&mut document, "/secure_time", json!(value)),
            None => remove(&mut document, "/secure_time"),
        }
        match without {
            Ok(waits) => assert_eq!(parse(&document).unwrap().secure_time(), waits),
            Err(found) => assert_eq!(refusal(&document), format!("doc.json: secure_time: {REFUSED} {found}")),
        }
        set(&mut document, "/casemate/time", nts.clone());
        let config = parse(&document).unwrap();
        assert_eq!(config.secure_time(), with_servers, "{written:?}");
        assert_eq!(config.section().time.nts[0].address, "192.0.2.1:4460".parse().unwrap());
    }
    let mut document = small();
    set(&mut document, "/secure_time", json!("yes"));
    assert!(
        refusal(&document).starts_with("doc.json: secure_time: expected true or false"),
        "{}",
        refusal(&document)
    );
}

#[test]
fn a_time_server_votes_once() {
    let server = |address: &str| json!({"address": address, "name": "nts.example"});
    for second in ["192.0.2.1:4460", "192.0.2.1:4461", "[::ffff:192.0.2.1]:4460"] {
        let document =
            changed(&[("/casemate/time", json!({"nts": [server("192.0.2.1:4460"), server(second)]}))]);
        assert_eq!(
            refusal(&document),
            format!(
                "doc.json: casemate.time.nts[1].address: expected an IP address that no other server has, found \"{second}\""
            )
        );
    }
    parse(&changed(&[(
        "/casemate/time",
        json!({"nts": [server("192.0.2.1:4460"), server("192.0.2.2:4460")]}),
    )]))
    .unwrap();
}

#[test]
fn what_the_appliance_never_does() {
    for (field, value, expected) in [
        (
            "runner",
            json!("docker-compose"),
            "\"casemate\" (the workload is casemate.services), found \"docker-compose\"",
        ),
        (
            "docker_compose_file",
            json!("services: {}"),
            "null (there are no containers), found \"services: {}\"",
        ),
        ("bash_script", json!(""), "null (there is no shell), found \"\""),
        ("pre_launch_script", json!("true"), "null (there is no shell), found \"true\""),
        ("init_script", json!(["true"]), "null or [] (there is no shell), found a list of 1"),
        ("snapshotter", json!("stargz"), "null (there are no containers), found \"stargz\""),
        (
            "manifest_version",
            json!(3),
            "1 or 2 or \"1\" or \"2\" or \"3\" (what later ones add is judged field by field), found 3",
        ),
    ] {
        let found = refusal(&changed(&[(&format!("/{field}"), value)]));
        assert_eq!(found, format!("doc.json: {field}: expected {expected}"));
    }
}

#[test]
fn what_dstack_may_say() {
    for (field, value) in [
        ("manifest_version", json!(1)),
        ("manifest_version", json!("2")),
        ("manifest_version", json!("3")),
        ("public_tcbinfo", json!(false)),
        ("public_tcbinfo", json!(true)),
        ("key_provider", json!("none")),
        ("key_provider", Value::Null),
        ("docker_compose_file", Value::Null),
        ("event_log_version", json!(1)),
        ("swap_size", json!("0")),
        ("a field that dstack does not know", json!({"any": ["thing"]})),
    ] {
        parse(&changed(&[(&format!("/{field}"), value)])).unwrap();
    }
}

/// In a container, stock dstack carries its fields out.
#[test]
fn in_a_container_dstack_carries_its_own_fields_out() {
    let document = changed(&[
        ("/runner", json!("docker-compose")),
        ("/docker_compose_file", json!("services: {}")),
        ("/secure_time", json!(true)),
        ("/gateway_enabled", json!(true)),
        ("/key_provider", json!("kms")),
        ("/key_provider_id", json!("0102")),
    ]);
    let bytes = serde_json::to_vec(&document).unwrap();
    let config = MeasuredConfig::parse("doc.json", &bytes, Platform::Container).unwrap();
    assert_eq!(*config.key_provider(), KeyProvider::Kms(vec![1, 2]));
    assert!(MeasuredConfig::parse("doc.json", &bytes, Platform::Appliance).is_err());

    // `ca` is meaningful there, though not carried out yet.
    let document = changed(&[("/casemate/mesh/verify", json!("ca"))]);
    let error =
        MeasuredConfig::parse("doc.json", &serde_json::to_vec(&document).unwrap(), Platform::Container);
    assert_eq!(
        error.unwrap_err().to_string(),
        "doc.json: not implemented in this version: casemate.mesh.verify \"ca\" (implemented: only \"quote\")"
    );
}

#[test]
fn the_effective_key_provider_follows_the_booleans() {
    for (changes, provider) in [
        (vec![], KeyProvider::None),
        (vec![("/kms_enabled", json!(true))], KeyProvider::Kms(vec![])),
        (vec![("/local_key_provider_enabled", json!(true))], KeyProvider::Local(vec![])),
        (vec![("/kms_enabled", json!(true)), ("/key_provider", json!("tpm"))], KeyProvider::Tpm),
    ] {
        let bytes = serde_json::to_vec(&changed(&changes)).unwrap();
        let config = MeasuredConfig::parse("doc.json", &bytes, Platform::Container).unwrap();
        assert_eq!(*config.key_provider(), provider);
    }
}
