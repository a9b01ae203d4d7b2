//! A relay dies that is somebody's home, where nothing but relays gets through. Another one becomes home.

use std::time::Duration;

use casemate_vpn::derp::connection::CONNECT_TIMEOUT;

use crate::built::Release;
use crate::flow::{Flow, Protocol};
use crate::headscale::{FILE_REGION, Headscale, Options, PORT, Relay, SECOND_REGION};
use crate::net::{Host, Net, Segment};
use crate::ours::Ours;
use crate::peer::{Kind, Path, Peer};
use crate::wait::{s, until};

/// No UDP at all.
const NO_UDP: &str = r#"table inet wall {
    chain output { type filter hook output priority 0; oifname "eth0" meta l4proto udp drop; }
}"#;

/// Until another relay is home: the probes go round every 26 s at most and end after three (`init/vpn/src/netcheck/mod.rs`, `RE_STUN_MAX`
/// and `PROBE_TIMEOUT`), a relay that was asked has three to answer (`init/vpn/src/derp/region.rs`, `Timing::REAL.answer`), then the
/// other one must take us. Less by far than the watchdog of 130 s.
const ANOTHER: Duration = s(26 + 3 + 3 + CONNECT_TIMEOUT.as_secs());

fn ours(peer: &Peer) -> &Ours {
    match peer {
        Peer::Ours(node) => node,
        Peer::Go(_) => panic!("not ours"),
    }
}

/// Nothing comes to a relay any more, and nothing says so: as with a machine that lost its power.
fn goes_dark(relay: &Host) {
    relay.rules(&format!(
        r#"table inet dark {{
            chain input {{ type filter hook input priority 0; tcp dport {PORT} drop; }}
        }}"#
    ));
}

#[test]
fn another_relay_is_home_when_it_dies() {
    let mut net = Net::new(Segment::Private);
    let relays = [net.host("relay-1"), net.host("relay-2")];
    let open = Options { verify_clients: false, ..Options::default() };
    let _servers = relays.each_ref().map(|host| Headscale::start(host, Release::V0_29, open.clone()));
    let options = Options { relay: Relay::Two(relays.each_ref().map(|host| host.v4)), ..Options::default() };
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, options);
    let [a, b] = ["node-a", "node-b"].map(|name| {
        let host = net.host(name);
        host.rules(NO_UDP);
        Peer::join(Kind::Ours, &host, &server)
    });
    let regions = [FILE_REGION, SECOND_REGION];
    let to = b.addresses()[0].clone();
    until(s(60), "both have a home", || (a.home().is_some() && b.home().is_some()).then_some(()));
    a.host().pings_soon(s(30), &to);
    assert_eq!(a.path_to(&to), Some(Path::Relayed));

    let flows = [(&a, &b), (&b, &a)]
        .map(|(from, to)| Flow::begin(Protocol::Udp, from.host(), to.host(), &to.addresses()[0], 0));

    // Where b is at home it is called: that relay dies.
    let dead = b.home().unwrap();
    let homes = [a.home(), b.home()];
    let lives = *regions.iter().find(|region| **region != dead).unwrap();
    let number = regions.iter().position(|region| *region == dead).unwrap();
    goes_dark(&relays[number]);
    until(ANOTHER, "another home", || (b.home() == Some(lives)).then_some(()));
    // The other one is told of it by the server.
    a.host().pings_soon(s(15), &to);
    b.host().pings_soon(s(15), &a.addresses()[1]);
    until(ANOTHER, "another home of the other's", || (a.home() == Some(lives)).then_some(()));
    assert!(a.host().pings(&to) && b.host().pings(&a.addresses()[0]));
    flows.iter().for_each(Flow::forget);
    std::thread::sleep(s(3));
    for flow in &flows {
        flow.assert_went_on(s(1));
    }
    for (peer, home) in [&a, &b].into_iter().zip(homes) {
        // The server, which does not know of it, was there all the time.
        assert!(ours(peer).connected());
        let status = ours(peer).status().unwrap();
        let connected = &status["derp"]["connected"];
        assert!(connected.as_array().unwrap().contains(&serde_json::json!(lives)), "{status}");
        // Who only sent there keeps that connection until it has been idle for long.
        assert!(home != Some(dead) || *connected == serde_json::json!([lives]), "{status}");
    }
}
