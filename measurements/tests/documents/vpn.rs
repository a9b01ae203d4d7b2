//! The private network: what its keys say together.

use serde_json::{Value, json};

use crate::bad::refused;
use crate::support::{changed, parse};

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
            "casemate.vpn.login_server.url: expected an https:// URL (or http:// to loopback, or with plain_http), found \"http://192.0.2.1:8080\"",
        ),
        (
            at,
            login(http, &[("plain_http", json!(true))]),
            "casemate.vpn.login_server.noise_key: expected mkey: and 64 hex digits (plain_http is true), found null",
        ),
    ]);
    for good in [
        login("https://192.0.2.1:8443", &[]),
        login("https://192.0.2.1", &[("noise_key", key.clone())]),
        login(http, &[("plain_http", json!(true)), ("noise_key", key)]),
    ] {
        parse(&changed(&[(at, good)])).unwrap();
    }
}
