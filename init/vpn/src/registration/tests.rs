#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on may panic")]

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::pace::{MAX_BACKOFF, MAX_RETRY, MIN_INTERVAL, REFUSED_PAUSE};
use super::*;

const KEY: &str = "hskey-auth-abcdef012345-0123456789abcdef0123456789abcdef";

fn noise(byte: u8) -> Public<Machine> {
    Public::new([byte; 32])
}

fn rules() -> Rules {
    Rules {
        server: None,
        noise_key: None,
        plain_http: false,
        prefixes: vec!["100.64.0.0/10".parse().unwrap(), "fd7a:115c:a1e0::/48".parse().unwrap()],
        derp_pins: [("derp.example".to_owned(), "0a".repeat(32))].into(),
    }
}

fn good() -> Value {
    json!({ "pre_auth_key": KEY, "server_url": "https://hs.example", "noise_key": noise(7) })
}

fn with(field: &str, value: Value) -> Value {
    let mut answer = good();
    answer.as_object_mut().unwrap().insert(field.to_owned(), value);
    answer
}

fn read(answer: &Value, rules: &Rules) -> Result<Answer, AnswerError> {
    Answer::read(answer.to_string().as_bytes(), rules)
}

#[test]
fn an_answer_says_server_key_and_pin() {
    let answer = read(&good(), &rules()).unwrap();
    assert_eq!((answer.key.expose(), answer.url.as_str()), (KEY, "https://hs.example"));
    assert_eq!((answer.server.host.as_str(), answer.noise_key), ("hs.example", noise(7)));
    assert!(!format!("{answer:?}").contains("hskey"), "{answer:?}");
    // Everything that it may say beside, where the configuration says so too.
    let mut all = with("prefixes", json!(["100.64.0.0/16", "fd7a:115c:a1e0::/48"]));
    all["derp_pins"] = json!({ "DERP.example": "0A".repeat(32) });
    all["shared_key"] = json!("c2VjcmV0");
    read(&all, &rules()).unwrap();
    let nulls = json!({ "pre_auth_key": KEY, "server_url": "https://hs.example", "noise_key": noise(7),
                        "prefixes": null, "derp_pins": null, "shared_key": null });
    read(&nulls, &rules()).unwrap();
}

/// The seed says no Noise key: then the configuration has to.
#[test]
fn the_seeds_own_answer_will_do_where_the_key_is_pinned() {
    let seed =
        json!({ "pre_auth_key": KEY, "shared_key": "c2VjcmV0", "server_url": "https://0a-8080.gw.example" });
    assert_eq!(read(&seed, &rules()).unwrap_err(), AnswerError::NoNoiseKey);
    let pinned = Rules { noise_key: Some(noise(9)), ..rules() };
    assert_eq!(read(&seed, &pinned).unwrap().noise_key, noise(9));
}

#[test]
fn another_key_or_server_than_the_pinned_one_is_refused() {
    let pinned = Rules { noise_key: Some(noise(9)), ..rules() };
    let error = AnswerError::NoiseKey { pinned: noise(9), found: noise(7) };
    assert_eq!(read(&good(), &pinned).unwrap_err(), error);
    let server = |url: &str| Rules { server: Some(url.parse().unwrap()), ..rules() };
    read(&good(), &server("https://HS.example:443/")).unwrap();
    for other in ["https://hs.example:8443", "http://hs.example:443", "https://other.example"] {
        let error = read(&good(), &server(other)).unwrap_err();
        assert!(matches!(&error, AnswerError::OtherServer { found, .. } if found == "hs.example"), "{error}");
    }
}

#[test]
fn plain_http_goes_no_further_than_it_may() {
    let local = ["http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost:8080"];
    for url in local {
        read(&with("server_url", json!(url)), &rules()).unwrap();
    }
    for url in ["http://hs.example", "http://127.0.0.1.example", "http://192.0.2.1:8080"] {
        let answer = with("server_url", json!(url));
        assert!(matches!(read(&answer, &rules()).unwrap_err(), AnswerError::PlainHttp(_)), "{url}");
        read(&answer, &Rules { plain_http: true, ..rules() }).unwrap();
    }
}

#[test]
fn what_the_configuration_does_not_allow_is_refused() {
    for outside in ["100.0.0.0/8", "10.0.0.0/24", "fd7a:115c:a1e1::/64", "0.0.0.0/0"] {
        let error = read(&with("prefixes", json!(["100.64.0.0/16", outside])), &rules()).unwrap_err();
        assert_eq!(error, AnswerError::Prefix(outside.parse().unwrap()));
    }
    for (host, pin) in [("derp.example", "0b"), ("new.example", "0a")] {
        let error = read(&with("derp_pins", json!({ host: pin.repeat(32) })), &rules()).unwrap_err();
        assert_eq!(error, AnswerError::DerpPin(host.to_owned()));
    }
}

#[test]
fn a_field_that_is_wrong_is_named_and_not_repeated() {
    let long = "k".repeat(513);
    for (field, value) in [
        ("pre_auth_key", json!("")),
        ("pre_auth_key", json!(" \t")),
        ("pre_auth_key", json!("two secrets")),
        ("pre_auth_key", json!("secret\n")),
        ("pre_auth_key", json!("secrét")),
        ("pre_auth_key", json!(long)),
        ("pre_auth_key", json!({ "key": "secret" })),
        ("pre_auth_key", json!(7)),
        ("server_url", json!("secret")),
        ("server_url", json!("ftp://hs.example")),
        ("server_url", json!("https://hs.example/path")),
        ("server_url", json!("https://hs.example/?secret")),
        ("server_url", json!("https://hs.example/#secret")),
        ("server_url", json!("https://user:secret@hs.example")),
        ("server_url", json!("https://hs.example:0")),
        ("server_url", json!(format!("https://{long}"))),
        ("server_url", json!(["https://hs.example"])),
        ("noise_key", json!("mkey:secret")),
        ("noise_key", json!(format!("nodekey:{}", "0a".repeat(32)))),
        ("noise_key", json!(Public::<Machine>::zero())),
        ("noise_key", json!(7)),
        ("prefixes", json!([])),
        ("prefixes", json!("100.64.0.0/10")),
        ("prefixes", json!(["secret"])),
        ("prefixes", json!(vec!["100.64.0.0/16"; 17])),
        ("derp_pins", json!([])),
        ("derp_pins", json!({ "derp.example": 7 })),
        ("derp_pins", json!({ "two words": "secret" })),
        ("derp_pins", json!({ "": "secret" })),
    ] {
        let error = read(&with(field, value.clone()), &rules()).unwrap_err();
        assert!(
            matches!(&error, AnswerError::Field { field: named, .. } if *named == field),
            "{value}: {error}"
        );
        assert!(!error.to_string().contains("secr"), "{error}");
    }
    for field in ["pre_auth_key", "server_url"] {
        for nothing in [None, Some(Value::Null)] {
            let mut answer = good();
            answer.as_object_mut().unwrap().remove(field);
            answer.as_object_mut().unwrap().extend(nothing.map(|null| (field.to_owned(), null)));
            assert_eq!(read(&answer, &rules()).unwrap_err(), AnswerError::Missing(field));
        }
    }
}

#[test]
fn anything_that_is_no_such_object_is_refused_whole() {
    let twice = format!(r#"{{"pre_auth_key":"{KEY}","pre_auth_key":"{KEY}"}}"#);
    let behind = format!("{} {{}}", good());
    let deep = format!(r#"{{"shared_key":{}"#, "[".repeat(60_000));
    let unknown = with("hskey-auth-secret", json!(1)).to_string();
    let text = json!("hskey-auth-secret").to_string();
    for body in ["", "null", "[]", "{", "<html>", &twice, &behind, &deep, &unknown, &text] {
        let error = Answer::read(body.as_bytes(), &rules()).unwrap_err();
        assert!(matches!(error, AnswerError::Shape { .. }), "{body}: {error}");
        assert!(!error.to_string().contains("hskey"), "{error}");
    }
    assert!(matches!(Answer::read(b"{\"a\xff\":1}", &rules()).unwrap_err(), AnswerError::Shape { .. }));
    // The bound is the answer's own, to the byte.
    let mut body = good().to_string().into_bytes();
    body.resize(MAX_ANSWER, b' ');
    Answer::read(&body, &rules()).unwrap();
    body.push(b' ');
    assert_eq!(Answer::read(&body, &rules()).unwrap_err(), AnswerError::TooLong);
}

#[test]
fn retry_after_is_obeyed_and_a_refusal_is_left_alone() {
    let wait = |outcome| {
        let (now, mut pace) = (Instant::now(), Pace::new(3));
        assert_eq!(pace.due(), None);
        pace.begin(now);
        pace.end(outcome, now + Duration::from_secs(1));
        pace.due().unwrap() - now
    };
    let after = |seconds| Outcome::NotNow(Some(Duration::from_secs(seconds)));
    assert_eq!(wait(Outcome::Key), MIN_INTERVAL);
    assert_eq!(wait(after(0)), MIN_INTERVAL);
    assert!(wait(Outcome::NotNow(None)) >= MIN_INTERVAL);
    assert!(wait(after(900)) >= Duration::from_secs(901));
    // A server that is never to be asked again, by its own word, is asked after an hour.
    let longest = wait(after(u64::MAX));
    assert!(longest >= MAX_RETRY && longest < MAX_RETRY * 2, "{longest:?}");
    assert!(wait(Outcome::Refused) >= REFUSED_PAUSE);
    assert!(wait(Outcome::Transport { sent: true }) >= MIN_INTERVAL);
    let soon = wait(Outcome::Transport { sent: false });
    assert!(soon >= Duration::from_secs(2) && soon <= Duration::from_secs(3), "{soon:?}");
}

#[test]
fn back_off_grows_to_a_minute_and_ends_with_an_answer() {
    let (mut now, mut pace) = (Instant::now(), Pace::new(3));
    let mut waits = Vec::new();
    for _ in 0..12 {
        pace.begin(now);
        pace.end(Outcome::Transport { sent: false }, now);
        waits.push(pace.due().unwrap() - now);
        now = pace.due().unwrap();
    }
    for (number, wait) in waits.iter().enumerate() {
        let whole = Duration::from_secs(2 << number.min(5)).min(MAX_BACKOFF);
        assert!(*wait >= whole / 2 && *wait <= whole, "{number}: {wait:?}");
    }
    pace.begin(now);
    pace.end(Outcome::Key, now);
    pace.begin(now);
    pace.end(Outcome::Transport { sent: false }, now);
    assert!(pace.due().unwrap() - now <= Duration::from_secs(2));
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Key),
        Just(Outcome::Refused),
        any::<Option<u64>>().prop_map(|after| Outcome::NotNow(after.map(Duration::from_secs))),
        (0..200_u64).prop_map(|after| Outcome::NotNow(Some(Duration::from_secs(after)))),
        any::<bool>().prop_map(|sent| Outcome::Transport { sent }),
    ]
}

proptest! {
    /// Whatever is answered, however fast: no two requests that may have arrived begin within a minute, no server hears more than
    /// sixty an hour, and a server's word is kept.
    #[test]
    fn no_answers_make_a_storm(seed in any::<u64>(), outcomes in vec((outcome(), 0..40_000_u64), 1..400)) {
        let start = Instant::now();
        let (mut now, mut pace) = (start, Pace::new(seed));
        let (mut arrived, mut begun, mut said) = (Vec::new(), Vec::new(), None::<Instant>);
        for (outcome, took) in outcomes {
            now = pace.due().map_or(now, |due| due.max(now));
            prop_assert!(said.is_none_or(|said| now >= said), "earlier than the server said");
            begun.push(now - start);
            if outcome != (Outcome::Transport { sent: false }) {
                arrived.push(now - start);
            }
            pace.begin(now);
            now += Duration::from_millis(took);
            pace.end(outcome, now);
            said = match outcome {
                Outcome::NotNow(Some(after)) => Some(now + after.min(MAX_RETRY)),
                _ => None,
            };
        }
        for pair in arrived.windows(2) {
            prop_assert!(pair[1] - pair[0] >= MIN_INTERVAL, "{pair:?}");
        }
        let hour = Duration::from_secs(3600);
        for first in &arrived {
            let count = arrived.iter().filter(|at| **at >= *first && **at < *first + hour).count();
            prop_assert!(count <= 60, "{count} requests in an hour");
        }
        // Connections that did not come about: a back-off begins anew with each answer, of which there is one a minute.
        for first in &begun {
            let count = begun.iter().filter(|at| **at >= *first && **at < *first + Duration::from_secs(60)).count();
            prop_assert!(count <= 12, "{count} connections in a minute");
        }
    }

    #[test]
    fn no_bytes_are_more_than_refused(bytes in vec(any::<u8>(), 0..600)) {
        prop_assert!(Answer::read(&bytes, &rules()).is_err());
    }

    /// What passes for an answer keeps to the rules, whatever else it says.
    #[test]
    fn an_answer_that_is_taken_keeps_to_the_rules(
        url in "(https?://)?(127\\.0\\.0\\.1|hs\\.example|192\\.0\\.2\\.1)(:[0-9]{1,6})?/?",
        key in "[ -~]{0,20}",
        pin in 0..3_u8,
    ) {
        let rules = Rules { noise_key: Some(noise(1)), ..rules() };
        let answer = json!({ "pre_auth_key": key, "server_url": url, "noise_key": noise(pin) });
        if let Ok(answer) = read(&answer, &rules) {
            prop_assert_eq!(answer.noise_key, noise(1));
            prop_assert!(answer.server.https || answer.server.is_loopback());
            prop_assert!(!key.contains(' ') && answer.key.expose() == key);
        }
    }
}
