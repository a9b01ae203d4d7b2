#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on may panic"
)]

use std::path::Path;

use proptest::prelude::*;

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
fn a_refused_key_is_not_sent_again_and_its_text_is_kept() {
    for version in VERSIONS {
        for case in ["expired-key", "garbage-key", "single-use-reused", "unknown-key"] {
            let mut rig = Rig::new(false, Some("a"));
            rig.does();
            rig.answer(recorded(version, case));
            assert_eq!(
                (rig.does(), rig.joiner.phase()),
                ("wait".into(), Phase::KeyNeeded),
                "{version} {case}"
            );
            assert_eq!(rig.refusal(), Some(RefusalKind::Refused));
            let Answer::Refused(text) = recorded(version, case) else { panic!("{case}") };
            assert_eq!(rig.joiner.refused()[0], Refused { digest: auth("a").digest(), text });
            rig.pass(100_000);
            rig.offer(Some("a"));
            assert_eq!(rig.does(), "wait");
            rig.offer(Some("b"));
            assert_eq!(rig.does(), "b");
        }
    }
    // Nor in the next life.
    let refused = vec![Refused { digest: auth("a").digest(), text: String::new() }];
    let mut joiner = Joiner::new(false, 1, refused, 1);
    joiner.on(Event::Offered(Some(auth("a"))), Instant::now());
    assert!(matches!(joiner.poll(Instant::now()), Command::Wait(None)));
}

#[test]
fn a_kept_refusal_is_shown_in_the_next_life() {
    let refused: Vec<Refused> = (0..=MAX_REFUSED)
        .map(|n| Refused { digest: auth(&n.to_string()).digest(), text: format!("no {n}") })
        .collect();
    let newest = auth(&MAX_REFUSED.to_string());
    let expected = Refusal { kind: RefusalKind::Refused, text: format!("no {MAX_REFUSED}") };
    // The newest are remembered, not the oldest.
    let mut joiner = Joiner::new(false, 1, refused.clone(), 1);
    assert_eq!((joiner.refused().len(), joiner.refused()[0].text.as_str()), (MAX_REFUSED, "no 1"));
    joiner.on(Event::Offered(Some(newest.clone())), Instant::now());
    assert_eq!((joiner.phase(), joiner.refusal()), (Phase::KeyNeeded, Some(&expected)));
    // Also where it is asked first, and not known.
    let mut joiner = Joiner::new(true, 1, refused, 1);
    joiner.on(Event::Offered(Some(newest)), Instant::now());
    joiner.poll(Instant::now());
    joiner.on(Event::Answered(Answer::NotKnown), Instant::now());
    assert_eq!((joiner.phase(), joiner.refusal()), (Phase::KeyNeeded, Some(&expected)));
}

#[test]
fn a_key_that_is_answered_with_a_login_page_is_refused_too() {
    for (answer, kind) in [
        (recorded("0.29.2", "unknown-node-no-auth"), RefusalKind::NotKnown),
        (Answer::NotAuthorized, RefusalKind::NotAuthorized),
    ] {
        let mut rig = Rig::new(false, Some("a"));
        rig.does();
        rig.answer(answer);
        assert_eq!((rig.does(), rig.refusal()), ("wait".into(), Some(kind)));
        rig.pass(30);
        rig.offer(Some("b"));
        assert_eq!(rig.does(), "wait 30", "one with a key a minute");
        assert_eq!(rig.after_waiting(), "b");
    }
}

#[test]
fn a_status_is_no_word_on_the_key() {
    for (known, status, kind, phase, pause) in [
        (false, 400, RefusalKind::Version, Phase::Unwilling, "wait 600"),
        (false, 403, RefusalKind::Status(403), Phase::Joining, "wait 300"),
        (false, 404, RefusalKind::Status(404), Phase::Joining, "wait 300"),
        (true, 413, RefusalKind::Status(413), Phase::Joining, "wait 300"),
    ] {
        let mut rig = Rig::new(known, Some("a"));
        let asked = rig.does();
        rig.answer(Answer::Status(status, "unsupported client version:  (60)".into()));
        assert_eq!((rig.does(), rig.joiner.phase(), rig.refusal()), (pause.into(), phase, Some(kind)));
        assert_eq!(rig.joiner.refusal().unwrap().text, "unsupported client version: (60)");
        assert!(rig.joiner.refused().is_empty(), "{status}");
        assert_eq!(rig.after_waiting(), asked, "the same again");
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

#[test]
fn an_ended_node_key_needs_a_new_one_and_that_needs_a_key() {
    for version in VERSIONS {
        // Without a key everything stays, and is asked again at length.
        let mut rig = Rig::new(true, None);
        assert_eq!(rig.does(), "-");
        rig.answer(recorded(version, "expired-node-restart-no-auth"));
        assert_eq!((rig.does(), rig.refusal()), ("wait 600".into(), Some(RefusalKind::NodeKeyExpired)));
        // With one, the node key first.
        rig.offer(Some("a"));
        assert_eq!(rig.does(), "rotate");
        rig.on(Event::Rotated { key: 1 });
        assert_eq!(rig.does(), "a/1<0");
        rig.answer(Answer::Authorized);
        assert_eq!((rig.does(), rig.refusal()), ("stream".into(), None));
        // The next expiry rotates again.
        rig.on(Event::MapReceived);
        rig.pass(600);
        rig.on(Event::OwnKeyExpired(true));
        assert!(rig.joiner.wants_stream_closed(rig.now));
        rig.on(Event::StreamEnded(Duration::from_secs(600)));
        assert_eq!(rig.does(), "rotate");
    }
}

#[test]
fn a_machine_that_is_locked_out_does_not_try_one_key_forever() {
    let mut rig = Rig::new(true, Some("a"));
    rig.does();
    rig.answer(recorded("0.29.2", "tagged-after-logout-no-auth"));
    assert_eq!(rig.does(), "rotate");
    rig.on(Event::Rotated { key: 1 });
    assert_eq!(rig.does(), "a/1<0");
    rig.answer(recorded("0.29.2", "tagged-after-logout-key"));
    assert_eq!((rig.does(), rig.joiner.phase()), ("wait 600".into(), Phase::KeyNeeded));
    rig.offer(Some("b"));
    assert_eq!(rig.does(), "wait 60");
    assert_eq!(rig.after_waiting(), "b/1<0", "the node key is new already");
}

#[test]
fn a_refused_rotation_goes_back_to_the_old_node_key_and_its_stream() {
    for answer in [Answer::Refused("authkey already used".into()), Answer::NodeKeyExpired] {
        let mut rig = Rig::joined(true, Some("a"));
        rig.on(Event::OwnKeyExpired(true));
        assert!(rig.joiner.wants_stream_closed(rig.now));
        rig.on(Event::StreamEnded(Duration::from_secs(600)));
        assert_eq!(rig.does(), "rotate");
        rig.on(Event::Rotated { key: 1 });
        assert_eq!(rig.does(), "a/1<0");
        rig.answer(answer.clone());
        assert_eq!(rig.does(), "stream", "{answer:?}");
        rig.on(Event::MapReceived);
        rig.on(Event::OwnKeyExpired(true));
        assert_eq!(rig.joiner.phase(), Phase::KeyNeeded);
        assert!(!rig.joiner.wants_stream_closed(rig.now), "without a key, the stream stays");
        if answer != Answer::NodeKeyExpired {
            assert_eq!(rig.joiner.refusal().unwrap().text, "authkey already used");
        }
        // Another key takes the node key that was made, and is not too early.
        rig.offer(Some("b"));
        assert!(!rig.joiner.wants_stream_closed(rig.now), "not before anything may be sent");
        rig.pass(60);
        assert!(rig.joiner.wants_stream_closed(rig.now));
        rig.on(Event::StreamEnded(Duration::from_secs(1)));
        assert_eq!(rig.does(), "b/1<0");
        rig.answer(Answer::Authorized);
        assert_eq!((rig.does(), rig.refusal()), ("stream".into(), None));
        // It is our only node key now.
        rig.on(Event::MapNotFound);
        assert_eq!(rig.after_waiting(), "-");
        rig.answer(Answer::NotKnown);
        assert_eq!((rig.does(), rig.after_waiting()), ("wait 60".into(), "b".into()));
    }
}

#[test]
fn a_node_key_that_cannot_be_made_leaves_the_stream_alone() {
    let mut rig = Rig::joined(true, Some("a"));
    rig.on(Event::OwnKeyExpired(true));
    rig.on(Event::StreamEnded(Duration::from_secs(600)));
    assert_eq!(rig.does(), "rotate");
    rig.on(Event::RotationFailed);
    assert_eq!(rig.after_waiting(), "stream");
    assert!(rig.now - rig.start < Duration::from_secs(5));
    rig.on(Event::MapReceived);
    rig.on(Event::OwnKeyExpired(true));
    assert!(!rig.joiner.wants_stream_closed(rig.now));
    rig.pass(ROTATION_PAUSE.as_secs());
    assert!(rig.joiner.wants_stream_closed(rig.now));
    // Where there is no stream, it is tried again after the same time.
    let mut rig = Rig::new(true, Some("a"));
    rig.does();
    rig.answer(Answer::NodeKeyExpired);
    assert_eq!(rig.does(), "rotate");
    rig.on(Event::RotationFailed);
    assert_eq!((rig.does(), rig.after_waiting()), ("wait 60".into(), "rotate".into()));
}

#[test]
fn each_node_key_that_may_be_known_is_asked_for_before_a_key_is_used() {
    // A new deployment: the server knows the third of our keys.
    let mut rig = Rig::with_keys(4, Some("a"));
    assert_eq!(rig.does(), "-");
    rig.answer(recorded("0.29.2", "unknown-node-no-auth"));
    assert_eq!(rig.does(), "-/1", "at once: it is one question");
    rig.answer(Answer::NotKnown);
    assert_eq!(rig.does(), "-/2");
    rig.answer(Answer::Authorized);
    assert_eq!((rig.does(), rig.now), ("stream".into(), rig.start));
    assert!(rig.joiner.refused().is_empty());

    // It knows none: the key, for the first.
    let mut rig = Rig::with_keys(2, Some("a"));
    for expected in ["-", "-/1"] {
        assert_eq!(rig.does(), expected);
        rig.answer(Answer::NotKnown);
    }
    assert_eq!(rig.does(), "a");
    // Without a key, the whole question again, after long.
    let mut rig = Rig::with_keys(2, None);
    for expected in ["-", "-/1"] {
        assert_eq!(rig.does(), expected);
        rig.answer(Answer::NotKnown);
    }
    assert_eq!((rig.does(), rig.after_waiting()), ("wait 600".into(), "-".into()));

    // It knows one that has ended: the next follows that one.
    let mut rig = Rig::with_keys(2, Some("a"));
    rig.does();
    rig.answer(Answer::NotKnown);
    assert_eq!(rig.does(), "-/1");
    rig.answer(Answer::NodeKeyExpired);
    assert_eq!(rig.does(), "rotate<1");
    rig.on(Event::Rotated { key: 2 });
    assert_eq!(rig.does(), "a/2<1");

    // A question that was lost is no storm.
    let mut rig = Rig::with_keys(3, None);
    rig.does();
    rig.answer(Answer::NotKnown);
    assert_eq!(rig.does(), "-/1");
    rig.on(Event::Transport { sent: true });
    assert_eq!((rig.does(), rig.after_waiting()), ("wait 60".into(), "-/1".into()));
}

#[test]
fn after_a_lost_answer_both_node_keys_are_asked_for() {
    let mut rig = Rig::new(true, Some("a"));
    rig.does();
    rig.pass(100);
    rig.answer(Answer::NodeKeyExpired);
    rig.does();
    rig.on(Event::Rotated { key: 1 });
    assert_eq!(rig.does(), "a/1<0");
    rig.on(Event::Transport { sent: true });
    assert_eq!(rig.after_waiting(), "-/1<0", "it may have been taken");
    rig.answer(Answer::NotKnown);
    assert_eq!(rig.does(), "-", "or not");
    rig.answer(Answer::NodeKeyExpired);
    assert_eq!(rig.after_waiting(), "a/1<0");
}

#[test]
fn our_own_end_in_the_map_keeps_the_stream_while_there_is_no_key() {
    let mut rig = Rig::joined(true, None);
    rig.on(Event::OwnKeyExpired(true));
    assert_eq!(
        (rig.joiner.wants_stream_closed(rig.now), rig.refusal()),
        (false, Some(RefusalKind::NodeKeyExpired))
    );
    assert_eq!(rig.joiner.phase(), Phase::KeyNeeded);
    rig.on(Event::OwnKeyExpired(false));
    assert_eq!((rig.refusal(), rig.joiner.phase()), (None, Phase::Joined));
    rig.on(Event::OwnKeyExpired(true));
    rig.offer(Some("a"));
    assert!(rig.joiner.wants_stream_closed(rig.now));
}

#[test]
fn a_429_waits_as_long_as_it_says() {
    for (after, least) in [(Some(7), 7), (None, 60), (Some(1_000_000), 3600), (Some(0), 1)] {
        let mut rig = Rig::new(true, None);
        rig.does();
        rig.pass(100);
        rig.on(Event::RateLimited(after.map(Duration::from_secs)));
        let Command::Wait(Some(until)) = rig.joiner.poll(rig.now) else { panic!("no wait") };
        let (pause, least) = (until - rig.now, Duration::from_secs(least));
        assert!((least..least * 5 / 4).contains(&pause), "{after:?}: {pause:?}");
        assert_eq!(rig.after_waiting(), "-");
    }
}

#[test]
fn a_failed_transport_backs_off_from_one_second_to_thirty() {
    let mut rig = Rig::new(true, None);
    rig.does();
    let mut last = Duration::ZERO;
    for attempt in 0..12 {
        rig.on(Event::Transport { sent: false });
        let Command::Wait(Some(until)) = rig.joiner.poll(rig.now) else { panic!("no back-off") };
        let pause = until - rig.now;
        assert!((MIN_BACKOFF..=MAX_BACKOFF).contains(&pause), "{attempt}: {pause:?}");
        assert!(attempt != 0 || pause <= 2 * MIN_BACKOFF);
        last = pause;
        assert_eq!(rig.after_waiting(), "-");
    }
    assert!(last >= MAX_BACKOFF / 2);
    // A stream that lived makes it short again; one that did not, does not.
    rig.answer(Answer::Authorized);
    for (lived, short) in [(1, false), (600, true)] {
        assert_eq!(rig.after_waiting(), "stream");
        rig.on(Event::MapReceived);
        rig.pass(lived);
        rig.on(Event::StreamEnded(Duration::from_secs(lived)));
        let Command::Wait(Some(until)) = rig.joiner.poll(rig.now) else { panic!("no back-off") };
        assert_eq!(until - rig.now <= 2 * MIN_BACKOFF, short);
    }
}

#[test]
fn a_key_whose_answer_was_lost_is_asked_after_before_it_is_sent_again() {
    let mut rig = Rig::new(false, Some("a"));
    assert_eq!(rig.does(), "a");
    rig.on(Event::Transport { sent: true });
    assert_eq!(rig.after_waiting(), "-");
    rig.answer(recorded("0.29.2", "unknown-node-no-auth"));
    let Command::Wait(Some(until)) = rig.joiner.poll(rig.now) else { panic!("no wait") };
    assert_eq!(until - rig.start, MIN_INTERVAL);
    assert_eq!(rig.after_waiting(), "a");
    // One that was never sent may be sent at the next chance.
    let mut rig = Rig::new(false, Some("a"));
    rig.does();
    rig.on(Event::Transport { sent: false });
    assert_eq!(rig.after_waiting(), "a");
    assert!(rig.now - rig.start < Duration::from_secs(3));
}

#[test]
fn an_unwilling_server_is_left_alone() {
    for (kind, pause) in [(RefusalKind::Pin, "wait 300"), (RefusalKind::Version, "wait 600")] {
        let mut rig = Rig::new(false, Some("a"));
        rig.does();
        rig.on(Event::Unwilling(kind, String::new()));
        assert_eq!(
            (rig.does(), rig.joiner.phase(), rig.refusal()),
            (pause.into(), Phase::Unwilling, Some(kind))
        );
        rig.offer(Some("a"));
        assert_eq!(rig.does(), pause, "the same key is none that was offered");
        assert_eq!(rig.after_waiting(), "a");
        assert_eq!(rig.joiner.phase(), Phase::Joining);
        assert_eq!(rig.refusal(), Some(kind), "until it is overcome");
        // Another key is tried at once.
        rig.on(Event::Unwilling(kind, String::new()));
        rig.pass(1);
        rig.offer(Some("b"));
        assert_eq!((rig.does(), rig.joiner.phase()), ("b".into(), Phase::Joining));
    }
}

#[test]
fn texts_are_made_harmless() {
    let hex = "0123456789abcdef".repeat(3);
    let text = format!("no\u{1b}[31m key hskey-auth-abc, {hex} (privkey:00) \"{hex}\" {}", "x".repeat(500));
    let refusal = Refusal::new(RefusalKind::Refused, &text);
    assert!(
        refusal.text.starts_with("no\\u{1b}[31m key [a key] [a key] [a key] [a key] xxx"),
        "{}",
        refusal.text
    );
    assert!(
        refusal.text.len() < 300 && !refusal.text.contains("hskey") && !refusal.text.contains("0123456789")
    );
    assert_eq!(format!("{:?}", auth("secret")), "a pre-auth key");
    assert_eq!(AuthKey::new(" \n"), None);
    assert_eq!(AuthKey::new(" k\n").unwrap().expose(), "k");
}

#[derive(Clone, Debug)]
enum Step {
    Answer(u8),
    NotFound,
    Limited(u64),
    Lost(bool),
    Ended(u64),
    Expired(bool),
    Offer(Option<u8>),
    Unwilling(bool),
    Map,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..6).prop_map(Step::Answer),
        2 => Just(Step::NotFound),
        1 => (0u64..200).prop_map(Step::Limited),
        2 => any::<bool>().prop_map(Step::Lost),
        2 => (0u64..200).prop_map(Step::Ended),
        2 => any::<bool>().prop_map(Step::Expired),
        3 => proptest::option::of(0u8..5).prop_map(Step::Offer),
        1 => any::<bool>().prop_map(Step::Unwilling),
        2 => Just(Step::Map),
        3 => (0u64..90).prop_map(Step::Pass),
    ]
}

fn answer(n: u8) -> Answer {
    match n {
        0 => Answer::Authorized,
        1 => Answer::Refused("no".into()),
        2 => Answer::NotKnown,
        3 => Answer::NodeKeyExpired,
        4 => Answer::NotAuthorized,
        _ => Answer::Status(403, String::new()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    /// Whatever is answered and whenever: one request with a key a minute at most, one without, and a refused key never again.
    #[test]
    fn no_answers_make_a_storm(known in any::<bool>(), steps in proptest::collection::vec(step(), 1..120)) {
        let mut rig = Rig::new(known, Some("0"));
        let (mut with, mut without): (Vec<Instant>, Vec<Instant>) = (Vec::new(), Vec::new());
        let mut refused = std::collections::BTreeSet::new();
        let mut sent: Option<String> = None;
        let mut doing = String::new();
        let mut rotated_for: Option<bool> = None;
        let mut goes_on = false;
        for step in steps {
            if doing.is_empty() || doing.starts_with("wait") {
                doing = rig.does();
                if doing.starts_with("rotate") {
                    doing = "rotate".into();
                }
                match doing.as_str() {
                    "rotate" => { rotated_for = Some(false); }
                    question if question.starts_with('-') => {
                        // The questions for each of our node keys are one.
                        if !std::mem::take(&mut goes_on) || without.pop().is_some() {
                            without.push(rig.now);
                        }
                        sent = None;
                    }
                    "stream" => {}
                    wait if wait.starts_with("wait") => {}
                    key => {
                        let key = key.split('/').next().unwrap();
                        prop_assert!(!refused.contains(key), "{key} was refused");
                        with.push(rig.now);
                        sent = Some(key.to_owned());
                    }
                }
            }
            let register = !matches!(doing.as_str(), "rotate" | "stream") && !doing.starts_with("wait");
            let mut done = true;
            match step {
                Step::Pass(seconds) => { rig.pass(seconds); done = false; }
                Step::Offer(key) => { rig.offer(key.map(|key| key.to_string()).as_deref()); done = false; }
                Step::Answer(n) if register => {
                    let locked_out = n == 3 && rotated_for == Some(true);
                    if let Some(key) = sent.take().filter(|_| !matches!(n, 0 | 3 | 5) || locked_out) {
                        refused.insert(key);
                    }
                    // One that was taken and has ended is no new one.
                    if n == 0 || (n == 3 && doing.starts_with("-/")) { rotated_for = None; }
                    goes_on = doing.starts_with('-') && matches!(n, 1 | 2 | 4);
                    rig.answer(answer(n));
                }
                Step::Limited(after) if register || doing == "stream" => rig.on(Event::RateLimited(Some(Duration::from_secs(after)))),
                Step::Lost(was_sent) if !doing.starts_with("wait") => {
                    if register && !was_sent {
                        if sent.take().is_some() { with.pop(); } else { without.pop(); }
                    }
                    rig.on(Event::Transport { sent: was_sent });
                }
                Step::Unwilling(pin) if register || doing == "stream" => {
                    if register && sent.take().is_some() { with.pop(); } else if register { without.pop(); }
                    rig.on(Event::Unwilling(if pin { RefusalKind::Pin } else { RefusalKind::Version }, String::new()));
                }
                Step::NotFound if doing == "stream" => rig.on(Event::MapNotFound),
                Step::Ended(lived) if doing == "stream" => rig.on(Event::StreamEnded(Duration::from_secs(lived))),
                Step::Expired(expired) if doing == "stream" => { rig.on(Event::OwnKeyExpired(expired)); done = false; }
                Step::Map if doing == "stream" => { rig.on(Event::MapReceived); done = false; }
                _ if doing == "rotate" => { rig.on(Event::Rotated { key: 1 }); rotated_for = Some(true); }
                _ => done = false,
            }
            if done {
                doing.clear();
            }
            for sent in [&with, &without] {
                for pair in sent.windows(2) {
                    prop_assert!(pair[1] - pair[0] >= MIN_INTERVAL, "{:?}", pair[1] - pair[0]);
                }
            }
        }
    }
}

#[test]
fn another_network_ends_a_back_off_and_nothing_else() {
    let mut rig = Rig::new(true, None);
    assert_eq!(rig.does(), "-");
    rig.answer(Answer::Authorized);
    for _ in 0..6 {
        assert_eq!(rig.does(), "stream");
        rig.on(Event::StreamEnded(Duration::ZERO));
        assert!(matches!(rig.joiner.poll(rig.now), Command::Wait(Some(_))));
        rig.joiner.network_changed();
    }
    assert_eq!(rig.does(), "stream");
    rig.on(Event::RateLimited(Some(Duration::from_secs(20))));
    rig.joiner.network_changed();
    assert!(matches!(rig.joiner.poll(rig.now), Command::Wait(Some(_))), "the server's own word stands");
}
