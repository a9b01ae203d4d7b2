//! One TCP stream through our tunnel, beside the same through the tunnels that people use today and through none.
//!
//! ```sh
//! cargo bench --profile dev -p casemate-tests --bench tunnel                 # three rounds, five minutes
//! cargo bench --profile dev -p casemate-tests --bench tunnel -- --rounds 7 ours tailscaled bare
//! cargo test -p casemate-tests --bench tunnel                                # smoke: ours and none, two seconds
//! ```
//!
//! Everybody has two namespaces on one switch, an MTU of 1280 and one turn in each round. Ours and `tailscaled` join a real
//! Headscale, as in the tests of the tailnet, and must reach each other directly before and after each turn; the others are
//! set up by `wg set`. What counts on a machine that others use too is the CPU time: user and system, of all processes of
//! both sides, for each gigabit that was sent. RSS is that of a side's processes together, the larger side's.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "in a bench and the tests' helpers a panic is the report"
)]

#[path = "../../tailnet/built.rs"]
#[expect(dead_code, reason = "the tests of the tailnet do more with it")]
mod built;
#[path = "../../tailnet/certificate.rs"]
mod certificate;
#[path = "../boot/figures.rs"]
mod figures;
#[path = "../../tailnet/headscale.rs"]
#[expect(dead_code, reason = "the tests of the tailnet do more with it")]
mod headscale;
#[path = "../../tailnet/net.rs"]
#[expect(dead_code, reason = "the tests of the tailnet do more with it")]
mod net;
#[path = "../../tailnet/ours.rs"]
#[expect(dead_code, reason = "the tests of the tailnet do more with it")]
mod ours;
#[path = "../../tailnet/peer.rs"]
#[expect(dead_code, reason = "the tests of the tailnet do more with it")]
mod peer;
#[path = "../../tailnet/process.rs"]
mod process;
#[path = "../../tailnet/tailscaled.rs"]
mod tailscaled;
#[path = "../../tailnet/wait.rs"]
mod wait;

mod goals;
mod pages;
mod processes;
mod tunnel;
mod turn;
mod wireguard;

use std::process::ExitCode;

use crate::built::Release;
use crate::figures::control_ms;
use crate::headscale::{Headscale, Options};
use crate::net::{Net, Segment};
use crate::tunnel::{Bare, Tailnet, Tunnel};
use crate::turn::Turn;
use crate::wireguard::{PEERS, WireGuard};

/// Whatever this bench itself is: ours is the released build, as the guest has it.
const RELEASED: bool = true;
/// Inside of every tunnel, and on the bare link.
const MTU: u16 = 1280;

/// What is measured, and how.
struct Plan {
    rounds: usize,
    seconds: u64,
    /// All, if there are none.
    names: Vec<String>,
}

const USAGE: &str =
    "expected [--rounds N] [--seconds N] [NAME]… of bare, ours, tailscaled, gotatun, boringtun, wireguard-go";

impl Plan {
    /// `cargo bench` says `--bench`, `cargo test` does not.
    fn of(mut arguments: impl Iterator<Item = String>) -> Option<Self> {
        let mut plan = Self { rounds: 1, seconds: 2, names: Vec::new() };
        let mut bench = false;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => (plan.rounds, plan.seconds, bench) = (3, 10, true),
                "--rounds" => plan.rounds = arguments.next()?.parse().ok().filter(|rounds| *rounds > 0)?,
                "--seconds" => {
                    plan.seconds = arguments.next()?.parse().ok().filter(|seconds| *seconds > 0)?
                }
                name if NAMES.contains(&name) => plan.names.push(name.to_owned()),
                _ => return None,
            }
        }
        if !bench && plan.names.is_empty() {
            plan.names = ["bare", "ours"].map(str::to_owned).to_vec();
        }
        Some(plan)
    }

    fn has(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|one| one == name)
    }
}

const NAMES: [&str; 6] = ["bare", "ours", "tailscaled", "gotatun", "boringtun", "wireguard-go"];

fn main() -> ExitCode {
    // Cargo gives its own option last.
    let (own, rest): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|argument| argument == "--bench");
    let Some(plan) = Plan::of(own.into_iter().chain(rest)) else {
        eprintln!("tunnel bench: {USAGE}");
        return ExitCode::from(64);
    };
    bench(&plan);
    ExitCode::SUCCESS
}

fn bench(plan: &Plan) {
    processes::machine();
    // What takes minutes to build, before there is anything that could time out.
    drop([built::casemate_init(), built::headscale(Release::V0_29), built::tailscale()]);
    let mut net = Net::new(Segment::Private);
    let server = Headscale::start(&net.host("headscale"), Release::V0_29, Options::default());
    let tunnels = tunnels(plan, &mut net, &server);
    println!("# one TCP stream, {} s after one that does not count; MTU {MTU}", plan.seconds);

    let before = control_ms();
    let mut rounds = Vec::new();
    for round in 0..plan.rounds {
        // Nobody always follows the same one.
        let order = (0..tunnels.len()).map(|turn| &tunnels[(turn + round) % tunnels.len()]);
        let turns: Vec<Turn> = order.map(|tunnel| turn::take(tunnel.as_ref(), plan.seconds)).collect();
        for turn in &turns {
            println!("turn round={} {turn}", round + 1);
        }
        rounds.push(turns);
    }
    let after = control_ms();
    println!("control name=sha256 before_ms={before:.0} after_ms={after:.0}");
    println!("# load average {}", processes::load());
    goals::judge(&rounds, before, after);
}

/// Starts everybody.
fn tunnels(plan: &Plan, net: &mut Net, server: &Headscale) -> Vec<Box<dyn Tunnel>> {
    let mut tunnels: Vec<Box<dyn Tunnel>> = Vec::new();
    if plan.has("bare") {
        tunnels.push(Box::new(Bare::new(net)));
    }
    for (name, kind) in tunnel::TAILNETS {
        if plan.has(name) {
            tunnels.push(Box::new(Tailnet::new(name, kind, net, server)));
        }
    }
    for (number, peer) in PEERS.iter().enumerate() {
        if plan.has(peer.name) {
            match WireGuard::new(peer, number, net) {
                Ok(tunnel) => tunnels.push(Box::new(tunnel)),
                // Said, and no figure of another kind put in its place.
                Err(why) => println!("SKIPPED: no peer: {}: {why}", peer.name),
            }
        }
    }
    tunnels
}
