//! When a server is left alone, and for how long: no answers make a storm.

use proptest::prelude::*;

use super::*;

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
fn an_update_that_fails_beside_a_stream_that_lived_is_a_first_failure() {
    let mut rig = Rig::joined(true, None);
    for (lived, short) in [(1, false), (600, true)] {
        for _ in 0..6 {
            rig.on(Event::Transport { sent: false });
            assert_eq!(rig.after_waiting(), "stream");
        }
        rig.on(Event::MapReceived);
        rig.pass(lived);
        rig.on(Event::Transport { sent: true });
        let Command::Wait(Some(until)) = rig.joiner.poll(rig.now) else { panic!("no back-off") };
        assert_eq!(until - rig.now <= 2 * MIN_BACKOFF, short);
        assert_eq!(rig.after_waiting(), "stream");
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
