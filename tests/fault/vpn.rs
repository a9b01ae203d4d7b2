//! A node of the private network whose VPN process and login server break: a real Headscale, and the Go client for a peer. What is
//! ordered to break breaks when the test says so.

use std::fs::File;
use std::net::{IpAddr, SocketAddrV4};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use casemate_measure::status::{Frame, Reason};
use casemate_vpn::control::join::MAX_BACKOFF;
use serde_json::{Value, json};

use crate::built::Release;
use crate::frames::{judge, of_a_node};
use crate::guest::{GO_PORT, Guest, Login, OUTSIDE, PORT, Wanted, image, noise_key, policy};
use crate::headscale::{Headscale, Options, Relay};
use crate::judge::{self, Faults, Said};
use crate::listener::Listener;
use crate::machine::{Ended, Machine, qemu};
use crate::net::{Host, Net, Segment};
use crate::peer::{Kind, Peer};
use crate::processes::judged;
use crate::table::VPN;

/// A wait for the server that had just begun when it came, and one more: its first answers may meet a machine that is slow.
const JOIN: Duration = MAX_BACKOFF.saturating_mul(2);
/// init's `supervise::FIRST_BACKOFF`, and `START_LIMIT`, within which a process is ready or is no more.
const RESTART: Duration = Duration::from_secs(1 + 60);
/// init's `supervise::SILENCE`, after which a process is ended, and how late PID 1's loop may see it.
const SILENCE: Duration = Duration::from_secs(30 + 2);

/// The disk whose length says which faults are due (init/src/guest/faults.rs).
pub(crate) struct Orders(PathBuf);

impl Orders {
    pub(crate) fn new(host: &Host) -> Self {
        let path = host.folder.join("orders.img");
        File::create(&path).unwrap().set_len(SECTOR).unwrap();
        Self(path)
    }

    /// QEMU's arguments.
    pub(crate) fn disk(&self) -> String {
        format!(
            "-blockdev driver=raw,node-name=orders,file.driver=file,file.filename={} \
             -device virtio-blk-pci,drive=orders,serial=orders,disable-legacy=on,iommu_platform=on",
            self.0.display()
        )
    }

    /// Has one carried out: its number is the sectors that it waits for. There is one from the beginning.
    pub(crate) fn carry_out(machine: &Machine, fault: &str) {
        let (_, sectors) = fault.split_once('#').unwrap();
        let size = sectors.parse::<u64>().unwrap() * SECTOR;
        machine.monitor(&format!(
            "{{\"execute\":\"block_resize\",\"arguments\":{{\"node-name\":\"orders\",\"size\":{size}}}}}\n"
        ));
        machine.wait(fault, || judge::carried_out(fault, &machine.console()));
    }
}

/// In bytes.
const SECTOR: u64 = 512;

/// Everything about a machine that goes on: what followed its faults, its lock, its end.
pub(crate) fn check(faults: Faults, ended: &Ended) {
    let said = Said::from(ended);
    let (lines, wrong) = judged(faults, &said);
    lines.iter().for_each(|line| println!("{line}"));
    assert!(wrong.is_empty(), "{}: {ended}\n{}", wrong.join("\n"), judge::frames(&said));
    let ready: Vec<_> = ended.statuses.iter().filter(|status| status["stage"] == "ready").collect();
    assert!(!ready.is_empty() && ready.iter().all(|status| status["egress"]["locked"] == true), "{ended}");
    ended.assert_orderly();
}

/// Waits until it has said that it lives after all that came before.
pub(crate) fn wait_alive(machine: &Machine) {
    let last = machine.all_frames().last().unwrap().uptime_ms;
    let alive = |frame: &Frame| frame.reason == Reason::Alive && frame.uptime_ms > last;
    machine.wait("a sign of life", || machine.all_frames().iter().any(alive).then_some(()));
}

/// The end of the VPN process, as often as it had to be.
fn wait_ends(machine: &Machine, ends: usize, limit: Duration) {
    machine.wait_within(limit, &format!("end {ends} of the VPN process"), || {
        let frames = machine.all_frames();
        let of_vpn = judge::about(&frames, "vpn").filter(|frame| frame.reason == Reason::Restarting);
        (of_vpn.count() >= ends).then_some(())
    });
}

#[test]
fn a_node_outlives_its_vpn_process_and_its_login_server() {
    if !qemu() {
        return;
    }
    // Built before anybody is in a hurry.
    image();
    let begin = Instant::now();
    let note = |what: &str| eprintln!("{:>4} s: {what}", begin.elapsed().as_secs());
    let mut net = Net::new(Segment::Private);
    let (host, go) = (net.host("headscale"), net.host("node-go"));
    let machine = net.machine_routed("tunnel-fault");
    let options = Options { relay: Relay::Pinned, ..Options::default() };
    let mut server = Headscale::start(&host, Release::V0_29, options);
    server.policy(&policy());
    let go = Peer::join(Kind::Go, &go, &server);
    let _served = Listener::answering(go.host(), PORT, "the host answers");
    let outside = Listener::answering(&host, OUTSIDE, "outside");
    let login = Login::of(&server, &noise_key(&server));
    server.kill();

    let orders = Orders::new(&machine);
    let faults: Vec<_> = VPN.iter().map(|(fault, _)| *fault).collect();
    let wanted = Wanted {
        host: &machine,
        asks: ["node-go", "node-go"],
        target: None,
        also: "",
        faults: &faults,
        extra: &orders.disk(),
    };
    let guest = Guest::switch_on(&login, &wanted);
    guest.machine.wait_ready();
    note("ready, without a server");
    let status = guest.machine.wait_status("a node that could not ask yet", |status| {
        status["vpn"]["state"] == "starting" && status["vpn"]["node_key"] != json!(null)
    });
    assert_eq!((&status["vpn"]["connected"], &status["egress"]["locked"]), (&json!(false), &json!(true)));
    guest.says("did not reach the outside");
    judge(&guest.wire, &of_a_node(host.v4, &[])[..1], &[]);
    println!(
        "fault no login server from the start: expected a node that could not ask yet, and nothing on the wire but to it, found so"
    );

    server.resume();
    let node = guest.running_within(JOIN, 1)["vpn"]["node_key"].clone();
    println!("fault the login server comes later: expected a node within {} s, found so", JOIN.as_secs());
    let address = server.node(&guest.wire.name).unwrap().addresses[0].clone();
    let (ping, through) = (PathBuf::from("ping"), go.host());
    // Meanwhile something is always under way, in both directions.
    let _traffic = through.start("ping", &ping, |ping| {
        ping.args(["-q", "-i", "0.2", &address]);
    });
    let reached = |limit, what: &str| {
        through.pings_soon(limit, &address);
        guest.says("the host answers");
        note(what);
    };
    reached(RESTART, "it is reached, and reaches");

    let mut ends = 0;
    let mut broken = |number: usize, limit| {
        let (fault, _) = VPN[number - 1];
        Orders::carry_out(&guest.machine, fault);
        ends += 1;
        wait_ends(&guest.machine, ends, limit);
    };
    broken(1, RESTART);
    reached(RESTART, "again, after its VPN process was killed");

    server.kill();
    let connected = |is: bool| {
        move |status: &Value| status["vpn"]["state"] == "running" && status["vpn"]["connected"] == is
    };
    guest.machine.wait_status("the server's end", connected(false));
    broken(2, RESTART);
    reached(RESTART, "again, while there was no server");
    let status = guest.machine.wait_status("a node of the last map", connected(false));
    assert_eq!((&status["vpn"]["node_key"], &status["vpn"]["peers"]), (&node, &json!(1)), "{status}");
    server.resume();
    guest.running_within(JOIN, 1);
    note("its server is back");

    Orders::carry_out(&guest.machine, VPN[2].0);
    (4..=13).for_each(|number| broken(number, RESTART));
    reached(RESTART, "again, after ten ends in a row");
    broken(14, RESTART);
    reached(RESTART, "again, after it had no memory");
    broken(15, SILENCE + RESTART);
    reached(RESTART, "again, after it had stood still");

    let status = guest.running_within(JOIN, 1);
    assert_eq!((&status["vpn"]["node_key"], Guest::restarts(&status, "vpn")), (&node, 14), "{status}");
    assert_eq!(server.nodes().len(), 2, "one node, however often its process has ended");
    assert_eq!((outside.callers(), guest.said("reached the outside")), (Vec::<IpAddr>::new(), 0));
    wait_alive(&guest.machine);
    let Guest { machine, wire, .. } = guest;
    let ended = machine.power_off();
    note("off");
    check(VPN, &ended);
    judge(&wire, &of_a_node(host.v4, &[SocketAddrV4::new(go.host().v4, GO_PORT)]), &[]);
    println!(
        "fault all of these: expected frames to the login server, its relay, its STUN and the peer only, found so"
    );
}
