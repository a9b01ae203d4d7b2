//! The arrows between the rooms (design section 4): no others, of whatever kind.

use crate::workspace::members;

/// Who may depend on whom. `measurements` is the floor, which every room but the leaves may stand on; `tests` may use
/// everything and is not listed. `init` names `attestation` to switch its simulator on in the development flavour.
const ARROWS: &[(&str, &[&str])] = &[
    ("casemate-measure", &[]),
    ("casemate-egress", &[]),
    ("casemate-aead", &[]),
    ("casemate-vpn", &["casemate-aead"]),
    ("casemate-verify", &["casemate-measure"]),
    ("casemate-agent", &["casemate-measure", "casemate-verify"]),
    ("casemate-mesh", &["casemate-measure", "casemate-verify"]),
    ("casemate-vpc", &["casemate-measure", "casemate-verify"]),
    (
        "casemate-init",
        &[
            "casemate-measure",
            "casemate-verify",
            "casemate-agent",
            "casemate-vpn",
            "casemate-egress",
            "casemate-mesh",
            "casemate-vpc",
        ],
    ),
    ("casemate-image", &["casemate-measure"]),
    ("casemate-qemu", &["casemate-measure"]),
];

/// What only tests.
const TESTS: &[&str] = &["casemate-tests", "casemate-fuzz"];

/// What is wrong with one edge.
fn judge(from: &str, to: &str) -> Option<String> {
    if TESTS.contains(&to) {
        return Some(format!("{from} -> {to}: nothing depends on the tests"));
    }
    if TESTS.contains(&from) {
        return None;
    }
    match ARROWS.iter().find(|(room, _)| *room == from) {
        None => Some(format!("{from}: a package that the design does not know")),
        Some((_, targets)) if targets.contains(&to) => None,
        Some(_) => Some(format!("{from} -> {to}: no such arrow")),
    }
}

#[test]
fn there_are_no_other_arrows() {
    let members = members();
    let known = |name: &str| TESTS.contains(&name) || ARROWS.iter().any(|(room, _)| *room == name);
    let mut wrong: Vec<String> = Vec::new();
    let mut edges = 0;
    for member in &members {
        if !known(&member.name) {
            wrong.push(format!("{}: a package that the design does not know", member.name));
        }
        for dependency in member.dependencies.iter().filter(|dependency| dependency.path.is_some()) {
            edges += 1;
            let kind = dependency.kind.as_deref().unwrap_or("normal");
            wrong.extend(judge(&member.name, &dependency.name).map(|why| format!("{why} ({kind})")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(edges > 0, "no edge was seen at all");
}

#[test]
fn a_wrong_arrow_is_seen() {
    assert_eq!(judge("casemate-init", "casemate-mesh"), None);
    assert_eq!(judge("casemate-tests", "casemate-init"), None);
    for (from, to) in [
        ("casemate-measure", "casemate-verify"),
        ("casemate-egress", "casemate-measure"),
        ("casemate-image", "casemate-init"),
        ("casemate-mesh", "casemate-agent"),
        ("casemate-init", "casemate-tests"),
        ("casemate-measure", "casemate-fuzz"),
        ("casemate-tests", "casemate-fuzz"),
        ("casemate-other", "casemate-measure"),
    ] {
        assert!(judge(from, to).is_some(), "{from} -> {to}");
    }
}
