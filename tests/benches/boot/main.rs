//! How long our init works from the start of userspace to ready, against a C init that loads the same modules in the same
//! order and does nothing else: same kernel, same command line, same members of the initramfs but `/init`, same machine.
//!
//! ```sh
//! cargo bench --profile dev -p casemate-tests --bench boot                   # both clocks, 3 rounds each
//! cargo bench --profile dev -p casemate-tests --bench boot -- --rounds 5
//! cargo test -p casemate-tests --bench boot                                  # smoke: one round, by instructions
//! ```
//!
//! Two clocks of the guest. *icount*: QEMU counts one nanosecond per instruction and jumps over idle time, so a busy host
//! changes nothing; the promise is judged by it. *plain*: the host's time, under TCG 10 to 50 times that of hardware, never
//! to be quoted as a boot time. The inits take turns; figures are medians, with the least and the most.
//!
//! When userspace starts, the kernel is not done (about 1.4 s by instructions are still to come), and whoever runs first
//! waits for it: the C init in its modules, ours mostly before them. So only totals can be compared. What the modules
//! take alone is measured by a third boot, of a C init that sleeps until the kernel is done.

mod figures;
mod images;
mod machine;
mod plan;
mod runs;

use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::figures::{Spread, control_ms};
use crate::images::Images;
use crate::runs::{Clock, Run};

/// The promise (design section 12): so many milliseconds of guest time more than the C init, by instructions.
const PROMISED_MS: f64 = 300.0;
/// How far the host may drift during a measurement by its time (the protocol of every bench): beyond it, no figures.
const DRIFT: f64 = 0.25;

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("boot bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench() -> anyhow::Result<()> {
    let asked = Asked::from_arguments()?;
    println!("# {}", machine::version()?);
    println!("# load average {}", std::fs::read_to_string("/proc/loadavg")?.trim_end());
    let images = Images::build()?;
    for &clock in asked.clocks {
        measure(clock, asked.rounds, &images)?;
    }
    Ok(())
}

/// What the command line asks for.
struct Asked {
    rounds: usize,
    clocks: &'static [Clock],
}

impl Asked {
    /// `cargo bench` says `--bench`, `cargo test` does not.
    fn from_arguments() -> anyhow::Result<Self> {
        let mut asked = Self { rounds: 1, clocks: &[Clock::Instructions] };
        let mut rounds = None;
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--bench" => asked = Self { rounds: 3, clocks: &[Clock::Instructions, Clock::Host] },
                "--rounds" => {
                    let given = arguments.next().context("--rounds: expected a number, found nothing")?;
                    rounds = Some(given.parse().with_context(|| format!("--rounds: {given:?}"))?);
                }
                other => bail!("expected --rounds N, found {other:?}"),
            }
        }
        match rounds {
            Some(0) => bail!("--rounds: expected at least 1, found 0"),
            Some(given) => asked.rounds = given,
            None => {}
        }
        Ok(asked)
    }
}

/// One boot of each.
struct Round {
    ours: Run,
    floor: Run,
    settled: Run,
}

fn measure(clock: Clock, rounds: usize, images: &Images) -> anyhow::Result<()> {
    let word = clock.word();
    let before = control_ms();
    let mut all = Vec::new();
    for round in 1..=rounds {
        let ours = runs::ours(&images.ours, clock).with_context(|| format!("{word}, round {round}, ours"))?;
        let floor =
            runs::c_init(&images.floor, clock).with_context(|| format!("{word}, round {round}, C init"))?;
        let settled = runs::c_init(&images.settled, clock)
            .with_context(|| format!("{word}, round {round}, C init after a sleep"))?;
        print_run(word, round, "ours", &ours);
        print_run(word, round, "cinit", &floor);
        print_run(word, round, "cinit-settled", &settled);
        all.push(Round { ours, floor, settled });
    }
    let after = control_ms();
    if let Some(last) = all.last() {
        print_stages(word, &last.ours);
    }
    println!("control clock={word} name=sha256 before_ms={before:.0} after_ms={after:.0}");
    if clock == Clock::Host && (after / before - 1.0).abs() > DRIFT {
        println!("no figures clock={word}: the host's own speed changed by more than 25 % meanwhile");
        return Ok(());
    }
    let spread = |of: fn(&Round) -> f64| Spread::of(all.iter().map(of));
    let (ours, floor) = (spread(|round| round.ours.total_ms()), spread(|round| round.floor.total_ms()));
    let ratio = spread(|round| round.ours.total_ms() / round.floor.total_ms());
    println!(
        "ratio name=boot-userspace clock={word} ours={:.0} peer={:.0} r={ratio:.2}",
        ours.median, floor.median
    );
    println!("modules clock={word} alone_ms={:.0}", spread(|round| round.settled.modules_ms));
    let difference = spread(|round| round.ours.total_ms() - round.floor.total_ms());
    println!("difference name=boot-userspace clock={word} ms={difference:.0}");
    if clock == Clock::Instructions {
        let kept = if difference.median <= PROMISED_MS { "kept" } else { "MISSED" };
        println!(
            "promise name=boot-userspace clock={word} limit_ms={PROMISED_MS} found_ms={:.0} {kept}",
            difference.median
        );
    }
    Ok(())
}

fn print_run(clock: &str, round: usize, who: &str, run: &Run) {
    println!(
        "run clock={clock} round={round} init={who} start_ms={:.0} total_ms={:.0} modules_ms={:.0}",
        run.start_ms,
        run.total_ms(),
        run.modules_ms
    );
}

/// Where our time went, in the last round.
fn print_stages(clock: &str, run: &Run) {
    for (stage, ms) in &run.stages {
        println!("stage clock={clock} ms={ms:.0} name={stage:?}");
    }
}
