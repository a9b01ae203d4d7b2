//! `image`: every register that a machine of an image must show, and where each event comes from.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use casemate_measure::identity::{InstanceId, MrConfigId};
use casemate_measure::tdx::aggregated::Hash256;
use casemate_measure::tdx::rtmr3::{Boot, Instance};
use casemate_measure::tdx::{
    AcpiSource, AcpiTable, Digest, Event, Expected, Image, Measured, Payload, QemuVersion, Rtmr, Vm, tdvf,
};
use casemate_measure::{MeasuredConfig, Platform, document};
use clap::Args;

use super::{Exit, text};

/// The longest file of an image that is read: 2 GiB, above what QEMU loads below 4 GiB.
const MAX_FILE: usize = 2 << 30;
/// The longest table of ACPI digests: 16 MiB.
const MAX_TABLE: usize = 16 << 20;
/// The longest command line that a kernel takes (`COMMAND_LINE_SIZE` of x86, less the NUL).
const MAX_CMDLINE: usize = 2047;
/// The longest `SHAPE.json`, which may hold secure boot variables in hex: 16 MiB.
const MAX_SHAPE: usize = 16 << 20;
/// The longest `sha256sum.txt`.
const MAX_SUMS: usize = 1 << 20;

#[derive(Args)]
pub(crate) struct Arguments {
    /// The image directory
    dir: PathBuf,
    /// The machine: memory, CPUs, QEMU and what else is measured of it
    #[arg(long, value_name = "SHAPE.json")]
    vm: PathBuf,
    /// Another QEMU than the shape names
    #[arg(long, value_name = "VERSION")]
    qemu_version: Option<QemuVersion>,
    /// Another firmware than the image's ovmf.fd
    #[arg(long, value_name = "FILE")]
    firmware: Option<PathBuf>,
    /// Digests of ACPI tables, as `cargo qemu acpi` writes them; they go before what was captured for this version
    #[arg(long, value_name = "FILE")]
    acpi: Option<PathBuf>,
    /// The document that the machine gets: RTMR3, MRCONFIGID (version 1), mr_system and mr_aggregated follow from it
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// The instance, which is drawn at each boot: without it RTMR3 and mr_aggregated are not pinned
    #[arg(long, value_name = "HEX", requires = "document")]
    instance_id: Option<String>,
    /// The image's casemate.efi is what the machine is started with
    #[arg(long)]
    uki: bool,
    /// Print one JSON object, which `diff` and `cargo verify policy` read
    #[arg(long, conflicts_with = "explain")]
    json: bool,
    /// Print every event with its type, its digest and what it came from
    #[arg(long)]
    explain: bool,
}

fn instance(text: &str) -> anyhow::Result<InstanceId> {
    InstanceId::from_hex(text)
        .with_context(|| format!("--instance-id: expected 40 hex digits, found {text:?}"))
}

/// An image directory's bytes.
struct Files {
    firmware: (String, Vec<u8>),
    payload: Read,
    os_image_hash: Option<Hash256>,
}

enum Read {
    Direct { kernel: Vec<u8>, initramfs: Vec<u8>, cmdline: String },
    Uki(Vec<u8>),
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<(String, Exit)> {
    let (file, bytes) = super::read(&arguments.vm, MAX_SHAPE)?;
    let mut vm = Vm::parse(&file, &bytes)?;
    vm.qemu = arguments.qemu_version.unwrap_or(vm.qemu);
    let given = arguments.acpi.as_deref().map(table).transpose()?;
    let captured = AcpiTable::captured();
    let measured = arguments.document.as_deref().map(|path| measured(path, arguments)).transpose()?;

    let files = files(arguments)?;
    let firmware = Hash256::of(&files.firmware.1);
    let acpi = AcpiSource::choose(given.as_ref(), Some(&captured), &vm, &firmware.0);
    let image = files.image();
    let place = || format!("{} (firmware {})", arguments.dir.display(), files.firmware.0);
    let mut expected = image.expected(&vm, &acpi, measured.as_ref()).with_context(place)?;
    if arguments.json {
        let tables: Vec<&AcpiTable> = given.iter().chain([&captured]).collect();
        expected.alternatives = image.alternatives(&vm, &tables, &firmware, &expected).with_context(place)?;
        return Ok((super::as_json(&expected)?, Exit::Yes));
    }
    Ok((as_lines(&expected, &vm, arguments.explain), Exit::Yes))
}

fn table(path: &Path) -> anyhow::Result<AcpiTable> {
    let (file, bytes) = super::read(path, MAX_TABLE)?;
    Ok(AcpiTable::parse(&file, &bytes)?)
}

fn measured(path: &Path, arguments: &Arguments) -> anyhow::Result<Measured> {
    let (file, bytes) = super::read(path, document::MAX_BYTES)?;
    let config = MeasuredConfig::parse(&file, &bytes, Platform::Appliance)?;
    let mut boot = Boot::of(&config);
    if let Some(id) = &arguments.instance_id {
        boot.instance = Instance::Known(instance(id)?);
    }
    Ok(Measured { mrconfigid: MrConfigId::v1(&boot.compose_hash), boot })
}

fn files(arguments: &Arguments) -> anyhow::Result<Files> {
    let dir = &arguments.dir;
    let firmware = match &arguments.firmware {
        Some(path) => super::read(path, tdvf::MAX_BYTES)?,
        None => super::read(&dir.join("ovmf.fd"), tdvf::MAX_BYTES)?,
    };
    let payload = if arguments.uki {
        Read::Uki(super::read(&dir.join("casemate.efi"), MAX_FILE)?.1)
    } else {
        let (file, line) = super::read(&dir.join("cmdline"), MAX_CMDLINE)?;
        let line = String::from_utf8(line).ok().with_context(|| format!("{file}: expected UTF-8"))?;
        // No argument of a program has one.
        anyhow::ensure!(!line.contains('\0'), "{file}: expected text without NUL");
        Read::Direct {
            kernel: super::read(&dir.join("bzImage"), MAX_FILE)?.1,
            initramfs: super::read(&dir.join("initramfs.cpio.zst"), MAX_FILE)?.1,
            cmdline: line,
        }
    };
    // Images are also made by others, who need not know dstack's files.
    let sums = dir.join("sha256sum.txt");
    let os_image_hash = sums.exists().then(|| super::read(&sums, MAX_SUMS)).transpose()?;
    Ok(Files { firmware, payload, os_image_hash: os_image_hash.map(|(_, text)| Hash256::of(&text)) })
}

impl Files {
    fn image(&self) -> Image<'_> {
        let payload = match &self.payload {
            Read::Direct { kernel, initramfs, cmdline } => Payload::Direct { kernel, initramfs, cmdline },
            Read::Uki(file) => Payload::Uki(file),
        };
        Image { firmware: &self.firmware.1, payload, os_image_hash: self.os_image_hash }
    }
}

fn as_lines(expected: &Expected, vm: &Vm, explain: bool) -> String {
    let size =
        format!("{} MiB of memory, {} CPUs, QEMU {}, {:?}", vm.memory_mib, vm.cpus, vm.qemu, vm.machine);
    let mut lines = text::wrapped("machine        ", &size);
    lines += &text::register("MRTD           ", Some(&expected.mrtd));
    if explain {
        let from = format!("the firmware's sections; {}", vm.page_order().words());
        lines += &text::wrapped("    from       ", &from);
    }
    for rtmr in Rtmr::ALL {
        lines += &register(expected, rtmr);
        if explain {
            lines.extend(expected.of(rtmr).enumerate().map(|(nth, one)| event(nth, one)));
        }
    }
    if let Some(id) = expected.mrconfigid {
        lines += &text::register("MRCONFIGID     ", Some(&casemate_measure::Register(id.0)));
    }
    let hashes = [
        ("os_image_hash  ", expected.os_image_hash),
        ("mr_system      ", expected.mr_system),
        ("mr_aggregated  ", expected.mr_aggregated),
    ];
    lines.extend(hashes.into_iter().filter_map(|(label, hash)| Some(format!("{label}{}\n", hash?))));
    lines
}

fn register(expected: &Expected, rtmr: Rtmr) -> String {
    let label = format!("{:<15}", rtmr.to_string());
    match expected.register(rtmr) {
        Some(register) => text::register(&label, Some(&register)),
        None => {
            let names: Vec<&str> = expected
                .of(rtmr)
                .filter(|event| event.digest == Digest::Unpinned)
                .map(|event| event.name.as_str())
                .collect();
            text::wrapped(
                &label,
                &format!("NOT PINNED: nobody said what is measured as {}", names.join(", ")),
            )
        }
    }
}

fn event(nth: usize, event: &Event) -> String {
    let nth = nth.saturating_add(1);
    let head = text::wrapped(&format!("    {nth:>2} "), &event.name);
    let kind = text::wrapped("       type    ", &event.event_type.to_string());
    let digest = match &event.digest {
        Digest::Known(digest) => text::register("       digest  ", Some(digest)),
        Digest::Unpinned => "       digest  NOT PINNED\n".to_owned(),
    };
    head + &kind + &digest + &text::wrapped("       from    ", &event.origin)
}
