//! `acpi`: captures the digests of ACPI tables.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use casemate_qemu::Error;
use casemate_qemu::acpi::{Blobs, Capture, Machine};
use casemate_qemu::image::CheckedImage;
use casemate_qemu::io::capture::{Request, capture};
use casemate_qemu::io::captures;
use clap::Args;
use sha2::{Digest as _, Sha256};

use super::machine::memory;

#[derive(Debug, Args)]
pub(super) struct Acpi {
    /// Image directory: its flavour says which devices there are, and its firmware runs
    #[arg(long, value_name = "DIR")]
    image: PathBuf,
    /// Another firmware than the image's
    #[arg(long, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// Memory, in MiB (`512M`) or GiB (`2G`); several with commas
    #[arg(long, default_value = "512M", value_delimiter = ',', value_parser = memory)]
    memory: Vec<u32>,
    /// Virtual CPUs; several with commas. The default is that of the TDX form
    #[arg(long, default_value = "2", value_delimiter = ',')]
    cpus: Vec<NonZeroU16>,
    /// QEMU's program: of the version that the TDX host has
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    qemu: String,
    /// Add the digests to this file, which may be there already; the default is to print them
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Keep the captured files here, in a folder for each machine
    #[arg(long, value_name = "DIR")]
    blobs: Option<PathBuf>,
    /// Seconds that one try of a machine may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

impl Acpi {
    pub(super) fn run(self) -> anyhow::Result<u8> {
        let image = CheckedImage::open(&self.image)?;
        let firmware = match &self.firmware {
            Some(path) => super::boot::utf8_absolute(path)?,
            None => image.boot_files().firmware,
        };
        let firmware_bytes = std::fs::read(&firmware).map_err(file(&firmware))?;
        let firmware_sha256: [u8; 32] = Sha256::digest(firmware_bytes).into();
        let mut table = self.out.as_deref().map(captures::read).transpose()?.unwrap_or_default();
        for &memory_mib in &self.memory {
            for &cpus in &self.cpus {
                let machine = Machine { cpus, memory_mib, flavor: image.flavor() };
                let begin = Instant::now();
                let request = Request {
                    program: self.qemu.clone(),
                    machine,
                    firmware: firmware.clone(),
                    limit: Duration::from_secs(self.timeout),
                };
                let captured = capture(&request, &mut |line| eprintln!("casemate-qemu: {line}"))?;
                let capture = Capture::of(captured.qemu, machine.shape(&firmware_sha256), &captured.blobs);
                eprintln!("{capture} ({:.1} s)", begin.elapsed().as_secs_f64());
                if let Some(dir) = &self.blobs {
                    keep(&dir.join(format!("{}-{cpus}-{memory_mib}", capture.qemu)), &captured.blobs)?;
                }
                let path = self.out.clone().unwrap_or_else(|| "this run".into());
                table.add(capture).map_err(|source| Error::Captures { path, source })?;
                if let Some(path) = &self.out {
                    captures::write(path, &table)?;
                }
            }
        }
        if self.out.is_none() {
            print!("{}", table.text()?);
        }
        Ok(0)
    }
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

fn keep(dir: &Path, blobs: &Blobs) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(file(dir))?;
    for (name, bytes) in [("loader", &blobs.loader), ("rsdp", &blobs.rsdp), ("tables", &blobs.tables)] {
        let path = dir.join(name);
        std::fs::write(&path, bytes).map_err(file(&path))?;
    }
    Ok(())
}
