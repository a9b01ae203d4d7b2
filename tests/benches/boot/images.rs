//! Images from the image builder that differ in nothing but `/init`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use casemate_image::assemble::{self, InitBinary, Plan};
use casemate_image::progress::Progress;

use crate::plan::{self, Demo};

/// The document that boots: the demo's, with its two services.
const DOCUMENT: &str = "configs/demo.app-compose.json";

/// Until the kernel has nothing left to do: 1.4 s by instructions.
const SETTLE_SECONDS: u32 = 8;

/// Image directories.
pub(crate) struct Images {
    /// With our init.
    pub(crate) ours: PathBuf,
    /// With the C init.
    pub(crate) floor: PathBuf,
    /// With the C init that sleeps before it starts.
    pub(crate) settled: PathBuf,
}

impl Images {
    /// Builds them, with progress on standard error: our init is compiled as for every development image.
    pub(crate) fn build() -> anyhow::Result<Self> {
        let progress = Progress::new();
        let Demo { place, plan } = plan::demo("bench-boot", Path::new(DOCUMENT), &progress)?;
        let ours = plan::build(&plan, &progress)?;
        let floor = with_c_init(&plan, &place, "cinit", 0, &progress)?;
        let settled = with_c_init(&plan, &place, "cinit-settled", SETTLE_SECONDS, &progress)?;
        for same in ["bzImage", "cmdline"] {
            let read = |image: &Path| fs::read(image.join(same)).with_context(|| image.display().to_string());
            ensure!(read(&ours)? == read(&floor)?, "{same}: expected the same in every image");
            ensure!(read(&ours)? == read(&settled)?, "{same}: expected the same in every image");
        }
        Ok(Self { ours, floor, settled })
    }
}

/// The same image with the C init, which first sleeps so long.
fn with_c_init(
    plan: &Plan,
    place: &Path,
    name: &str,
    settle_seconds: u32,
    progress: &Progress,
) -> anyhow::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/boot/cinit.c");
    let init = place.join(name);
    let mut compiler = Command::new("cc");
    compiler.args(["-static", "-O2", "-Wall", "-Wextra", "-Werror"]);
    compiler.arg(format!("-DSETTLE_SECONDS={settle_seconds}")).arg("-o").arg(&init).arg(&source);
    let status =
        compiler.status().context("cc: expected a C compiler with a static C library (gcc, libc6-dev)")?;
    ensure!(status.success(), "cc could not compile {}", source.display());
    let plan = Plan { out: place.join(format!("{name}-image")), ..plan.clone() };
    Ok(assemble::build(&plan, |_| InitBinary::prebuilt(&init), progress)?.out)
}
