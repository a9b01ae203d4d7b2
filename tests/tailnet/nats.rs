//! NATs: what a pair behind two of them gets to.

use crate::built::Release;
use crate::headscale::{Headscale, Options, Relay};
use crate::net::{Nat, Net, Segment};
use crate::peer::{Kind, Peer, become_direct, direct, stay_relayed};
use crate::wait::{s, until};

/// An outer port of its own for each flow of the inner host, the same wherever it goes; what is unasked is dropped.
const FRIENDLY: Nat = Nat { random: false, drops_unasked: true };
/// The same, but an early packet from outside takes the port that the inner host would have got.
const CLUMSY: Nat = Nat { random: false, drops_unasked: false };
/// Another outer port for each destination.
const RANDOM: Nat = Nat { random: true, drops_unasked: true };

/// How long a pair that gets nowhere is looked at: some rounds of a client's pings.
const LOOK: std::time::Duration = s(20);

enum Outcome {
    Direct,
    Relayed,
}

fn a_pair_behind(nats: [Nat; 2], kinds: [Kind; 2], outcome: &Outcome) {
    let mut net = Net::new(Segment::Public);
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let a = Peer::join(kinds[0], &net.host_behind(nats[0], "node-a"), &server);
    let b = Peer::join(kinds[1], &net.host_behind(nats[1], "node-b"), &server);
    match outcome {
        Outcome::Direct => become_direct(&a, &b, s(40)),
        Outcome::Relayed => stay_relayed(&a, &b, LOOK),
    }
}

/// A NAT gives other ports while the server is away: the new path comes by the relay, which is elsewhere.
fn a_mapping_moves(kinds: [Kind; 2]) {
    let mut net = Net::new(Segment::Public);
    let relay = net.host("relay");
    let open = Options { verify_clients: false, ..Options::default() };
    let _relay = Headscale::start(&relay, Release::V0_29, open);
    let options = Options { relay: Relay::Elsewhere(relay.v4), ..Options::default() };
    let mut server = Headscale::start(&net.host("headscale"), Release::V0_29, options);
    let a = Peer::join(kinds[0], &net.host_behind(FRIENDLY, "node-a"), &server);
    let b = Peer::join(kinds[1], &net.host_behind(FRIENDLY, "node-b"), &server);
    become_direct(&a, &b, s(40));
    let before = direct(&b, &a.addresses()[0]).unwrap();
    server.kill();
    a.host().move_mappings();
    until(s(40), "another path", || {
        a.host().pings(&b.addresses()[0]);
        direct(&b, &a.addresses()[0]).filter(|now| *now != before)
    });
    become_direct(&a, &b, s(40));
}

const GO: [Kind; 2] = [Kind::Go, Kind::Go];

#[test]
fn a_go_pair_gets_through_friendly_nats() {
    a_pair_behind([FRIENDLY, FRIENDLY], GO, &Outcome::Direct);
}

#[test]
fn a_go_pair_stays_on_the_relay_behind_clumsy_nats() {
    a_pair_behind([CLUMSY, CLUMSY], GO, &Outcome::Relayed);
}

#[test]
fn a_go_pair_stays_on_the_relay_behind_a_random_nat() {
    a_pair_behind([FRIENDLY, RANDOM], GO, &Outcome::Relayed);
}

#[test]
fn a_go_pair_finds_another_path_when_a_mapping_moves() {
    a_mapping_moves(GO);
}

const MIXED: [Kind; 2] = [Kind::Ours, Kind::Go];
const OWN: [Kind; 2] = [Kind::Ours, Kind::Ours];

#[test]
fn ours_and_go_get_through_friendly_nats() {
    a_pair_behind([FRIENDLY, FRIENDLY], MIXED, &Outcome::Direct);
}

#[test]
fn ours_and_go_stay_on_the_relay_behind_clumsy_nats() {
    a_pair_behind([CLUMSY, CLUMSY], MIXED, &Outcome::Relayed);
}

#[test]
fn ours_and_go_stay_on_the_relay_behind_a_random_nat() {
    a_pair_behind([FRIENDLY, RANDOM], MIXED, &Outcome::Relayed);
}

#[test]
fn ours_and_go_find_another_path_when_a_mapping_moves() {
    a_mapping_moves(MIXED);
}

#[test]
fn an_own_pair_get_through_friendly_nats() {
    a_pair_behind([FRIENDLY, FRIENDLY], OWN, &Outcome::Direct);
}

#[test]
fn an_own_pair_stay_on_the_relay_behind_clumsy_nats() {
    a_pair_behind([CLUMSY, CLUMSY], OWN, &Outcome::Relayed);
}

#[test]
fn an_own_pair_stay_on_the_relay_behind_a_random_nat() {
    a_pair_behind([FRIENDLY, RANDOM], OWN, &Outcome::Relayed);
}

#[test]
fn an_own_pair_find_another_path_when_a_mapping_moves() {
    a_mapping_moves(OWN);
}
