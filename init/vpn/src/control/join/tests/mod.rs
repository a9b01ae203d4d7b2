#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on may panic"
)]

mod limits;
mod node_keys;
mod pauses;
mod refusals;

use std::path::Path;

use super::*;

const VERSIONS: [&str; 3] = ["0.26.1", "0.28.0", "0.29.2"];

/// What a server of this version answered in this case.
fn recorded(version: &str, case: &str) -> Answer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/headscale").join(version);
    let body = std::fs::read(folder.join(format!("register-{case}-response.json"))).unwrap();
    Answer::from(serde_json::from_slice::<RegisterResponse>(&body).unwrap())
}

fn auth(name: &str) -> AuthKey {
    AuthKey::new(&format!("hskey-auth-{name}")).unwrap()
}

/// The machine and a clock that only we move.
struct Rig {
    joiner: Joiner,
    start: Instant,
    now: Instant,
}

impl Rig {
    fn new(known: bool, key: Option<&str>) -> Self {
        let now = Instant::now();
        let mut rig = Self { joiner: Joiner::new(known, 1, Vec::new(), 7), start: now, now };
        rig.offer(key);
        rig
    }
    /// One with further node keys that a server may know it by.
    fn with_keys(keys: usize, key: Option<&str>) -> Self {
        let mut rig = Self::new(true, None);
        rig.joiner = Joiner::new(true, keys, Vec::new(), 7);
        rig.offer(key);
        rig
    }
    fn offer(&mut self, key: Option<&str>) {
        self.on(Event::Offered(key.map(auth)));
    }
    fn on(&mut self, event: Event) {
        self.joiner.on(event, self.now);
    }
    fn answer(&mut self, answer: Answer) {
        self.on(Event::Answered(answer));
    }
    /// What it does now: `-` is a request without a key; `/1`: for our node key 1, `<0`: in place of node key 0.
    fn does(&mut self) -> String {
        let command = self.joiner.poll(self.now);
        self.name(&command)
    }
    fn name(&self, command: &Command) -> String {
        match command {
            Command::Register { auth, key, after } => {
                let auth = auth.as_ref().map_or("-", |auth| auth.expose().trim_start_matches("hskey-auth-"));
                let node = if *key == 0 { String::new() } else { format!("/{key}") };
                let after = after.map(|after| format!("<{after}")).unwrap_or_default();
                format!("{auth}{node}{after}")
            }
            Command::RotateNodeKey { after: 0 } => "rotate".into(),
            Command::RotateNodeKey { after } => format!("rotate<{after}"),
            Command::Stream => "stream".into(),
            Command::Wait(None) => "wait".into(),
            Command::Wait(Some(until)) => format!("wait {}", (*until - self.now).as_secs()),
        }
    }
    /// Goes to where it does something again.
    fn after_waiting(&mut self) -> String {
        match self.joiner.poll(self.now) {
            Command::Wait(Some(until)) => {
                self.now = until;
                self.does()
            }
            other => self.name(&other),
        }
    }
    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }
    fn refusal(&self) -> Option<RefusalKind> {
        self.joiner.refusal().map(|refusal| refusal.kind)
    }
    fn joined(known: bool, key: Option<&str>) -> Self {
        let mut rig = Self::new(known, key);
        rig.does();
        rig.answer(Answer::Authorized);
        assert_eq!(rig.does(), "stream");
        rig.on(Event::MapReceived);
        rig
    }
}

#[test]
fn recorded_answers_have_their_meaning_in_each_version() {
    let not_known =
        "unknown-node-no-auth deleted-node-restart-no-auth rotate-without-key restored-db-no-auth";
    let refused = "expired-key garbage-key single-use-reused unknown-key restored-db-lost-key";
    let authorized = "preauth-tagged preauth-user-reusable restart-no-auth single-use-first rotate-with-reusable-key \
                      same-node-used-key-again expired-node-new-nodekey-with-key restored-db-new-key late";
    let expired =
        "expired-node-restart-no-auth tagged-after-logout-key tagged-after-logout-no-auth logout-tagged";
    let mut seen = 0;
    for version in VERSIONS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/headscale").join(version);
        let mut check = |cases: &str, is: fn(&Answer) -> bool| {
            for case in cases.split_whitespace() {
                if folder.join(format!("register-{case}-response.json")).exists() {
                    seen += 1;
                    let answer = recorded(version, case);
                    assert!(is(&answer), "{version} {case}: {answer:?}");
                }
            }
        };
        check(not_known, |answer| *answer == Answer::NotKnown);
        check(refused, |answer| matches!(answer, Answer::Refused(text) if !text.is_empty()));
        check(authorized, |answer| *answer == Answer::Authorized);
        check(expired, |answer| *answer == Answer::NodeKeyExpired);
    }
    assert_eq!(seen, 55);
    // The tagged key with RequestTags, which we never send, is an error of the same kind.
    assert!(matches!(recorded("0.29.2", "requesttags-tagged-key"), Answer::Refused(_)));
}

#[test]
fn a_new_node_joins_with_its_key_and_follows_the_maps() {
    for version in VERSIONS {
        let mut rig = Rig::new(false, Some("a"));
        assert_eq!((rig.does(), rig.joiner.phase()), ("a".into(), Phase::Joining));
        assert_eq!(rig.does(), "wait", "one thing at a time");
        rig.answer(recorded(version, "preauth-tagged"));
        assert_eq!(rig.does(), "stream");
        rig.on(Event::MapReceived);
        assert_eq!((rig.joiner.phase(), rig.refusal()), (Phase::Joined, None));
        assert!(rig.joiner.refused().is_empty());
    }
}

#[test]
fn a_new_node_without_a_key_sends_nothing() {
    let mut rig = Rig::new(false, None);
    assert_eq!((rig.does(), rig.joiner.phase()), ("wait".into(), Phase::KeyNeeded));
    rig.pass(100_000);
    assert_eq!(rig.does(), "wait");
    rig.offer(Some("a"));
    assert_eq!(rig.does(), "a");
}

#[test]
fn a_restart_asks_without_a_key() {
    for version in VERSIONS {
        let mut rig = Rig::new(true, Some("a"));
        assert_eq!(rig.does(), "-");
        rig.answer(recorded(version, "restart-no-auth"));
        assert_eq!(rig.does(), "stream");
    }
}

#[test]
fn an_unknown_node_asks_once_then_uses_its_key() {
    for version in VERSIONS {
        let mut rig = Rig::joined(true, None);
        rig.pass(600);
        rig.on(Event::MapNotFound);
        assert_eq!(rig.does(), "-");
        rig.answer(recorded(version, "deleted-node-restart-no-auth"));
        assert_eq!((rig.does(), rig.refusal()), ("wait 600".into(), Some(RefusalKind::NotKnown)));
        rig.offer(Some("new"));
        assert_eq!(rig.does(), "new");
        rig.answer(recorded(version, "preauth-tagged"));
        assert_eq!(rig.does(), "stream");
        rig.on(Event::MapReceived);
        assert_eq!(rig.refusal(), None);
    }
}

#[test]
fn a_server_that_admits_and_does_not_know_gets_no_storm() {
    let mut rig = Rig::joined(true, Some("a"));
    let mut requests = Vec::new();
    rig.on(Event::MapNotFound);
    while rig.now < rig.start + Duration::from_secs(300) {
        match rig.after_waiting().as_str() {
            "stream" => rig.on(Event::MapNotFound),
            "wait" => break,
            other if other.starts_with("wait") => {}
            _ if rig.now >= rig.start + Duration::from_secs(300) => break,
            other => {
                requests.push((other.to_owned(), (rig.now - rig.start).as_secs()));
                rig.answer(Answer::Authorized);
            }
        }
    }
    assert_eq!(requests, [("-".to_owned(), 60), ("a".to_owned(), 60)]);
    assert_eq!(rig.now - rig.start, Duration::from_secs(60) + ASK_AGAIN);
}
