use super::*;

fn region(id: u32, ip: &str) -> DerpRegion {
    let node = DerpNode {
        name: format!("{id}a"),
        host: format!("derp{id}.example"),
        ipv4: Some(ip.parse().unwrap()),
        ipv6: Some(format!("2001:db8::{id}").parse().unwrap()),
        without_ipv4: false,
        without_ipv6: false,
        derp_port: 443,
        stun_port: Some(3478),
        stun_only: false,
        pin: None,
        cert_name: None,
        insecure_for_tests: false,
    };
    let id = RegionId(id);
    DerpRegion { id, code: String::new(), not_home: false, score_milli: 1000, nodes: vec![node] }
}

fn map(regions: Vec<DerpRegion>) -> Arc<DerpMap> {
    Arc::new(DerpMap { regions: regions.into_iter().map(|region| (region.id, region)).collect() })
}

fn three() -> Arc<DerpMap> {
    map(vec![region(1, "192.0.2.1"), region(2, "192.0.2.2"), region(3, "192.0.2.3")])
}

fn sends(out: &[Action]) -> Vec<(SocketAddr, TxId)> {
    let send = |action: &Action| match action {
        Action::Send { to, packet } => Some((*to, stun::parse_request(packet).unwrap())),
        _ => None,
    };
    out.iter().filter_map(send).collect()
}

fn home(out: &[Action]) -> Option<Option<RegionId>> {
    out.iter().rev().find_map(|action| match action {
        Action::HomeChanged { home } => Some(*home),
        _ => None,
    })
}

/// Runs one round in which servers answer after their latency, in milliseconds, with what `mapped` says.
fn round(
    check: &mut Netcheck,
    now: &mut Instant,
    latency: impl Fn(SocketAddr) -> Option<u64>,
    mapped: impl Fn(SocketAddr) -> SocketAddr,
) -> Vec<Action> {
    let mut all = Vec::new();
    let mut answers = BTreeMap::new();
    for _ in 0..1000 {
        let next = check.next_deadline().into_iter().chain(answers.keys().next().map(|(at, _)| *at)).min();
        *now = (*now).max(next.unwrap());
        let mut out = Vec::new();
        match answers.first_entry() {
            Some(entry) if entry.key().0 <= *now => {
                let (from, packet): (SocketAddr, Vec<u8>) = entry.remove();
                check.on_stun(*now, from, &packet, &mut out).unwrap();
            }
            _ => check.tick(*now, &mut out),
        }
        for (to, txid) in sends(&out) {
            if let Some(millis) = latency(to) {
                let packet = stun::response(&txid, mapped(to));
                answers.insert((*now + Duration::from_millis(millis), txid), (to, packet));
            }
        }
        let over = out.contains(&Action::Finished);
        all.extend(out);
        if over {
            return all;
        }
    }
    panic!("the round does not end");
}

fn seen(to: SocketAddr) -> SocketAddr {
    if to.is_ipv4() { "198.51.100.9:4000" } else { "[2001:db8:9::1]:41641" }.parse().unwrap()
}

fn by_region(latency: [u64; 3]) -> impl Fn(SocketAddr) -> Option<u64> {
    move |to| {
        let index = match to.ip() {
            IpAddr::V4(ip) => ip.octets()[3],
            IpAddr::V6(ip) => ip.octets()[15],
        };
        latency.get(usize::from(index) - 1).copied().filter(|millis| *millis > 0)
    }
}

#[test]
fn a_round_finds_our_addresses_and_the_nearest_region() {
    let mut now = Instant::now();
    let mut check = Netcheck::new();
    check.set_map(now, three(), &mut Vec::new());
    let out = round(&mut check, &mut now, by_region([80, 20, 50]), seen);
    assert_eq!(home(&out), Some(Some(RegionId(2))));
    assert_eq!(sends(&out).len(), 6, "each region by each family, once");
    let report = check.report();
    assert_eq!(report.latency[&RegionId(3)], Duration::from_millis(50));
    assert_eq!(
        report.endpoints().collect::<Vec<_>>(),
        ["198.51.100.9:4000".parse::<SocketAddr>().unwrap(), "[2001:db8:9::1]:41641".parse().unwrap()]
    );
    assert_eq!((report.mapping_varies, report.udp), (Some(false), Some(true)));
}

#[test]
fn a_mapping_by_destination_is_noticed() {
    let mut now = Instant::now();
    let mut check = Netcheck::new();
    check.set_map(now, three(), &mut Vec::new());
    let by_server = |to: SocketAddr| match to.ip() {
        IpAddr::V4(ip) => SocketAddr::new([198, 51, 100, 9].into(), 4000 + u16::from(ip.octets()[3])),
        IpAddr::V6(_) => seen(to),
    };
    round(&mut check, &mut now, by_region([80, 20, 50]), by_server);
    assert_eq!(check.report().mapping_varies, Some(true));
    assert_eq!(check.report().global_v4.len(), 3);
}

#[test]
fn unanswered_servers_are_asked_three_times_and_no_longer_than_the_round() {
    let mut now = Instant::now();
    let start = now;
    let mut check = Netcheck::new();
    check.set_map(now, three(), &mut Vec::new());
    let out = round(&mut check, &mut now, by_region([0, 20, 0]), seen);
    assert_eq!(sends(&out).len(), 2 + 4 * 3);
    assert_eq!(now, start + PATIENCE);
    assert_eq!(check.report().home, Some(RegionId(2)));
    check.network_changed(now);
    let start = now;
    let out = round(&mut check, &mut now, |_| None, seen);
    assert_eq!((sends(&out).len(), now), (6 * 3, start + PROBE_TIMEOUT));
}

#[test]
fn rounds_follow_each_other_faster_with_traffic() {
    let mut now = Instant::now();
    let mut check = Netcheck::new();
    check.set_map(now, three(), &mut Vec::new());
    round(&mut check, &mut now, by_region([80, 20, 50]), seen);
    assert_eq!(check.next_deadline(), Some(now + FULL_INTERVAL));
    check.set_active(now, true);
    for _ in 0..20 {
        let wait = check.next_deadline().unwrap() - now;
        assert!((RE_STUN_MIN..=RE_STUN_MAX).contains(&wait), "{wait:?}");
        round(&mut check, &mut now, by_region([80, 20, 50]), seen);
    }
    check.request(now);
    assert_eq!(check.next_deadline(), Some(now));
}

#[test]
fn home_stays_unless_another_is_clearly_nearer() {
    let cases: [(u64, u64, bool); 6] = [
        // Old home, other, does it move?
        (20, 20, false),
        (20, 11, false), // less than 10 ms
        (60, 45, false), // more than two thirds
        (60, 39, true),
        (30, 19, true),
        (12, 1, true),
    ];
    for (old, new, moves) in cases {
        let mut now = Instant::now();
        let mut check = Netcheck::new();
        check.set_map(now, three(), &mut Vec::new());
        round(&mut check, &mut now, by_region([old, 200, 200]), seen);
        assert_eq!(check.report().home, Some(RegionId(1)));
        check.network_changed(now);
        round(&mut check, &mut now, by_region([old, new, 200]), seen);
        assert_eq!(check.report().home == Some(RegionId(2)), moves, "{old} {new}");
    }
}

#[test]
fn in_another_network_home_is_what_is_near_there() {
    let mut now = Instant::now();
    let mut check = Netcheck::new();
    check.set_map(now, three(), &mut Vec::new());
    round(&mut check, &mut now, by_region([5, 200, 200]), seen);
    assert_eq!(check.report().home, Some(RegionId(1)));
    check.network_changed(now);
    assert_eq!(check.report().latency.len(), 0, "none of it was measured here");
    round(&mut check, &mut now, by_region([300, 20, 200]), seen);
    assert_eq!(check.report().home, Some(RegionId(2)));
}

#[test]
fn a_home_without_stun_stays_while_its_relay_lives() {
    for (age, stays) in [(7, true), (9, false)] {
        let mut now = Instant::now();
        let mut check = Netcheck::new();
        check.set_map(now, three(), &mut Vec::new());
        round(&mut check, &mut now, by_region([10, 50, 200]), seen);
        check.network_changed(now);
        check.relay_alive(RegionId(1), now + PATIENCE - Duration::from_secs(age));
        round(&mut check, &mut now, by_region([0, 50, 200]), seen);
        assert_eq!(check.report().home == Some(RegionId(1)), stays, "{age}");
    }
}

#[test]
fn scores_and_exclusions_are_heeded() {
    let mut now = Instant::now();
    let (mut one, mut two, three) = (region(1, "192.0.2.1"), region(2, "192.0.2.2"), region(3, "192.0.2.3"));
    one.not_home = true;
    two.score_milli = 4000;
    let mut check = Netcheck::new();
    check.set_map(now, map(vec![one, two, three]), &mut Vec::new());
    round(&mut check, &mut now, by_region([1, 20, 50]), seen);
    assert_eq!(check.report().home, Some(RegionId(3)));
}

#[test]
fn a_single_region_is_home_at_once() {
    let now = Instant::now();
    let mut check = Netcheck::new();
    let mut out = Vec::new();
    check.set_map(now, map(vec![region(999, "192.0.2.1")]), &mut out);
    assert_eq!(out, [Action::HomeChanged { home: Some(RegionId(999)) }]);
    out.clear();
    check.set_map(now, map(vec![]), &mut out);
    assert_eq!(out, [Action::HomeChanged { home: None }]);
}

#[test]
fn the_home_of_an_earlier_run_stays_until_a_map_speaks_against_it() {
    let mut now = Instant::now();
    let mut check = Netcheck::new();
    check.restore_home(Some(RegionId(3)));
    // The addresses are looked at before there is a map: a round without anybody to ask.
    check.network_changed(now);
    assert_eq!(home(&round(&mut check, &mut now, |_| None, seen)), None);
    let mut out = Vec::new();
    check.set_map(now, three(), &mut out);
    assert_eq!((home(&out), check.report().home), (None, Some(RegionId(3))));
    check.set_map(now, map(vec![region(1, "192.0.2.1"), region(2, "192.0.2.2")]), &mut out);
    assert_eq!(home(&out), Some(None));
    // A first map without relays is one, too.
    let mut check = Netcheck::new();
    check.restore_home(Some(RegionId(3)));
    check.set_map(now, map(vec![]), &mut out);
    assert_eq!(home(&out), Some(None));
    assert_eq!(check.report().home, None);
}

#[test]
fn without_udp_the_relay_that_connects_first_is_home() {
    let mut now = Instant::now();
    let mut check = Netcheck::new();
    check.set_map(now, three(), &mut Vec::new());
    let mut out = round(&mut check, &mut now, |_| None, seen);
    let regions = vec![RegionId(1), RegionId(2), RegionId(3)];
    assert!(out.contains(&Action::TryRelays { regions }));
    assert_eq!((check.report().udp, check.report().home), (Some(false), None));
    out.clear();
    check.relay_connected(now, RegionId(3), Duration::from_millis(200), &mut out);
    assert_eq!(home(&out), Some(Some(RegionId(3))));
    check.relay_connected(now, RegionId(1), Duration::from_millis(190), &mut out);
    assert_eq!(check.report().home, Some(RegionId(3)), "not clearly nearer");
    check.set_active(now, true);
    let out = round(&mut check, &mut now, |_| None, seen);
    let again = Action::TryRelays { regions: vec![RegionId(2), RegionId(3)] };
    assert!(out.contains(&again), "one took us, and home is asked whether it is still there: {out:?}");
    assert_eq!(check.report().home, Some(RegionId(3)));
}

#[test]
fn without_a_home_one_is_looked_for_again_soon() {
    let mut now = Instant::now();
    let mut check = Netcheck::new();
    check.set_map(now, three(), &mut Vec::new());
    // A machine that started before its network: neither servers nor relays, and no traffic that would ask for them.
    for _ in 0..3 {
        let out = round(&mut check, &mut now, |_| None, seen);
        let regions = vec![RegionId(1), RegionId(2), RegionId(3)];
        assert!(out.contains(&Action::TryRelays { regions }), "{out:?}");
        assert_eq!(check.next_deadline(), Some(now + HOME_AGAIN));
    }
    round(&mut check, &mut now, by_region([80, 20, 50]), seen);
    assert_eq!((check.report().home, check.next_deadline()), (Some(RegionId(2)), Some(now + FULL_INTERVAL)));
    // Where none can be, none is looked for.
    check.set_map(now, map(vec![]), &mut Vec::new());
    round(&mut check, &mut now, |_| None, seen);
    assert_eq!((check.report().home, check.next_deadline()), (None, Some(now + FULL_INTERVAL)));
}

#[test]
fn answers_that_were_not_asked_for_change_nothing() {
    let now = Instant::now();
    let mut check = Netcheck::new();
    let mut out = Vec::new();
    check.set_map(now, three(), &mut out);
    out.clear();
    check.tick(now, &mut out);
    let (to, txid) = sends(&out)[0];
    let evil = "203.0.113.66:666".parse().unwrap();
    let answer = stun::response(&txid, evil);
    let other = stun::response(&[0; 12], evil);
    assert_eq!(check.on_stun(now, evil, &answer, &mut out), Ok(false), "not from the server that was asked");
    assert_eq!(check.on_stun(now, to, &other, &mut out), Ok(false), "another number");
    assert_eq!(check.on_stun(now, to, &answer[..20], &mut out), Err(StunError::NotStun));
    assert_eq!(check.on_stun(now, to, &answer, &mut out), Ok(true));
    assert_eq!(check.on_stun(now, to, &answer, &mut out), Ok(false), "a second time");
}

#[test]
fn names_are_looked_up_before_they_are_asked() {
    let now = Instant::now();
    let mut region = region(1, "192.0.2.1");
    (region.nodes[0].ipv4, region.nodes[0].ipv6) = (None, None);
    let mut check = Netcheck::new();
    let mut out = Vec::new();
    check.set_map(now, map(vec![region]), &mut out);
    let host = "derp1.example".to_owned();
    let resolve = Action::Resolve { host: host.clone() };
    // Nobody knows it: it is asked for again, and not only in five minutes.
    let mut now = now;
    for _ in 0..3 {
        out.clear();
        check.tick(now, &mut out);
        assert_eq!((sends(&out).len(), out.contains(&Action::Finished)), (0, true));
        assert_eq!(out.iter().filter(|action| **action == resolve).count(), 1);
        now += NAMES_AGAIN;
    }
    check.resolved(host, vec!["192.0.2.77".parse().unwrap()]);
    check.resolved("evil.example".to_owned(), vec!["192.0.2.66".parse().unwrap()]);
    check.request(now);
    out.clear();
    check.tick(now, &mut out);
    assert_eq!(
        sends(&out).iter().map(|(to, _)| *to).collect::<Vec<_>>(),
        ["192.0.2.77:3478".parse().unwrap()]
    );
}

/// A check in a network without UDP, whose relays took us after these many milliseconds.
fn blocked(now: &mut Instant, relays: &[(u32, u64)]) -> Netcheck {
    let mut check = Netcheck::new();
    check.set_map(*now, three(), &mut Vec::new());
    round(&mut check, now, |_| None, seen);
    for (region, took) in relays {
        check.relay_connected(*now, RegionId(*region), Duration::from_millis(*took), &mut Vec::new());
    }
    check
}

#[test]
fn without_udp_a_home_that_is_gone_is_left() {
    let mut now = Instant::now();
    let mut check = blocked(&mut now, &[(1, 20), (2, 50)]);
    assert_eq!(check.report().home, Some(RegionId(1)));
    let mut out = Vec::new();
    // It may have restarted. Others are looked for meanwhile, but not at each failure.
    check.relay_lost(now, RegionId(1), &mut out);
    check.relay_lost(now + Duration::from_secs(1), RegionId(1), &mut out);
    assert_eq!(out, [Action::TryRelays { regions: vec![RegionId(2), RegionId(3)] }]);
    assert_eq!(check.report().home, Some(RegionId(1)));
    out.clear();
    check.relay_lost(now + Duration::from_secs(9), RegionId(1), &mut out);
    assert_eq!(out, [Action::HomeChanged { home: Some(RegionId(2)) }]);
    // Another's end is not home's.
    out.clear();
    check.relay_lost(now + Duration::from_secs(30), RegionId(3), &mut out);
    assert_eq!((out, check.report().home), (vec![], Some(RegionId(2))));
}

#[test]
fn of_regions_that_left_the_map_nothing_is_kept() {
    let mut now = Instant::now();
    let mut check = blocked(&mut now, &[(1, 20), (2, 50), (3, 50)]);
    for number in 4..100 {
        check.set_map(now, map(vec![region(1, "192.0.2.1"), region(number, "192.0.2.2")]), &mut Vec::new());
        let mut out = Vec::new();
        check.relay_connected(now, RegionId(number), Duration::from_millis(90), &mut out);
        // Its connection is heard of after it left.
        check.relay_connected(now, RegionId(number - 1), Duration::from_millis(1), &mut out);
        check.relay_alive(RegionId(number - 1), now);
        assert_eq!(out, []);
    }
    let kept = vec![RegionId(1), RegionId(99)];
    assert_eq!(check.alive.keys().copied().collect::<Vec<_>>(), kept);
    assert_eq!(check.relays.keys().copied().collect::<Vec<_>>(), kept);
}

#[test]
fn a_dead_home_is_left_for_the_first_that_takes_us() {
    let mut now = Instant::now();
    let mut check = blocked(&mut now, &[(1, 20)]);
    let mut out = Vec::new();
    let later = now + Duration::from_secs(9);
    check.relay_lost(later, RegionId(1), &mut out);
    assert_eq!(check.report().home, Some(RegionId(1)), "there is no other");
    assert_eq!(out, [Action::TryRelays { regions: vec![RegionId(2), RegionId(3)] }]);
    check.relay_connected(later, RegionId(3), Duration::from_millis(300), &mut out);
    assert_eq!(check.report().home, Some(RegionId(3)));
}

#[test]
fn from_one_network_without_udp_to_another_home_stays() {
    let mut now = Instant::now();
    let mut check = blocked(&mut now, &[(1, 50), (2, 60)]);
    now += Duration::from_secs(60);
    check.network_changed(now);
    let mut out = round(&mut check, &mut now, |_| None, seen);
    // Home's connection still stands: only the others tell of theirs.
    check.relay_connected(now, RegionId(2), Duration::from_millis(60), &mut out);
    round(&mut check, &mut now, |_| None, seen);
    assert_eq!(check.report().home, Some(RegionId(1)));
}

#[test]
fn where_stun_answers_a_lost_relay_moves_nothing() {
    let mut now = Instant::now();
    let mut check = Netcheck::new();
    check.set_map(now, three(), &mut Vec::new());
    round(&mut check, &mut now, by_region([20, 50, 80]), seen);
    let mut out = Vec::new();
    check.relay_lost(now + Duration::from_secs(60), RegionId(1), &mut out);
    assert_eq!((out, check.report().home), (vec![], Some(RegionId(1))));
}

#[test]
fn what_another_network_knew_of_us_does_not_outlive_it() {
    let mut now = Instant::now();
    let mut check = Netcheck::new();
    check.set_map(now, three(), &mut Vec::new());
    round(&mut check, &mut now, by_region([20, 50, 80]), seen);
    // A round that is lost in the same network is nothing.
    check.request(now);
    round(&mut check, &mut now, |_| None, seen);
    assert_eq!(check.report().endpoints().count(), 2);
    check.network_changed(now);
    round(&mut check, &mut now, |_| None, seen);
    assert_eq!(check.report().endpoints().count(), 0);
    // And what an earlier NAT did says nothing of the next one.
    let mut check = Netcheck::new();
    check.set_map(now, three(), &mut Vec::new());
    round(&mut check, &mut now, by_region([20, 50, 80]), seen);
    check.network_changed(now);
    let only_first = |to: SocketAddr| by_region([20, 0, 0])(to).filter(|_| to.is_ipv4());
    round(&mut check, &mut now, only_first, seen);
    assert_eq!((check.report().mapping_varies, check.report().endpoints().count()), (None, 1));
}

#[test]
fn a_family_is_forgotten_when_it_is_silent_twice() {
    let mut now = Instant::now();
    let mut check = Netcheck::new();
    check.set_map(now, three(), &mut Vec::new());
    let v4 = |to: SocketAddr| by_region([20, 50, 80])(to).filter(|_| to.is_ipv4());
    round(&mut check, &mut now, by_region([20, 50, 80]), seen);
    for known in [1, 0] {
        check.request(now);
        round(&mut check, &mut now, v4, seen);
        assert_eq!((check.report().global_v4.len(), check.report().global_v6.len()), (1, known));
    }
    // One round with it in between, and the count begins anew.
    check.request(now);
    round(&mut check, &mut now, by_region([20, 50, 80]), seen);
    check.request(now);
    round(&mut check, &mut now, v4, seen);
    assert_eq!(check.report().global_v6.len(), 1);
}

#[test]
fn who_asks_during_a_round_gets_another() {
    let mut now = Instant::now();
    let mut check = Netcheck::new();
    check.set_map(now, three(), &mut Vec::new());
    check.tick(now, &mut Vec::new());
    check.request(now);
    round(&mut check, &mut now, |_| None, seen);
    assert_eq!(check.next_deadline(), Some(now));
    round(&mut check, &mut now, by_region([20, 50, 80]), seen);
    assert!(check.next_deadline().unwrap() > now, "and not a third");
}
