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
    assert!(config.require_policy && config.dns.listen && !config.dns.internal_only && !config.resolv_conf);
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
    let asked = with(&[("/dns", json!({"resolv_conf": true}))]);
    assert!(read(&asked).unwrap_or_else(|error| panic!("{error}")).config.resolv_conf);
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
fn public_address_space_is_taken_with_a_warning() {
    let warnings = |prefixes: &[&str]| {
        let config = with(&[("/prefixes", json!(prefixes))]);
        read(&config).unwrap_or_else(|error| panic!("{error}")).config.warnings()
    };
    assert_eq!(read(&least()).unwrap_or_else(|error| panic!("{error}")).config.warnings(), [""; 0]);
    assert_eq!(
        warnings(&["10.9.0.0/16", "100.64.0.0/10", "172.31.0.0/16", "192.168.7.0/24", "fd00::/64"]),
        [""; 0]
    );
    // Also what is private only in part.
    let public = ["100.128.0.0/10", "172.0.0.0/8", "192.168.0.0/15"];
    let found = warnings(&public);
    assert_eq!(found.len(), public.len(), "{found:?}");
    assert_eq!(
        found.first().unwrap(),
        "prefixes: 100.128.0.0/10 is public address space; hosts there cannot be reached while it is the private network's"
    );
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
        (
            "/dns",
            json!({"resolvers": ["100.100.100.100:53"]}),
            "dns.resolvers[0]: expected IP:PORT, not of this node",
        ),
        ("/dns", json!({"resolvers": ["[fd7a:115c:a1e0::53]:53"]}), "dns.resolvers[0]"),
        ("/dns", json!({"resolvers": ["[::ffff:100.100.100.100]:53"]}), "dns.resolvers[0]"),
        (
            "/dns",
            json!({"listen": false, "resolv_conf": true}),
            "dns.resolv_conf: expected false, since dns.listen is",
        ),
        ("/dns", json!({"resolv_conf": "/etc"}), "dns.resolv_conf: expected true or false"),
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

fn registering(registration: &Json) -> Json {
    json!({"registration": registration, "hostname": "node-1"})
}

#[test]
fn the_key_comes_from_one_place() {
    let at = json!({"url": "https://vpc.example/api/register"});
    let parsed = read(&registering(&at)).unwrap_or_else(|error| panic!("{error}"));
    let (config, document) = (parsed.config, parsed.document);
    let expected = Registration {
        url: "https://vpc.example/api/register".to_owned(),
        plain_http: false,
        node_type: None,
        document: None,
    };
    assert_eq!((config.registration, document), (Some(expected), None));
    let nobody =
        LoginServer { url: String::new(), noise_key: None, authkey: None, plain_http: false, locked: false };
    assert_eq!(config.login_server, nobody);

    let full = json!({"url": "http://192.0.2.1:8000/api/register", "document": "/c", "node_type": "rag", "plain_http": true});
    let parsed = read(&registering(&full)).unwrap_or_else(|error| panic!("{error}"));
    let registration = parsed.config.registration.unwrap();
    assert_eq!(registration.node_type.as_deref(), Some("rag"));
    assert!(registration.plain_http && parsed.config.login_server.plain_http);
    assert_eq!(parsed.document.as_deref(), Some(Path::new("/c")));

    // The server and its key may be said beside it, as long as what to join with is not.
    let key = format!("mkey:{}", "0a".repeat(32));
    let login = json!({"url": "https://hs.example", "noise_key": key, "authkey": null});
    let both = with(&[("/login_server", login), ("/registration", at.clone())]);
    let config = read(&both).unwrap_or_else(|error| panic!("{error}")).config;
    assert_eq!(config.login_server.noise_key.unwrap().to_string(), key);
    assert!(config.registration.is_some());
    for authkey in [json!("hskey-auth-x-y"), json!({"file": "/k"})] {
        let both = with(&[("/login_server/authkey", authkey), ("/registration", at.clone())]);
        assert_eq!(
            read(&both).err().unwrap(),
            "registration: expected null, since login_server.authkey says where the key comes from, found an object"
        );
    }
    for neither in
        [json!({"hostname": "a"}), json!({"hostname": "a", "login_server": null, "registration": null})]
    {
        assert_eq!(
            read(&neither).err().unwrap(),
            "login_server: expected an object, or one at registration, found nothing"
        );
    }
}

#[test]
fn a_registration_that_is_wrong_is_refused_by_its_name() {
    let at = "https://vpc.example/api/register";
    for (registration, expected) in [
        (json!("x"), "registration: expected an object, found \"x\""),
        (
            json!({}),
            "registration.url: expected an https:// URL with a path and nothing behind it, or http:// to loopback (plain_http: true for others), found nothing",
        ),
        (
            json!({"url": at, "typo": 1}),
            "registration.typo: expected one of the keys document, node_type, plain_http, url, found this unknown one",
        ),
        (
            json!({"url": at, "document": "c"}),
            "registration.document: expected an absolute path, found \"c\"",
        ),
        (
            json!({"url": at, "node_type": "A b"}),
            "registration.node_type: expected a DNS label, found \"A b\"",
        ),
        (json!({"url": at, "plain_http": 1}), "registration.plain_http: expected true or false, found 1"),
    ] {
        assert_eq!(read(&registering(&registration)).err().unwrap(), expected);
    }
    for url in [
        "http://127.0.0.1:8000/api/register",
        "http://[::1]/r",
        "http://localhost/r",
        "https://[2001:db8::1]:1/r",
    ] {
        assert!(registration_url(url, false).is_some(), "{url}");
    }
    for url in ["http://h/r", "http://192.0.2.1/r", "http://127.0.0.1.example/r"] {
        assert!(registration_url(url, false).is_none() && registration_url(url, true).is_some(), "{url}");
    }
    for url in [
        "",
        "/r",
        "h/r",
        "ftp://h/r",
        "https://",
        "https://h",
        "https://h/",
        "https:///r",
        "https://u@h/r",
        "https://h/r?x",
        "https://h/r#x",
        "https://h/a b",
        "https://h:0/r",
        "https://h/\n",
    ] {
        assert!(registration_url(url, true).is_none(), "{url}");
    }
    assert!(registration_url(&format!("https://h/{}", "x".repeat(512)), true).is_none());
}

#[test]
fn the_document_is_read_as_it_is_and_must_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let config = registering(&json!({"url": "https://vpc.example/r", "document": at("document")}));
    fs::write(at("config"), config.to_string()).unwrap();
    for (content, expected) in [
        (None, "No such file"),
        (Some("[\"secret\"]"), "(content): expected an app-compose document, found a list"),
        (Some("{"), "expected"),
    ] {
        if let Some(content) = content {
            fs::write(at("document"), content).unwrap();
        }
        let error = Config::load(&at("config")).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{}: ", at("document").display())), "{error}");
        assert!(error.contains(expected) && !error.contains("secret"), "{error}");
    }
    let document = "{ \"casemate\" :\n{}}\n";
    fs::write(at("document"), document).unwrap();
    let config = Config::load(&at("config")).unwrap();
    assert_eq!(config.registration.unwrap().document.as_deref(), Some(document));
}

/// The keys of an object are those that a wrong one is told.
#[test]
fn the_readme_names_every_key_and_no_other() {
    let wrong = [
        ("", with(&[("/?", json!(1))])),
        ("login_server.", with(&[("/login_server/?", json!(1))])),
        ("registration.", registering(&json!({"url": "https://h/r", "?": 1}))),
        ("dns.", with(&[("/dns", json!({"?": 1}))])),
    ];
    let mut known: Vec<String> = Vec::new();
    for (prefix, config) in &wrong {
        let Err(Problem::UnknownKey { expected, .. }) = Parsed::read(config.to_string().as_bytes()) else {
            panic!("accepted: {config}");
        };
        known.extend(expected.split(", ").map(|key| format!("{prefix}{key}")));
    }
    known.retain(|key| !["login_server", "registration", "dns"].contains(&key.as_str()));
    known.sort_unstable();
    let rows =
        include_str!("../README.md").lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let mut told: Vec<&str> = rows.map(|(key, _)| key).collect();
    told.sort_unstable();
    assert_eq!(known, told);
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
