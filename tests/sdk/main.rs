//! dstack's own published clients against our agent: Python, JavaScript and Rust. Each asks for everything that it can, by a
//! small program in its own language, and says in JSON what it made of the answers; one judge compares that with what the
//! agent has to say.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "in tests and their helpers a panic is the report"
)]

mod client;
mod judge;
mod machine;

use client::{Absence, Client, Sdk};
use judge::{judge, lies};
use machine::{Machine, canonical};

/// A document as people write it.
const DOCUMENT: &str = include_str!("../../configs/demo.app-compose.json");
/// What is banned from what is shipped.
const DENY: &str = include_str!("../../deny.toml");
const LOCK: &str = include_str!("rust/Cargo.lock");

fn skip(test: &str, why: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "SKIPPED under CI=true: {test}: {why}");
    eprintln!("SKIPPED: {test}: {why}");
}

async fn sees_what_the_agent_says(sdk: Sdk) {
    let client = match Client::ready(sdk) {
        Ok(client) => client,
        Err(Absence::Excusable(why)) => return skip(&format!("dstack's client for {sdk:?}"), &why),
        Err(Absence::Wrong(why)) => panic!("{why}"),
    };
    for document in [DOCUMENT.to_owned(), canonical(DOCUMENT)] {
        let machine = Machine::boot(&document);
        let seen = client.look(&machine.socket()).await;
        assert_eq!(judge(sdk, &machine, &seen), [""; 0]);
        // The judge looks at everything: whatever else a client had said would have been seen.
        let lies = lies(&seen);
        assert!(lies.len() > 150, "{}", lies.len());
        for (place, lie) in lies {
            assert!(!judge(sdk, &machine, &lie).is_empty(), "{sdk:?}: nobody looks at {place}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_sees_what_the_agent_says() {
    sees_what_the_agent_says(Sdk::Python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_javascript_client_sees_what_the_agent_says() {
    sees_what_the_agent_says(Sdk::JavaScript).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rust_client_sees_what_the_agent_says() {
    sees_what_the_agent_says(Sdk::Rust).await;
}

/// The clients hash the document as they would write it, the agent the bytes that there are.
#[tokio::test]
async fn clients_hash_a_document_as_we_do_if_it_is_written_as_they_write_it() {
    let (pretty, canonical) = (Machine::boot(DOCUMENT), Machine::boot(&canonical(DOCUMENT)));
    assert_ne!(pretty.compose_hash(), pretty.canonical_hash());
    assert_eq!(canonical.compose_hash(), canonical.canonical_hash());
    assert_eq!(pretty.canonical_hash(), canonical.canonical_hash());
}

/// Its package is none of the workspace's, whose rules are kept by `architecture`.
#[test]
fn the_rust_client_brings_no_second_provider() {
    let deny = toml_span::parse(DENY).unwrap();
    let banned = deny.pointer("/bans/deny").and_then(|list| list.as_array()).unwrap();
    assert!(banned.len() > 3 && LOCK.contains("name = \"ring\""));
    for one in banned {
        let name = one.pointer("/crate").and_then(|name| name.as_str()).unwrap();
        assert!(!LOCK.contains(&format!("name = \"{name}\"")), "the Rust client needs {name}");
    }
}
