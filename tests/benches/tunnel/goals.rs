//! Medians, ratios, and the goals of issue 7 beside them.

use crate::figures::Spread;
use crate::processes::Rss;
use crate::turn::Turn;

/// How far the host may drift during the run by its time (the protocol of every bench): beyond it, no verdict by the clock.
const DRIFT: f64 = 0.25;

/// Our speed as a multiple of another's, at least.
const SPEED: [(&str, f64); 3] = [("tailscaled", 2.0), ("gotatun", 4.5), ("boringtun", 5.0)];
/// CPU time for a gigabit and memory, as parts of tailscaled's, at most.
const CPU_OF_TAILSCALED: f64 = 0.5;
const MEMORY_OF_TAILSCALED: f64 = 0.25;
/// CPU seconds for a gigabit, and MB, at most.
const CPU: f64 = 0.36;
const MEMORY: f64 = 16.0;

/// A figure of a turn, if it has it.
type Of = fn(&Turn) -> Option<f64>;

/// Prints all of it.
pub(crate) fn judge(rounds: &[Vec<Turn>], before: f64, after: f64) {
    let names: Vec<_> = rounds.first().into_iter().flatten().map(|turn| turn.name).collect();
    for name in &names {
        medians(name, rounds);
    }
    if !names.contains(&"ours") {
        return;
    }
    for name in names.iter().filter(|name| **name != "ours") {
        for (what, of) in ALL {
            if let Some(ratio) = ratio(rounds, name, of) {
                println!("ratio name={what}-{name} ours/{name} r={ratio:.3}");
            }
        }
    }
    let steady = (after / before - 1.0).abs() <= DRIFT;
    if !steady {
        println!("# no verdict by the clock: the host's own speed changed by more than 25 % meanwhile");
    }
    for (name, limit) in SPEED {
        if let Some(ratio) = ratio(rounds, name, speed).filter(|_| steady) {
            goal(&format!("speed-{name}"), "at least", limit, ratio.median, ratio.median >= limit);
        }
    }
    let at_most = |name: &str, limit: f64, found: f64| goal(name, "at most", limit, found, found <= limit);
    if let Some(ratio) = ratio(rounds, "tailscaled", cpu) {
        at_most("cpu-tailscaled", CPU_OF_TAILSCALED, ratio.median);
    }
    if let Some(ratio) = ratio(rounds, "tailscaled", memory) {
        at_most("memory-tailscaled", MEMORY_OF_TAILSCALED, ratio.median);
    }
    at_most("cpu", CPU, spread(rounds, "ours", cpu).median);
    // The most of all rounds: it is a bound on what is needed, not a measure of speed.
    let most = |of: Of| turns(rounds, "ours").filter_map(of).fold(0.0, f64::max);
    at_most("memory", MEMORY, most(memory));
    if names.contains(&"bare") {
        let pairs = turns(rounds, "ours").zip(turns(rounds, "bare"));
        let more = pairs.filter(|(ours, bare)| ours.retransmits > bare.retransmits).count();
        at_most("rounds-with-more-retransmits-than-bare", 0.0, more as f64);
    }
    let drops: u64 =
        turns(rounds, "ours").filter_map(|turn| turn.drops.as_ref()).flat_map(|all| all.values()).sum();
    at_most("drops", 0.0, drops as f64);
}

fn goal(name: &str, how: &str, limit: f64, found: f64, kept: bool) {
    let kept = if kept { "kept" } else { "MISSED" };
    println!("goal name={name} {how} {limit} found={found:.3} {kept}");
}

fn medians(name: &str, rounds: &[Vec<Turn>]) {
    let of = |what: Of| spread(rounds, name, what);
    print!("median name={name} gbps={:.2}", of(speed));
    if turns(rounds, name).any(|turn| turn.cpu.is_some()) {
        print!(" cpu_s_per_gbit={:.3} memory_mb={:.1}", of(cpu), of(memory));
    }
    let retransmits = of(|turn| Some(turn.retransmits as f64));
    let (idle, loaded) = (of(|turn| Some(turn.idle.median)), of(|turn| Some(turn.loaded.median)));
    println!(" retransmits={retransmits:.0} ping_ms={idle:.2} ping_loaded_ms={loaded:.2}");
}

const ALL: [(&str, Of); 3] = [("speed", speed), ("cpu", cpu), ("memory", memory)];

#[expect(clippy::unnecessary_wraps, reason = "beside others, which not every turn has")]
const fn speed(turn: &Turn) -> Option<f64> {
    Some(turn.gbps)
}

const fn cpu(turn: &Turn) -> Option<f64> {
    turn.cpu
}

fn memory(turn: &Turn) -> Option<f64> {
    turn.rss.as_ref().map(Rss::once)
}

/// The turns of one, a round each.
fn turns<'a>(rounds: &'a [Vec<Turn>], name: &'a str) -> impl Iterator<Item = &'a Turn> {
    rounds.iter().flatten().filter(move |turn| turn.name == name)
}

fn spread(rounds: &[Vec<Turn>], name: &str, of: Of) -> Spread {
    Spread::of(turns(rounds, name).filter_map(of))
}

/// Ours by another's, round by round.
fn ratio(rounds: &[Vec<Turn>], name: &str, of: Of) -> Option<Spread> {
    let pairs = turns(rounds, "ours").zip(turns(rounds, name));
    let ratios: Vec<f64> = pairs.filter_map(|(ours, other)| Some(of(ours)? / of(other)?)).collect();
    (!ratios.is_empty()).then(|| Spread::of(ratios.into_iter()))
}
