//! Who is refused: it says so, waits for another key, and does not ask again and again meanwhile.

use std::time::Duration;

use serde_json::json;

use crate::built::Release;
use crate::headscale::{Headscale, KeyFor, Options};
use crate::net::{Net, Segment};
use crate::ours::{self, Ours};
use crate::peer::{Kind, Peer};
use crate::proxy::{Counter, Counts};
use crate::registration::the_refused_leave_the_vpc_server_alone;
use crate::tailscaled::Tailscaled;
use crate::wait::s;

/// How long whoever is refused is looked at.
const LOOK: Duration = s(300);
/// One attempt a minute, and what a connection takes. An HTTP/2 connection that is refused is a dozen records.
const MOST: Counts = Counts { connections: 14, keys: 7, upgrades: 7, records: 140 };

struct Refused {
    node: Ours,
    counter: Counter,
    what: &'static str,
}

impl Refused {
    fn joins(net: &mut Net, server: &Headscale, what: &'static str, key: &str) -> Self {
        let (host, counter) = (net.host(&format!("node-{what}")), Counter::open(server));
        let mut config = ours::config(&host, server, key);
        config["login_server"]["url"] = json!(counter.url(server));
        Self { node: Ours::start(&host, &config), counter, what }
    }
}

fn the_refused_wait_at(release: Release) {
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), release, Options::default());
    let used = server.key(KeyFor::default());
    let _first = Peer::join_with(Kind::Go, &net.host("node-first"), &server, &used);
    let expired = server.key(KeyFor { expires: "1s", ..KeyFor::default() });
    let revoked = Refused::joins(&mut net, &server, "deleted", &server.key(KeyFor::default()));
    revoked.node.running(s(30));
    // Of a user's, whose node keys may end.
    let of_a_user = || server.key(KeyFor { tags: &[], ..KeyFor::default() });
    let ended = Refused::joins(&mut net, &server, "ended", &of_a_user());
    ended.node.running(s(30));
    std::thread::sleep(s(2));
    // The last character of a key is of its secret part.
    let last = used.chars().last().unwrap();
    let unknown = format!("{}{}", &used[..used.len() - 1], if last == 'a' { 'b' } else { 'a' });
    let refused = [("used", &used), ("expired", &expired), ("unknown", &unknown)]
        .map(|(what, key)| Refused::joins(&mut net, &server, what, key));
    for Refused { node, what, .. } in &refused {
        let status = node.waits_for_a_key(s(30));
        assert!(status["refusal"]["text"].as_str().is_some_and(|text| !text.is_empty()), "{what}: {status}");
        assert!(!status.to_string().contains("hskey-"), "{what}: {status}");
    }
    server.delete(&server.node("node-deleted").unwrap());
    server.expire(&server.node("node-ended").unwrap());
    std::thread::sleep(LOOK);
    // It was told nothing; by now it has found out.
    revoked.node.waits_for_a_key(s(60));
    ended.node.waits_for_a_key(s(1));
    for Refused { node, counter, what } in refused.iter().chain([&revoked, &ended]) {
        let counts = counter.counts();
        eprintln!("{release:?} {what}: {counts:?}");
        assert!(
            counts.connections <= MOST.connections
                && counts.keys <= MOST.keys
                && counts.upgrades <= MOST.upgrades
                && counts.records <= MOST.records,
            "{what}: {counts:?}"
        );
        node.rekey(&if *what == ended.what { of_a_user() } else { server.key(KeyFor::default()) });
    }
    // Another key, and they are in.
    for Refused { node, what, .. } in refused.iter().chain([&revoked, &ended]) {
        node.comes_in(s(90));
        assert!(server.node(&format!("node-{what}")).is_some());
        let said = std::fs::read_to_string(node.host.folder.join("vpn.log")).unwrap();
        assert!(
            !said.contains("hskey-") && !said.contains("privkey:") && !said.contains(&used),
            "{what}: {said}"
        );
    }
}

/// The counter counts what real clients send.
#[test]
fn a_go_node_is_refused_and_counted() {
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let counter = Counter::open(&server);
    let node = Tailscaled::start(&net.host("node-a"), &server);
    let expired = server.key(KeyFor { expires: "1s", ..KeyFor::default() });
    std::thread::sleep(s(2));
    node.up_at(&counter.url(&server), &expired).unwrap_err();
    let refused = counter.counts();
    assert!(
        refused.connections >= 2 && refused.keys >= 1 && refused.upgrades >= 1 && refused.records >= 3,
        "{refused:?}"
    );
    node.up_at(&counter.url(&server), &server.key(KeyFor::default())).unwrap();
    assert!(counter.counts().records > refused.records);
}

/// One test for all, since they mostly wait. It is the longest by far: its name makes it the first.
#[test]
fn the_refused_wait() {
    std::thread::scope(|scope| {
        let every = [Release::V0_26, Release::V0_28, Release::V0_29];
        let threads = every.map(|release| scope.spawn(move || the_refused_wait_at(release)));
        let registered = scope.spawn(the_refused_leave_the_vpc_server_alone);
        for thread in threads.into_iter().chain([registered]) {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}
