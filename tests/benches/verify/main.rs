//! What a verdict costs beside `dcap-qvl` alone, and what handshakes with attested peers cost beside plain mutual TLS.
//!
//! ```sh
//! cargo bench -p casemate-tests --bench verify      # 15 rounds by the clock, and instructions
//! cargo test -p casemate-tests --bench verify       # smoke: one round, by the clock
//! ```
//!
//! A verdict is everything from a real dstack machine's attestation (a quote and its 8 events) to `Trusted`: decoding, frame,
//! root, quote, replay, boot events, identity, policy. The peer is `dcap-qvl` with the same quote and collateral, with its
//! own policy. A handshake is a whole one, TLS 1.3, both sides with a certificate, in memory. In ours each side remembers the
//! other's certificate, which carries a quote of 5 KB; the peer's are small ones of a CA, checked by rustls' own verifiers.
//!
//! Instructions are counted by valgrind, in processes of their own.

#[path = "../boot/figures.rs"]
mod figures;
mod handshake;
mod instructions;
#[path = "../../peers/machine.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "written for the peers test, which asks more of its machines"
)]
mod machine;
mod verdict;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::figures::{Spread, control_ms};
use crate::handshake::Handshakes;
use crate::verdict::Verdicts;

/// How far the host may drift during a measurement by its time (the protocol of every bench): beyond it, no figures.
const DRIFT: f64 = 0.25;

/// What is done once, over and over.
pub(crate) trait Work {
    /// Its name in the figures.
    fn name(&self) -> &'static str;
    /// The promise (issue 6): our speed as a part of the peer's, at least.
    fn promised(&self) -> f64;
    /// How often in one round.
    fn times(&self) -> usize;
    /// Ours, once.
    fn ours(&self) -> anyhow::Result<()>;
    /// The peer's, once.
    fn peer(&self) -> anyhow::Result<()>;
}

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("verify bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> anyhow::Result<()> {
    let works: [Box<dyn Work>; 2] = [Box::new(Verdicts::new()?), Box::new(Handshakes::new()?)];
    let mut arguments = std::env::args().skip(1);
    let (rounds, count) = match arguments.next().as_deref() {
        // `cargo bench` says `--bench`, `cargo test` does not.
        Some("--bench") => (15, true),
        Some("--only") => {
            let mut next = || arguments.next().context("--only: expected NAME WHO TIMES");
            let (name, who, times) = (next()?, next()?, next()?.parse::<usize>()?);
            let work = works.iter().find(|work| work.name() == name).context("--only: no such work")?;
            return (0..times).try_for_each(|_| if who == "ours" { work.ours() } else { work.peer() });
        }
        Some(other) => bail!("expected --bench, found {other:?}"),
        None => (1, false),
    };
    println!("# profile {}", if cfg!(debug_assertions) { "dev: no promise" } else { "bench" });
    println!("# load average {}", std::fs::read_to_string("/proc/loadavg")?.trim_end());
    for work in &works {
        by_the_clock(work.as_ref(), rounds)?;
    }
    if !count {
        return Ok(());
    }
    if let Err(error) = instructions::available() {
        println!("SKIPPED: instructions are not counted: {error:#}");
        return Ok(());
    }
    for work in &works {
        let (ours, peer) = (instructions::of(work.name(), "ours")?, instructions::of(work.name(), "peer")?);
        let ratio = peer as f64 / ours as f64;
        println!("ratio name={} clock=instructions ours={ours} peer={peer} r={ratio:.3}", work.name());
        judge(work.as_ref(), "instructions", ratio);
    }
    Ok(())
}

/// In turn, so that what disturbs one disturbs the other.
fn by_the_clock(work: &dyn Work, rounds: usize) -> anyhow::Result<()> {
    let before = control_ms();
    let mut all = Vec::new();
    for _ in 0..rounds {
        let times = if rounds == 1 { 1 } else { work.times() };
        let time = |once: &dyn Fn() -> anyhow::Result<()>| {
            let begin = Instant::now();
            (0..times).try_for_each(|_| once())?;
            anyhow::Ok(times as f64 / begin.elapsed().as_secs_f64())
        };
        all.push([time(&|| work.ours())?, time(&|| work.peer())?]);
    }
    let after = control_ms();
    println!("control name=sha256 before_ms={before:.0} after_ms={after:.0}");
    if (after / before - 1.0).abs() > DRIFT {
        println!("no figures name={}: the host's own speed changed by more than 25 % meanwhile", work.name());
        return Ok(());
    }
    let spread = |of: fn(&[f64; 2]) -> f64| Spread::of(all.iter().map(of));
    let ratio = spread(|[ours, peer]| ours / peer);
    println!(
        "ratio name={} clock=wall ours_per_s={:.0} peer_per_s={:.0} r={ratio:.3}",
        work.name(),
        spread(|[ours, _]| *ours),
        spread(|[_, peer]| *peer)
    );
    judge(work, "wall", ratio.median);
    Ok(())
}

fn judge(work: &dyn Work, clock: &str, found: f64) {
    if !cfg!(debug_assertions) {
        let kept = if found >= work.promised() { "kept" } else { "MISSED" };
        let (name, limit) = (work.name(), work.promised());
        println!("promise name={name} clock={clock} limit={limit} found={found:.3} {kept}");
    }
}
