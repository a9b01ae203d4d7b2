//! Images: the demo's, built once by the image builder, and others made the same way or from its parts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, OnceLock};

use casemate_image::assemble::{self, InitBinary, Plan};
use casemate_image::io::compile::Compiler;
use casemate_image::io::directory;
use casemate_image::io::store::Store;
use casemate_image::lock::{KernelLock, Role};
use casemate_image::progress::Progress;
use casemate_image::{demo, workload::WorkloadSpec};
use casemate_measure::LaunchRegisters;
use casemate_measure::image::{FileDigest, Flavor, ImageManifest};
use casemate_measure::tdx::rtmr2;
use sha2::{Digest as _, Sha256};

/// The documents of the demo.
pub(crate) const DEMO: &str = "configs/demo.app-compose.json";

/// An image directory.
#[derive(Clone, Debug)]
pub(crate) struct Image(pub(crate) PathBuf);

impl Image {
    /// The demo's image, as `./qemu/up` builds it.
    pub(crate) fn demo() -> &'static Self {
        static IMAGE: LazyLock<Image> =
            LazyLock::new(|| Image::build("demo", Flavor::Dev, &workspace().join(DEMO)));
        &IMAGE
    }

    /// An image without a document, with [`tiny_init`] for an init: nothing of ours is compiled for it.
    pub(crate) fn tiny() -> &'static Self {
        static IMAGE: LazyLock<Image> = LazyLock::new(|| {
            let plan = Plan {
                flavor: Flavor::Dev,
                document: None,
                workloads: Vec::new(),
                lock: lock(),
                store: Store::new(None).unwrap(),
                max_size: None,
                out: place("tiny"),
            };
            let init = |_: &Progress| Ok(InitBinary { bytes: tiny_init().to_vec(), inputs: Vec::new() });
            Image(assemble::build(&plan, init, &Progress::silent()).unwrap().out)
        });
        &IMAGE
    }

    /// From a document that a test wrote; every service's root is the demo's busybox, called `web`.
    pub(crate) fn of(name: &str, document: &str) -> Self {
        let path = place(&format!("{name}.app-compose.json"));
        fs::write(&path, document).unwrap();
        Self::build(name, Flavor::Dev, &path)
    }

    /// Without a document: it comes on the host share.
    pub(crate) fn generic() -> &'static Self {
        static IMAGE: LazyLock<Image> = LazyLock::new(|| Image::build_of("generic", Flavor::Dev, None));
        &IMAGE
    }

    pub(crate) fn build(name: &str, flavor: Flavor, document: &Path) -> Self {
        Self::build_of(name, flavor, Some(document))
    }

    fn build_of(name: &str, flavor: Flavor, document: Option<&Path>) -> Self {
        let roots = ["web", "probe"].map(|service| (service, busybox()));
        Self::build_with(name, flavor, document, &roots, init(flavor))
    }

    /// With these services' roots, and this guest binary.
    pub(crate) fn build_with(
        name: &str,
        flavor: Flavor,
        document: Option<&Path>,
        roots: &[(&str, &Path)],
        init: &InitBinary,
    ) -> Self {
        let workload = |(service, path): &(&str, &Path)| WorkloadSpec {
            name: casemate_measure::section::DnsLabel::new(service).unwrap(),
            path: (*path).to_owned(),
        };
        let plan = Plan {
            flavor,
            document: document.map(Path::to_owned),
            workloads: roots.iter().map(workload).collect(),
            lock: lock(),
            store: Store::new(None).unwrap(),
            max_size: None,
            out: place(name),
        };
        let built = assemble::build(&plan, |_| Ok(init.clone()), &Progress::silent()).unwrap();
        Self(built.out)
    }

    /// This image with another initramfs; its manifest and registers follow.
    pub(crate) fn with_initramfs(&self, name: &str, initramfs: &[u8]) -> Self {
        let out = place(name);
        if out.exists() {
            // An earlier run's: written over, its links would change the image that they lead to.
            fs::remove_dir_all(&out).unwrap();
        }
        fs::create_dir(&out).unwrap();
        let mut manifest: ImageManifest =
            serde_json::from_slice(&fs::read(self.0.join("manifest.json")).unwrap()).unwrap();
        let cmdline = fs::read_to_string(self.0.join("cmdline")).unwrap();
        let registers =
            LaunchRegisters { rtmr2: rtmr2::register(&cmdline, initramfs), ..LaunchRegisters::ZERO };
        for (file, digest) in &mut manifest.outputs {
            let bytes = match file.as_str() {
                INITRAMFS => initramfs.to_vec(),
                "registers.json" => serde_json::to_vec(&registers).unwrap(),
                other => {
                    fs::hard_link(self.0.join(other), out.join(other)).unwrap();
                    continue;
                }
            };
            *digest = FileDigest { size: bytes.len() as u64, sha256: Sha256::digest(&bytes).into() };
            fs::write(out.join(file), bytes).unwrap();
        }
        fs::write(out.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
        Self(out)
    }

    pub(crate) fn initramfs(&self) -> Vec<u8> {
        fs::read(self.0.join(INITRAMFS)).unwrap()
    }
}

const INITRAMFS: &str = "initramfs.cpio.zst";

/// The guest binary, compiled once.
pub(crate) fn init(flavor: Flavor) -> &'static InitBinary {
    static DEV: OnceLock<InitBinary> = OnceLock::new();
    static PROD: OnceLock<InitBinary> = OnceLock::new();
    let slot = match flavor {
        Flavor::Dev => &DEV,
        Flavor::Prod => &PROD,
    };
    slot.get_or_init(|| {
        let compiler =
            Compiler { workspace: workspace(), flavor, danger: None, jobs: None, epoch: lock().epoch };
        compiler.compile(&Progress::silent()).unwrap()
    })
}

/// `tiny_init.c`, compiled.
pub(crate) fn tiny_init() -> &'static [u8] {
    static INIT: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let source = workspace().join("tests/boot/tiny_init.c");
        let out = place("tiny-init");
        let mut compiler = Command::new("cc");
        compiler.args(["-static", "-Os", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&out).arg(source);
        assert!(compiler.status().unwrap().success(), "cc, with a static C library (gcc, libc6-dev)");
        fs::read(out).unwrap()
    });
    &INIT
}

pub(crate) fn lock() -> KernelLock {
    KernelLock::read(&workspace().join("image/kernel.lock")).unwrap()
}

/// The demo's workload, from its pinned package.
pub(crate) fn busybox() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let lock = lock();
        let package = lock.role(Role::DemoWorkload).unwrap();
        let packages = Store::new(None).unwrap().packages(&[package], &Progress::silent()).unwrap();
        let tree = demo::busybox(package, &packages[0], &workspace().join("configs/demo/www")).unwrap();
        let out = place("busybox");
        directory::replace(&tree, &out, "bin/busybox").unwrap();
        out
    });
    &ROOT
}

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// In cargo's folder for what tests write, so that it goes with `cargo clean`, and each run replaces the last one's.
pub(crate) fn place(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("boot");
    fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}
