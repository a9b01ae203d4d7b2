//! How the image builder makes a bench's image with our init.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use casemate_image::assemble::{self, Plan};
use casemate_image::demo;
use casemate_image::io::compile::Compiler;
use casemate_image::io::directory;
use casemate_image::io::store::Store;
use casemate_image::lock::{KernelLock, Role};
use casemate_image::progress::Progress;
use casemate_image::workload::WorkloadSpec;
use casemate_measure::image::Flavor;
use casemate_measure::section::DnsLabel;

/// The services of a bench's document; both have the demo's busybox for a root.
const SERVICES: [&str; 2] = ["web", "probe"];

/// A plan, and where its parts lie.
pub(crate) struct Demo {
    /// A folder of the bench's own: `busybox` is the services' root.
    pub(crate) place: PathBuf,
    /// For the development image.
    pub(crate) plan: Plan,
}

/// The top level of the tree.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Prepares an image of this document (from the top level of the tree).
pub(crate) fn demo(name: &str, document: &Path, progress: &Progress) -> anyhow::Result<Demo> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
    let store = Store::new(None)?;
    let lock = KernelLock::read(&workspace().join("image/kernel.lock"))?;

    let package = lock.role(Role::DemoWorkload)?;
    let packages = store.packages(&[package], progress)?;
    let unpacked = packages.first().context("the demo's workload: no package")?;
    let busybox = place.join("busybox");
    let tree = demo::busybox(package, unpacked, &workspace().join("configs/demo/www"))?;
    directory::replace(&tree, &busybox, "bin/busybox")?;

    let service = |name| {
        let name = DnsLabel::new(name).with_context(|| format!("service {name}"))?;
        anyhow::Ok(WorkloadSpec { name, path: busybox.clone() })
    };
    let plan = Plan {
        flavor: Flavor::Dev,
        document: Some(workspace().join(document)),
        workloads: SERVICES.map(service).into_iter().collect::<Result<_, _>>()?,
        lock,
        store,
        max_size: None,
        out: place.join("ours"),
    };
    Ok(Demo { place, plan })
}

/// Builds it: our init is compiled as for every development image.
pub(crate) fn build(plan: &Plan, progress: &Progress) -> anyhow::Result<PathBuf> {
    let compiler = Compiler {
        workspace: workspace(),
        flavor: plan.flavor,
        danger: None,
        jobs: None,
        epoch: plan.lock.epoch,
    };
    Ok(assemble::build(plan, |progress| compiler.compile(progress), progress)?.out)
}
