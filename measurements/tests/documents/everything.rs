//! Two documents that together use every key of the table, and what happens to each of their values when it is bent.
#![expect(clippy::unwrap_used, reason = "a test that cannot make its document has failed")]

use std::collections::BTreeSet;

use crate::support::set;
use casemate_measure::document::{Problem, reference};
use casemate_measure::{MeasuredConfig, Platform};
use serde_json::{Value, json};

const APP: &str = "3763bc34552cf3a27ff71ad5f7a90471562a1a2d";

fn node() -> Value {
    let digest = "0a".repeat(32);
    let register = "0a".repeat(48);
    let image = json!({ "mrtd": register, "rtmr0": register, "rtmr1": register, "rtmr2": register });
    json!({
        "manifest_version": 2, "name": "everything", "runner": "docker-compose", "kms_enabled": true, "allowed_envs": ["VPN_KEY"],
        "casemate": {
            "version": 1,
            "role": "node",
            "node": { "name": "rag-1", "type": "rag" },
            "network": { "mode": "static", "address": "10.0.0.2/24", "gateway": "10.0.0.1" },
            "dns": { "resolvers": [{ "kind": "dot", "address": "9.9.9.9:853", "name": "dns.quad9.net" }] },
            "time": { "nts": [{ "address": "192.0.2.7:4460", "name": "nts.example" }] },
            "collateral": { "pccs": { "url": "https://pccs.example:8081/x", "address": "192.0.2.8:8081" }, "max_age_days": 7 },
            "gateway": { "domain": "gw.example", "addresses": ["192.0.2.1:443"] },
            "vpn": {
                "mode": "tunnel", "server_app_id": "self",
                "login_server": {
                    "url": "https://hs.example", "noise_key": format!("mkey:{digest}"), "plain_http": true, "authkey": { "env": "VPN_KEY" }
                },
                "prefixes": ["100.128.0.0/10", "fd7a:115c:a1e0::/48"], "derp_pins": { "derp.example": digest },
                "derp_ports": [443, 8443],
                "require_policy": false,
            },
            "egress": {
                "mode": "allowlist",
                "allow": [
                    { "host": "api.example.com", "port": 443, "proto": "tcp" },
                    { "cidr": "203.0.113.0/24", "port": 500, "proto": "udp" },
                ],
                "log_denied": true,
            },
            "mesh": {
                "backends": [
                    { "listen": 443, "kind": "http", "to": "web:8000", "allow": ["any"] },
                    { "listen": 27017, "kind": "tcp", "to": "db:27017", "allow": [APP, "tag:internal-only"] },
                ],
                "forwards": [{ "service": "web", "listen": 15432, "app_id": APP, "port": 5432 }],
                "targets": { APP: "10.0.2.2:443" },
                "verify": "ca+quote", "images": ["same", image], "tls_min": "1.2",
            },
            "logs": { "readers": ["operators", APP] },
            "operators": { "certificates": [{ "sha256": digest, "projects": ["p"] }] },
            "services": [
                {
                    "name": "web", "exec": ["/bin/httpd", "-f"], "rootfs": "web", "uid": 1000, "env": { "A_1": "x" },
                    "ports": [8000], "tmpfs": { "/tmp": "16M" }, "restart": "on-failure", "memory_max": "256M",
                    "pids_max": 128, "cpu_max": 100, "dstack": { "get_key": ["web/*"], "quote": "app-data" },
                },
                { "name": "db", "exec": ["/bin/db"], "rootfs": "db", "uid": 1001, "ports": [27017] },
            ],
        },
    })
}

fn server() -> Value {
    let mut document = node();
    for (pointer, value) in [
        ("/casemate/role", json!("server")),
        (
            "/casemate/server",
            json!({
                "allowed_apps": { APP: { "tags": ["tag:internal-only"] } },
                "headscale": { "kind": "external", "address": "192.0.2.2:8080" },
                "ephemeral": true,
            }),
        ),
        ("/casemate/vpn/login_server/authkey", json!("tskey-1")),
    ] {
        set(&mut document, pointer, value);
    }
    document
}

fn problem(document: &Value) -> Problem {
    let bytes = serde_json::to_vec(document).unwrap();
    match MeasuredConfig::parse("doc.json", &bytes, Platform::Container) {
        Err(error) => error.problem,
        Ok(_) => panic!("accepted: {document:#}"),
    }
}

/// Every value of the section: its JSON pointer, its path in errors, its path in the table.
fn values(value: &Value, at: (String, String, String), into: &mut Vec<(String, String, String)>) {
    const MAPS: &[&str] =
        &["vpn.derp_pins", "mesh.targets", "server.allowed_apps", "services[].env", "services[].tmpfs"];
    let (pointer, path, row) = at;
    match value {
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                values(item, (format!("{pointer}/{i}"), format!("{path}[{i}]"), format!("{row}[]")), into);
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                let name = if MAPS.contains(&row.as_str()) { "*" } else { key };
                let row = if row.is_empty() { name.to_owned() } else { format!("{row}.{name}") };
                let escaped = key.replace('/', "~1");
                let path =
                    if key.contains('.') { format!("{path}[{key:?}]") } else { format!("{path}.{key}") };
                values(field, (format!("{pointer}/{escaped}"), path, row), into);
            }
        }
        _ => {}
    }
    if !row.is_empty() {
        into.push((pointer, path, row));
    }
}

fn all(document: &Value) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    values(&document["casemate"], ("/casemate".into(), "casemate".into(), String::new()), &mut found);
    found
}

#[test]
fn the_documents_are_right_and_use_every_key() {
    let mut used = BTreeSet::new();
    for document in [node(), server()] {
        assert!(matches!(problem(&document), Problem::NotImplemented { .. }), "{}", problem(&document));
        used.extend(all(&document).into_iter().map(|(_, _, row)| row));
    }
    let table = reference::keys();
    let rows: BTreeSet<_> = table
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned()))
        .collect();
    assert_eq!(used, rows);
}

#[test]
fn every_value_is_checked_for_its_type() {
    for document in [node(), server()] {
        for (pointer, path, _) in all(&document) {
            for wrong in [json!({ "no such key": 1 }), json!([[]]), json!(-1), json!(0.5), json!("\0")] {
                let mut bent = document.clone();
                *bent.pointer_mut(&pointer).expect(&pointer) = wrong.clone();
                let found = problem(&bent);
                let at = match &found {
                    Problem::Invalid { path, .. } | Problem::UnknownKey { path, .. } => path.as_str(),
                    other => panic!("{path} = {wrong}: {other}"),
                };
                assert!(at.starts_with(&path), "{path} = {wrong}: {found}");
            }
        }
    }
}

#[test]
fn every_key_of_a_map_is_checked() {
    for (pointer, value) in [
        ("/casemate/vpn/derp_pins/a b", json!("0a".repeat(32))),
        ("/casemate/mesh/targets/0A", json!("10.0.2.2:443")),
        ("/casemate/services/0/env/1", json!("x")),
        ("/casemate/services/0/tmpfs/tmp", json!("1M")),
        ("/casemate/server/allowed_apps/x", json!({ "tags": ["tag:a"] })),
    ] {
        let mut document = server();
        set(&mut document, pointer, value);
        assert!(matches!(problem(&document), Problem::Invalid { .. }), "{pointer}: {}", problem(&document));
    }
}
