//! An image directory, every file checked against `manifest.json` before anything starts from it.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use casemate_measure::LaunchRegisters;
use casemate_measure::image::{FileDigest, Flavor, ImageManifest};
use sha2::{Digest as _, Sha256};

use crate::argv::BootFiles;
use crate::error::Error;

/// What a machine needs of an image directory.
const NEEDED: [&str; 5] = ["bzImage", "initramfs.cpio.zst", "cmdline", "ovmf.fd", "registers.json"];
/// The kernel takes at most 2047 bytes (`COMMAND_LINE_SIZE`, arch/x86/include/asm/setup.h, less the NUL).
const CMDLINE_MAX: usize = 2047;

/// An image whose every output had the size and SHA-256 of the manifest. Only [`CheckedImage::open`] makes one.
#[derive(Clone, Debug)]
pub struct CheckedImage {
    dir: PathBuf,
    flavor: Flavor,
    cmdline: String,
    registers: LaunchRegisters,
    baked_document: Option<[u8; 32]>,
    workloads: Vec<String>,
}

impl CheckedImage {
    /// Reads the manifest and then every output that it lists.
    ///
    /// # Errors
    /// The first file that is missing, too short or long, different, or not of the form it should have.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let dir = std::fs::canonicalize(dir).map_err(Error::file(dir))?;
        if dir.to_str().is_none() {
            return Err(Error::PathText(dir));
        }
        let manifest_path = dir.join("manifest.json");
        let text = std::fs::read(&manifest_path).map_err(Error::file(&manifest_path))?;
        let manifest: ImageManifest = serde_json::from_slice(&text).map_err(|source| Error::Json {
            path: manifest_path.clone(),
            expected: "an image manifest",
            source,
        })?;
        let wrong = |field: &str, expected: &str, found: String| Error::Image {
            path: manifest_path.clone(),
            field: field.into(),
            expected: expected.into(),
            found,
        };
        if manifest.version != 1 {
            return Err(wrong("version", "1", manifest.version.to_string()));
        }
        if let Some(absent) = NEEDED.iter().find(|name| !manifest.outputs.contains_key(**name)) {
            return Err(wrong("outputs", absent, "no such entry".into()));
        }
        for (name, digest) in &manifest.outputs {
            if name.contains('/') || matches!(name.as_str(), "" | "." | "..") {
                return Err(wrong("outputs", "plain file names", format!("{name:?}")));
            }
            check_output(&dir.join(name), digest)?;
        }
        let cmdline = read_cmdline(&dir.join("cmdline"))?;
        let registers_path = dir.join("registers.json");
        let text = std::fs::read(&registers_path).map_err(Error::file(&registers_path))?;
        let registers = serde_json::from_slice(&text).map_err(|source| Error::Json {
            path: registers_path,
            expected: "launch registers",
            source,
        })?;
        let inputs = |kind: &'static str| manifest.inputs.iter().filter(move |input| input.kind == kind);
        Ok(Self {
            baked_document: inputs("document").next().map(|input| input.sha256),
            workloads: inputs("workload").map(|input| input.name.clone()).collect(),
            dir,
            flavor: manifest.flavor,
            cmdline,
            registers,
        })
    }

    /// Which guest binary it carries.
    pub const fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// The registers that a machine of this image shows, as far as they were computed.
    pub const fn registers(&self) -> &LaunchRegisters {
        &self.registers
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// SHA-256 of the document that is baked in, as its manifest says; `None` for a generic image.
    pub const fn baked_document(&self) -> Option<[u8; 32]> {
        self.baked_document
    }

    /// The roots that services of a document may name.
    pub fn workloads(&self) -> &[String] {
        &self.workloads
    }

    /// Its files, by absolute path.
    pub fn boot_files(&self) -> BootFiles {
        BootFiles {
            kernel: self.dir.join("bzImage"),
            initramfs: self.dir.join("initramfs.cpio.zst"),
            firmware: self.dir.join("ovmf.fd"),
            cmdline: self.cmdline.clone(),
        }
    }
}

fn check_output(path: &Path, expected: &FileDigest) -> Result<(), Error> {
    let mut file = File::open(path).map_err(Error::file(path))?;
    let size = file.metadata().map_err(Error::file(path))?.len();
    let wrong = |field: &str, expected: String, found: String| Error::Image {
        path: path.into(),
        field: field.into(),
        expected,
        found,
    };
    if size != expected.size {
        return Err(wrong("size in bytes", expected.size.to_string(), size.to_string()));
    }
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        let length = file.read(&mut chunk).map_err(Error::file(path))?;
        match chunk.get(..length) {
            None | Some([]) => break,
            Some(bytes) => hasher.update(bytes),
        }
    }
    let found: [u8; 32] = hasher.finalize().into();
    if found != expected.sha256 {
        return Err(wrong("SHA-256", hex::encode(expected.sha256), hex::encode(found)));
    }
    Ok(())
}

/// The command line is measured to the byte, so it is passed to the byte: one line without its end.
fn read_cmdline(path: &Path) -> Result<String, Error> {
    let bytes = std::fs::read(path).map_err(Error::file(path))?;
    let wrong = |expected: &str, found: String| Error::Image {
        path: path.into(),
        field: "content".into(),
        expected: expected.into(),
        found,
    };
    if bytes.len() > CMDLINE_MAX {
        return Err(wrong("at most 2047 bytes", bytes.len().to_string()));
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains(|c: char| c.is_control()) => Ok(text),
        Ok(text) => Err(wrong("one line without an end of line", format!("{text:?}"))),
        Err(error) => Err(wrong("UTF-8", error.to_string())),
    }
}
