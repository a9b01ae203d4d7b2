//! Relays: reached in each way that there is, by nodes that cannot reach each other.

use crate::built::Release;
use crate::headscale::{Headscale, Options, Relay};
use crate::net::{Net, Segment};
use crate::peer::{Kind, Peer, stay_relayed};
use crate::wait::s;

/// No UDP but STUN leaves.
const NO_UDP: &str = r#"table inet wall {
    chain output { type filter hook output priority 0; oifname "eth0" udp dport != 3478 drop; }
}"#;

fn a_pair_is_relayed(relay: Relay, verify_clients: bool, kinds: [Kind; 2]) {
    let mut net = Net::new(Segment::Private);
    let options = Options { relay, verify_clients, ..Options::default() };
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, options);
    let [a, b] = ["node-a", "node-b"].map(|name| {
        let host = net.host(name);
        host.rules(NO_UDP);
        host
    });
    let (a, b) = (Peer::join(kinds[0], &a, &server), Peer::join(kinds[1], &b, &server));
    stay_relayed(&a, &b, s(8));
    for peer in [&a, &b] {
        assert_eq!(peer.home(), Some(server.region()), "{}", peer.name());
    }
}

#[test]
fn a_go_pair_is_relayed_with_a_pin() {
    a_pair_is_relayed(Relay::Pinned, true, [Kind::Go, Kind::Go]);
}

#[test]
fn a_go_pair_is_relayed_under_a_root() {
    a_pair_is_relayed(Relay::Rooted, true, [Kind::Go, Kind::Go]);
}

#[test]
fn ours_and_go_are_relayed_with_a_pin() {
    a_pair_is_relayed(Relay::Pinned, true, [Kind::Ours, Kind::Go]);
}

#[test]
fn ours_and_go_are_relayed_under_a_root() {
    a_pair_is_relayed(Relay::Rooted, true, [Kind::Ours, Kind::Go]);
}

#[test]
fn ours_and_go_are_relayed_without_tls() {
    a_pair_is_relayed(Relay::Plain, true, [Kind::Ours, Kind::Go]);
}

#[test]
fn an_own_pair_is_relayed_with_a_pin() {
    a_pair_is_relayed(Relay::Pinned, true, [Kind::Ours, Kind::Ours]);
}

#[test]
fn an_own_pair_is_relayed_under_a_root() {
    a_pair_is_relayed(Relay::Rooted, true, [Kind::Ours, Kind::Ours]);
}

#[test]
fn an_own_pair_is_relayed_without_tls() {
    a_pair_is_relayed(Relay::Plain, false, [Kind::Ours, Kind::Ours]);
}
