//! The shape of a machine, as far as it is measured: `SHAPE.json`.
//!
//! Memory goes into the TD HOB, the QEMU version decides how pages are measured and whether the kernel's header is
//! edited, and everything together decides the ACPI tables.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::bzimage::KernelSeen;
use super::fields::{Fields, NAME, boolean, bytes, integer, list, name, text};
use super::mrtd::PageOrder;
use super::rtmr0::FirmwareLayout;
use super::rtmr2::InitrdArgument;
use super::uki;
use crate::document::json::Value;
use crate::document::{DocumentError, Problem};
use crate::register::Register;

/// The most memory, in MiB: 64 TiB, more than any TDX host has.
pub const MAX_MEMORY_MIB: u32 = 64 << 20;
/// The most virtual CPUs: QEMU's own limit for q35 (`hw/i386/pc_q35.c`, `max_cpus`).
pub const MAX_CPUS: u16 = 4096;
/// The most bytes of one secure boot variable: more than OVMF's whole variable store.
pub const MAX_VARIABLE: usize = 1 << 20;
/// The `machine` of a shape that does not name one: the devices that `casemate-qemu` gives a machine.
pub const DEFAULT_MACHINE: &str = "casemate";

/// A machine, as far as it is measured. Written out, it is a `SHAPE.json` that reads as the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vm {
    /// Its memory in MiB: `-m`.
    pub memory_mib: u32,
    /// Its virtual CPUs: `-smp`.
    pub cpus: u16,
    /// Which QEMU runs it.
    pub qemu: QemuVersion,
    /// A name for its devices and machine options, for the ACPI digests alone.
    pub machine: String,
    /// In which order pages are measured; `None`: by QEMU's version.
    pub page_order: Option<PageOrder>,
    /// What the firmware measures; `None`: what the pinned firmware does.
    pub firmware_layout: Option<FirmwareLayout>,
    /// Whether QEMU fills in the kernel's setup header before the firmware sees it; `None`: by QEMU's version.
    pub setup_header: Option<KernelSeen>,
    /// Where the firmware puts `initrd=initrd`; `None`: where the pinned firmware does.
    pub initrd_argument: Option<InitrdArgument>,
    /// Secure boot variables; `None`: none of them exists.
    pub secure_boot: Option<SecureBoot>,
    /// Items of fw_cfg that firmware from edk2-stable202505 on measures.
    #[serde(skip_serializing_if = "FwCfg::is_default")]
    pub fw_cfg: FwCfg,
    /// SHA-384 of the SMBIOS tables, as that firmware measures them; there is no closed form.
    pub smbios: Option<Register>,
}

/// The content of the secure boot variables; an absent one is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SecureBoot {
    /// `SecureBoot`: `01` while images are verified.
    #[serde(with = "hex::serde")]
    pub secure_boot: Vec<u8>,
    /// `PK`.
    #[serde(with = "hex::serde")]
    pub pk: Vec<u8>,
    /// `KEK`.
    #[serde(with = "hex::serde")]
    pub kek: Vec<u8>,
    /// `db`.
    #[serde(with = "hex::serde")]
    pub db: Vec<u8>,
    /// `dbx`.
    #[serde(with = "hex::serde")]
    pub dbx: Vec<u8>,
    /// `dbt`, which is measured only where it exists.
    #[serde(with = "hex::serde")]
    pub dbt: Vec<u8>,
}

impl SecureBoot {
    /// Whether the firmware verifies what it starts, and then measures why it was allowed to.
    pub fn enabled(&self) -> bool {
        self.secure_boot == [1]
    }
}

/// What QEMU serves by fw_cfg, as far as firmware from edk2-stable202505 on measures it (edk2
/// `OvmfPkg/Library/QemuFwCfgLib/QemuFwCfgCacheInit.c`). The default is a direct boot without further options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FwCfg {
    /// `etc/extra-pci-roots`: with a PCI expander bridge.
    pub extra_pci_roots: Option<u64>,
    /// The item `BootMenu`: `-boot menu=on`.
    pub boot_menu: bool,
    /// `etc/boot-menu-wait`: `-boot splash-time=…`.
    pub boot_menu_wait: Option<u16>,
    /// `etc/reserved-memory-end`: with room for memory hotplug.
    pub reserved_memory_end: Option<u64>,
    /// `opt/ovmf/X-PciMmio64Mb`: the text of `-fw_cfg …,string=…`.
    pub pci_mmio64_mb: Option<String>,
    /// `bootorder`: firmware paths of devices with a boot index, in order; none: no such item.
    pub boot_order: Vec<String>,
}

impl FwCfg {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for FwCfg {
    fn default() -> Self {
        Self {
            extra_pci_roots: None,
            boot_menu: false,
            boot_menu_wait: None,
            reserved_memory_end: None,
            pci_mmio64_mb: None,
            boot_order: vec![DIRECT_BOOT_ROM.to_owned()],
        }
    }
}

impl Vm {
    /// A machine of that size, everything else as by default.
    pub fn new(qemu: QemuVersion, memory_mib: u32, cpus: u16) -> Self {
        Self {
            memory_mib,
            cpus,
            qemu,
            machine: DEFAULT_MACHINE.to_owned(),
            page_order: None,
            firmware_layout: None,
            setup_header: None,
            initrd_argument: None,
            secure_boot: None,
            fw_cfg: FwCfg::default(),
            smbios: None,
        }
    }

    /// Reads `SHAPE.json`. `file` is only named in errors.
    ///
    /// # Errors
    /// The first thing that is wrong: file, path, expectation, finding.
    pub fn parse(file: &str, shape: &[u8]) -> Result<Self, DocumentError> {
        read(shape).map_err(|problem| DocumentError { file: file.to_owned(), problem })
    }

    /// Its memory in bytes.
    pub fn memory(&self) -> u64 {
        u64::from(self.memory_mib) << 20
    }

    /// In which order its pages are measured.
    pub fn page_order(&self) -> PageOrder {
        self.page_order.unwrap_or_else(|| self.qemu.page_order())
    }

    /// What its firmware measures. What is not said is the layout of the pinned firmware (Debian's 2025.02): a firmware
    /// file does not say its version.
    pub fn firmware_layout(&self) -> FirmwareLayout {
        self.firmware_layout.unwrap_or(FirmwareLayout::Pre202505)
    }

    /// The kernel as its firmware is given it. The pinned firmware (2025.02) takes what QEMU serves by name.
    pub fn kernel_seen(&self) -> KernelSeen {
        let QemuVersion { major, minor, .. } = self.qemu;
        self.setup_header.unwrap_or_else(|| KernelSeen::of((major.into(), minor.into()), true))
    }

    /// A unified kernel image as its firmware is given it.
    pub fn uki_seen(&self) -> KernelSeen {
        let QemuVersion { major, minor, micro } = self.qemu;
        self.setup_header.unwrap_or_else(|| uki::seen((major.into(), minor.into(), micro.into())))
    }

    /// Where its firmware puts `initrd=initrd`. What is not said is what the pinned firmware does.
    pub fn initrd_argument(&self) -> InitrdArgument {
        self.initrd_argument.unwrap_or(InitrdArgument::Appended)
    }

    /// Memory below 4 GiB, in MiB, which is where QEMU's PCI hole begins: all of it, or 2048 from 2816 on (QEMU
    /// `hw/i386/pc_q35.c`, `pc_q35_init`: 0x80000000 from 0xb0000000 on). Nothing else of memory reaches the ACPI tables.
    pub const fn low_memory_mib(&self) -> u32 {
        if self.memory_mib < 2816 { self.memory_mib } else { 2048 }
    }

    /// What its ACPI tables depend on besides QEMU and the firmware: `casemate cpus=2 memory=2048M`. The first word stands
    /// for machine options, devices and slots.
    pub fn shape(&self) -> String {
        format!("{} cpus={} memory={}M", self.machine, self.cpus, self.low_memory_mib())
    }

    /// The key under which a table lists its ACPI digests, beside QEMU's version: its shape, and the SHA-256 of the
    /// firmware, which places the devices.
    pub fn shape_key(&self, firmware: &[u8; 32]) -> String {
        format!("{} firmware={}", self.shape(), hex::encode(firmware))
    }
}

fn read(shape: &[u8]) -> Result<Vm, Problem> {
    let value = Value::read(shape)?;
    let top = Fields::of("", &value, &KEYS)?;
    let memory = format!("a whole number from 1 to {MAX_MEMORY_MIB}");
    let cpus = format!("a whole number from 1 to {MAX_CPUS}");
    let machine = format!("printable text of 1 to {NAME} bytes");
    let vm = Vm {
        memory_mib: top.need("memory_mib", &memory, |value| {
            integer(value).filter(|mib| (1..=MAX_MEMORY_MIB).contains(mib))
        })?,
        cpus: top.need("cpus", &cpus, |value| integer(value).filter(|cpus| (1..=MAX_CPUS).contains(cpus)))?,
        qemu: top.need("qemu", QemuVersion::FORM, |value| text(value)?.parse().ok())?,
        machine: top.read("machine", &machine, name)?.unwrap_or(DEFAULT_MACHINE).to_owned(),
        page_order: top.read("page_order", "\"single-pass\" or \"two-pass\"", |value| {
            match text(value)? {
                "single-pass" => Some(PageOrder::SinglePass),
                "two-pass" => Some(PageOrder::TwoPass),
                _ => None,
            }
        })?,
        firmware_layout: top.read(
            "firmware_layout",
            "\"pre202505\" or \"from202505\"",
            |value| match text(value)? {
                "pre202505" => Some(FirmwareLayout::Pre202505),
                "from202505" => Some(FirmwareLayout::From202505),
                _ => None,
            },
        )?,
        setup_header: top.read("setup_header", "\"as-file\" or \"patched\"", |value| match text(value)? {
            "as-file" => Some(KernelSeen::AsFile),
            "patched" => Some(KernelSeen::Patched),
            _ => None,
        })?,
        initrd_argument: top.read("initrd_argument", "\"appended\" or \"prepended\"", |value| match text(
            value,
        )? {
            "appended" => Some(InitrdArgument::Appended),
            "prepended" => Some(InitrdArgument::Prepended),
            _ => None,
        })?,
        secure_boot: top.optional("secure_boot").map(secure_boot).transpose()?,
        fw_cfg: top.optional("fw_cfg").map(fw_cfg).transpose()?.unwrap_or_default(),
        smbios: top.read("smbios", "96 hex digits", |value| Register::from_hex(text(value)?))?,
    };
    // A key that would change nothing is no key of this machine.
    let unmeasured = ["fw_cfg", "smbios"].into_iter().find(|key| top.optional(key).is_some());
    match (vm.firmware_layout(), unmeasured, unmeasured.and_then(|key| top.optional(key))) {
        (FirmwareLayout::Pre202505, Some(key), Some(value)) => {
            let expected =
                "nothing without firmware_layout \"from202505\": that firmware does not measure it";
            Err(Problem::invalid(key, expected, value.describe()))
        }
        _ => Ok(vm),
    }
}

fn secure_boot(value: &Value) -> Result<SecureBoot, Problem> {
    let fields = Fields::of("secure_boot", value, &["secure_boot", "pk", "kek", "db", "dbx", "dbt"])?;
    let expected = format!("hex digits of at most {MAX_VARIABLE} bytes");
    let content = |key| {
        let read = |value| bytes(value).filter(|bytes| bytes.len() <= MAX_VARIABLE);
        Ok(fields.read(key, &expected, read)?.unwrap_or_default())
    };
    Ok(SecureBoot {
        secure_boot: content("secure_boot")?,
        pk: content("pk")?,
        kek: content("kek")?,
        db: content("db")?,
        dbx: content("dbx")?,
        dbt: content("dbt")?,
    })
}

fn fw_cfg(value: &Value) -> Result<FwCfg, Problem> {
    let keys = [
        "extra_pci_roots",
        "boot_menu",
        "boot_menu_wait",
        "reserved_memory_end",
        "pci_mmio64_mb",
        "boot_order",
    ];
    let fields = Fields::of("fw_cfg", value, &keys)?;
    let number = |key| fields.read(key, "a whole number below 2^64", integer);
    let paths = format!("a list of at most {MAX_BOOT_DEVICES} device paths, printable, 1 to {NAME} bytes");
    let default = FwCfg::default();
    let digits = |value| {
        name(value)
            .filter(|text| text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit()))
            .map(str::to_owned)
    };
    Ok(FwCfg {
        extra_pci_roots: number("extra_pci_roots")?,
        boot_menu: fields.read("boot_menu", "true or false", boolean)?.unwrap_or(default.boot_menu),
        boot_menu_wait: fields.read("boot_menu_wait", "a whole number from 0 to 65535", integer)?,
        reserved_memory_end: number("reserved_memory_end")?,
        pci_mmio64_mb: fields.read("pci_mmio64_mb", "a string of 1 to 20 digits", digits)?,
        boot_order: fields.read("boot_order", &paths, device_paths)?.unwrap_or(default.boot_order),
    })
}

fn device_paths(value: &Value) -> Option<Vec<String>> {
    let items = list(value).filter(|items| items.len() <= MAX_BOOT_DEVICES)?;
    items.iter().map(|item| name(item).map(str::to_owned)).collect()
}

/// A release of QEMU. What a distribution appends to the number is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QemuVersion {
    major: u16,
    minor: u16,
    micro: u16,
}

impl QemuVersion {
    /// What a version looks like, for errors.
    pub const FORM: &'static str = "a release such as \"10.0.13\" or \"8.2.2+dfsg\"";

    /// A release.
    pub const fn new(major: u16, minor: u16, micro: u16) -> Self {
        Self { major, minor, micro }
    }

    /// From 9.0 on each page is measured as it is added; before, after all pages of its section (dstack
    /// `dstack-mr/src/machine.rs`, seen on real hosts with 8.2.2 and 9.2.1).
    pub fn page_order(self) -> PageOrder {
        if self >= Self::new(9, 0, 0) { PageOrder::SinglePass } else { PageOrder::TwoPass }
    }
}

impl FromStr for QemuVersion {
    type Err = QemuVersionError;

    /// `MAJOR.MINOR.MICRO`, and whatever a distribution appends behind `+`, `-` or `~`.
    fn from_str(text: &str) -> Result<Self, QemuVersionError> {
        let release = text.split(['+', '-', '~']).next().unwrap_or_default();
        let number = |part: &str| {
            let plain = (1..=4).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
            part.parse().ok().filter(|_| plain && (part == "0" || !part.starts_with('0')))
        };
        let parts: Option<Vec<u16>> = release.split('.').map(number).collect();
        let plain = text.len() <= NAME && text.bytes().all(|b| b.is_ascii_graphic());
        match parts.as_deref() {
            // A development version counts on from the release before it, up to 50 and beyond.
            Some([major, minor, micro]) if plain && *micro < 50 => Ok(Self::new(*major, *minor, *micro)),
            _ => Err(QemuVersionError),
        }
    }
}

/// Not the version of a QEMU release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {}", QemuVersion::FORM)]
pub struct QemuVersionError;

impl fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

impl Serialize for QemuVersion {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// The option ROM that QEMU starts a `-kernel` with, and gives the first boot index (QEMU `hw/i386/x86-common.c`).
const DIRECT_BOOT_ROM: &str = "/rom@genroms/linuxboot_dma.bin";

/// The most devices with a boot index.
const MAX_BOOT_DEVICES: usize = 256;

/// The keys of `SHAPE.json`.
const KEYS: [&str; 11] = [
    "memory_mib",
    "cpus",
    "qemu",
    "machine",
    "page_order",
    "firmware_layout",
    "setup_header",
    "initrd_argument",
    "secure_boot",
    "fw_cfg",
    "smbios",
];

#[cfg(test)]
mod tests;
