//! Pairs on one network: names, both families, both directions, and speed enough to show that the path carries a stream.

use std::net::{IpAddr, Ipv4Addr};

use crate::built::Release;
use crate::headscale::{DOMAIN, Headscale, Options};
use crate::net::{Net, Segment, Succeed as _};
use crate::peer::{Kind, Peer, become_direct, direct};
use crate::wait::s;

/// Where both kinds answer for the names of the tailnet.
pub(crate) const MAGIC: &str = "100.100.100.100";

/// What a host's C library finds, one address a line.
fn resolved(from: &Peer, name: &str, family: &str) -> String {
    let mut getent = from.host().command(s(15), "getent");
    getent.args([family, name]).succeed()
}

fn reach_each_other(kinds: [Kind; 2]) {
    let record = IpAddr::V4(Ipv4Addr::new(100, 64, 9, 9));
    let options = Options { records: vec![(format!("extra.{DOMAIN}"), record)], ..Options::default() };
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, options);
    let [a, b] = [("node-a", kinds[0]), ("node-b", kinds[1])]
        .map(|(name, kind)| Peer::join(kind, &net.host(name), &server));
    become_direct(&a, &b, s(30));
    for (from, to) in [(&a, &b), (&b, &a)] {
        let [v4, v6] = to.addresses();
        let name = format!("{}.{DOMAIN}", to.name());
        from.host().resolvers(&[MAGIC]);
        assert!(resolved(from, &name, "ahostsv4").contains(&v4), "{name}");
        assert!(resolved(from, &format!("extra.{DOMAIN}"), "ahostsv4").contains(&record.to_string()));
        assert!(from.host().pings(&name), "{} by name", to.name());
        if let Peer::Ours(node) = from {
            let pinged = node.ping(to.name(), true);
            assert!(pinged.status.success(), "{pinged:?}");
            // Go has these only for who has a node attribute.
            assert!(resolved(from, &name, "ahostsv6").contains(&v6), "{name}");
        }
        for address in [&v4, &v6] {
            assert!(from.host().pings(address), "{address}");
            for reverse in [false, true] {
                let speed = from.host().iperf(to.host(), address, reverse);
                eprintln!("{kinds:?} {} -> {address} reverse {reverse}: {speed:.2} Gbit/s", from.name());
                assert!(speed > 0.0);
            }
        }
        assert!(direct(from, &v4).is_some(), "no direct path any more");
    }
}

#[test]
fn a_go_pair_reach_each_other() {
    reach_each_other([Kind::Go, Kind::Go]);
}

#[test]
fn ours_and_go_reach_each_other() {
    reach_each_other([Kind::Ours, Kind::Go]);
}

#[test]
fn an_own_pair_reach_each_other() {
    reach_each_other([Kind::Ours, Kind::Ours]);
}
