//! Bad documents, each refused with the documented words.

use crate::support::{changed, parse, refusal, remove, set, small};
use casemate_measure::document::{MAX_BYTES, Problem};
use casemate_measure::{MeasuredConfig, Platform};
use serde_json::{Value, json};

/// What is refused when one value is set.
pub(crate) fn refused(cases: &[(&str, Value, &str)]) {
    for (pointer, value, expected) in cases {
        let found = refusal(&changed(&[(pointer, value.clone())]));
        assert_eq!(found, format!("doc.json: {expected}"), "{pointer} = {value}");
    }
}

fn raw(document: &[u8]) -> String {
    match MeasuredConfig::parse("doc.json", document, Platform::Appliance) {
        Err(error) => error.to_string(),
        Ok(_) => "accepted".to_owned(),
    }
}

#[test]
fn the_base_is_accepted() {
    parse(&small()).unwrap();
}

#[test]
fn unknown_keys_are_refused_at_every_level() {
    refused(&[
        (
            "/casemate/egres",
            json!({}),
            "casemate.egres: expected one of the keys version, role, node, network, dns, time, collateral, gateway, vpn, egress, mesh, logs, operators, server, services, found this unknown one",
        ),
        (
            "/casemate/mesh/backends/0/ports",
            json!([1]),
            "casemate.mesh.backends[0].ports: expected one of the keys listen, kind, to, allow, found this unknown one",
        ),
        (
            "/casemate/node/a\nb",
            json!(1),
            "casemate.node[\"a\\nb\"]: expected one of the keys name, type, found this unknown one",
        ),
        (
            "/casemate/mesh/images/0",
            json!({ "rtmr4": "00" }),
            "casemate.mesh.images[0].rtmr4: expected one of the keys mrtd, rtmr0, rtmr1, rtmr2, found this unknown one",
        ),
    ]);
}

#[test]
fn a_duplicate_key_is_refused_in_both_spellings() {
    let text = serde_json::to_string(&small()).unwrap();
    for again in [r#""version":1,"#, r#""\u0076ersion":1,"#] {
        let document = text.replacen(r#""version":1"#, &format!(r#"{again}"version":1"#), 1);
        assert_eq!(
            raw(document.as_bytes()),
            "doc.json: casemate.version: expected each key once, found it twice"
        );
    }
    let document = text.replacen(r#""name":"small","#, r#""name":"small","\u006eame":"other","#, 1);
    assert_eq!(raw(document.as_bytes()), "doc.json: name: expected each key once, found it twice");
}

#[test]
fn ten_mebibytes_of_nesting_end_at_once() {
    let start = std::time::Instant::now();
    let nested = "[".repeat(10 << 20);
    assert_eq!(raw(nested.as_bytes()), "doc.json: expected at most 4194304 bytes, found 10485760");
    let nested = r#"{"casemate":"#.repeat(MAX_BYTES / 12);
    let path = vec!["casemate"; 64].join(".");
    assert_eq!(
        raw(nested.as_bytes()),
        format!("doc.json: {path}: expected at most 64 levels of nesting, found more")
    );
    assert!(start.elapsed() < std::time::Duration::from_secs(30), "took {:?}", start.elapsed());
}

#[test]
fn what_is_no_document_is_refused() {
    assert_eq!(
        raw(b""),
        "doc.json: expected one JSON document, found EOF while parsing a value at line 1 column 0"
    );
    assert_eq!(
        raw(b"{} 1"),
        "doc.json: expected one JSON document, found trailing characters at line 1 column 4"
    );
    assert_eq!(raw(b"\xff"), "doc.json: expected UTF-8, found another byte at offset 0");
    assert_eq!(raw(b"[]"), "doc.json: (top level): expected an object, found []");
    let mut document = small();
    remove(&mut document, "/casemate");
    assert_eq!(refusal(&document), "doc.json: casemate: expected an object, found nothing");
}

#[test]
fn wrong_types_are_refused() {
    refused(&[
        ("/casemate", json!([]), "casemate: expected an object, found []"),
        ("/casemate/version", json!(2), "casemate.version: expected 1, found 2"),
        ("/casemate/version", json!("1"), "casemate.version: expected 1, found \"1\""),
        ("/casemate/version", json!(1.0), "casemate.version: expected 1, found 1.0"),
        (
            "/casemate/mesh/backends",
            json!({}),
            "casemate.mesh.backends: expected a list of 0 to 64, found {}",
        ),
        (
            "/casemate/mesh/backends/0/listen",
            json!("443"),
            "casemate.mesh.backends[0].listen: expected a whole number from 1 to 65535, found \"443\"",
        ),
        (
            "/casemate/egress",
            json!({"log_denied": 1}),
            "casemate.egress.log_denied: expected true or false, found 1",
        ),
        ("/casemate/egress", json!(null), "casemate.egress: expected an object, found null"),
        (
            "/casemate/services/0/name",
            json!(7),
            "casemate.services[0].name: expected DNS label (a string of at most 63 bytes), found 7",
        ),
        ("/name", json!(1), "name: expected a string of 1 to 128 bytes, found 1"),
        ("/kms_enabled", json!("yes"), "kms_enabled: expected true or false, found \"yes\""),
    ]);
}

#[test]
fn another_version_is_named_before_its_keys() {
    let document = changed(&[("/casemate/version", json!(2)), ("/casemate/agents", json!([]))]);
    assert_eq!(refusal(&document), "doc.json: casemate.version: expected 1, found 2");
}

#[test]
fn what_must_be_there_is_missed() {
    for (pointer, expected) in [
        ("/casemate/version", "casemate.version: expected 1, found nothing"),
        ("/casemate/node", "casemate.node: expected an object, found nothing"),
        (
            "/casemate/services/0/uid",
            "casemate.services[0].uid: expected a whole number from 1000 to 65533, found nothing",
        ),
        ("/name", "name: expected a string of 1 to 128 bytes, found nothing"),
        ("/runner", "runner: expected \"casemate\" (the workload is casemate.services), found nothing"),
        (
            "/manifest_version",
            "manifest_version: expected 1 or 2 or \"1\" or \"2\" or \"3\" (what later ones add is judged field by field), found nothing",
        ),
    ] {
        let mut document = small();
        remove(&mut document, pointer);
        assert_eq!(refusal(&document), format!("doc.json: {expected}"));
    }
}

#[test]
fn bounds_hold() {
    refused(&[
        (
            "/casemate/mesh/backends/0/listen",
            json!(0),
            "casemate.mesh.backends[0].listen: expected a whole number from 1 to 65535, found 0",
        ),
        (
            "/casemate/mesh/backends/0/listen",
            json!(65_536),
            "casemate.mesh.backends[0].listen: expected a whole number from 1 to 65535, found 65536",
        ),
        (
            "/casemate/mesh/backends/0/allow",
            json!([]),
            "casemate.mesh.backends[0].allow: expected a list of 1 to 64, found []",
        ),
        (
            "/casemate/services/0/uid",
            json!(999),
            "casemate.services[0].uid: expected a whole number from 1000 to 65533, found 999",
        ),
        (
            "/casemate/services/0/uid",
            json!(65_534),
            "casemate.services[0].uid: expected a whole number from 1000 to 65533, found 65534",
        ),
        (
            "/casemate/services/0/memory_max",
            json!("1023K"),
            "casemate.services[0].memory_max: expected a size from 1M to 1024G, found \"1023K\"",
        ),
        (
            "/casemate/services/0/memory_max",
            json!("1T"),
            "casemate.services[0].memory_max: expected a size from 1M to 1024G, found \"1T\"",
        ),
        (
            "/casemate/services/0/tmpfs",
            json!({"/tmp": "65G"}),
            "casemate.services[0].tmpfs./tmp: expected a size from 4K to 64G, found \"65G\"",
        ),
        (
            "/casemate/services/0/exec",
            json!([]),
            "casemate.services[0].exec: expected a list of 1 to 64, found []",
        ),
        ("/casemate/node/name", json!("Rag"), "casemate.node.name: expected a DNS label, found \"Rag\""),
    ]);
    let service = |n: u32| json!({ "name": format!("s{n}"), "exec": ["/a"], "rootfs": "a", "uid": 1000 + n });
    let many = |count| {
        changed(&[
            ("/casemate/services", (0..count).map(service).collect()),
            ("/casemate/mesh/backends", json!([])),
        ])
    };
    assert_eq!(parse(&many(63)).unwrap().section().services.len(), 63);
    assert_eq!(
        refusal(&many(64)),
        "doc.json: casemate.services: expected a list of 0 to 63, found a list of 64"
    );
}

#[test]
fn logs_need_a_port_to_be_read_on() {
    let mut document = changed(&[("/casemate/logs", json!({ "readers": ["00".repeat(20)] }))]);
    assert_eq!(parse(&document).unwrap().section().logs.readers.len(), 1);
    set(&mut document, "/casemate/mesh/backends", json!([]));
    let found = refusal(&document);
    let expected =
        "casemate.logs.readers: expected [] without mesh.backends, on whose ports the logs are served";
    assert!(found.contains(expected), "{found}");
}

#[test]
fn services_are_told_apart() {
    let second = |name: &str, uid: u32| json!({ "name": name, "exec": ["/a"], "rootfs": "a", "uid": uid });
    refused(&[
        (
            "/casemate/services/-",
            second("web", 1001),
            "casemate.services[1].name: expected a name that no other service has, found \"web\"",
        ),
        (
            "/casemate/services/-",
            second("mesh", 1001),
            "casemate.services[1].name: expected a name that none of our own processes has, found \"mesh\"",
        ),
        (
            "/casemate/services/-",
            second("db", 1000),
            "casemate.services[1].uid: expected a uid that no other service has, found 1000",
        ),
    ]);
}

#[test]
fn a_service_is_well_formed() {
    let service = "/casemate/services/0";
    for (key, value, path, expected) in [
        (
            "exec",
            json!(["bin/httpd"]),
            "exec[0]",
            "an absolute path without empty, . or .. components, found \"bin/httpd\"",
        ),
        (
            "exec",
            json!(["/a/../b"]),
            "exec[0]",
            "an absolute path without empty, . or .. components, found \"/a/../b\"",
        ),
        ("exec", json!(["/a", "b\0"]), "exec[1]", "text without NUL, found \"b\\0\""),
        (
            "env",
            json!({"A=B": "x"}),
            "env[\"A=B\"]",
            "a key of letters, digits and _, not starting with a digit, found \"x\"",
        ),
        ("env", json!({"A": "\0"}), "env.A", "text without NUL, found \"\\0\""),
        ("ports", json!([80, 80]), "ports[1]", "each port once, found 80"),
        ("ports", json!([8888]), "ports[0]", "a port other than that of the outbound mesh proxy, found 8888"),
        ("rootfs", json!("../etc"), "rootfs", "a DNS label, found \"../etc\""),
        (
            "restart",
            json!("sometimes"),
            "restart",
            "\"always\" or \"on-failure\" or \"never\", found \"sometimes\"",
        ),
        (
            "tmpfs",
            json!({"/dev/shm": "1M"}),
            "tmpfs./dev/shm",
            "a key that is an absolute path without . and .., not in /proc, /sys or /dev, found \"1M\"",
        ),
        (
            "dstack",
            json!({"get_key": ["web/*", "a*b"]}),
            "dstack.get_key[1]",
            "a key path of visible ASCII, with * at its end only, found \"a*b\"",
        ),
        (
            "dstack",
            json!({"get_key": [""]}),
            "dstack.get_key[0]",
            "a key path of visible ASCII, with * at its end only, found \"\"",
        ),
        (
            "dstack",
            json!({"quote": "any"}),
            "dstack.quote",
            "\"none\" or \"app-data\" or \"raw\", found \"any\"",
        ),
    ] {
        let found = refusal(&changed(&[(&format!("{service}/{key}"), value)]));
        assert_eq!(found, format!("doc.json: casemate.services[0].{path}: expected {expected}"));
    }
}

#[test]
fn the_mesh_fits_the_services() {
    let backend = json!({ "listen": 443, "kind": "http", "to": "web:8000", "allow": ["any"] });
    refused(&[
        (
            "/casemate/mesh/backends/0/to",
            json!("db:8000"),
            "casemate.mesh.backends[0].to: expected the name of one of the services, found \"db:8000\"",
        ),
        (
            "/casemate/mesh/backends/0/to",
            json!("web:8001"),
            "casemate.mesh.backends[0].to: expected one of the service's ports, found \"web:8001\"",
        ),
        (
            "/casemate/mesh/backends/0/to",
            json!("web:08000"),
            "casemate.mesh.backends[0].to: expected SERVICE:PORT, found \"web:08000\"",
        ),
        (
            "/casemate/mesh/backends/0/to",
            json!("web"),
            "casemate.mesh.backends[0].to: expected SERVICE:PORT, found \"web\"",
        ),
        (
            "/casemate/mesh/backends/-",
            backend,
            "casemate.mesh.backends[1].listen: expected a port that no other backend listens on, found 443",
        ),
        (
            "/casemate/mesh/backends/0/allow",
            json!(["everybody"]),
            "casemate.mesh.backends[0].allow[0]: expected \"any\", 40 lower-case hex digits or tag:NAME, found \"everybody\"",
        ),
        (
            "/casemate/mesh/targets",
            json!({ "3763bc34552cf3a27ff71ad5f7a90471562a1a2d": "198.18.1.2:80" }),
            "casemate.mesh.targets.3763bc34552cf3a27ff71ad5f7a90471562a1a2d: expected IP:PORT of one machine, outside 198.18.0.0/15, found \"198.18.1.2:80\"",
        ),
        (
            "/casemate/mesh/targets",
            json!({ "web": "10.0.2.2:80" }),
            "casemate.mesh.targets.web: expected a key of 40 lower-case hex digits, found \"10.0.2.2:80\"",
        ),
        (
            "/casemate/mesh/images",
            json!([]),
            "casemate.mesh.images: expected at least one image, since verify contains \"quote\": a genuine quote alone says nothing about the code, found []",
        ),
        (
            "/casemate/mesh/images",
            json!(["other"]),
            "casemate.mesh.images[0]: expected \"same\" (a string of at most 4 bytes) or an object, found \"other\"",
        ),
        (
            "/casemate/mesh/images",
            json!([{ "rtmr2": "00".repeat(48) }]),
            "casemate.mesh.images[0].rtmr2: expected 96 lower-case hex digits, not all zero, found \"00000000000000000000000000000000000000000000000000000000000000000000000000000000\"… (96 bytes)",
        ),
        (
            "/casemate/mesh/verify",
            json!("ca+quote"),
            "casemate.mesh.verify: expected \"quote\" without a KMS: with key provider none each boot has a CA of its own, found \"ca+quote\"",
        ),
    ]);
    // Without anything that the mesh would do, images may be absent.
    let idle = json!({});
    parse(&changed(&[("/casemate/mesh", idle)])).unwrap();
}

#[test]
fn forwards_are_checked_before_they_are_refused() {
    let forward = |service: &str, listen: u16| {
        json!([{
            "service": service, "listen": listen, "app_id": "3763bc34552cf3a27ff71ad5f7a90471562a1a2d", "port": 5432
        }])
    };
    let at = "/casemate/mesh/forwards";
    refused(&[
        (
            at,
            forward("db", 5432),
            "casemate.mesh.forwards[0].service: expected the name of one of the services, found \"db\"",
        ),
        (
            at,
            forward("web", 8000),
            "casemate.mesh.forwards[0].listen: expected a port that is free on 127.0.0.1 inside the service, found 8000",
        ),
        (
            at,
            forward("web", 8888),
            "casemate.mesh.forwards[0].listen: expected a port that is free on 127.0.0.1 inside the service, found 8888",
        ),
        (
            at,
            forward("web", 5432),
            "not implemented in this version: casemate.mesh.forwards a list of 1 (implemented: only [])",
        ),
    ]);
}

#[test]
fn egress_is_one_story() {
    let allow = |entry: Value| json!({ "mode": "allowlist", "allow": [entry] });
    let at = "/casemate/egress";
    refused(&[
        (
            at,
            json!({ "mode": "internal-only", "allow": [{ "cidr": "203.0.113.0/24", "port": 443 }] }),
            "casemate.egress.allow: expected [] unless mode is \"allowlist\", found a list of 1",
        ),
        (
            at,
            allow(json!({ "port": 443 })),
            "casemate.egress.allow[0]: expected either host or cidr, found an object",
        ),
        (
            at,
            allow(json!({ "cidr": "203.0.113.0/24", "host": "a.b", "port": 443 })),
            "casemate.egress.allow[0]: expected either host or cidr, found an object",
        ),
        (
            at,
            allow(json!({ "cidr": "203.0.113.1/24", "port": 443 })),
            "casemate.egress.allow[0].cidr: expected an IP prefix with no bit set behind its length, found \"203.0.113.1/24\"",
        ),
        (
            at,
            json!({ "mode": "allowlist", "allow": [{ "cidr": "203.0.113.0/24", "port": 1 }, { "cidr": "203.0.113.0/24", "port": 1, "proto": "tcp" }] }),
            "casemate.egress.allow[1]: expected each destination once, found an object",
        ),
        (
            at,
            allow(json!({ "cidr": "203.0.113.0/24", "port": 53 })),
            "casemate.egress.allow[0].port: expected a port other than 53: the workload's DNS is MagicDNS only, found 53",
        ),
        (
            at,
            allow(json!({ "cidr": "169.254.169.254/32", "port": 80 })),
            "casemate.egress.allow[0].cidr: expected a prefix that the egress lock can open (not 0/8, 127/8, 169.254/16, 224/4, 240/4), found \"169.254.169.254/32\"",
        ),
    ]);
    for inside in ["198.18.1.0/30", "198.18.0.0/15", "198.0.0.0/8", "0.0.0.0/0"] {
        let found = refusal(&changed(&[(at, allow(json!({ "cidr": inside, "port": 443 })))]));
        let expected = "expected a prefix clear of 198.18.0.0/15, the links of the services";
        assert_eq!(found, format!("doc.json: casemate.egress.allow[0].cidr: {expected}, found \"{inside}\""));
    }
}

#[test]
fn a_static_address_is_a_hosts() {
    let network =
        |address: &str, gateway: &str| json!({ "mode": "static", "address": address, "gateway": gateway });
    let at = "/casemate/network";
    parse(&changed(&[(at, network("10.0.0.2/31", "10.0.0.3"))])).unwrap();
    refused(&[
        (at, json!({ "mode": "static" }), "casemate.network.address: expected a string, found null"),
        (
            at,
            json!({ "gateway": "10.0.0.1" }),
            "casemate.network.gateway: expected nothing with mode \"dhcp\", found \"10.0.0.1\"",
        ),
        (
            at,
            network("10.0.0.2/24", "10.0.1.1"),
            "casemate.network.gateway: expected another host's address inside 10.0.0.0/24, found \"10.0.1.1\"",
        ),
        (
            at,
            network("10.0.0.2/24", "10.0.0.2"),
            "casemate.network.gateway: expected another host's address inside 10.0.0.0/24, found \"10.0.0.2\"",
        ),
        (
            at,
            network("10.0.0.2/24", "10.0.0.255"),
            "casemate.network.gateway: expected another host's address inside 10.0.0.0/24, found \"10.0.0.255\"",
        ),
    ]);
    for address in
        ["10.0.0.0/24", "10.0.0.255/24", "10.0.0.1/32", "127.0.0.1/8", "224.0.0.1/4", "198.18.0.2/24"]
    {
        let found = refusal(&changed(&[(at, network(address, "10.0.0.9"))]));
        let expected =
            "expected the address of a host, in a prefix of at most 31 bits, outside 198.18.0.0/15";
        assert_eq!(found, format!("doc.json: casemate.network.address: {expected}, found \"{address}\""));
    }
}

#[test]
fn prefixes_stay_inside_their_address_space() {
    let at = "/casemate/vpn/prefixes";
    for outside in ["10.0.0.0/8", "100.0.0.0/8", "fd00::/8"] {
        let expected = "expected a prefix inside 100.64.0.0/10, fd7a:115c:a1e0::/48 or 100.128.0.0/10";
        let found = refusal(&changed(&[(at, json!([outside]))]));
        assert_eq!(found, format!("doc.json: casemate.vpn.prefixes[0]: {expected}, found \"{outside}\""));
    }
    refused(&[(
        at,
        json!(["100.64.0.0/10", "100.64.1.0/24"]),
        "casemate.vpn.prefixes[1]: expected prefixes that do not overlap, found \"100.64.1.0/24\"",
    )]);
    let config = parse(&changed(&[(at, json!(["100.128.0.0/16"]))])).unwrap();
    let warnings: Vec<_> = config.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "casemate.vpn.prefixes: 100.128.0.0/16 is public address space; hosts there cannot be reached while it is the private network's"
        ]
    );
    assert!(parse(&small()).unwrap().warnings().is_empty());
}

#[test]
fn a_server_is_whole() {
    let apps = json!({ "3763bc34552cf3a27ff71ad5f7a90471562a1a2d": { "tags": ["tag:internal-only"] } });
    let server = |ephemeral: bool| {
        changed(&[
            ("/casemate/role", json!("server")),
            ("/casemate/server", json!({ "allowed_apps": apps, "ephemeral": ephemeral })),
        ])
    };
    assert_eq!(
        refusal(&server(false)),
        "doc.json: casemate.server.ephemeral: expected true with role \"server\" without a KMS: its keys die with the machine, found false"
    );
    assert_eq!(
        refusal(&server(true)),
        "doc.json: not implemented in this version: casemate.role \"server\" (implemented: only \"node\")"
    );
    refused(&[
        (
            "/casemate/role",
            json!("server"),
            "casemate.server: expected an object with role \"server\", found null",
        ),
        (
            "/casemate/server",
            json!({ "allowed_apps": apps }),
            "casemate.server: expected null with role \"node\", found an object",
        ),
    ]);
}

#[test]
fn problems_can_be_matched() {
    let error = parse(&changed(&[("/casemate/role", json!("server"))])).unwrap_err();
    assert_eq!(error.file, "doc.json");
    assert!(matches!(error.problem, Problem::Invalid { path, .. } if path == "casemate.server"));
}
