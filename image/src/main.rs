//! `casemate-image`: builds, pins and reproduces image directories.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use casemate_image::assemble::{self, InitBinary, Plan};
use casemate_image::io::compile::{Compiler, TOOLCHAIN_LOCK};
use casemate_image::io::directory;
use casemate_image::io::store::{Mirror, Store};
use casemate_image::lock::{KernelLock, Role};
use casemate_image::progress::Progress;
use casemate_image::toolchain::ToolchainLock;
use casemate_image::workload::WorkloadSpec;
use casemate_image::{compare, demo, relock, reproduce};
use casemate_measure::image::Flavor;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Which packages an image is made of, in the workspace.
const KERNEL_LOCK: &str = "image/kernel.lock";
/// `diff`: what was given is no image (sysexits.h `EX_USAGE`).
const USAGE: u8 = 64;

/// Deterministic builder of the appliance image.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build an image directory.
    Build(Build),
    /// Check the pinned packages, or pin what the suites have now.
    Lock(Lock),
    /// Build the same image from two places and compare every byte.
    Reproduce(Reproduce),
    /// Say what differs between two images: every input by its name, then the first file or member. Exit status 0 if nothing
    /// does, 1 if something does, 64 if one of them is no image.
    Diff(Diff),
    /// Make the root directory of a workload from a pinned package.
    Workload(Workload),
}

#[derive(Clone, Copy, ValueEnum)]
enum FlavorWord {
    /// Console and simulated TEE.
    Dev,
    /// Neither.
    Prod,
}

#[derive(Args)]
struct Build {
    /// Which init binary and command line.
    #[arg(long)]
    flavor: FlavorWord,
    /// The measured document (app-compose.json) to bake in.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A service's root: a directory, or an OCI or `docker save` archive.
    #[arg(long = "workload", value_name = "NAME=PATH")]
    workloads: Vec<WorkloadSpec>,
    /// The image directory; an existing image there is replaced.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// A prebuilt static init instead of compiling; manifest.json says so.
    #[arg(long, value_name = "PATH")]
    init: Option<PathBuf>,
    /// A folder with the pinned packages, or a Debian mirror's address.
    #[arg(long, value_name = "DIR|URL")]
    mirror: Option<String>,
    /// Parallel jobs of the compiler.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    jobs: Option<u32>,
    /// Fail if kernel and initramfs have more bytes together.
    #[arg(long, value_name = "BYTES")]
    max_size: Option<u64>,
}

#[derive(Args)]
struct Lock {
    /// Ask apt for the newest versions and write them to image/kernel.lock and image/toolchain.lock.
    #[arg(long)]
    update: bool,
    /// Only the toolchain's packages.
    #[arg(long)]
    toolchain: bool,
    /// A folder with the pinned packages, or a Debian mirror's address.
    #[arg(long, value_name = "DIR|URL")]
    mirror: Option<String>,
}

#[derive(Args)]
struct Reproduce {
    /// Which flavour; otherwise that of side A, or prod.
    #[arg(long)]
    flavor: Option<FlavorWord>,
    /// The measured document to bake in.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A service's root, as for build.
    #[arg(long = "workload", value_name = "NAME=PATH")]
    workloads: Vec<WorkloadSpec>,
    /// An image that was built already, as side A: only side B is built.
    #[arg(long, value_name = "DIR")]
    side_a: Option<PathBuf>,
    /// Where to work (kept); a temporary folder otherwise.
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// A prebuilt init for both sides: compares everything but the compiler's work.
    #[arg(long, value_name = "PATH")]
    init: Option<PathBuf>,
    /// As for build.
    #[arg(long, value_name = "DIR|URL")]
    mirror: Option<String>,
}

#[derive(Args)]
struct Diff {
    /// An image directory.
    a: PathBuf,
    /// Another.
    b: PathBuf,
}

#[derive(Args)]
struct Workload {
    /// Which.
    which: WorkloadWord,
    /// The directory to make; an earlier one is replaced.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// As for build.
    #[arg(long, value_name = "DIR|URL")]
    mirror: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum WorkloadWord {
    /// Debian's static busybox with the pages of configs/demo/www.
    Busybox,
}

impl From<FlavorWord> for Flavor {
    fn from(word: FlavorWord) -> Self {
        match word {
            FlavorWord::Dev => Self::Dev,
            FlavorWord::Prod => Self::Prod,
        }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().command, &Progress::new()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("casemate-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, progress: &Progress) -> anyhow::Result<ExitCode> {
    match command {
        Command::Build(build) => run_build(&workspace()?, build, progress)?,
        Command::Lock(lock) => run_lock(&workspace()?, &lock, progress)?,
        Command::Reproduce(reproduce) => run_reproduce(workspace()?, reproduce, progress)?,
        Command::Workload(workload) => run_workload(&workspace()?, &workload, progress)?,
        Command::Diff(diff) => return Ok(run_diff(&diff)),
    }
    Ok(ExitCode::SUCCESS)
}

fn run_reproduce(workspace: PathBuf, args: Reproduce, progress: &Progress) -> anyhow::Result<()> {
    let request = reproduce::Request {
        workspace,
        flavor: args.flavor.map(Flavor::from),
        document: args.config,
        workloads: args.workloads,
        mirror: args.mirror.as_deref().map(Mirror::parse),
        init: args.init,
        side_a: args.side_a,
        work: args.work,
    };
    let builder = std::env::current_exe().context("this program's own path")?;
    Ok(reproduce::run(&request, &builder, progress)?)
}

fn run_workload(workspace: &Path, args: &Workload, progress: &Progress) -> anyhow::Result<()> {
    let WorkloadWord::Busybox = args.which;
    let lock = KernelLock::read(&workspace.join(KERNEL_LOCK))?;
    let package = lock.role(Role::DemoWorkload)?;
    let packages = store(args.mirror.as_deref())?.packages(&[package], progress)?;
    let bytes = packages.first().map_or(&[][..], Vec::as_slice);
    let tree = demo::busybox(package, bytes, &workspace.join("configs/demo/www"))?;
    directory::replace(&tree, &args.out, "bin/busybox")?;
    progress.say(format_args!("workload: {}", args.out.display()));
    Ok(())
}

/// An answer, not a success: what cannot be compared has a status of its own.
fn run_diff(diff: &Diff) -> ExitCode {
    match compare::images(&diff.a, &diff.b) {
        Ok(lines) if lines.is_empty() => {
            println!("the same, byte by byte");
            ExitCode::SUCCESS
        }
        Ok(lines) => {
            for line in lines {
                println!("{}", printable(&line));
            }
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("casemate-image: {}", printable(&error.to_string()));
            ExitCode::from(USAGE)
        }
    }
}

/// Names in a stranger's image must not reach the terminal as commands for it.
fn printable(line: &str) -> String {
    let shown = |c: char| {
        if c == ' ' || c.is_ascii_graphic() { c.to_string() } else { c.escape_unicode().to_string() }
    };
    line.chars().map(shown).collect()
}

fn run_lock(workspace: &Path, lock: &Lock, progress: &Progress) -> anyhow::Result<()> {
    let (kernel, toolchain) = (workspace.join(KERNEL_LOCK), workspace.join(TOOLCHAIN_LOCK));
    let mirror = lock.mirror.as_deref().map(Mirror::parse);
    if !lock.update {
        let store = Store::new(mirror)?;
        if !lock.toolchain {
            relock::verify(&KernelLock::read(&kernel)?.packages, &store, progress)?;
        }
        return Ok(relock::verify(&ToolchainLock::read(&toolchain)?.packages, &store, progress)?);
    }
    let store = Store::new(None)?;
    // Both are there before the first is written.
    let new = relock::update_toolchain(&store, mirror.as_ref(), progress)?;
    if !lock.toolchain {
        let new = relock::update(&store, mirror.as_ref(), progress)?;
        relock::write(&kernel, &new.render()?)?;
        progress.say(format_args!("lock: {}", kernel.display()));
    }
    relock::write(&toolchain, &new.render()?)?;
    progress.say(format_args!("lock: {}", toolchain.display()));
    Ok(())
}

fn run_build(workspace: &Path, build: Build, progress: &Progress) -> anyhow::Result<()> {
    let flavor = build.flavor.into();
    let plan = Plan {
        flavor,
        document: build.config,
        workloads: build.workloads,
        lock: KernelLock::read(&workspace.join(KERNEL_LOCK))?,
        store: store(build.mirror.as_deref())?,
        max_size: build.max_size,
        out: build.out,
    };
    let compiler = Compiler {
        workspace: workspace.to_owned(),
        flavor,
        danger: None,
        jobs: build.jobs,
        epoch: plan.lock.epoch,
    };
    let init = |progress: &Progress| match &build.init {
        Some(path) => InitBinary::prebuilt(path),
        None => compiler.compile_with(&plan.store, progress),
    };
    assemble::build(&plan, init, progress)?;
    Ok(())
}

fn store(mirror: Option<&str>) -> anyhow::Result<Store> {
    Ok(Store::new(mirror.map(Mirror::parse))?)
}

/// cargo says where this package is (`cargo image …`); started otherwise, the folder above that has the lock.
fn workspace() -> anyhow::Result<PathBuf> {
    let has_lock = |dir: &Path| dir.join(KERNEL_LOCK).is_file() || dir.join("image/Cargo.toml").is_file();
    let start = match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(package) => PathBuf::from(package),
        None => std::env::current_dir().context("current directory")?,
    };
    start
        .ancestors()
        .find(|dir| has_lock(dir))
        .map(Path::to_owned)
        .with_context(|| format!("no casemate workspace in {} or above it", start.display()))
}
