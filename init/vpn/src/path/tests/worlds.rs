//! What two peers must reach, whatever is between them.

use std::time::Duration;

use super::super::*;
use super::world::{Nat, World};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn each_pair_of_nats_ends_where_it_can() {
    use Nat::{FullCone, PortRestricted, Public, Symmetric};
    let cases = [
        (Public, Public, true),
        (Public, PortRestricted, true),
        (Public, Symmetric, true),
        (FullCone, FullCone, true),
        (FullCone, PortRestricted, true),
        (FullCone, Symmetric, true),
        (PortRestricted, PortRestricted, true),
        (PortRestricted, Symmetric, false),
        (Symmetric, Symmetric, false),
    ];
    for (a, b, direct) in cases.into_iter().flat_map(|(a, b, direct)| [(a, b, direct), (b, a, direct)]) {
        let mut world = World::new([a, b]);
        let start = world.now;
        world.run(5 * SECOND);
        let settled = world.now;
        world.run(60 * SECOND);
        let recent = world.now - SECOND;
        for host in 0..2 {
            assert_eq!(world.is_direct(host), direct, "{a:?} {b:?} {host}: {:?}", world.route(host));
            assert_eq!(world.lost(host, start, recent), 0, "{a:?} {b:?} {host}");
            let by_udp = world.got_by_udp(host, settled);
            assert_eq!(by_udp > 0, direct, "{a:?} {b:?} {host}: {by_udp}");
        }
    }
}

#[test]
fn one_side_with_traffic_is_enough() {
    let mut world = World::new([Nat::PortRestricted, Nat::PortRestricted]);
    world.hosts[1].sends = false;
    world.run(10 * SECOND);
    assert!(world.is_direct(0));
    // The silent side has paths from pinging back: its first packet goes direct.
    assert!(world.is_direct(1));
}

#[test]
fn without_udp_everything_goes_by_the_relay() {
    let mut world = World::new([Nat::Public, Nat::Public]);
    world.udp_blocked = true;
    let start = world.now;
    world.run(60 * SECOND);
    for host in 0..2 {
        assert!(!world.is_direct(host));
        assert_eq!(world.lost(host, start, world.now - SECOND), 0);
    }
    // And the day it works, it is used.
    world.udp_blocked = false;
    world.run(10 * SECOND);
    assert!(world.is_direct(0) && world.is_direct(1));
}

#[test]
fn a_moved_mapping_is_found_again() {
    for moved in [&[0][..], &[1], &[0, 1]] {
        let mut world = World::new([Nat::PortRestricted, Nat::PortRestricted]);
        world.run(60 * SECOND);
        assert!(world.is_direct(0) && world.is_direct(1));
        for host in moved {
            world.move_mapping(*host);
        }
        let at = world.now;
        world.run(20 * SECOND);
        for host in 0..2 {
            assert!(world.is_direct(host), "{moved:?} {host} {:?}", world.route(host));
            // Nothing is lost but what was sent while the old path was still believed.
            let late = at + TRUST + Duration::from_millis(100);
            assert_eq!(world.lost(host, late, world.now - SECOND), 0, "{moved:?} {host}");
        }
    }
}

#[test]
fn a_blackout_ends_where_it_began() {
    let mut world = World::new([Nat::PortRestricted, Nat::FullCone]);
    world.run(20 * SECOND);
    world.dark = true;
    world.run(60 * SECOND);
    assert!(!world.is_direct(0) && !world.is_direct(1));
    world.dark = false;
    let light = world.now + Duration::from_millis(1);
    world.run(8 * SECOND);
    for host in 0..2 {
        assert!(world.is_direct(host));
        assert_eq!(world.lost(host, light, world.now - SECOND), 0);
    }
}

#[test]
fn loss_reordering_and_duplicates_are_lived_with() {
    let mut world = World::new([Nat::PortRestricted, Nat::PortRestricted]);
    (world.loss, world.duplicates) = (20, 20);
    world.jitter = Duration::from_millis(80);
    let mut direct = 0;
    for _ in 0..120 {
        world.run(SECOND);
        direct += usize::from(world.is_direct(0) && world.is_direct(1));
    }
    assert!(direct > 80, "{direct} of 120 s");
    for host in &world.hosts {
        // A doubled ping is answered once.
        assert!(host.outcomes.get(&Outcome::Refused).is_some_and(|count| *count > 0), "{:?}", host.outcomes);
        assert!(host.outcomes.get(&Outcome::Taken).is_some_and(|count| *count > 60));
    }
}

#[test]
fn without_traffic_there_is_silence() {
    let mut world = World::new([Nat::PortRestricted, Nat::PortRestricted]);
    world.run(20 * SECOND);
    for host in &mut world.hosts {
        host.sends = false;
    }
    world.run(60 * SECOND);
    let before = world.disco_sent;
    world.run(600 * SECOND);
    assert_eq!(world.disco_sent, before);
    assert!(world.hosts.iter().all(|host| host.paths.next_deadline().is_none()));
    assert!(!world.is_direct(0));
    for host in &mut world.hosts {
        host.sends = true;
    }
    world.run(5 * SECOND);
    assert!(world.is_direct(0) && world.is_direct(1));
}

#[test]
fn a_standing_path_costs_a_ping_each_heartbeat() {
    let mut world = World::new([Nat::Public, Nat::Public]);
    world.udp_delay = Duration::from_millis(1);
    world.run(20 * SECOND);
    let before = world.disco_sent;
    world.run(300 * SECOND);
    for (after, before) in world.disco_sent.into_iter().zip(before) {
        // A ping and a pong each three seconds.
        assert!((190..=210).contains(&(after - before)), "{}", after - before);
    }
}
