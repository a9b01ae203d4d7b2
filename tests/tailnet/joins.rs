//! Joining each of the servers.

use std::{fs, io};

use nix::sys::signal::Signal;
use serde_json::json;

use crate::built::Release;
use crate::headscale::{Headscale, KeyFor, Options, TAG};
use crate::net::{Net, Segment};
use crate::ours::{INTERFACE, Ours};
use crate::peer::{Kind, Peer, become_direct};
use crate::wait::{s, until};

/// Two nodes with tagged single-use keys, who then ping each other by IPv4 and IPv6, directly.
fn a_pair_joins(release: Release, kinds: [Kind; 2]) {
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), release, Options::default());
    let [a, b] = [("node-a", kinds[0]), ("node-b", kinds[1])]
        .map(|(name, kind)| Peer::join(kind, &net.host(name), &server));
    for peer in [&a, &b] {
        let node = server.node(peer.name()).unwrap();
        assert_eq!((&node.tags[..], &node.addresses[..]), (&[TAG.to_owned()][..], &peer.addresses()[..]));
    }
    for (from, to) in [(&a, &b), (&b, &a)] {
        for address in to.addresses() {
            from.host().pings_soon(s(15), &address);
        }
    }
    become_direct(&a, &b, s(30));
}

#[test]
fn a_go_pair_joins_0_26() {
    a_pair_joins(Release::V0_26, [Kind::Go, Kind::Go]);
}

#[test]
fn a_go_pair_joins_0_28() {
    a_pair_joins(Release::V0_28, [Kind::Go, Kind::Go]);
}

#[test]
fn a_go_pair_joins_0_29() {
    a_pair_joins(Release::V0_29, [Kind::Go, Kind::Go]);
}

#[test]
fn ours_and_go_join_0_26() {
    a_pair_joins(Release::V0_26, [Kind::Ours, Kind::Go]);
}

#[test]
fn ours_and_go_join_0_28() {
    a_pair_joins(Release::V0_28, [Kind::Ours, Kind::Go]);
}

#[test]
fn ours_and_go_join_0_29() {
    a_pair_joins(Release::V0_29, [Kind::Ours, Kind::Go]);
}

/// After a restart a node is who it was, without a key; without its state it is somebody new, who needs one.
fn ours_restarts(release: Release) {
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), release, Options::default());
    let mut node = Ours::join(&net.host("node-a"), &server, &server.key(KeyFor::default()));
    let before = node.status().unwrap()["self"].clone();
    assert_eq!((&before["tags"][0], before["name"].as_str()), (&json!(TAG), Some("node-a.t.internal")));
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        node.process().signal(signal);
        let ended = node.process().end(s(10));
        assert!(signal == Signal::SIGKILL || ended.success(), "{ended}");
        // After SIGKILL the kernel ends the child, and with it all that there was.
        let patience = if signal == Signal::SIGKILL { s(5) } else { s(0) };
        until(patience, "no interface", || {
            let mut shown = node.host.command(s(5), "ip");
            let left = shown.args(["link", "show", "dev", INTERFACE]).output().unwrap();
            (!left.status.success()).then_some(())
        });
        fs::remove_file(node.host.folder.join("authkey")).or_else(absent).unwrap();
        node.restart();
        assert_eq!(node.running(s(30))["self"], before);
    }
    assert_eq!(server.nodes().len(), 1);
}

fn absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[test]
fn ours_restarts_without_a_key_0_26() {
    ours_restarts(Release::V0_26);
}

#[test]
fn ours_restarts_without_a_key_0_28() {
    ours_restarts(Release::V0_28);
}

#[test]
fn ours_restarts_without_a_key_0_29() {
    ours_restarts(Release::V0_29);
}

/// A node of a user's expires; a key that may be used again makes it a new node key.
#[test]
fn ours_expires_and_comes_back_with_another_node_key() {
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let key = server.key(KeyFor { tags: &[], reusable: true, ..KeyFor::default() });
    let node = Ours::join(&net.host("node-a"), &server, &key);
    let before = server.node("node-a").unwrap();
    server.expire(&before);
    let after =
        until(s(90), "another node key", || server.node("node-a").filter(|node| node.key != before.key));
    assert_eq!(after.addresses, before.addresses);
    node.running(s(30));
}
