//! Node keys that end, and those that follow them.

use super::*;

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
