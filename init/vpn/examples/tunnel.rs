//! A tunnel between two planes with fixed keys and fixed routes, to be measured: see `tunnel.sh` beside it.
//!
//! `tunnel INTERFACE OUR_NUMBER PORT PEER_NUMBER PEER_ADDRESS [no-tun] [no-segment] [no-gro] [queues=N]`. A number makes the key
//! and the address 10.77.0.NUMBER. Runs until its standard input ends, then prints what it counted.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring stick")]

use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use casemate_vpn::filter::Filter;
use casemate_vpn::key::{Node, Secret};
use casemate_vpn::plane::{Config, Network, PeerSpec, Plane, Route, channels};
use casemate_vpn::sys::{Features, Tun, Udp, UdpOptions, open};
use ipnet::IpNet;
use serde_json::value::RawValue;

fn key(number: u8) -> Secret<Node> {
    Secret::new([number; 32])
}

fn addresses(number: u8) -> Vec<IpNet> {
    let v4 = IpAddr::V4(Ipv4Addr::new(10, 77, 0, number));
    let v6 = IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, number.into()));
    vec![v4.into(), v6.into()]
}

fn allow_all() -> Filter {
    let rules = r#"[{"SrcIPs":["*"],"DstPorts":[{"IP":"*","Ports":{"First":0,"Last":65535}}]}]"#;
    let rules: Box<RawValue> = serde_json::from_str(rules).unwrap();
    Filter::compile(std::iter::once(("base", &*rules))).filter
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [name, ours, port, theirs, at, options @ ..] = arguments.as_slice() else { return };
    let has = |option: &str| options.iter().any(|one| one == option);
    let (ours, theirs): (u8, u8) = (ours.parse().unwrap(), theirs.parse().unwrap());
    let wanted = Features { tcp: !has("no-tun"), udp: !has("no-tun") };
    let queues = options.iter().find_map(|one| one.strip_prefix("queues=")).map_or(1, |n| n.parse().unwrap());
    let (queues, features) = open(name, queues, wanted).unwrap();
    let options = UdpOptions { segment: !has("no-segment"), gro: !has("no-gro"), dont_fragment: false };
    let (channels, _receivers) = channels();
    let config = Config {
        tun: queues.into_iter().map(|fd| Tun::adopt(fd).unwrap()).collect(),
        features,
        udp: vec![
            Arc::new(Udp::bind(false, port.parse().unwrap(), options).unwrap()),
            Arc::new(Udp::bind(true, port.parse().unwrap(), options).unwrap()),
        ],
        key: key(ours),
        channels,
    };
    let mut plane = Plane::start(config).unwrap();
    let peer = key(theirs).public();
    plane.set_network(&Network {
        addresses: addresses(ours),
        peers: vec![PeerSpec { key: peer, allowed: addresses(theirs) }],
        filter: Arc::new(allow_all()),
    });
    plane.set_route(&peer, Route { direct: Some(at.parse().unwrap()), relay: None });
    println!("{features:?}");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    plane.stop();
    println!("{:?}", plane.peer(&peer).unwrap().traffic());
    println!("dropped: {:?}", plane.counters().nonzero().collect::<Vec<_>>());
}
