//! Refused pre-auth keys, and what is no word on a key.

use super::*;

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
