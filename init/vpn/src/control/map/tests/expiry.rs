//! Keys that end: by the server's word, and by the clock.

use super::*;

#[test]
fn a_peer_whose_key_ended_holds_nothing() {
    for patched in [false, true] {
        let mut state = begun(&[peer(2), peer(3)]);
        let update = if patched {
            json!({ "PeersChangedPatch": [{ "NodeID": 2, "KeyExpiry": "2026-11-22T00:10:49.5Z" }], "ControlTime": "2026-11-22T00:10:52Z" })
        } else {
            let mut peer = peer(2);
            peer["Expired"] = true.into();
            json!({ "PeersChanged": [peer] })
        };
        assert_eq!(apply(&mut state, update).unwrap().changes.changed, [public(2)]);
        assert!(addresses(&state, 2).is_empty());
        let expired = state.current().unwrap().peers[&NodeId(2)].clone();
        assert!(expired.expired && expired.allowed.is_empty());
        // It lives again.
        let later = json!({ "PeersChangedPatch": [{ "NodeID": 2, "KeyExpiry": "0001-01-01T00:00:00Z" }] });
        apply(&mut state, later).unwrap();
        assert_eq!(addresses(&state, 2), ["100.64.0.2/32"]);
    }
    // What it held may be another's by then.
    let mut state = begun(&[peer(2), peer(3)]);
    let mut ended = peer(2);
    ended["Expired"] = true.into();
    apply(&mut state, json!({ "PeersChanged": [ended, node(3, &["100.64.0.2/32"])] }));
    apply(&mut state, json!({ "PeersChangedPatch": [{ "NodeID": 2, "KeyExpiry": "0001-01-01T00:00:00Z" }] }));
    assert!(addresses(&state, 2).is_empty());
    assert_eq!(addresses(&state, 3), ["100.64.0.2/32"]);
    // A clock carried on ends keys without a message.
    let mut state = begun(&[]);
    let mut soon = peer(2);
    soon["KeyExpiry"] = "2030-01-01T00:00:00Z".into();
    apply(&mut state, json!({ "PeersChanged": [soon] }));
    assert!(expire(&mut state, "2029-01-01T00:00:00Z").is_none());
    assert_eq!(expire(&mut state, "2030-01-01T00:00:00Z").unwrap().changes.changed, [public(2)]);
    assert!(addresses(&state, 2).is_empty());
}

#[test]
fn the_servers_clock_runs_on_from_when_it_was_said() {
    let start = Instant::now();
    let at = |seconds| start + std::time::Duration::from_secs(seconds);
    let mut state = state();
    let mut soon = peer(2);
    soon["KeyExpiry"] = "2026-01-01T00:01:00Z".into();
    let apply_at = |state: &mut MapState, message: Value, seconds| {
        state.apply(serde_json::from_str(&message.to_string()).unwrap(), at(seconds)).unwrap()
    };
    let first = json!({ "Node": peer(1), "Peers": [soon], "ControlTime": "2026-01-01T00:00:00Z" });
    apply_at(&mut state, first, 0).unwrap();
    // A message that does not say the time does not stop it, and what our own clock says does not count.
    apply_at(&mut state, json!({ "PeersChanged": [peer(3)] }), 50).unwrap();
    let wrong = convert::time("2040-01-01T00:00:00Z").unwrap();
    assert!(state.expire(at(59), wrong).is_none());
    assert_eq!(state.expire(at(60), wrong).unwrap().changes.changed, [public(2)]);
    assert!(addresses(&state, 2).is_empty());
    // Also what a message says later is judged by it.
    let mut late = peer(4);
    late["KeyExpiry"] = "2026-01-01T00:02:00Z".into();
    apply_at(&mut state, json!({ "PeersChanged": [late] }), 130).unwrap();
    assert!(state.current().unwrap().peers[&NodeId(4)].expired);
    // A keep-alive may say the time.
    apply_at(
        &mut state,
        json!({ "PeersChanged": [{ "ID": 5, "Key": key(5), "Addresses": ["100.64.0.5/32"], "KeyExpiry": "2027-01-01T00:00:00Z" }] }),
        131,
    );
    assert!(
        apply_at(&mut state, json!({ "KeepAlive": true, "ControlTime": "2027-01-01T00:00:00Z" }), 132)
            .is_none()
    );
    assert_eq!(state.expire(at(132), wrong).unwrap().changes.changed, [public(5)]);
}

#[test]
fn keys_end_in_a_kept_map_and_between_streams_and_our_own_too() {
    let mut own = peer(1);
    own["KeyExpiry"] = "2030-01-01T00:00:00Z".into();
    let mut soon = peer(2);
    soon["KeyExpiry"] = "2029-01-01T00:00:00Z".into();
    let mut state = state();
    apply(&mut state, json!({ "Node": own, "Peers": [soon, peer(3)] })).unwrap();
    let kept = Arc::clone(state.current().unwrap());
    for mut state in [MapState::new(settings(false), public(1), Some(kept)), {
        state.begin_stream(public(1));
        state
    }] {
        assert!(expire(&mut state, "2028-01-01T00:00:00Z").is_none());
        let update = expire(&mut state, "2029-01-01T00:00:00Z").unwrap();
        assert_eq!((update.changes.changed, update.changes.node), (vec![public(2)], false));
        assert!(
            addresses(&state, 2).is_empty() && state.current().unwrap().peers[&NodeId(2)].allowed.is_empty()
        );
        assert_eq!(addresses(&state, 3), ["100.64.0.3/32"]);
        let update = expire(&mut state, "2030-01-01T00:00:00Z").unwrap();
        assert!(update.changes.node && update.map.node.expired && update.changes.changed.is_empty());
        assert!(expire(&mut state, "2031-01-01T00:00:00Z").is_none(), "once");
        // The server's word undoes it, and who follows the changes hears of it.
        let update = apply(&mut state, json!({ "Node": peer(1), "Peers": [peer(2), peer(3)] })).unwrap();
        assert_eq!((update.changes.changed, update.changes.node), (vec![public(2)], true));
        assert!(!update.map.node.expired);
    }
}

#[test]
fn the_recorded_patches_of_an_ended_peer_do_not_revive_it() {
    let mut state =
        MapState::new(settings(false), own_key(&recorded("0.29.2", "map-policy-two-way-b-0")), None);
    for name in 0..8 {
        apply(&mut state, recorded("0.29.2", &format!("map-policy-two-way-b-{name}")));
    }
    assert!(state.current().unwrap().peers[&NodeId(1)].expired);
    assert!(addresses(&state, 1).is_empty());
}

#[test]
fn a_peer_that_lives_again_may_send_from_what_it_was_given() {
    let mut narrow = node(2, &["100.64.0.2/32", "fd7a:115c:a1e0::2/128"]);
    narrow["AllowedIPs"] = json!(["100.64.0.2/32"]);
    let mut ended = narrow.clone();
    ended["Expired"] = true.into();
    let patch = |expiry: &str| json!({ "PeersChangedPatch": [{ "NodeID": 2, "KeyExpiry": expiry }], "ControlTime": "2026-11-22T00:10:52Z" });
    for end in [json!({ "PeersChanged": [ended] }), patch("2026-11-22T00:10:49.5Z")] {
        let mut state = begun(std::slice::from_ref(&narrow));
        apply(&mut state, end).unwrap();
        assert!(state.current().unwrap().peers[&NodeId(2)].expired);
        apply(&mut state, patch("0001-01-01T00:00:00Z")).unwrap();
        let peer = state.current().unwrap().peers[&NodeId(2)].clone();
        assert_eq!((peer.addresses.len(), &*peer.allowed), (2, &["100.64.0.2/32".parse().unwrap()][..]));
    }
}
