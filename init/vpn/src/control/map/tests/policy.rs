//! Filters.

use super::*;

#[test]
fn filters_are_named_replaced_deleted_and_deny_when_they_do_not_read() {
    let rule = |port: u16| json!([{ "SrcIPs": ["100.64.0.2"], "DstPorts": [{ "IP": "100.64.0.1", "Ports": { "First": port, "Last": port } }] }]);
    let names = |state: &MapState| state.current().unwrap().filters.keys().cloned().collect::<Vec<_>>();
    let mut state = begun(&[]);
    let changed = |state: &mut MapState, message: Value| {
        apply(state, message).is_some_and(|update| update.changes.filter)
    };
    assert!(changed(&mut state, json!({ "PacketFilter": rule(1) })));
    assert_eq!(names(&state), ["base"]);
    assert!(!changed(&mut state, json!({ "PacketFilter": null, "PacketFilters": null })));
    assert!(!changed(&mut state, json!({ "PacketFilters": { "base": rule(1) } })), "the same texts");
    assert!(changed(&mut state, json!({ "PacketFilters": { "b": rule(2), "a": [] } })));
    assert_eq!(names(&state), ["a", "b", "base"]);
    assert!(changed(&mut state, json!({ "PacketFilters": { "base": null, "a": null } })));
    assert_eq!(names(&state), ["b"]);
    assert!(changed(&mut state, json!({ "PacketFilters": { "*": null, "c": rule(3) } })));
    assert_eq!(names(&state), ["c"]);
    let update = apply(&mut state, json!({ "PacketFilters": [1, 2] })).unwrap();
    assert_eq!((update.policy, names(&state).len()), (PolicyState::Unreadable, 0));
    assert!(changed(&mut state, json!({ "PacketFilters": { "base": rule(4) } })));
    // One that is an object and holds what is no rules denies as well.
    let update = apply(&mut state, json!({ "PacketFilters": { "base": 7 } })).unwrap();
    assert_eq!((update.policy, update.map.filter.rules()), (PolicyState::Unreadable, 0));
    // From one way to deny to another is told too: status says which.
    assert!(changed(&mut state, json!({ "PacketFilters": { "base": [] } })));
    assert!(changed(&mut state, json!({ "PacketFilters": 1 })));
    assert!(changed(&mut state, json!({ "PacketFilters": {} })));
}

#[test]
fn filters_that_take_too_much_memory_deny() {
    // Each of them is small enough, and reads.
    let port = |n: u32| json!([{ "SrcIPs": ["100.64.0.2"], "DstPorts": [{ "IP": "*", "Ports": { "First": n, "Last": n } }], "Note": "x".repeat(500_000) }]);
    let mut state = begun(&[peer(2)]);
    let mut last = None;
    for n in 0..50 {
        let mut message = json!({ "PacketFilters": {} });
        message["PacketFilters"][format!("f{n}")] = port(n);
        last = apply(&mut state, message).or(last);
        if last.as_ref().unwrap().policy == PolicyState::Unreadable {
            assert_eq!(n, 8);
            break;
        }
    }
    let last = last.unwrap();
    assert_eq!(last.policy, PolicyState::Unreadable);
    assert_eq!((last.map.filter.rules(), last.map.filters.len()), (0, 0));
    // A set that reads counts from nothing.
    let update = apply(&mut state, json!({ "PacketFilters": { "base": port(1) } })).unwrap();
    assert_eq!((update.policy, update.map.filter.rules()), (PolicyState::Policy, 1));
    // More names than there are.
    let names: serde_json::Map<String, Value> = (0..300).map(|n| (format!("n{n}"), json!([]))).collect();
    assert_eq!(apply(&mut state, json!({ "PacketFilters": names })).unwrap().policy, PolicyState::Unreadable);
}

#[test]
fn a_server_without_a_policy_is_seen_wherever_its_rule_stands() {
    let all = json!({ "SrcIPs": ["*"], "DstPorts": [{ "IP": "*", "Ports": { "First": 0, "Last": 65535 } }] });
    let some = json!({ "SrcIPs": ["*"], "DstPorts": [{ "IP": "*", "Ports": { "First": 0, "Last": 1 } }] });
    let strange = json!({ "SrcIPs": 7 });
    for (rules, expected) in [
        (json!([all]), PolicyState::AllowAllRefused),
        // What does not read denies as a whole, so it lets nobody in either.
        (json!([strange, all]), PolicyState::Unreadable),
        // However it is spelled: a field left out is zero, and every address may be written in two ways.
        (
            json!([{ "SrcIPs": ["*"], "DstPorts": [{ "IP": "*", "Ports": { "Last": 65535 } }] }]),
            PolicyState::AllowAllRefused,
        ),
        (
            json!([{ "SrcIPs": ["0.0.0.0/0", "::/0"], "DstPorts": [{ "IP": "*", "Ports": { "First": 0, "Last": 65535 } }], "IPProto": [1, 6, 17, 58] }]),
            PolicyState::AllowAllRefused,
        ),
        (json!([some]), PolicyState::Policy),
        (json!([]), PolicyState::Policy),
    ] {
        for message in [json!({ "PacketFilter": rules }), json!({ "PacketFilters": { "x": rules } })] {
            let mut state = MapState::new(settings(true), public(1), None);
            apply(&mut state, json!({ "Node": peer(1) }));
            let policy = apply(&mut state, message).map(|update| update.policy);
            assert_eq!(state.policy.state(), expected, "{rules}");
            assert!(policy.is_none_or(|policy| policy == expected));
        }
    }
}
