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
use casemate_image::{demo, relock, reproduce};
use casemate_measure::image::Flavor;
use clap::{Args, Parser, Subcommand, ValueEnum};

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
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("casemate-image: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command, progress: &Progress) -> anyhow::Result<()> {
    let workspace = workspace()?;
    let lock_path = workspace.join("image/kernel.lock");
    match command {
        Command::Build(build) => run_build(&workspace, &lock_path, build, progress),
        Command::Lock(lock) => run_lock(&workspace, &lock_path, &lock, progress),
        Command::Reproduce(args) => {
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
        Command::Workload(Workload { which: WorkloadWord::Busybox, out, mirror }) => {
            let lock = KernelLock::read(&lock_path)?;
            let package = lock.role(Role::DemoWorkload)?;
            let packages = store(mirror.as_deref())?.packages(&[package], progress)?;
            let bytes = packages.first().map_or(&[][..], Vec::as_slice);
            let tree = demo::busybox(package, bytes, &workspace.join("configs/demo/www"))?;
            directory::replace(&tree, &out, "bin/busybox")?;
            progress.say(format_args!("workload: {}", out.display()));
            Ok(())
        }
    }
}

fn run_lock(workspace: &Path, kernel: &Path, lock: &Lock, progress: &Progress) -> anyhow::Result<()> {
    let toolchain = workspace.join(TOOLCHAIN_LOCK);
    let mirror = lock.mirror.as_deref().map(Mirror::parse);
    if !lock.update {
        let store = Store::new(mirror)?;
        if !lock.toolchain {
            relock::verify(&KernelLock::read(kernel)?.packages, &store, progress)?;
        }
        return Ok(relock::verify(&ToolchainLock::read(&toolchain)?.packages, &store, progress)?);
    }
    let store = Store::new(None)?;
    // Both are there before the first is written.
    let new = relock::update_toolchain(&store, mirror.as_ref(), progress)?;
    if !lock.toolchain {
        let new = relock::update(&store, mirror.as_ref(), progress)?;
        relock::write(kernel, &new.render()?)?;
        progress.say(format_args!("lock: {}", kernel.display()));
    }
    relock::write(&toolchain, &new.render()?)?;
    progress.say(format_args!("lock: {}", toolchain.display()));
    Ok(())
}

fn run_build(workspace: &Path, lock_path: &Path, build: Build, progress: &Progress) -> anyhow::Result<()> {
    let flavor = build.flavor.into();
    let plan = Plan {
        flavor,
        document: build.config,
        workloads: build.workloads,
        lock: KernelLock::read(lock_path)?,
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
    let has_lock =
        |dir: &Path| dir.join("image/kernel.lock").is_file() || dir.join("image/Cargo.toml").is_file();
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
