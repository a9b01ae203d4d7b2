//! Builds libFuzzer's binary with coverage counters and runs the targets, as many at a time as there are processors.
//!
//! ```sh
//! cargo run -p casemate-fuzz --                          # every target for 10 seconds
//! cargo run -p casemate-fuzz -- --seconds 600 quote dhcp # some of them for longer
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, bail, ensure};
use casemate_fuzz::{PLANTED, TARGETS, Target, seeds};

/// One input may take that long, seconds: a busy machine is no finding, a loop is.
const ONE_INPUT: u32 = 20;
/// Resident memory, MiB, beyond which an input is a finding.
const MEMORY: u32 = 1024;

fn main() -> ExitCode {
    match fuzz() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("casemate-fuzz: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What the command line asks for.
struct Asked {
    seconds: u32,
    targets: Vec<&'static Target>,
}

impl Asked {
    fn from_arguments() -> anyhow::Result<Self> {
        let mut asked = Self { seconds: 10, targets: Vec::new() };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            if argument == "--seconds" {
                let given = arguments.next().context("--seconds: expected a number, found nothing")?;
                asked.seconds = given.parse().with_context(|| format!("--seconds: {given:?}"))?;
                ensure!(asked.seconds > 0, "--seconds: expected at least 1, found 0");
                continue;
            }
            let names = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
            let target = Target::of_name(&argument).with_context(|| {
                format!("expected --seconds N or a target ({}), found {argument:?}", names())
            })?;
            asked.targets.push(target);
        }
        if asked.targets.is_empty() {
            // The control first: without it the others' silence means nothing.
            asked.targets = std::iter::once(&PLANTED).chain(TARGETS).collect();
        }
        Ok(asked)
    }
}

fn fuzz() -> anyhow::Result<bool> {
    let asked = Asked::from_arguments()?;
    let engine = build()?;
    let place = tempfile::Builder::new().prefix("casemate-fuzz.").tempdir()?;
    let next = AtomicUsize::new(0);
    let good = Mutex::new(0_usize);
    let workers = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(target) = asked.targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = run(&engine, target, asked.seconds, place.path());
                    match result {
                        Ok(line) => {
                            println!("fuzz {:<16} ok      {line}", target.name);
                            *good.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
                        }
                        Err(error) => println!("fuzz {:<16} FAILED  {error:#}", target.name),
                    }
                }
            });
        }
    });
    let good = good.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    println!("{good} of {} targets without a finding, {} s each", asked.targets.len(), asked.seconds);
    Ok(good == asked.targets.len())
}

/// The instrumented binary. Other packages are those of every other build of this profile: neither compiled again nor
/// counted.
fn build() -> anyhow::Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let top = package.join("../..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| top.join("target"), PathBuf::from);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--locked", "-p", "casemate-fuzz", "--features", "libfuzzer"])
        .args(["--bin", "casemate-fuzz-engine", "--target-dir"])
        .arg(&target)
        .current_dir(&top)
        .env("RUSTC_WORKSPACE_WRAPPER", package.join("rustc-with-coverage"));
    // What cargo says to this program of its package: ring's build script looks at it, and everything on top of ring would be
    // compiled now, and once more by the next build that is not started from here.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    ensure!(cargo.status().context("cargo")?.success(), "the instrumented binary could not be built");
    Ok(target.join("debug/casemate-fuzz-engine"))
}

/// Runs one target; what it did, or what it found.
fn run(engine: &Path, target: &Target, seconds: u32, place: &Path) -> anyhow::Result<String> {
    let place = place.join(target.name);
    let (corpus, found) = (place.join("corpus"), place.join("found"));
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&found)?;
    let log_path = place.join("log");
    let log = fs::File::create(&log_path)?;
    let status = Command::new(engine)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={}", target.max_len))
        .arg(format!("-timeout={ONE_INPUT}"))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args(["-print_final_stats=1", "-use_value_profile=1"])
        .arg(&corpus)
        .args(seeds::folders(target))
        .env("CASEMATE_FUZZ_TARGET", target.name)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .with_context(|| engine.display().to_string())?;
    let log = String::from_utf8_lossy(&fs::read(&log_path)?).into_owned();
    if target.name == PLANTED.name {
        ensure!(
            !status.success() && log.contains("the planted bug was found"),
            "the planted bug was not found"
        );
        return Ok("the planted bug was found".to_owned());
    }
    if !status.success() {
        bail!("{}\n{}", keep(&found)?, tail(&log));
    }
    let stats = stats(&log);
    let runs = stats.get("number_of_executed_units").copied().unwrap_or(0);
    let coverage = coverage(&log).context("it counted no coverage")?;
    let inputs = seeds::files(target)?.len();
    ensure!(runs > inputs, "{runs} inputs were tried, of which {inputs} are seeds");
    let new = fs::read_dir(&corpus)?.count();
    let memory = stats.get("peak_rss_mb").copied().unwrap_or(0);
    Ok(format!("runs={runs} coverage={coverage} seeds={inputs} new={new} peak_mb={memory}"))
}

/// `stat::NAME: NUMBER` lines.
fn stats(log: &str) -> BTreeMap<&str, usize> {
    let pairs = log.lines().filter_map(|line| line.strip_prefix("stat::")?.split_once(':'));
    pairs.filter_map(|(name, value)| Some((name, value.trim().parse().ok()?))).collect()
}

/// The last `cov: NUMBER`.
fn coverage(log: &str) -> Option<usize> {
    let after = log.rsplit_once(" cov: ")?.1;
    after.split_whitespace().next()?.parse().ok().filter(|coverage| *coverage > 0)
}

/// Copies the input that was found to where it outlives this run, and says how to try it again.
fn keep(found: &Path) -> anyhow::Result<String> {
    let Some(artifact) = fs::read_dir(found)?.next().transpose()? else {
        return Ok("no input was left behind".to_owned());
    };
    let kept = std::env::temp_dir().join(format!("casemate-{}", artifact.file_name().to_string_lossy()));
    fs::copy(artifact.path(), &kept)?;
    Ok(format!(
        "the input is {}: put it beside the target's seeds, and `cargo test -p casemate-fuzz` tries it",
        kept.display()
    ))
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
