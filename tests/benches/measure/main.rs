//! What it costs to compute every expected register of our image, against a plain SHA-384 over the same bytes.
//!
//! ```sh
//! cargo bench -p casemate-tests --bench measure                        # 9 rounds by the clock, and instructions
//! cargo bench -p casemate-tests --bench measure -- --image DIR         # of an image that is there already
//! cargo test -p casemate-tests --bench measure -- --image DIR          # smoke: one round, by the clock
//! ```
//!
//! The profile is `bench`, which is what is released: our crates for size, with LTO, SHA-2 for speed. Ours is all that
//! `cargo measure image` does between reading and printing, but for `os_image_hash`: the captured ACPI tables and the
//! SHA-256 of the firmware that finds the machine's in them are in it. The unified kernel image has no promise: kernel and
//! initramfs are in several of its digests, none of which is a part of another. Nor have the alternatives of `--json`.
//!
//! Instructions are counted by valgrind, in processes of their own that measure once; what a process does that only reads
//! the files is taken off. Its processor has no SHA instructions, which makes SHA-256 look dearer than it is.

#[path = "../boot/figures.rs"]
mod figures;
mod instructions;
#[path = "../boot/plan.rs"]
#[expect(dead_code, reason = "the boot bench puts more into its folder")]
mod plan;
mod work;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail};
use casemate_image::progress::Progress;

use crate::figures::{Spread, control_ms};
use crate::work::{CASES, Case, Files, Work};

/// The promise (issue 5): so many times a plain SHA-384 over the same bytes.
const PROMISED: f64 = 1.5;
/// How far the host may drift during a measurement by its time (the protocol of every bench): beyond it, no figures.
const DRIFT: f64 = 0.25;
/// The document of the image, which the registers of a boot follow from.
pub(crate) const DOCUMENT: &str = "configs/demo.app-compose.json";

fn main() -> ExitCode {
    match bench() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("measure bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the command line asks for.
struct Asked {
    rounds: usize,
    /// Whether instructions are counted, too.
    count: bool,
    image: Option<PathBuf>,
    /// In a process under valgrind: the one thing to do.
    only: Option<(Case, Work)>,
}

impl Asked {
    /// `cargo bench` says `--bench`, `cargo test` does not.
    fn from_arguments() -> anyhow::Result<Self> {
        let mut asked = Self { rounds: 1, count: false, image: None, only: None };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().with_context(|| format!("{argument}: expected a value, found nothing"));
            match argument.as_str() {
                "--bench" => (asked.rounds, asked.count) = (9, true),
                "--image" => asked.image = Some(value()?.into()),
                "--only" => asked.only = Some((Case::of(&value()?)?, Work::of(&value()?)?)),
                other => bail!("expected --image DIR, found {other:?}"),
            }
        }
        Ok(asked)
    }
}

fn bench() -> anyhow::Result<()> {
    let asked = Asked::from_arguments()?;
    let image = match asked.image {
        Some(image) => image,
        None => {
            let progress = Progress::new();
            let demo = plan::demo("bench-measure", Path::new(DOCUMENT), &progress)?;
            plan::build(&demo.plan, &progress)?
        }
    };
    let files = Files::read(&image)?;
    if let Some((case, work)) = asked.only {
        return work.run(&files, case);
    }
    println!(
        "# profile {}",
        if cfg!(debug_assertions) { "dev: not what is released, and no promise" } else { "bench" }
    );
    println!("# load average {}", std::fs::read_to_string("/proc/loadavg")?.trim_end());
    let [firmware, kernel, initramfs, uki] = files.lengths();
    println!("# bytes firmware={firmware} kernel={kernel} initramfs={initramfs} uki={uki}");
    for case in CASES {
        by_the_clock(&files, case, asked.rounds)?;
    }
    if !asked.count {
        return Ok(());
    }
    if let Err(error) = instructions::available() {
        println!("SKIPPED: instructions are not counted: {error:#}");
        return Ok(());
    }
    for case in CASES {
        let count = |work| instructions::of(&image, case, work);
        let nothing = count(Work::Nothing)?;
        let of = |work| anyhow::Ok(count(work)?.saturating_sub(nothing));
        let (ours, peer) = (of(Work::Registers)?, of(Work::Plain)?);
        let ratio = ours as f64 / peer as f64;
        let name = case.word();
        println!("ratio name={name} clock=instructions ours={ours} peer={peer} r={ratio:.3}");
        judge(case, "instructions", ratio);
        let more = of(Work::Alternatives)? as f64 / peer as f64;
        println!("ratio name={name}-with-alternatives clock=instructions r={more:.3}");
    }
    Ok(())
}

/// In turn, so that what disturbs one disturbs the other.
fn by_the_clock(files: &Files, case: Case, rounds: usize) -> anyhow::Result<()> {
    let before = control_ms();
    let mut all = Vec::new();
    for _ in 0..rounds {
        let time = |work: Work| {
            let begin = Instant::now();
            work.run(files, case)?;
            anyhow::Ok(begin.elapsed().as_secs_f64() * 1000.0)
        };
        all.push([time(Work::Plain)?, time(Work::Registers)?, time(Work::Alternatives)?]);
    }
    let after = control_ms();
    let name = case.word();
    println!("control name=sha256 before_ms={before:.0} after_ms={after:.0}");
    if (after / before - 1.0).abs() > DRIFT {
        println!("no figures name={name}: the host's own speed changed by more than 25 % meanwhile");
        return Ok(());
    }
    let spread = |of: fn(&[f64; 3]) -> f64| Spread::of(all.iter().map(of));
    let ratio = spread(|[plain, registers, _]| registers / plain);
    println!(
        "ratio name={name} clock=wall ours_ms={:.1} peer_ms={:.1} r={ratio:.3}",
        spread(|[_, registers, _]| *registers),
        spread(|[plain, ..]| *plain)
    );
    judge(case, "wall", ratio.median);
    let more = spread(|[plain, _, alternatives]| alternatives / plain);
    println!("ratio name={name}-with-alternatives clock=wall r={more:.3}");
    Ok(())
}

fn judge(case: Case, clock: &str, found: f64) {
    if case.promised() && !cfg!(debug_assertions) {
        let kept = if found <= PROMISED { "kept" } else { "MISSED" };
        println!("promise name={} clock={clock} limit={PROMISED} found={found:.3} {kept}", case.word());
    }
}
