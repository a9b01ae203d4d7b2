//! `acpi`: captures the digests of ACPI tables.

use std::io::Write as _;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use casemate_qemu::Error;
use casemate_qemu::acpi::{self, AcpiTable, Capture, Machine};
use casemate_qemu::image::CheckedImage;
use casemate_qemu::io::capture::{Request, capture};
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
    /// Seconds that one machine may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
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
        let mut table = self.out.as_deref().map(read).transpose()?.unwrap_or_default();
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
                let words = acpi::words(image.flavor());
                let capture =
                    Capture::of(&captured.blobs, captured.qemu, firmware_sha256, words, cpus, memory_mib);
                eprintln!("{capture} ({:.1} s)", begin.elapsed().as_secs_f64());
                if let Some(dir) = &self.blobs {
                    keep(&dir.join(format!("{}-{cpus}-{memory_mib}", capture.qemu)), &captured.blobs)?;
                }
                let path = self.out.clone().unwrap_or_else(|| "this run".into());
                table.add(capture).map_err(|source| Error::Captures { path, source })?;
            }
        }
        match &self.out {
            Some(path) => write(path, &table)?,
            None => print!("{}", table.text()?),
        }
        Ok(0)
    }
}

fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

/// The file as it is; an empty table if there is none.
fn read(path: &Path) -> Result<AcpiTable, Error> {
    match std::fs::read(path) {
        Ok(text) => AcpiTable::read(&text).map_err(|source| Error::Json {
            path: path.into(),
            expected: "captured ACPI digests",
            source,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(AcpiTable::default()),
        Err(error) => Err(file(path)(error)),
    }
}

/// Replaces the file whole: whatever happens, what was captured before is kept.
fn write(path: &Path, table: &AcpiTable) -> anyhow::Result<()> {
    let folder =
        path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut fresh = tempfile::NamedTempFile::new_in(folder).map_err(file(folder))?;
    fresh.write_all(table.text()?.as_bytes()).map_err(file(path))?;
    let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fresh.as_file().set_permissions(readable).map_err(file(path))?;
    fresh.persist(path).map_err(|error| file(path)(error.error))?;
    Ok(())
}

fn keep(dir: &Path, blobs: &acpi::Blobs) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(file(dir))?;
    for (name, bytes) in [("loader", &blobs.loader), ("rsdp", &blobs.rsdp), ("tables", &blobs.tables)] {
        let path = dir.join(name);
        std::fs::write(&path, bytes).map_err(file(&path))?;
    }
    Ok(())
}
