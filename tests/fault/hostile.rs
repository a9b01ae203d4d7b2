//! A hostile login server: another one than the document's, and the document's own with a map that leads to where a node must not
//! send. Every frame of the machine is judged.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::time::Duration;

use casemate_qemu::pcap::{TCP, UDP};
use casemate_vpn::key::{Disco, Machine as MachineKey, Node, Public, Secret};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::control_server::{ControlServer, Maps};
use crate::frames::{To, judge, sent};
use crate::guest::{Guest, Login, OUTSIDE, Wanted, image};
use crate::headscale::{DOMAIN, PORT, TAG};
use crate::listener::Listener;
use crate::machine::qemu;
use crate::net::{Host, Net, Segment};
use crate::table::STRANGER;
use crate::vpn::{Orders, check, wait_alive};
use crate::wait::{s, until};

/// Where a cloud has its metadata.
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// An address of the private network that is nobody's, and one of each kind that is no place outside.
const INSIDE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 66);
const NOWHERE: [Ipv4Addr; 10] = [
    METADATA,
    INSIDE,
    Ipv4Addr::new(100, 127, 255, 254),
    Ipv4Addr::new(100, 100, 100, 100),
    Ipv4Addr::new(0, 0, 0, 1),
    Ipv4Addr::new(127, 0, 0, 1),
    // A service's.
    Ipv4Addr::new(198, 18, 1, 2),
    Ipv4Addr::new(224, 0, 0, 251),
    Ipv4Addr::new(240, 0, 0, 1),
    Ipv4Addr::BROADCAST,
];
/// Ports of the metadata service, of relays, of names, of STUN, of nobody.
const PORTS: [u16; 5] = [80, 443, 53, 3478, 4000];
/// Where a peer is, and the STUN server of the one region that may be asked.
const PEER: u16 = 4001;
const STUN: u16 = 3478;
/// Peers with a disco key, and without.
const PEERS: [(u8, bool); 4] = [(11, true), (12, false), (13, true), (14, false)];
/// How long the machine goes on once it has sent to where it may: the probes of a path are over by then, which last 5 s (init/vpn's
/// `path`), and the workload has asked for everybody once more.
const LOOK: Duration = Duration::from_secs(15);

/// A scripted server where the machine looks for its own. What had the port before may take a moment to go.
fn serve(runtime: &Runtime, host: &Host, key: Secret<MachineKey>) -> ControlServer {
    let listener =
        host.inside(|| until(s(10), "the server's port", || TcpListener::bind((host.v4, PORT)).ok()));
    listener.set_nonblocking(true).unwrap();
    let _entered = runtime.enter();
    ControlServer::start_on(tokio::net::TcpListener::from_std(listener).unwrap(), key, None)
}

/// A peer that is said to be everywhere, and to have every address there is; and, at the end, where somebody listens.
fn peer(number: u8, disco: bool, gateway: Ipv4Addr, host: Ipv4Addr) -> Value {
    let key = Secret::<Node>::generate().unwrap().public();
    let disco = disco.then(|| Secret::<Disco>::generate().unwrap().public());
    let mut endpoints: Vec<String> =
        NOWHERE.iter().flat_map(|address| PORTS.map(|port| format!("{address}:{port}"))).collect();
    endpoints.extend([format!("{gateway}:53"), "[fe80::1]:4000".into(), "[fd00:ec2::254]:80".into()]);
    endpoints.push(format!("{host}:{PEER}"));
    json!({
        "ID": number, "StableID": number.to_string(), "Name": format!("peer-{number}.{DOMAIN}."),
        "Key": key, "DiscoKey": disco.unwrap_or_else(Public::zero), "Machine": Public::<MachineKey>::zero(),
        "Addresses": [format!("100.64.0.{number}/32")],
        "AllowedIPs": [
            format!("100.64.0.{number}/32"), format!("{METADATA}/32"), format!("{gateway}/32"), format!("{host}/32"),
            "0.0.0.0/0", "::/0",
        ],
        "PrimaryRoutes": ["0.0.0.0/0"],
        "Endpoints": endpoints, "HomeDERP": number, "Online": true, "MachineAuthorized": true, "Cap": 130,
        "Tags": [TAG],
    })
}

/// A region with one relay, which is also a STUN server.
fn region(number: u8, host: &str, v4: &str, stun: u16, derp: u16) -> (String, Value) {
    let node = json!({
        "Name": number.to_string(), "RegionID": number, "HostName": host, "IPv4": v4, "STUNPort": stun, "DERPPort": derp,
    });
    let code = number.to_string();
    (code.clone(), json!({ "RegionID": number, "RegionCode": code, "RegionName": "r", "Nodes": [node] }))
}

/// Relays of every kind of place, at ports that a relay may have and others; the home relays of the peers among them.
fn relays(gateway: Ipv4Addr, host: Ipv4Addr) -> Value {
    let (metadata, inside, gateway, host) =
        (METADATA.to_string(), INSIDE.to_string(), gateway.to_string(), host.to_string());
    let regions = [
        region(11, &metadata, &metadata, STUN, 443),
        region(12, &inside, &inside, STUN, 443),
        // The login server's port, where it is not, and a port that is nobody's.
        region(13, &gateway, &gateway, 53, PORT),
        region(14, &metadata, &metadata, 80, PORT),
        region(15, &host, &host, 53, 22),
        region(16, "metadata.google.internal", "", 80, 443),
        region(17, "127.0.0.1", "127.0.0.1", STUN, 443),
        region(18, &host, &host, STUN, 4002),
    ];
    json!({ "Regions": regions.into_iter().collect::<serde_json::Map<_, _>>() })
}

/// The whole map, with these addresses of the node's own.
fn map(maps: &Maps, addresses: &[&str], gateway: Ipv4Addr, host: Ipv4Addr) -> Value {
    let rule = json!({ "SrcIPs": ["*"], "DstPorts": [{ "IP": "*", "Ports": { "First": 443, "Last": 443 } }], "IPProto": [6] });
    json!({
        "Node": {
            "ID": 1, "StableID": "1", "Name": format!("tunnel-stranger.{DOMAIN}."), "Key": maps.request["NodeKey"],
            "Addresses": addresses, "AllowedIPs": addresses, "Tags": [TAG], "MachineAuthorized": true,
        },
        "Peers": PEERS.map(|(number, disco)| peer(number, disco, gateway, host)),
        "DERPMap": relays(gateway, host),
        // Names are to be asked for at the metadata service, at the gateway, and in the open.
        "DNSConfig": {
            "Domains": [DOMAIN], "Proxied": true,
            "Resolvers": [{ "Addr": METADATA }, { "Addr": gateway }, { "Addr": format!("https://{host}/dns-query") }],
            "Routes": { "internal.": [{ "Addr": METADATA }] },
        },
        "PacketFilters": { "base": [rule] },
        "Domain": DOMAIN,
    })
}

#[test]
fn a_hostile_login_server_leads_nowhere() {
    if !qemu() {
        return;
    }
    // Built before anybody is in a hurry.
    image();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut net = Net::new(Segment::Private);
    let host = net.host("hostile");
    let machine = net.machine_routed("tunnel-stranger");
    let [a, b, c, _] = machine.v4.octets();
    let gateway = Ipv4Addr::new(a, b, c, 1);
    let outside = Listener::answering(&host, OUTSIDE, "outside");
    // Somebody is where the machine may send, so that nothing comes back which says that nobody is.
    let _there = host.inside(|| [PEER, STUN].map(|port| UdpSocket::bind((host.v4, port)).unwrap()));
    let pinned = Secret::<MachineKey>::generate().unwrap();
    let stranger = serve(&runtime, &host, Secret::generate().unwrap());

    let orders = Orders::new(&machine);
    let faults: Vec<_> = STRANGER.iter().map(|(fault, _)| *fault).collect();
    let everybody: String = PEERS
        .iter()
        .map(|(number, _)| format!("100.64.0.{number}"))
        .chain([INSIDE, METADATA, gateway].map(|address| address.to_string()))
        .map(|address| format!("nc -w 1 {address} 443 </dev/null; "))
        .collect();
    let names = "nslookup metadata.google.internal 100.100.100.100; nslookup example.com 100.100.100.100; ";
    let also = format!("{everybody}{names}");
    let wanted = Wanted {
        host: &machine,
        asks: ["nobody", "nobody"],
        target: None,
        also: &also,
        faults: &faults,
        extra: &orders.disk(),
    };
    let login = Login {
        address: host.v4,
        url: format!("http://{}:{PORT}", host.v4),
        noise_key: pinned.public().to_string(),
        authkey: "hskey-auth-of-nobody".to_owned(),
    };
    let guest = Guest::switch_on(&login, &wanted);
    guest.machine.wait_ready();
    let server: To = (TCP, SocketAddrV4::new(host.v4, PORT));
    guest.machine.wait_status("another key", |status| status["vpn"]["state"] == "pin-mismatch");
    guest.says("did not reach the outside");
    judge(&guest.wire, &[server], &[]);
    assert!(stranger.seen("/machine/register").is_empty(), "nobody else gets the key for joining");
    println!(
        "fault another key than the pinned one: expected pin-mismatch, and no word to that server, found so"
    );

    drop(stranger);
    let hostile = serve(&runtime, &host, pinned);
    Orders::carry_out(&guest.machine, faults[0]);
    // A stream is preceded by an update.
    guest.machine.wait("a request for the map", || hostile.updates().pop());
    let maps = runtime.block_on(hostile.next_stream());
    maps.map(&map(&maps, &["100.64.0.1/32"], gateway, host.v4));
    let joined = |status: &Value, address: &str| {
        status["vpn"]["state"] == "running" && status["vpn"]["addresses"] == json!([address])
    };
    let status = guest.machine.wait_status("the hostile map", |status| joined(status, "100.64.0.1"));
    assert_eq!(status["vpn"]["peers"], PEERS.len(), "{status}");
    let may: [To; 2] = [STUN, PEER].map(|port| (UDP, SocketAddrV4::new(host.v4, port)));
    guest.machine.wait("packets to where it may send", || {
        let sent = sent(&guest.wire);
        may.iter().all(|to| sent.contains_key(to)).then_some(())
    });
    std::thread::sleep(LOOK);
    guest.says("did not reach the outside");

    // Addresses that are not the network's are none, nor is the whole network one; and without any there is no map.
    let foreign = ["192.0.2.1/32", "169.254.169.254/32"];
    maps.map(&map(&maps, &[foreign[0], foreign[1], "100.64.0.2/32"], gateway, host.v4));
    guest.machine.wait_status("one address of three", |status| joined(status, "100.64.0.2"));
    maps.map(&map(&maps, &["100.64.0.3/32", "100.64.0.0/10"], gateway, host.v4));
    guest.machine.wait_status("one address of two", |status| joined(status, "100.64.0.3"));
    maps.map(&map(&maps, &foreign, gateway, host.v4));
    let _again = runtime.block_on(hostile.next_stream());
    wait_alive(&guest.machine);
    let status = guest.status().unwrap();
    assert!(joined(&status, "100.64.0.3"), "{status}");
    let refused = Guest::counted(&status, "process:vpn");
    let Guest { machine, wire, .. } = guest;
    let ended = machine.power_off();
    check(STRANGER, &ended);
    let sent = judge(&wire, &[server, may[0], may[1]], &[]);
    let of_the_network = |status: &Value| {
        let addresses = status["vpn"]["addresses"].as_array().unwrap();
        addresses.iter().all(|one| one.as_str().unwrap().starts_with("100.64.0."))
    };
    assert!(ended.statuses.iter().all(of_the_network), "{ended}");
    assert!(outside.callers().is_empty() && !ended.console_says("probe: reached the outside"), "{ended}");
    println!(
        "fault a hostile map: expected frames to the login server, a peer and a STUN server only, found {} to {} places, {refused} refused by the lock",
        sent.values().sum::<usize>(),
        sent.len()
    );
}
