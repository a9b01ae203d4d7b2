//! The server goes away, comes back, and comes back as it was yesterday. Tunnels do not care.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::built::Release;
use crate::flow::{Flow, Protocol};
use crate::headscale::{DOMAIN, Headscale, KeyFor, Options};
use crate::net::{Net, Segment};
use crate::ours::Ours;
use crate::pairs::MAGIC;
use crate::peer::{Kind, Peer, become_direct, direct};
use crate::wait::{s, until};

/// No tunnel may be silent for as long. A handshake in between takes a round trip; the rest is the machine's load.
const PAUSE: Duration = s(1);

fn flow(from: &Peer, to: &Peer, protocol: Protocol) -> Flow {
    become_direct(from, to, s(30));
    Flow::begin(protocol, from.host(), to.host(), &to.addresses()[0], 0)
}

fn ours(peer: &mut Peer) -> &mut Ours {
    match peer {
        Peer::Ours(node) => node,
        Peer::Go(_) => panic!("not ours"),
    }
}

/// Between two of one kind, and of each to a Go node.
fn no_tunnel_pauses_while_the_server_is_away(kind: Kind) {
    let mut net = Net::new(Segment::Private);
    let mut server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let [a, b, c] = [("node-a", kind), ("node-b", kind), ("node-c", Kind::Go)]
        .map(|(name, kind)| Peer::join(kind, &net.host(name), &server));
    let flows = [
        flow(&a, &b, Protocol::Udp),
        flow(&a, &c, Protocol::Udp),
        flow(&c, &b, Protocol::Udp),
        Flow::begin(Protocol::Tcp, a.host(), c.host(), &c.addresses()[0], 0),
    ];
    flows.iter().for_each(Flow::forget);
    server.kill();
    // Longer than keys last: they are changed meanwhile.
    std::thread::sleep(s(130));
    if let Peer::Ours(node) = &a {
        assert!(!node.connected());
    }
    server.resume();
    until(s(90), "the server's nodes", || {
        [&a, &b].into_iter().all(|peer| server_has(&server, peer)).then_some(())
    });
    std::thread::sleep(s(5));
    for flow in &flows {
        flow.assert_went_on(PAUSE);
    }
}

fn server_has(server: &Headscale, peer: &Peer) -> bool {
    server.node(peer.name()).is_some_and(|node| node.online)
}

#[test]
fn no_own_tunnel_pauses_while_the_server_is_away() {
    no_tunnel_pauses_while_the_server_is_away(Kind::Ours);
}

#[test]
fn a_killed_node_is_back_while_the_server_is_away() {
    let mut net = Net::new(Segment::Private);
    let mut server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let mut a = Peer::join(Kind::Ours, &net.host("node-a"), &server);
    for kind in [Kind::Go, Kind::Ours] {
        let b = Peer::join(kind, &net.host(&format!("node-{kind:?}").to_lowercase()), &server);
        let tcp = flow(&a, &b, Protocol::Tcp);
        server.kill();
        tcp.forget();
        let child = ours(&mut a).child();
        kill(Pid::from_raw(child.try_into().unwrap()), Signal::SIGKILL).unwrap();
        until(s(1), "another child", || (ours(&mut a).child() != child).then_some(()));
        a.host().pings_soon(s(5), &b.addresses()[0]);
        std::thread::sleep(s(3));
        // TCP sends again after a while that it doubles: what was lost in 5 s is there after 10.
        tcp.assert_went_on(s(10));
        server.resume();
        until(s(60), "the server's node", || ours(&mut a).connected().then_some(()));
    }
}

/// The Go node alone may begin anything: it does not know that its session is of no use any more.
#[test]
fn a_killed_node_that_only_receives_is_back() {
    let mut net = Net::new(Segment::Private);
    let mut server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let [called, caller] = [(Kind::Ours, "called"), (Kind::Go, "caller")].map(|(kind, name)| {
        let key = server.key(KeyFor { tags: &[&format!("tag:{name}")], ..KeyFor::default() });
        Peer::join_with(kind, &net.host(&format!("node-{name}")), &server, &key)
    });
    server.policy(&json!({
        "tagOwners": { "tag:called": ["alice@"], "tag:caller": ["alice@"] },
        "acls": [{ "action": "accept", "src": ["tag:caller"], "dst": ["tag:called:*"] }],
    }));
    let Peer::Ours(node) = &called else { panic!("not ours") };
    until(s(20), "the policy", || (node.status()?["filter"]["allow_all"] == false).then_some(()));
    let [v4, v6] = called.addresses();
    caller.host().pings_soon(s(20), &v4);
    until(s(30), "a direct path", || direct(&caller, &v4));
    let tcp = Flow::begin(Protocol::Tcp, caller.host(), called.host(), &v4, 0);
    assert!(!called.host().pings(&caller.addresses()[0]), "it may call as well");
    for away in [false, true] {
        if away {
            server.kill();
        }
        // Written down a moment after it was learned (`init/vpn/src/node/keep.rs`).
        std::thread::sleep(s(3));
        tcp.forget();
        let child = node.child();
        kill(Pid::from_raw(child.try_into().unwrap()), Signal::SIGKILL).unwrap();
        until(s(1), "another child", || (node.child() != child).then_some(()));
        caller.host().pings_soon(s(5), &v4);
        assert!(caller.host().pings(&v6));
        std::thread::sleep(s(3));
        // TCP sends again after a while that it doubles: what was lost in 5 s is there after 10.
        tcp.assert_went_on(s(10));
    }
}

/// The late one is of this kind.
fn a_server_forgets_a_node(kind: Kind) {
    let mut net = Net::new(Segment::Private);
    let mut server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let [a, b] = [("node-a", kind), ("node-b", Kind::Go)]
        .map(|(name, kind)| Peer::join(kind, &net.host(name), &server));
    let rest = flow(&a, &b, Protocol::Udp);
    server.backup("yesterday");
    let late = Peer::join(kind, &net.host("node-late"), &server);
    let before = late.addresses();
    let [with_a, with_b] = [flow(&a, &late, Protocol::Udp), flow(&b, &late, Protocol::Udp)];
    for flow in [&rest, &with_a, &with_b] {
        flow.forget();
    }
    server.kill();
    server.restore("yesterday");
    server.resume();
    until(s(90), "the server's nodes", || {
        [&a, &b].into_iter().all(|peer| server_has(&server, peer)).then_some(())
    });
    if let Peer::Ours(node) = &late {
        let status = node.waits_for_a_key(s(120));
        // It has what it had, until a map says something else.
        assert_eq!(status["peers"].as_array().unwrap().len(), 2, "{status}");
        assert_eq!(late.addresses(), before);
        let shown = late.host().ip(&format!("-json address show dev {}", crate::ours::INTERFACE));
        assert!(before.iter().all(|address| shown.contains(address)), "{shown}");
    }
    rest.assert_went_on(PAUSE);
    let fresh = Peer::join(Kind::Go, &net.host("node-fresh"), &server);
    assert_eq!(fresh.addresses(), before, "the address went to somebody else");
    with_a.stops(s(5));
    let to_fresh = flow(&a, &fresh, Protocol::Udp);
    let key = server.key(KeyFor::default());
    // Go's asks for a new login and needs its operator.
    if let Peer::Ours(node) = &late {
        node.rekey(&key);
        node.comes_in(s(90));
        is_somewhere_else(&late, &before, [&a, &b]);
    }
    to_fresh.assert_went_on(PAUSE);
    rest.assert_went_on(PAUSE);
}

/// That a node has another address everywhere where it matters.
fn is_somewhere_else(late: &Peer, before: &[String; 2], others: [&Peer; 2]) {
    let after = late.addresses();
    let name = format!("{}.{DOMAIN}", late.name());
    for peer in others {
        peer.host().pings_soon(s(15), &after[0]);
        late.host().pings_soon(s(15), &peer.addresses()[1]);
        peer.host().resolvers(&[MAGIC]);
        peer.host().pings_soon(s(15), &name);
    }
    let addresses = late.host().ip(&format!("-json address show dev {}", crate::ours::INTERFACE));
    for (before, after) in before.iter().zip(&after) {
        assert!(addresses.contains(after) && !addresses.contains(before), "{addresses}");
    }
}

#[test]
fn a_server_forgets_a_go_node() {
    a_server_forgets_a_node(Kind::Go);
}

#[test]
fn a_server_forgets_ours() {
    a_server_forgets_a_node(Kind::Ours);
}
