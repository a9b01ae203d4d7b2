use casemate_measure::document::json::Value;
use serde_json::{Value as Json, json};

use super::*;

fn least() -> Json {
    json!({"login_server": {"url": "https://hs.example"}, "hostname": "node-1"})
}

fn with(changes: &[(&str, Json)]) -> Json {
    let mut config = least();
    for (path, value) in changes {
        let (parent, key) = path.rsplit_once('/').unwrap();
        let parent = if parent.is_empty() { &mut config } else { config.pointer_mut(parent).unwrap() };
        parent.as_object_mut().unwrap().insert((*key).to_owned(), value.clone());
    }
    config
}

fn read(config: &Json) -> Result<Parsed, String> {
    Parsed::read(config.to_string().as_bytes()).map_err(|problem| problem.to_string())
}

#[test]
fn the_least_has_the_defaults_of_the_readme() {
    let config = read(&least()).unwrap_or_else(|error| panic!("{error}")).config;
    assert_eq!(config.prefixes, DEFAULT_PREFIXES);
    assert_eq!(
        (config.interface.as_str(), config.port, config.mtu, config.uid),
        ("casemate0", 41641, 1280, 65534)
    );
    assert_eq!(config.status_socket, Path::new("/run/casemate/vpn.sock"));
    assert!(config.require_policy && config.dns.listen && !config.dns.internal_only);
    assert!((1..=4).contains(&config.queues));
    assert!(config.state.is_none() && config.login_server.authkey.is_none() && !config.debug_use_derp_http);
}

#[test]
fn everything_that_may_be_said_is_taken() {
    let key = format!("mkey:{}", "0a".repeat(32));
    let config = with(&[
        (
            "/login_server",
            json!({"url": "http://192.168.77.1:8080", "noise_key": key, "authkey": {"file": "/k"}, "plain_http": true}),
        ),
        ("/prefixes", json!(["10.9.0.0/16"])),
        ("/derp_pins", json!({"derp.example": "0b".repeat(32)})),
        ("/require_policy", json!(false)),
        ("/state", json!("/var/lib/s")),
        ("/interface", json!("t0")),
        ("/port", json!(1)),
        ("/mtu", json!(1420)),
        ("/queues", json!(2)),
        ("/uid", json!(1234)),
        ("/status_socket", json!("/s")),
        (
            "/dns",
            json!({"listen": false, "resolvers": ["9.9.9.9:53"], "internal_only": true, "allowlist": ["a.example"]}),
        ),
        ("/roots", json!("/r.pem")),
        ("/debug_use_derp_http", json!(true)),
    ]);
    let parsed = read(&config).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(parsed.config.authkey_file.as_deref(), Some(Path::new("/k")));
    assert_eq!(parsed.roots.as_deref(), Some(Path::new("/r.pem")));
    let config = parsed.config;
    assert_eq!(config.login_server.noise_key.unwrap().to_string(), key);
    assert_eq!((config.queues, config.mtu, config.uid), (2, 1420, 1234));
    assert_eq!(config.dns.resolvers, ["9.9.9.9:53".parse().unwrap()]);
    assert_eq!(config.derp_pins.len(), 1);
    let nulls = with(&[
        ("/state", Json::Null),
        ("/queues", Json::Null),
        ("/roots", Json::Null),
        ("/login_server/noise_key", Json::Null),
        ("/login_server/authkey", Json::Null),
    ]);
    assert!(read(&nulls).is_ok());
}

#[test]
fn anything_else_is_refused_by_its_name() {
    for (path, value, expected) in [
        ("/typo", json!(1), "typo: expected one of the keys debug_use_derp_http, derp_pins, dns"),
        ("/login_server/typo", json!(1), "login_server.typo: expected one of the keys authkey"),
        ("/dns", json!({"typo": 1}), "dns.typo: expected one of the keys"),
        ("/hostname", json!("A.b"), "hostname: expected a DNS label, found \"A.b\""),
        (
            "/login_server/url",
            json!("http://192.168.77.1:8080"),
            "login_server.url: expected an https:// URL, or http:// to loopback",
        ),
        ("/login_server/url", json!("https://u@h/"), "login_server.url: expected"),
        ("/login_server/url", json!("https://h:0"), "login_server.url: expected"),
        ("/login_server/url", json!("https://h/path"), "login_server.url: expected"),
        (
            "/login_server/noise_key",
            json!("mkey:0"),
            "login_server.noise_key: expected mkey: and 64 hex digits",
        ),
        (
            "/login_server/authkey",
            json!("secret key"),
            "login_server.authkey: expected a pre-auth key of visible ASCII characters, found something else",
        ),
        (
            "/login_server/authkey",
            json!({"file": "k"}),
            "login_server.authkey.file: expected an absolute path, found \"k\"",
        ),
        ("/login_server/authkey", json!({}), "login_server.authkey.file: expected a path, found nothing"),
        ("/prefixes", json!([]), "prefixes: expected at least one prefix"),
        ("/prefixes", json!(["127.0.0.0/8"]), "prefixes[0]: expected a prefix that may be"),
        ("/prefixes", json!(["0.0.0.0/0"]), "prefixes[0]"),
        ("/prefixes", json!(["100.64.0.1/10"]), "prefixes[0]"),
        ("/prefixes", json!(["2000::/3"]), "prefixes[0]"),
        (
            "/prefixes",
            json!(["10.0.0.0/8", "10.1.0.0/16"]),
            "prefixes[1]: expected prefixes that do not overlap",
        ),
        ("/derp_pins", json!({"a.b": "0B"}), "derp_pins[\"a.b\"]: expected 64 hex digits"),
        (
            "/derp_pins",
            json!({"allo\u{7f}list": 1}),
            "derp_pins[\"allo\\u{7f}list\"]: expected a key that is",
        ),
        ("/require_policy", json!("yes"), "require_policy: expected true or false, found \"yes\""),
        ("/state", json!("s"), "state: expected an absolute path"),
        ("/interface", json!("a/b"), "interface: expected the name of an interface"),
        ("/interface", json!("sixteen-letters-"), "interface"),
        ("/interface", json!("lo"), "interface"),
        ("/port", json!(0), "port: expected a whole number from 1 to 65535, found 0"),
        ("/port", json!("x"), "port"),
        ("/mtu", json!(1279), "mtu: expected a whole number from 1280 to 9000"),
        ("/queues", json!(17), "queues"),
        ("/uid", json!(0), "uid: expected a whole number from 1 to"),
        ("/dns", json!(null), "dns: expected an object, found null"),
        ("/dns", json!({"resolvers": ["9.9.9.9"]}), "dns.resolvers[0]: expected IP:PORT"),
        ("/dns", json!({"allowlist": [1]}), "dns.allowlist[0]: expected a DNS name, found 1"),
    ] {
        let config = with(&[(path, value)]);
        let error = read(&config).err().unwrap_or_else(|| panic!("accepted: {config}"));
        assert!(error.contains(expected), "{error}\n{expected}");
    }
    for gone in ["login_server", "hostname"] {
        let mut config = least();
        config.as_object_mut().unwrap().remove(gone);
        assert!(read(&config).err().unwrap().contains(&format!("{gone}: expected")), "{gone}");
    }
    let twice = br#"{"hostname":"a","hostname":"b"}"#;
    assert!(Value::read(twice).unwrap_err().to_string().contains("hostname: expected each key once"));
}

#[test]
fn what_a_refusal_repeats_of_the_file_is_escaped_and_cut() {
    for hostile in ["allo\u{7f}list".to_owned(), "\u{1b}[2J\n\u{202e}".to_owned(), "k".repeat(10_000)] {
        for (path, value) in [
            ("/derp_pins", json!({&hostile: "0b".repeat(32)})),
            ("/login_server/authkey", json!({"file": "/k", &hostile: 1})),
            ("/login_server", json!({"url": "https://h", &hostile: 1})),
            ("/dns", json!({&hostile: 1})),
            ("/dns", json!({"allowlist": ["a", format!("{hostile}\u{7f}")]})),
            ("/hostname", json!(format!("{hostile}\u{7f}"))),
            ("/mtu", json!(hostile)),
        ] {
            let error = read(&with(&[(path, value)])).err().unwrap_or_else(|| panic!("accepted: {path}"));
            assert!(!error.chars().any(char::is_control) && error.len() < 1024, "{path}: {error}");
        }
        let mut top = least();
        top.as_object_mut().unwrap().insert(hostile, json!(1));
        let error = read(&top).err().unwrap();
        assert!(!error.chars().any(char::is_control) && error.len() < 1024, "{error}");
    }
}

#[test]
fn http_goes_where_it_is_wanted() {
    for url in [
        "https://h",
        "https://h:8443/",
        "https://192.0.2.1",
        "https://[2001:db8::1]:1",
        "http://127.0.0.1:8080",
        "http://[::1]",
        "http://localhost:1",
    ] {
        assert!(login_url(url, false).is_some(), "{url}");
    }
    for url in ["http://h", "http://192.0.2.1", "http://127.0.0.1.example"] {
        assert!(login_url(url, false).is_none() && login_url(url, true).is_some(), "{url}");
    }
    for url in [
        "",
        "h",
        "ftp://h",
        "https://",
        "https://[::1",
        "https://h:x",
        "https://h:65536",
        "https://h?x",
        "https://h#x",
        "https://a b",
    ] {
        assert!(login_url(url, true).is_none(), "{url}");
    }
}

#[test]
fn files_are_read_when_they_are_named_and_no_key_is_repeated_in_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let config =
        with(&[("/login_server/authkey", json!({"file": at("key")})), ("/roots", json!(at("roots")))]);
    fs::write(at("config"), config.to_string()).unwrap();
    let error = Config::load(&at("config")).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}: ", at("roots").display())), "{error}");
    fs::write(at("roots"), "pem").unwrap();
    for nothing in [None, Some(""), Some("\n")] {
        if let Some(content) = nothing {
            fs::write(at("key"), content).unwrap();
        }
        let config = Config::load(&at("config")).unwrap();
        assert!(config.login_server.authkey.is_none(), "{nothing:?}");
        assert_eq!(config.authkey_file.as_deref(), Some(at("key").as_path()));
    }
    fs::write(at("key"), "two words").unwrap();
    let error = Config::load(&at("config")).unwrap_err().to_string();
    assert!(error.contains("(content): expected a pre-auth key") && !error.contains("two"), "{error}");
    fs::write(at("key"), "hskey-auth-x-y\n").unwrap();
    let config = Config::load(&at("config")).unwrap();
    assert_eq!(config.login_server.authkey.as_ref().unwrap().expose(), "hskey-auth-x-y");
    assert!(!format!("{config:?}").contains("hskey"));
    assert_eq!(config.roots.as_deref(), Some("pem"));
}
