//! Joining each of the servers.

use crate::built::Release;
use crate::headscale::{Headscale, Options, TAG};
use crate::net::{Net, Segment};
use crate::peer::{Kind, Peer, become_direct};
use crate::wait::s;

/// Two nodes with tagged single-use keys, who then ping each other by IPv4 and IPv6, directly.
fn a_pair_joins(release: Release, kinds: [Kind; 2]) {
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), release, Options::default());
    let [a, b] = [("node-a", kinds[0]), ("node-b", kinds[1])].map(|(name, kind)| Peer::join(kind, &net.host(name), &server));
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
