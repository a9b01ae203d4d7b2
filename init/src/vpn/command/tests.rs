use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::thread;

use serde_json::json;

use super::*;

fn parsed(line: &str) -> Result<Wanted, String> {
    let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
    Wanted::parse(&words)
}

#[test]
fn each_form_of_the_command_and_no_other() {
    assert_eq!(parsed("--config /a"), Ok(Wanted::Join("/a".into())));
    let asked = |request, json| Wanted::Ask { request, json, socket: DEFAULT_SOCKET.into() };
    assert_eq!(parsed("status"), Ok(asked(Request::Status {}, false)));
    assert_eq!(parsed("status --json"), Ok(asked(Request::Status {}, true)));
    assert_eq!(parsed("netcheck"), Ok(asked(Request::Netcheck {}, false)));
    let ping = |name: &str, count, until_direct| {
        asked(Request::Ping { name: name.to_owned(), count, until_direct }, false)
    };
    assert_eq!(parsed("ping b"), Ok(ping("b", 4, false)));
    assert_eq!(parsed("ping --count 7 b --until-direct"), Ok(ping("b", 7, true)));
    let Ok(Wanted::Ask { socket, .. }) = parsed("status --socket /s") else { panic!("not asked") };
    assert_eq!(socket, Path::new("/s"));
    assert_eq!(parsed("status --help"), Ok(Wanted::Help));
    for line in [
        "",
        "--config",
        "--config /a --json",
        "--config /a --config /b",
        "--config /a status",
        "ping",
        "ping a b",
        "ping a --json",
        "ping a --count 0",
        "ping a --count x",
        "status --count 1",
        "stop",
        "--state /a",
    ] {
        assert!(parsed(line).is_err(), "{line}");
    }
}

/// A server of one question.
fn answered(request: &Request, lines: &[Value]) -> (Value, anyhow::Result<bool>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
            for line in lines {
                // The client may have gone.
                drop(writeln!(stream, "{line}"));
            }
            serde_json::from_str(&line).unwrap()
        });
        let outcome = ask(request, false, &path);
        (server.join().unwrap(), outcome)
    })
}

#[test]
fn a_ping_succeeds_by_what_was_asked_of_it() {
    let direct =
        json!({"name": "b", "latency_us": 810, "path": {"kind": "direct", "address": "192.0.2.1:1"}});
    let relayed = json!({"name": "b", "latency_us": 9000, "path": {"kind": "relayed", "region": 999}});
    let none = json!({"name": "b", "timeout": true});
    let end = json!({"end": true});
    for (lines, answers, directly) in [
        (vec![relayed.clone(), direct, end.clone()], true, true),
        (vec![relayed, end.clone()], true, false),
        (vec![none, end], false, false),
        (vec![], false, false),
    ] {
        let ping = |until_direct| Request::Ping { name: "b".to_owned(), count: 2, until_direct };
        let (asked, outcome) = answered(&ping(false), &lines);
        assert_eq!(asked, json!({"command": "ping", "name": "b", "count": 2, "until_direct": false}));
        assert_eq!(outcome.unwrap(), answers, "{lines:?}");
        assert_eq!(answered(&ping(true), &lines).1.unwrap(), directly, "{lines:?}");
    }
}

#[test]
fn what_is_no_answer_is_an_error_that_says_so() {
    for (lines, expected) in [
        (vec![], "ended without an answer"),
        (vec![json!({"error": "no peer \u{1b}[2J"})], "no peer \\u{1b}[2J"),
        (vec![json!(7)], "expected a JSON object on a line"),
    ] {
        let (asked, outcome) = answered(&Request::Status {}, &lines);
        assert_eq!(asked, json!({"command": "status"}));
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let error = ask(&Request::Status {}, false, Path::new("/nowhere/s")).unwrap_err().to_string();
    assert!(error.starts_with("/nowhere/s: no node answers there"), "{error}");
}

#[test]
fn a_status_is_shown_in_lines_that_act_on_no_terminal() {
    let document = json!({
        "state": "refused",
        "refusal": {"kind": "key", "text": "used\u{1b}[2J"},
        "self": {"name": "a.t", "addresses": ["100.64.0.1/32"], "addresses_refused": "the kernel refused it",
                 "tags": ["tag:x"], "key_expiry": null},
        "capability_version": 130,
        "control": {"connected": false, "server_key": null, "last_map_seconds": 3},
        "derp": {"home": 999, "connected": [999]},
        "endpoints": ["192.0.2.1:41641"],
        "peers": [
            {"name": "b\n.t", "addresses": ["100.64.0.2/32"], "rx_bytes": 10, "tx_bytes": 20, "online": true,
             "path": {"kind": "direct", "address": "192.0.2.2:41641", "latency_us": 810}, "last_handshake_seconds": 1},
            {"name": "c.t", "addresses": [], "path": {"kind": "relayed", "region": 1}, "rx_bytes": 0, "tx_bytes": 0},
            {"name": "d.t", "addresses": [], "path": {"kind": "relayed", "region": 1, "latency_us": 9000}, "rx_bytes": 0,
             "tx_bytes": 0},
        ],
        "filter": {"allow_all": false, "rules": 2, "dropped": {"no rule": 4, "other": 0}},
        "drops": {}, "dns": {"answered": 1},
    });
    let shown = text::status(&document);
    for line in [
        "state         refused\n",
        "refusal       key: used\\u{1b}[2J\n",
        "self          a.t  100.64.0.1/32\n",
        "not set       the kernel refused it\n",
        "control       not connected, last heard of 3 s ago, -, capability version 130\n",
        "filter        2 rules, dropped no rule 4\n",
        "drops         nothing\n",
        "peer          b\\n.t  100.64.0.2/32  direct 192.0.2.2:41641 (0.810 ms), handshake 1 s ago, received 10 B, sent 20 B, online\n",
        "peer          c.t  none  relay 1, no handshake, received 0 B, sent 0 B\n",
        "peer          d.t  none  relay 1 (9.000 ms), no handshake, received 0 B, sent 0 B\n",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    assert!(!shown.contains('\u{1b}'));
}
