//! Everything that a quote of a machine follows from, small, whole and pinned.

use std::sync::LazyLock;

use casemate_measure::identity::{InstanceId, MrConfigId};
use casemate_measure::tdx::bzimage::KernelSeen;
use casemate_measure::tdx::rtmr3::{Boot, Instance};
use casemate_measure::tdx::{
    AcpiDigests, AcpiEntry, AcpiSource, AcpiTable, Expected, FirmwareLayout, Image, ImageError, Measured,
    Payload, QemuVersion, Vm,
};
use casemate_measure::{DocumentError, MeasuredConfig, Platform, Register};

use crate::build::{self, Image as Pe};
use crate::firmware::firmware;

/// The demo's document.
pub(crate) const DOCUMENT: &[u8] = include_bytes!("../../../configs/demo.app-compose.json");

/// What the machine is started with.
#[derive(Clone, Debug)]
pub(crate) enum Boots {
    Kernel { kernel: Vec<u8>, initramfs: Vec<u8>, cmdline: String },
    Uki(Vec<u8>),
}

/// A machine and its image.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) firmware: Vec<u8>,
    pub(crate) boots: Boots,
    pub(crate) vm: Vm,
    pub(crate) measured: Measured,
    /// Of whoever made the ACPI tables.
    pub(crate) acpi: u8,
}

impl Machine {
    /// With a kernel, as it is seen where QEMU leaves its header alone or fills it in.
    pub(crate) fn kernel(seen: KernelSeen) -> Self {
        let (initramfs, cmdline) = (vec![0x33; 700], "quiet panic=-1".to_owned());
        Self::new(seen, Boots::Kernel { kernel: kernel(), initramfs, cmdline })
    }

    /// With a unified kernel image.
    pub(crate) fn uki(seen: KernelSeen) -> Self {
        Self::new(seen, Boots::Uki(uki()))
    }

    fn new(seen: KernelSeen, boots: Boots) -> Self {
        static MEASURED: LazyLock<Measured> = LazyLock::new(|| measured(DOCUMENT).unwrap());
        let vm = Vm {
            setup_header: Some(seen),
            firmware_layout: Some(FirmwareLayout::From202505),
            smbios: Some(Register([7; 48])),
            ..Vm::new(QemuVersion::new(10, 0, 13), 512, 2)
        };
        Self { firmware: firmware(0), boots, vm, measured: MEASURED.clone(), acpi: 0 }
    }

    /// The machine's file of that kind, to be changed.
    pub(crate) fn file(&mut self, file: File) -> &mut Vec<u8> {
        match (file, &mut self.boots) {
            (File::Firmware, _) => &mut self.firmware,
            (File::Payload, Boots::Kernel { kernel, .. }) => kernel,
            (File::Payload, Boots::Uki(file)) => file,
        }
    }

    pub(crate) fn expected(&self) -> Result<Expected, ImageError> {
        let payload = match &self.boots {
            Boots::Kernel { kernel, initramfs, cmdline } => Payload::Direct { kernel, initramfs, cmdline },
            Boots::Uki(file) => Payload::Uki(file),
        };
        let image = Image { firmware: &self.firmware, payload, os_image_hash: None };
        // A table that has every machine: of each the digests are others, as of real ones. The firmware is the same one,
        // changed: what another one does to the tables is not known here.
        let firmware = [0; 32];
        let of = |name| {
            Register::digest(format!("{name} {} {} {}", self.acpi, self.vm.qemu, self.vm.shape()).as_bytes())
        };
        let digests = AcpiDigests { loader: of("loader"), rsdp: of("rsdp"), tables: of("tables") };
        let entry = AcpiEntry { qemu: self.vm.qemu, shape: self.vm.shape_key(&firmware), digests };
        let acpi = AcpiSource::choose(Some(&AcpiTable::new([entry])), None, &self.vm, &firmware);
        image.expected(&self.vm, &acpi, Some(&self.measured))
    }
}

/// A file that a machine boots from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum File {
    Firmware,
    Payload,
}

pub(crate) fn measured(document: &[u8]) -> Result<Measured, DocumentError> {
    let config = MeasuredConfig::parse("app-compose.json", document, Platform::Appliance)?;
    let boot = Boot { instance: Instance::Known(InstanceId([9; 20])), ..Boot::of(&config) };
    Ok(Measured { mrconfigid: MrConfigId::v1(&boot.compose_hash), boot })
}

/// A kernel with a hole in front of its second section and bytes behind it, then certificates.
pub(crate) fn kernel() -> Vec<u8> {
    let mut file = build::kernel();
    // SizeOfRawData of the first section: what it ends with is then in none.
    let row = build::OPTIONAL + 112 + 8 * 6;
    let size: [u8; 4] = file[row + 16..row + 20].try_into().unwrap();
    let size = u32::from_le_bytes(size) - 512;
    file[row + 16..row + 20].copy_from_slice(&size.to_le_bytes());
    let certificates = file.len() - 256;
    file.splice(certificates..certificates, [0x77; 700]);
    file
}

/// What a unified kernel image starts need be no more than a PE image.
pub(crate) fn linux() -> Vec<u8> {
    Pe::default().bytes()
}

/// A unified kernel image with every section that its stub knows, a hole and bytes behind the last one.
pub(crate) fn uki() -> Vec<u8> {
    let kernel = linux();
    let sections: [(&str, &[u8]); 13] = [
        (".text", &[0x90; 600]),
        (".sdmagic", b"#### LoaderInfo: systemd-stub 257.13-1~deb13u1 ####\0"),
        (".osrel", b"ID=casemate\n"),
        (".cmdline", b"quiet panic=-1"),
        (".uname", b"7.3.4"),
        (".sbat", b"sbat,1"),
        (".splash", b"BM"),
        (".pcrpkey", b"PUBLIC KEY"),
        (".pcrsig", b"{}"),
        (".ucode", b"microcode"),
        (".initrd", b"archive"),
        // The stub takes the first of a name.
        (".uname", b"another"),
        (".linux", &kernel),
    ];
    let mut address = 0;
    let rows = sections.map(|(name, content)| {
        address += 0x8000;
        let mut raw = content.to_vec();
        raw.resize(content.len().next_multiple_of(128), 0);
        (name, address, u32::try_from(content.len()).unwrap(), raw)
    });
    let image = Pe {
        sections: rows.to_vec(),
        file_order: (0..rows.len()).collect(),
        trailing: vec![0x77; 100],
        certificates: vec![0x5a; 128],
        headers: 1024,
        ..Pe::default()
    };
    let mut file = image.bytes();
    // The end of the stub's code is in no section.
    let row = image.table_at();
    file[row + 16..row + 20].copy_from_slice(&512_u32.to_le_bytes());
    file[row + 8..row + 12].copy_from_slice(&512_u32.to_le_bytes());
    file
}
