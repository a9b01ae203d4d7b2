//! A node moves while it talks: another address, another network. Its tunnels follow.

use std::time::{Duration, Instant};

use casemate_vpn::path::{HEARTBEAT, PING_INTERVAL, TRUST};

use crate::built::Release;
use crate::flow::{Flow, Protocol};
use crate::headscale::{Headscale, Options, PORT, Relay};
use crate::net::{Host, Nat, Net, Segment, Succeed as _};
use crate::ours::Ours;
use crate::peer::{Kind, Peer, become_direct, direct};
use crate::wait::{s, until};

const FRIENDLY: Nat = Nat { random: false, drops_unasked: true };

/// Until it is noticed: this machine's addresses are read every two seconds, at one of the looks that are a second apart
/// (`init/vpn/src/node/mod.rs`, `ADDRESSES` and `LOOK`).
const NOTICED: Duration = s(3);
/// Until a connection to the server or a relay stands again: those of an address that is gone are made anew at once, those that may
/// live are asked and have three seconds (`init/vpn/src/derp/region.rs`, `Timing::REAL.answer`); then a back-off of up to a second,
/// and what a handshake takes on a busy machine. A watchdog takes 120 s at the server and 130 s at a relay.
const CONNECTED: Duration = s(NOTICED.as_secs() + 3 + 1 + 3);

/// Until both ends send directly to where the node is now. The node's own pings leave when it is noticed; the other end believes in
/// the old address for as long as a pong is trusted, then its next heartbeat finds that it is dead, and an address that was pinged in
/// vain is pinged again after [`PING_INTERVAL`]. Go's constants are the same (`wgengine/magicsock/endpoint.go`).
fn direct_again() -> Duration {
    NOTICED + TRUST + HEARTBEAT + PING_INTERVAL + s(3)
}

/// Whether a connection from this address of a host's stands to the port of the server or of the relay.
fn connected_from(host: &Host, own: &str, to: &Host) -> bool {
    let filter = format!("src {own} and dst {}:{PORT}", to.v4);
    let mut ss = host.command(s(5), "ss");
    let output = ss.args(["-Htn", "state", "established", &filter]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    !output.stdout.is_empty()
}

/// Its folder is the net's: what logs there ends before it.
struct Rig {
    server: Headscale,
    relay: Host,
    _relay: Headscale,
    net: Net,
}

fn rig(kind: Segment) -> Rig {
    let mut net = Net::new(kind);
    let relay = net.host("relay");
    let open = Options { verify_clients: false, ..Options::default() };
    let relays = Headscale::start(&relay, Release::V0_29, open);
    // What is at the server is not at the relay: their connections can be told apart.
    let options = Options { relay: Relay::Elsewhere(relay.v4), ..Options::default() };
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, options);
    Rig { server, relay, _relay: relays, net }
}

/// That after `moves` everything of the node comes from `own`, and what it and the others say to each other goes on.
/// `outside` is where the others see it.
fn tunnels_follow(rig: &Rig, node: &Peer, others: &[Peer], own: &str, outside: &str, moves: impl FnOnce()) {
    let Peer::Ours(ours) = node else { panic!("not ours") };
    for other in others {
        become_direct(node, other, s(40));
    }
    let mut flows = Vec::new();
    for other in others {
        let (to, from) = (&other.addresses()[0], &node.addresses()[0]);
        flows.push(Flow::begin(Protocol::Udp, node.host(), other.host(), to, 0));
        flows.push(Flow::begin(Protocol::Tcp, other.host(), node.host(), from, 0));
    }
    assert!(![&rig.relay, &rig.server.host].iter().any(|to| connected_from(node.host(), own, to)));
    flows.iter().for_each(Flow::forget);
    moves();
    let begin = Instant::now();
    until(CONNECTED, "connections from where it is now", || {
        let all = [&rig.relay, &rig.server.host].iter().all(|to| connected_from(node.host(), own, to));
        all.then_some(())
    });
    let connected = begin.elapsed();
    let left = |limit: Duration| limit.saturating_sub(begin.elapsed());
    for other in others {
        let (to, from) = (&other.addresses()[0], &node.addresses()[0]);
        until(left(direct_again()), "a direct path back", || {
            direct(other, from).filter(|at| at.ip().to_string() == outside)
        });
        until(left(direct_again()), "a direct path", || direct(node, to));
    }
    eprintln!("connected after {connected:?}, direct after {:?}", begin.elapsed());
    for flow in &flows {
        // TCP sends what was lost after a while that it doubles each time.
        flow.assert_went_on(direct_again());
        flow.forget();
        until(direct_again(), "what was lost", || flow.came().then_some(()));
    }
    flows.iter().for_each(Flow::forget);
    std::thread::sleep(s(3));
    for flow in &flows {
        flow.assert_went_on(s(1));
    }
    is_home(rig, ours);
    let online = || rig.server.node(node.name()).is_some_and(|node| node.online).then_some(());
    until(s(5), "the server's node", online);
}

fn is_home(rig: &Rig, node: &Ours) {
    let status = node.status().unwrap();
    assert_eq!(status["control"]["connected"], true, "{status}");
    let connected = status["derp"]["connected"].as_array().unwrap();
    assert!(connected.iter().any(|region| *region == rig.server.region()), "{status}");
}

#[test]
fn tunnels_follow_to_another_address() {
    let mut rig = rig(Segment::Private);
    let node = Peer::join(Kind::Ours, &rig.net.host("node-a"), &rig.server);
    let others = [Kind::Go, Kind::Ours].map(|kind| {
        let name = format!("node-{kind:?}").to_lowercase();
        Peer::join(kind, &rig.net.host(&name), &rig.server)
    });
    let (host, old) = (node.host(), node.host().v4);
    let new = "192.168.77.200";
    tunnels_follow(&rig, &node, &others, new, new, || {
        // The last address of a network takes its routes with it.
        host.ip(&format!("address add {new}/24 dev eth0"));
        host.ip("-6 address flush dev eth0 scope global");
        host.command(s(5), "sysctl").args(["-qw", "net.ipv4.conf.eth0.promote_secondaries=1"]).succeed();
        host.ip(&format!("address delete {old}/24 dev eth0"));
    });
}

#[test]
fn tunnels_follow_behind_another_nat() {
    let mut rig = rig(Segment::Public);
    let node = Peer::join(Kind::Ours, &rig.net.host_behind(FRIENDLY, "node-a"), &rig.server);
    let others = [Kind::Go, Kind::Ours].map(|kind| {
        let name = format!("node-{kind:?}").to_lowercase();
        Peer::join(kind, &rig.net.host_behind(FRIENDLY, &name), &rig.server)
    });
    let elsewhere = rig.net.place_behind(FRIENDLY, "elsewhere");
    let (own, outside) = (elsewhere.v4.to_string(), elsewhere.outside.to_string());
    tunnels_follow(&rig, &node, &others, &own, &outside, || elsewhere.receives(node.host()));
}
