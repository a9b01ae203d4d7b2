//! Who reaches whom, by name, and who does not.

use std::fs;
use std::net::{IpAddr, SocketAddrV4};
use std::time::Instant;

use serde_json::json;

use crate::built::Release;
use crate::frames::{judge, of_a_node};
use crate::guest::{GO_PORT, Guest, Login, OUTSIDE, PORT, UDP_PORT, Wanted, image, noise_key, policy};
use crate::headscale::{DOMAIN, FILE_REGION, Headscale, Options, Relay, TAG};
use crate::listener::Listener;
use crate::machine::qemu;
use crate::net::{Host, Net, Segment};
use crate::peer::{Kind, Peer};
use crate::wait::{s, until};

/// Where the Go client answers for the names of the tailnet.
const MAGIC: &str = "100.100.100.100";
/// What the design promises for kernel and initramfs together, in bytes.
const SIZE: u64 = 24_000_000;

#[test]
fn machines_and_a_go_client_reach_each_other_by_name_and_nothing_else() {
    if !qemu() {
        return;
    }
    let size = |name: &str| fs::metadata(image().0.join(name)).unwrap().len();
    let (kernel, initramfs) = (size("bzImage"), size("initramfs.cpio.zst"));
    eprintln!("kernel {kernel} B, initramfs {initramfs} B, together {} B of {SIZE}", kernel + initramfs);
    assert!(kernel + initramfs <= SIZE);

    let begin = Instant::now();
    let note = |what: &str| eprintln!("{:>4} s: {what}", begin.elapsed().as_secs());
    let mut net = Net::new(Segment::Private);
    let (host, go) = (net.host("headscale"), net.host("node-go"));
    let [one, two] = ["tunnel-one", "tunnel-two"].map(|name| net.machine_routed(name));
    // Under no root: with its key pinned in the document, a certificate that nobody knows is logged, and its relay has a pin.
    let server =
        Headscale::start(&host, Release::V0_29, Options { relay: Relay::Pinned, ..Options::default() });
    server.policy(&policy());
    let go = Peer::join(Kind::Go, &go, &server);
    let served = Listener::answering(go.host(), PORT, "the host answers");
    let outside = Listener::answering(&host, OUTSIDE, "outside");
    note("Headscale and the Go client");

    let key = noise_key(&server);
    let asks = |other| [other, "node-go"];
    let wanted =
        |host, other, target, faults| Wanted { host, asks: asks(other), target, also: "", faults, extra: "" };
    let killed = wanted(&two, "tunnel-one", None, &["kill:vpn@ready+45"]);
    let two = Guest::switch_on(&Login::of(&server, &key), &killed);
    let joined = |guest: &Guest| guest.machine.wait("a node in Headscale", || server.node(&guest.wire.name));
    let node_two = joined(&two);
    note("the second machine has joined");
    // Now that it has an address, it can be a measured target.
    let target = Some((two.document.as_str(), node_two.addresses[0].as_str()));
    let one = Guest::switch_on(&Login::of(&server, &key), &wanted(&one, "tunnel-two", target, &[]));
    let node_one = joined(&one);
    note("the first machine has joined");

    for (guest, node) in [(&one, &node_one), (&two, &node_two)] {
        assert_eq!(node.tags, [TAG]);
        let status = guest.running(2);
        note("a machine is in the network");
        let vpn = &status["vpn"];
        assert_eq!((&vpn["mode"], &vpn["tags"]), (&json!("tunnel"), &json!([TAG])), "{status}");
        assert_eq!((&vpn["expected_tag"], &vpn["tag_missing"]), (&json!(TAG), &json!(false)), "{status}");
        assert_eq!(vpn["addresses"][0], node.addresses[0].as_str(), "{status}");
        assert_eq!(vpn["node_key"], node.key.as_str(), "{status}");
        assert_eq!(vpn["derp_home"], FILE_REGION, "{status}");
        guest.says("the host answers");
        guest.says("the mesh of the other machine answers");
        note("its workload reaches the host and the other machine by name");
        assert!(served.callers().contains(&node.addresses[0].parse::<IpAddr>().unwrap()));
        reached(go.host(), &guest.wire.name);
        note("the host reaches it by name");
    }
    one.says("the page of the other machine");
    note("a workload has the other's page, from mesh to mesh");

    // Its VPN process is killed: another one, the same node.
    two.machine.wait_status("another VPN process", |status| Guest::restarts(status, "vpn") >= 1);
    note("the VPN process of the second machine was killed");
    one.says("the mesh of the other machine answers");
    two.says("the mesh of the other machine answers");
    one.says("the page of the other machine");
    reached(go.host(), &two.wire.name);
    let status = two.running(2);
    assert_eq!(status["vpn"]["node_key"], node_two.key.as_str(), "{status}");
    assert_eq!(server.nodes().len(), 3);
    note("and everybody reaches it again");

    let direct =
        |guest: &Guest| guest.machine.wait_status("direct paths", |status| status["vpn"]["direct"] == 2);
    for guest in [&one, &two] {
        let status = direct(guest);
        assert!(Guest::counted(&status, "denied:probe") > 0, "{status}");
        assert!(guest.said("did not reach the outside") > 0 && guest.said("reached the outside") == 0);
    }
    assert_eq!(outside.callers(), Vec::<IpAddr>::new());
    let peers = [
        SocketAddrV4::new(one.wire.address, UDP_PORT),
        SocketAddrV4::new(two.wire.address, UDP_PORT),
        SocketAddrV4::new(go.host().v4, GO_PORT),
    ];
    for (guest, others) in [(&one, [peers[1], peers[2]]), (&two, [peers[0], peers[2]])] {
        judge(&guest.wire, &of_a_node(host.v4, &others), &[]);
    }
    note("every frame went to a node, the server or its relay");
    for guest in [one, two] {
        guest.machine.power_off().assert_orderly();
    }
    note("off");
}

/// A host reaches a machine by name: its mesh, and a ping.
fn reached(host: &Host, name: &str) {
    host.resolvers(&[MAGIC]);
    let name = format!("{name}.{DOMAIN}");
    let health = until(s(60), &format!("an answer of {name}"), || {
        let mut curl = host.command(s(30), "curl");
        let output =
            curl.args(["-sk", "--max-time", "20", &format!("https://{name}/health")]).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    });
    assert_eq!(health, "ok\n");
    host.pings_soon(s(30), &name);
}
