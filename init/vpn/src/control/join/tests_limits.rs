//! How often anything is tried.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on may panic")]

use super::*;

fn auth(name: &str) -> AuthKey {
    AuthKey::new(name).unwrap()
}

/// A joiner that a server knew before, with a key that was not used, and when it is.
fn offered(name: &str) -> (Joiner, Instant) {
    let now = Instant::now();
    let mut joiner = Joiner::new(true, 1, Vec::new(), 7);
    joiner.on(Event::Offered(Some(auth(name))), now);
    (joiner, now)
}

/// Until it does something.
fn next(joiner: &mut Joiner, now: &mut Instant) -> Command {
    loop {
        match joiner.poll(*now) {
            Command::Wait(Some(until)) => *now = until,
            other => return other,
        }
    }
}

#[test]
fn a_server_that_admits_and_shows_the_node_key_as_ended_gets_one_try_a_key() {
    let (mut joiner, mut now) = offered("a");
    let start = now;
    let (mut rotations, mut keyed) = (0, Vec::new());
    while now < start + Duration::from_secs(3600) {
        match next(&mut joiner, &mut now) {
            Command::Register { auth: None, .. } => joiner.on(Event::Answered(Answer::NodeKeyExpired), now),
            Command::Register { auth: Some(auth), .. } => {
                keyed.push(auth.expose().to_owned());
                joiner.on(Event::Answered(Answer::Authorized), now);
            }
            Command::RotateNodeKey { .. } => {
                rotations += 1;
                joiner.on(Event::Rotated { key: 1 }, now);
            }
            Command::Stream => {
                for event in [Event::FirstMapExpired, Event::MapReceived, Event::OwnKeyExpired(true)] {
                    joiner.on(event, now);
                }
                assert_eq!((joiner.phase(), joiner.wants_stream_closed(now)), (Phase::KeyNeeded, false));
                now += Duration::from_secs(600);
                if now > start + Duration::from_secs(1200) {
                    joiner.on(Event::Offered(Some(auth("b"))), now);
                }
                joiner.on(Event::StreamEnded(Duration::from_secs(600)), now);
            }
            Command::Wait(_) => break,
        }
    }
    assert_eq!((rotations, keyed), (2, vec!["a".to_owned(), "b".to_owned()]));
    let refused: Vec<_> = joiner.refused().iter().map(|refused| refused.digest).collect();
    assert_eq!(refused, [auth("a").digest(), auth("b").digest()]);
}

#[test]
fn a_node_key_that_ends_later_is_no_word_on_the_key_that_let_it_in() {
    let (mut joiner, mut now) = offered("a");
    next(&mut joiner, &mut now);
    joiner.on(Event::Answered(Answer::NotKnown), now);
    assert!(matches!(next(&mut joiner, &mut now), Command::Register { auth: Some(_), .. }));
    joiner.on(Event::Answered(Answer::Authorized), now);
    next(&mut joiner, &mut now);
    joiner.on(Event::MapReceived, now);
    joiner.on(Event::OwnKeyExpired(false), now);
    now += Duration::from_secs(30);
    joiner.on(Event::OwnKeyExpired(true), now);
    assert!(joiner.refused().is_empty());
    // It may be sent a minute after it was sent, and until then the stream goes on.
    assert!(!joiner.wants_stream_closed(now));
    now += Duration::from_secs(29);
    assert!(!joiner.wants_stream_closed(now));
    now += Duration::from_secs(1);
    assert!(joiner.wants_stream_closed(now));
    joiner.on(Event::StreamEnded(Duration::from_secs(60)), now);
    assert!(matches!(joiner.poll(now), Command::RotateNodeKey { after: 0 }));
}

#[test]
fn one_429_after_another_comes_later_and_later_and_never_for_two_at_once() {
    let pauses = |seed: u64| {
        let mut now = Instant::now();
        let mut joiner = Joiner::new(true, 1, Vec::new(), seed);
        let mut pauses = Vec::new();
        next(&mut joiner, &mut now);
        now += MIN_INTERVAL;
        for _ in 0..8 {
            joiner.on(Event::RateLimited(Some(Duration::ZERO)), now);
            let before = now;
            assert!(matches!(next(&mut joiner, &mut now), Command::Register { .. }));
            pauses.push(now - before);
            // What is asked once a minute anyway says nothing of a pause.
            now += MIN_INTERVAL;
        }
        // An answer ends it.
        joiner.on(Event::Answered(Answer::Authorized), now);
        assert!(matches!(joiner.poll(now), Command::Stream));
        joiner.on(Event::RateLimited(Some(Duration::ZERO)), now);
        let before = now;
        next(&mut joiner, &mut now);
        pauses.push(now - before);
        pauses
    };
    let (one, other) = (pauses(0x9e37_79b9_7f4a_7c15), pauses(0xd1b5_4a32_d192_ed03));
    for (n, least) in [1, 2, 4, 8, 16, 32, 60, 60, 1].into_iter().enumerate() {
        let least = Duration::from_secs(least);
        for pauses in [&one, &other] {
            let pause = *pauses.get(n).unwrap();
            assert!((least..least * 5 / 4).contains(&pause), "{n}: {pause:?}");
        }
    }
    assert!(one.iter().zip(&other).all(|(one, other)| one != other));
}

#[test]
fn another_network_lets_a_question_be_asked_again_and_no_key_be_sent_again() {
    let (mut joiner, now) = offered("a");
    assert!(matches!(joiner.poll(now), Command::Register { auth: None, .. }));
    joiner.on(Event::Transport { sent: true }, now);
    assert!(matches!(joiner.poll(now), Command::Wait(Some(_))));
    joiner.network_changed();
    assert!(matches!(joiner.poll(now), Command::Register { auth: None, .. }));
    joiner.on(Event::Answered(Answer::NotKnown), now);
    assert!(matches!(joiner.poll(now), Command::Register { auth: Some(_), .. }));
    joiner.on(Event::Transport { sent: true }, now);
    joiner.network_changed();
    assert!(matches!(joiner.poll(now), Command::Register { auth: None, .. }), "was it taken?");
    joiner.on(Event::Answered(Answer::NotKnown), now);
    let Command::Wait(Some(until)) = joiner.poll(now) else { panic!("a key again within the minute") };
    assert_eq!(until - now, MIN_INTERVAL);
}
