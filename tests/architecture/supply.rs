//! What may come in from outside: `deny.toml` is the one list, judged here as `cargo deny` would.
#![expect(clippy::expect_used, reason = "a test that cannot read the tree has failed")]

use std::collections::BTreeSet;

use toml_span::Value;

use crate::spdx;
use crate::workspace::{everything, members, toml, top};

fn deny() -> Value<'static> {
    toml(&top().join("deny.toml"))
}

/// The strings at a pointer, or under `crate` of the tables there.
fn names(deny: &Value<'_>, pointer: &str) -> BTreeSet<String> {
    let list = deny
        .pointer(pointer)
        .and_then(Value::as_array)
        .unwrap_or_else(|| panic!("deny.toml has no {pointer}"));
    let name = |item: &Value<'_>| {
        let text = item.as_str().or_else(|| item.pointer("/crate")?.as_str());
        text.expect("an entry is a string, or a table with `crate`").to_owned()
    };
    list.iter().map(name).collect()
}

/// The licences that one crate may have beside those that all may have.
fn exceptions(deny: &Value<'_>, package: &str) -> BTreeSet<String> {
    let list = deny.pointer("/licenses/exceptions").and_then(Value::as_array);
    let own = list.into_iter().flatten().filter(|one| {
        one.pointer("/crate").and_then(Value::as_str).expect("an exception names its crate") == package
    });
    own.flat_map(|one| names(one, "/allow")).collect()
}

#[test]
fn every_licence_is_allowed() {
    let deny = deny();
    let allowed = names(&deny, "/licenses/allow");
    let wrong: Vec<_> = everything()
        .into_iter()
        .filter(|package| {
            let more = exceptions(&deny, &package.name);
            let is_allowed = |name: &str| allowed.contains(name) || more.contains(name);
            !package.license.as_deref().is_some_and(|l| spdx::satisfied(l, &is_allowed))
        })
        .map(|package| format!("{} {}: {:?}", package.name, package.version, package.license))
        .collect();
    assert!(wrong.is_empty(), "licences outside deny.toml's list:\n{}", wrong.join("\n"));
}

#[test]
fn an_exception_is_for_its_crate_alone() {
    let deny = deny();
    assert!(exceptions(&deny, "libfuzzer-sys").contains("NCSA"));
    assert!(exceptions(&deny, "ring").is_empty() && !names(&deny, "/licenses/allow").contains("NCSA"));
}

#[test]
fn no_banned_crate_comes_in() {
    let banned = names(&deny(), "/bans/deny");
    for must in ["openssl", "openssl-sys", "aws-lc-rs", "aws-lc-sys", "native-tls"] {
        assert!(banned.contains(must), "deny.toml does not ban {must}: ring is the only provider");
    }
    let packages = everything();
    assert!(packages.iter().any(|package| package.name == "ring"), "the dependencies were not listed");
    let wrong: Vec<_> = packages.iter().map(|p| &p.name).filter(|name| banned.contains(*name)).collect();
    assert!(wrong.is_empty(), "banned by deny.toml: {wrong:?}");
}

#[test]
fn every_crate_comes_from_the_one_registry() {
    let deny = deny();
    for pointer in ["/sources/unknown-registry", "/sources/unknown-git", "/bans/wildcards"] {
        assert_eq!(deny.pointer(pointer).and_then(Value::as_str), Some("deny"), "deny.toml: {pointer}");
    }
    let sources: BTreeSet<_> = everything().into_iter().filter_map(|package| package.source).collect();
    assert!(sources.iter().all(|source| source.starts_with("registry+")), "{sources:?}");
    assert_eq!(sources.len(), 1, "{sources:?}");
}

#[test]
fn no_version_is_a_wildcard() {
    for member in members() {
        for dependency in member.dependencies.iter().filter(|dependency| dependency.path.is_none()) {
            assert!(
                !dependency.req.contains('*'),
                "{} -> {} {}",
                member.name,
                dependency.name,
                dependency.req
            );
        }
    }
}

#[test]
fn every_member_is_apache_and_stays_here() {
    for member in members() {
        assert_eq!(member.license.as_deref(), Some("Apache-2.0"), "{}", member.name);
        assert!(
            member.manifest_path.starts_with(top().canonicalize().unwrap()),
            "{:?}",
            member.manifest_path
        );
    }
}
