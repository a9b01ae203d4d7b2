//! Bad wires between two nodes: what is sent still arrives, and paths come back. The name has these begin early: they wait for
//! longer than most.

use std::time::Duration;

use crate::built::Release;
use crate::flow::{Flow, Protocol};
use crate::headscale::{Headscale, Options};
use crate::net::{Net, Segment};
use crate::peer::{Kind, Peer, become_direct};
use crate::wait::s;
use crate::wire::{Weather, Wire};

/// A stream is more datagrams than this, of which one in twenty is lost: that none is, is as good as impossible.
const STREAM: u32 = 500;

fn a_bad_wire(kinds: [Kind; 2]) {
    let mut net = Net::new(Segment::Public);
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let [near, far] = ["node-a", "node-b"].map(|name| net.host_routed(name));
    let wire = Wire::between(&near, &far);
    let a = Peer::join(kinds[0], &near, &server);
    let b = Peer::join(kinds[1], &far, &server);
    become_direct(&a, &b, s(30));
    let to = a.host();
    let tcp = Flow::begin(Protocol::Tcp, b.host(), to, &a.addresses()[0], 7000);
    let storms = [
        Weather { delay: Duration::from_millis(30), ..Weather::FAIR },
        Weather { lost: 5, ..Weather::FAIR },
        Weather { doubled: 30, late: 30, ..Weather::FAIR },
    ];
    for weather in storms {
        wire.becomes(weather);
        std::thread::sleep(s(1));
        let speed = a.host().iperf(b.host(), &b.addresses()[0], false);
        let crossed = wire.crossed();
        eprintln!("{kinds:?} {weather:?}: {speed:.3} Gbit/s, {crossed:?}");
        assert!(speed > 0.0);
        // By the relay it would have had no weather.
        assert!(crossed.came >= STREAM, "{crossed:?}");
        assert_eq!(crossed.lost > 0, weather.lost > 0, "{crossed:?}");
        assert_eq!(crossed.doubled > 0, weather.doubled > 0, "{crossed:?}");
        assert_eq!(crossed.late > 0, weather.late > 0, "{crossed:?}");
    }
    tcp.assert_went_on(s(5));
    become_direct(&a, &b, s(5));

    // A minute of nothing: the relay has it meanwhile, and then the path is back.
    wire.becomes(Weather::OUT);
    std::thread::sleep(s(60));
    tcp.assert_went_on(s(25));
    assert!(a.host().pings(&b.addresses()[0]), "not by the relay");
    let crossed = wire.crossed();
    assert!(crossed.came > 0 && crossed.lost == crossed.came, "nobody tried the wire: {crossed:?}");
    wire.becomes(Weather::FAIR);
    become_direct(&a, &b, s(30));
    tcp.forget();
    std::thread::sleep(s(2));
    tcp.assert_went_on(s(1));
}

#[test]
fn a_go_pair_over_a_bad_wire() {
    a_bad_wire([Kind::Go, Kind::Go]);
}

#[test]
fn ours_and_go_over_a_bad_wire() {
    a_bad_wire([Kind::Ours, Kind::Go]);
}

#[test]
fn an_own_pair_over_a_bad_wire() {
    a_bad_wire([Kind::Ours, Kind::Ours]);
}
