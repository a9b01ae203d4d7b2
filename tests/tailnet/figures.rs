//! What the whole node costs in a large network: memory, and CPU time for each change of one peer. Nothing here is measured by the
//! clock on the wall; it is our own server that speaks, so that nothing else takes part.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::built;
use crate::control_server::peers::{peer, peers};
use crate::net::{Net, Segment};
use crate::ours::Ours;
use crate::scripted::{Scripted, first_map, said_slowly};
use crate::wait::{s, until};

/// Of the process that does the work, with 300 peers.
const MEMORY: u64 = 16 << 10;
/// CPU time of a change of one peer.
const DELTA: Duration = Duration::from_millis(1);
const DELTAS: u64 = 1000;
/// Between two of them: longer than the node gathers what changes (`init/vpn/src/node/coalesce.rs`), so that each is one for it.
const PACE: Duration = Duration::from_millis(110);

/// A value of `/proc/PID/status`, in KiB.
fn kilobytes(pid: u32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':')).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// User and system time so far (`proc_pid_stat(5)`: the 14th and the 15th).
fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The second is a name in parentheses, which may hold anything.
    let after_name = stat.rsplit_once(')').unwrap().1;
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).map(|one| one.parse::<u64>().unwrap()).sum();
    let second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_secs(ticks) / u32::try_from(second).unwrap()
}

/// The names of the peers that it knows.
fn names(node: &Ours) -> Option<Vec<Value>> {
    let status = node.status()?;
    Some(status["peers"].as_array()?.iter().map(|peer| peer["name"].clone()).collect())
}

/// What a peer is called after this many changes.
fn renamed(id: u64, round: u64) -> Value {
    let mut peer = peer(id, 50_000 + round % 1000);
    peer["Name"] = json!(format!("node-{id}-{round}.t.internal."));
    peer
}

/// Every second one is a whole peer, as after a change of its name; the others are patches, as of its addresses.
fn delta(count: u64, round: u64) -> Value {
    let id = 2 + round * 7 % count;
    if round.is_multiple_of(2) {
        json!({ "PeersChanged": [renamed(id, round)] })
    } else {
        json!({ "PeersChangedPatch": [{ "NodeID": id, "Endpoints": [format!("203.0.113.1:{}", 2000 + round)] }] })
    }
}

fn a_network_of(count: u64) {
    let mut net = Net::new(Segment::Private);
    let server = Scripted::start(&net.host("control"));
    let host = net.host("node-1");
    let config = server.config(&host);
    // What is measured is what is shipped: unoptimised code says nothing of its time.
    let start = || Ours::start_program(&host, &config, built::casemate_init_released());
    let dns = json!({ "Proxied": true, "Domains": ["t.internal"] });
    let (mut node, maps) = server.admit(start, first_map(1, &peers(count), &dns));
    until(s(60), "all peers", || (names(&node)?.len() as u64 == count).then_some(()));
    let (child, parent) = (node.child(), node.process().pid());
    let settled = kilobytes(child, "VmRSS");

    let before = cpu(child);
    said_slowly(&maps, PACE, (0..DELTAS).map(|round| delta(count, round)));
    std::thread::sleep(s(1));
    let (spent, high) = (cpu(child) - before, kilobytes(child, "VmHWM"));
    let each = spent / u32::try_from(DELTAS).unwrap();
    println!(
        "{count} peers: {settled} KiB at first, {} KiB after {DELTAS} deltas, {high} KiB at most, beside {} KiB of its parent; \
         a delta of one peer {each:?} of CPU",
        kilobytes(child, "VmRSS"),
        kilobytes(parent, "VmRSS"),
    );

    // None was left out: the last name of each peer that was renamed is in force.
    let known = names(&node).unwrap();
    let last_of = |id: u64| (0..DELTAS).step_by(2).filter(|round| 2 + round * 7 % count == id).max();
    for id in 2..count + 2 {
        if let Some(round) = last_of(id) {
            let name = json!(format!("node-{id}-{round}.t.internal"));
            assert!(known.contains(&name), "{name} is not known");
        }
    }
    assert_eq!(node.child(), child, "it was started again");
    assert!(count > 300 || high <= MEMORY, "{high} KiB of memory");
    assert!(each <= DELTA, "{each:?} of CPU for a delta of one peer");
}

#[test]
fn figures_of_three_hundred_peers() {
    a_network_of(300);
}

#[test]
fn figures_of_three_thousand_peers() {
    a_network_of(3000);
}
