//! From packages, the init binary, a document and workloads to an image directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use casemate_measure::dstack_image::{self, Metadata};
use casemate_measure::image::{FileDigest, Flavor, ImageManifest, Input};
use casemate_measure::tdx::rtmr2;
use casemate_measure::{LaunchRegisters, MeasuredConfig, Platform};
use sha2::{Digest as _, Sha256};

use crate::cmdline;
use crate::deb::Deb;
use crate::error::{ImageError, Result};
use crate::initramfs::Contents;
use crate::io::output::{self, Staged};
use crate::io::store::Store;
use crate::json;
use crate::kernel;
use crate::lock::{KernelLock, Pinned, Role};
use crate::modules::{Available, Loaded, WANTED};
use crate::path::MemberPath;
use crate::progress::{Progress, megabytes};
use crate::tree::{Node, Tree};
use crate::uki;
use crate::workload::{self, Workload, WorkloadSpec};

/// The manifest's file name, by which an image directory is known.
pub const MANIFEST: &str = "manifest.json";
/// Where the `systemd-boot-efi` package has the stub.
const STUB: &str = "usr/lib/systemd/boot/efi/linuxx64.efi.stub";
/// Where the `ovmf` package has its firmware: code and variables in one file, for `-bios`.
const OVMF: &str = "usr/share/ovmf/OVMF.fd";

// What dstack's metadata names.
const KERNEL: &str = "bzImage";
const INITRAMFS: &str = "initramfs.cpio.zst";
const FIRMWARE: &str = "ovmf.fd";
const METADATA: &str = "metadata.json";
/// The release of dstack's guest that ours stands in for: one whose VMM binds MRCONFIGID and whose KMS reads the boot events
/// that PID 1 writes.
const DSTACK_VERSION: &str = "0.5.11";

/// What to build, and from what.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which init binary it carries, and which command line.
    pub flavor: Flavor,
    /// The document to bake in.
    pub document: Option<PathBuf>,
    /// The roots of its services.
    pub workloads: Vec<WorkloadSpec>,
    /// The pinned packages.
    pub lock: KernelLock,
    /// Where they come from.
    pub store: Store,
    /// Kernel plus initramfs may have at most so many bytes.
    pub max_size: Option<u64>,
    /// The image directory; replaced if it is one.
    pub out: PathBuf,
}

/// The init binary without a manifest, and what it was made of.
#[derive(Clone, Debug)]
pub struct InitBinary {
    /// The ELF file.
    pub bytes: Vec<u8>,
    /// `init` or `init-prebuilt`, then lock file, compiler, the packages of the toolchain.
    pub inputs: Vec<Input>,
}

/// An image directory that was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// Where it is.
    pub out: PathBuf,
    /// Its manifest.
    pub manifest: ImageManifest,
}

impl InitBinary {
    /// A binary that somebody else compiled. The image says so in its manifest.
    ///
    /// # Errors
    /// If it cannot be read or is no ELF file.
    pub fn prebuilt(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(ImageError::at(path))?;
        if !bytes.starts_with(b"\x7fELF") {
            return Err(ImageError::form(
                path.display().to_string(),
                "--init",
                "an ELF file",
                "something else",
            ));
        }
        let inputs = vec![input("init-prebuilt", "init", &bytes)];
        Ok(Self { bytes, inputs })
    }
}

/// Builds. `init` is called when everything cheaper has been checked.
///
/// # Errors
/// The first thing that is wrong; then there is no output directory, or the old one untouched.
pub fn build(
    plan: &Plan,
    init: impl FnOnce(&Progress) -> Result<InitBinary>,
    progress: &Progress,
) -> Result<Built> {
    output::check(&plan.out, MANIFEST)?;
    let document = plan.document.as_deref().map(read_document).transpose()?;
    let workloads = read_workloads(plan, progress)?;
    if let Some(document) = &document {
        workload::check(&document.file, document.config.section(), &workloads)?;
        progress.say(format_args!(
            "document: {} ({} services), compose hash {}",
            document.config.name(),
            document.config.section().services.len(),
            document.config.compose_hash()
        ));
    } else {
        progress.say("document: none baked in");
    }

    let mut parts = Parts::read(&plan.lock, &plan.store, progress)?;
    let init = init(progress)?;
    let os_release = uki::os_release(plan.flavor);
    let contents = Contents {
        init: &init.bytes,
        os_release: &os_release,
        modules: &parts.modules,
        document: document.as_ref().map(|d| d.bytes.as_slice()),
        workloads: &workloads,
        epoch: plan.lock.epoch,
    };
    progress.say("initramfs: packing and compressing");
    let initramfs = contents.build()?;
    let total = (parts.kernel.len() as u64).saturating_add(initramfs.len() as u64);
    progress.say(format_args!(
        "initramfs: {} compressed; kernel and initramfs {total} bytes ({})",
        megabytes(initramfs.len() as u64),
        megabytes(total)
    ));
    if let Some(limit) = plan.max_size.filter(|limit| total > *limit) {
        return Err(ImageError::TooBig { found: total, limit });
    }

    let cmdline = cmdline::of(plan.flavor);
    let registers = LaunchRegisters { rtmr2: rtmr2::register(&cmdline, &initramfs), ..LaunchRegisters::ZERO };
    let mut inputs = std::mem::take(&mut parts.inputs);
    inputs.extend(init.inputs);
    inputs.extend(document.iter().map(|d| input("document", "app-compose.json", &d.bytes)));
    inputs.extend(workloads.iter().map(|w| Input {
        kind: "workload".into(),
        name: w.name.to_string(),
        version: w.package.as_ref().map(Pinned::title),
        sha256: w.sha256,
        license: w.package.as_ref().map(|package| package.license.clone()),
        source: w.package.as_ref().map(Pinned::source_offer),
    }));
    let unified = uki::Parts {
        stub: &parts.stub,
        os_release: &os_release,
        cmdline: &cmdline,
        release: &parts.release,
        initramfs: &initramfs,
        kernel: &parts.kernel,
    };
    let unified = unified.assemble()?;
    progress.say(format_args!("unified kernel image: {}", megabytes(unified.len() as u64)));
    let registers = json::pretty("registers.json", &registers)?;
    let dstack = DstackFiles::of(plan.flavor, &cmdline, &parts, &initramfs)?;
    let outputs: [(&str, &[u8]); 9] = [
        (KERNEL, &parts.kernel),
        (INITRAMFS, &initramfs),
        ("cmdline", cmdline.as_bytes()),
        (FIRMWARE, &parts.firmware),
        (uki::FILE, &unified),
        ("registers.json", registers.as_bytes()),
        (METADATA, dstack.metadata.as_bytes()),
        ("sha256sum.txt", dstack.sha256sum.as_bytes()),
        ("digest.txt", dstack.digest.as_bytes()),
    ];
    let manifest = ImageManifest {
        version: 1,
        flavor: plan.flavor,
        outputs: outputs.iter().map(|(name, bytes)| ((*name).to_owned(), digest(bytes))).collect(),
        inputs,
    };
    // Only now, so that a build that is interrupted leaves nothing beside the output either.
    let staged = Staged::beside(&plan.out, MANIFEST)?;
    for (name, bytes) in outputs {
        staged.file(name, bytes)?;
    }
    staged.file(MANIFEST, json::pretty(MANIFEST, &manifest)?.as_bytes())?;
    let out = staged.commit()?;
    progress.say(format_args!("image: {}", out.display()));
    Ok(Built { out, manifest })
}

struct Document {
    file: String,
    bytes: Vec<u8>,
    config: MeasuredConfig,
}

fn read_document(path: &Path) -> Result<Document> {
    let bytes = std::fs::read(path).map_err(ImageError::at(path))?;
    let file = path.display().to_string();
    let config = MeasuredConfig::parse(&file, &bytes, Platform::Appliance)
        .map_err(|error| ImageError::Document(error.to_string()))?;
    Ok(Document { file, bytes, config })
}

/// In the order of their names, so that the order on the command line does not matter.
fn read_workloads(plan: &Plan, progress: &Progress) -> Result<Vec<Workload>> {
    let mut workloads: BTreeMap<String, Workload> = BTreeMap::new();
    for spec in &plan.workloads {
        let workload = Workload::read(spec)?;
        progress.say(format_args!(
            "workload {}: {} members, {}",
            spec.name,
            workload.tree.len(),
            megabytes(workload.tree.size())
        ));
        if workloads.insert(spec.name.to_string(), workload).is_some() {
            return Err(ImageError::Usage(format!("--workload {}: given twice", spec.name)));
        }
    }
    Ok(workloads.into_values().collect())
}

/// What the pinned packages give.
pub(crate) struct Parts {
    kernel: Vec<u8>,
    /// The kernel's release.
    release: String,
    firmware: Vec<u8>,
    stub: Vec<u8>,
    modules: Vec<Loaded>,
    inputs: Vec<Input>,
}

impl Parts {
    /// Has the packages of every role of an image, checks them, and takes out what an image needs.
    pub(crate) fn read(lock: &KernelLock, store: &Store, progress: &Progress) -> Result<Self> {
        let pinned = Role::IMAGE.into_iter().map(|role| lock.role(role)).collect::<Result<Vec<_>>>()?;
        let packages = store.packages(&pinned, progress)?;
        let total = pinned.iter().map(|p| p.size).fold(0, u64::saturating_add);
        progress.say(format_args!("packages: {} checked ({})", pinned.len(), megabytes(total)));

        let files = |role: Role, wanted: &dyn Fn(&MemberPath) -> bool| -> Result<(String, Tree)> {
            let package = lock.role(role)?;
            let at = pinned.iter().position(|p| p.role == role).and_then(|index| packages.get(index));
            let bytes = at.map_or(&[][..], Vec::as_slice);
            Ok((package.package.clone(), Deb::parse(&package.pool_name(), bytes)?.files(wanted)?))
        };
        let (package, tree) = files(Role::Kernel, &|path| path.name().starts_with("vmlinuz"))?;
        let kernel = only_file(&package, "vmlinuz", &tree)?.to_vec();
        let release = kernel::release(&package, &kernel)?.to_owned();
        let (package, tree) = files(Role::Firmware, &|path| path.as_str() == OVMF)?;
        let firmware = only_file(&package, OVMF, &tree)?.to_vec();
        let (package, tree) = files(Role::UefiStub, &|path| path.as_str() == STUB)?;
        let stub = only_file(&package, STUB, &tree)?.to_vec();
        let (package, tree) = files(Role::KernelBase, &|path| path.name() == "modules.builtin")?;
        let builtin = String::from_utf8_lossy(only_file(&package, "modules.builtin", &tree)?).into_owned();
        let (package, tree) = files(Role::Modules, &|path| path.as_str().contains("/kernel/"))?;
        let modules = Available::new(&package, &tree, &builtin).closure(WANTED, &release)?;
        let size = modules.iter().map(|m| m.content.len() as u64).fold(0, u64::saturating_add);
        progress.say(format_args!("kernel {release}: {} modules ({})", modules.len(), megabytes(size)));
        let inputs = pinned.into_iter().map(|package| package_input("package", package)).collect();
        Ok(Self { kernel, release, firmware, stub, modules, inputs })
    }
}

/// What makes the directory one of dstack's.
struct DstackFiles {
    metadata: String,
    sha256sum: String,
    digest: String,
}

impl DstackFiles {
    fn of(flavor: Flavor, cmdline: &str, parts: &Parts, initramfs: &[u8]) -> Result<Self> {
        let metadata = Metadata {
            bios: FIRMWARE.into(),
            kernel: KERNEL.into(),
            cmdline: cmdline.into(),
            initrd: INITRAMFS.into(),
            version: DSTACK_VERSION.into(),
            shared_ro: true,
            is_dev: flavor == Flavor::Dev,
            ovmf_variant: dstack_image::PRE_202505.into(),
        };
        let metadata = json::pretty(METADATA, &metadata)?;
        let files: [(&str, &[u8]); 4] = [
            (FIRMWARE, &parts.firmware),
            (KERNEL, &parts.kernel),
            (INITRAMFS, initramfs),
            (METADATA, metadata.as_bytes()),
        ];
        let sha256sum =
            dstack_image::sha256sum(&files.map(|(name, bytes)| (name, Sha256::digest(bytes).into())));
        let digest = dstack_image::digest_line(&dstack_image::os_image_hash(&sha256sum));
        Ok(Self { metadata, sha256sum, digest })
    }
}

fn only_file<'a>(package: &str, what: &str, tree: &'a Tree) -> Result<&'a [u8]> {
    let files: Vec<&[u8]> = tree
        .iter()
        .filter_map(|(_, node)| match node {
            Node::File { content, .. } => Some(content.as_ref()),
            Node::Directory | Node::Symlink { .. } => None,
        })
        .collect();
    match files.as_slice() {
        [one] => Ok(one),
        other => {
            Err(ImageError::form(package, what, "one such file in the package", other.len().to_string()))
        }
    }
}

/// A pinned package as an input.
pub(crate) fn package_input(kind: &str, package: &Pinned) -> Input {
    Input {
        kind: kind.to_owned(),
        name: package.package.clone(),
        version: Some(package.version.clone()),
        sha256: package.sha256,
        license: Some(package.license.clone()),
        source: Some(package.source_offer()),
    }
}

/// An input without version, licence or source.
pub(crate) fn input(kind: &str, name: &str, bytes: &[u8]) -> Input {
    Input {
        kind: kind.to_owned(),
        name: name.to_owned(),
        version: None,
        sha256: Sha256::digest(bytes).into(),
        license: None,
        source: None,
    }
}

fn digest(bytes: &[u8]) -> FileDigest {
    FileDigest { size: bytes.len() as u64, sha256: Sha256::digest(bytes).into() }
}

#[cfg(test)]
mod tests;
