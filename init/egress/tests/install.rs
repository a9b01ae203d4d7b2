//! The lock as an object: it reads back as it was meant, another implementation reads the same, and it belongs to us.

#![expect(clippy::unwrap_used, reason = "a failed assertion is what a test is for")]

mod support;

use std::process::Command;

use casemate_egress::{Allow, Lock, LockError, Mode, Policy, Proto, link_ruleset, ruleset};
use support::traffic::{ask, ask_in_vain, echo, ethernet, frame};
use support::{AGENT, Bench, DHCP_MARK, LISTED, MESH, Netns, OWN, link, policy};

fn modes() -> [Mode; 3] {
    let allow = Allow { cidr: "10.9.0.0/30".parse().unwrap(), port: 443, proto: Proto::Tcp };
    let one = Allow { cidr: "203.0.113.9/32".parse().unwrap(), port: 853, proto: Proto::Udp };
    [Mode::InternalOnly, Mode::Allowlist(vec![allow, one]), Mode::ExternalAllowed]
}

fn wide(mode: Mode) -> Policy {
    let mut policy = policy(mode);
    policy.mesh_targets.push("[2001:db8::7]:443".parse().unwrap());
    policy
}

/// Our spelling and that of `nft --numeric list` 1.0.6, where they differ.
const SPELLINGS: [(&str, &str); 15] = [
    ("ct direction original", "ct direction 0"),
    ("ct direction reply", "ct direction 1"),
    ("ct state invalid", "ct state 0x1"),
    ("ct state established", "ct state 0x2"),
    ("ct state related", "ct state 0x4"),
    ("ct state new", "ct state 0x8"),
    ("tcp flags & (fin | syn | rst | ack) == syn", "tcp flags 0x2 / 0x1,0x2,0x4,0x10"),
    ("arp operation request", "arp operation 1"),
    ("arp operation reply", "arp operation 2"),
    ("ether type 0x0806", "@ll,96,16 0x806"),
    ("icmpv6 taddr", "@th,64,128"),
    ("meta protocol arp counter", "meta protocol 0x0806 counter"),
    ("meta protocol ip counter", "meta protocol 0x0800 counter"),
    ("meta protocol ip6 counter name \"frame", "meta protocol 0x86dd counter name \"frame"),
    ("flags owner,persist", "flags owner"),
];

/// Chains with their rules, and sets with their elements, in one spelling.
fn normal(text: &str) -> Vec<String> {
    let mut text = text.to_owned();
    for (ours, nfts) in SPELLINGS {
        text = text.replace(ours, nfts);
    }
    text =
        text.replace("meta protocol ip6", "meta nfproto 10").replace("meta protocol ip ", "meta nfproto 2 ");
    let lines = text.lines().map(str::trim);
    // Counters differ in how their (changing) values are shown; rules name them, and the kernel knows each name.
    let noise = |l: &&str| {
        l.is_empty()
            || *l == "}"
            || l.starts_with("packets ")
            || l.starts_with("counter") && l.ends_with(['{', '}'])
    };
    lines.filter(|l| !noise(l)).map(|l| l.split(" # ").next().unwrap_or(l).to_owned()).collect()
}

#[test]
fn another_implementation_reads_the_same() {
    for mode in modes() {
        let policy = wide(mode);
        let Some(mut bench) = Bench::without_address(&policy) else { return };
        bench.lock.verify().unwrap();
        for (table, ours) in [
            ("inet casemate", ruleset(&policy)),
            ("netdev casemate_eth0", link_ruleset(&link(), Some(DHCP_MARK))),
        ] {
            let [family, name] = [0, 1].map(|i| table.split(' ').nth(i).unwrap());
            let nft = bench.guest.command("nft", &["--numeric", "list", "table", family, name]);
            let nft = normal(&nft);
            let ours = normal(&ours.to_string());
            assert!(ours.len() > 15, "{ours:?}");
            for (i, (ours, nft)) in ours.iter().zip(&nft).enumerate() {
                assert_eq!(ours, nft, "{table}, line {i}");
            }
            assert_eq!(ours.len(), nft.len(), "{table}");
        }
    }
}

#[test]
fn every_counter_starts_at_zero_and_is_read() {
    let policy = policy(Mode::ExternalAllowed);
    let Some(guest) = Netns::new() else { return };
    let rules = ruleset(&policy);
    let mut lock = guest.run(|| Lock::install(&rules)).unwrap();
    let counters = lock.counters().unwrap();
    let names: Vec<_> = counters.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, rules.counters().collect::<Vec<_>>());
    for name in ["denied:web", "spoofed:db", "ipv6:web", "invalid:web", "process:mesh", "link:inbound"] {
        assert!(names.contains(&name), "{name}");
    }
    assert!(counters.iter().all(|c| c.packets == 0 && c.bytes == 0), "{counters:?}");
    guest.run(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let _refused = socket.send_to(b"12345678", "127.0.0.1:9");
    });
    assert!(lock.counters().unwrap().iter().all(|c| c.packets == 0), "loopback is free");
}

#[test]
fn nobody_else_can_change_it() {
    let Some(mut bench) = Bench::new(&policy(Mode::InternalOnly)) else { return };
    let attempts = [
        "flush ruleset",
        "flush table inet casemate",
        "delete table inet casemate",
        "flush chain inet casemate output",
        "insert rule inet casemate our_own accept",
        "add chain inet casemate output { policy accept; }",
        "delete table netdev casemate_eth0",
        "add element netdev casemate_eth0 own4_eth0 { 10.9.0.3 }",
        "add table inet casemate { flags dormant; }",
    ];
    for attempt in attempts {
        let output = bench.guest.run(|| Command::new("nft").arg(attempt).output().unwrap());
        // A global flush skips owned tables and succeeds; everything else names ours and must fail.
        assert_eq!(output.status.success(), attempt == "flush ruleset", "{attempt}: {output:?}");
        bench.lock.verify().unwrap();
    }
    let second = bench.guest.run(|| Lock::install(&ruleset(&policy(Mode::ExternalAllowed)))).unwrap_err();
    let LockError::Refused { what, errno } = second else { panic!("{second}") };
    assert_eq!(what, "table casemate");
    assert!(matches!(errno, nix::errno::Errno::EPERM | nix::errno::Errno::EEXIST), "{errno}");
    bench.lock.verify().unwrap();
}

#[test]
fn the_lock_outlives_its_owner() {
    let Some(bench) = Bench::new(&policy(Mode::InternalOnly)) else { return };
    let Bench { lock, guest, outside, services } = bench;
    drop(lock);
    let server = echo(&outside, 0, (LISTED, 443).into());
    guest.run_as(AGENT, || assert!(ask_in_vain((LISTED, 443)).is_err()));
    services.first().unwrap().run(|| assert!(ask_in_vain((LISTED, 443)).is_err()));
    guest.run_as(MESH, || ask((LISTED, 443))).unwrap();
    assert_eq!(server.accepted(), 1);
}

#[test]
fn a_failed_transaction_changes_nothing_and_says_what_failed() {
    let Some(guest) = Netns::new() else { return };
    let mut twice = policy(Mode::InternalOnly);
    let first = twice.services.first().unwrap().clone();
    twice.services.push(first);
    let error = guest.run(|| Lock::install(&ruleset(&twice))).unwrap_err();
    assert_eq!(error.to_string(), "the kernel refused chain casemate service_1: EEXIST: File exists");
    assert_eq!(error.errno(), 17);
    assert_eq!(guest.nft("list ruleset"), "");

    let mut lock = guest.run(|| Lock::install(&ruleset(&policy(Mode::InternalOnly)))).unwrap();
    lock.attach_link(&link(), None).unwrap();
    let error = lock.attach_link(&link(), None).unwrap_err();
    assert_eq!(error.to_string(), "the kernel refused table casemate_eth0: EEXIST: File exists");
    // The socket is good for the next transaction.
    lock.set_own_addresses(&link(), &[OWN.into()], None).unwrap();
    lock.verify().unwrap();
}

#[test]
fn a_link_is_locked_before_it_exists() {
    let Some(guest) = Netns::new() else { return };
    let mut lock = guest.run(|| Lock::install(&ruleset(&policy(Mode::ExternalAllowed)))).unwrap();
    lock.attach_link(&link(), Some(DHCP_MARK)).unwrap();
    guest.ip("link add eth0 type veth peer name other");
    guest.ip("link set other up");
    guest.ip("link set eth0 up");
    let sent = guest.run(|| frame("eth0", None, &ethernet("eth0", [0xff; 6], 0x88cc, b"first frame")));
    assert!(sent.is_err());
    let counters = lock.counters().unwrap();
    assert!(counters.iter().any(|c| c.name == "frame:eth0:unjudged" && c.packets >= 1), "{counters:?}");
    lock.verify().unwrap();
}

#[test]
fn the_largest_policy_fits_in_one_transaction() {
    let Some(guest) = Netns::new() else { return };
    let allow =
        |n: u8| Allow { cidr: format!("203.0.{n}.0/24").parse().unwrap(), port: 443, proto: Proto::Tcp };
    let mut large = policy(Mode::Allowlist((0..=63).map(allow).collect()));
    large.services = (1..=255)
        .map(|number| casemate_egress::Service { number, name: format!("{number:0>63}").parse().unwrap() })
        .collect();
    large.inbound = (1..=256).collect();
    large.mesh_targets = (1..=255).map(|n| ([192, 0, 2, n], 443).into()).collect();
    let mut lock = guest.run(|| Lock::install(&ruleset(&large))).unwrap();
    lock.verify().unwrap();
    assert!(lock.counters().unwrap().len() > 4 * 255);
}
