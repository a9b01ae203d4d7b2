//! From an image's files and a machine's shape to everything that the machine must show.

use super::acpi::{AcpiSource, AcpiTable};
use super::aggregated::{Hash256, mr_aggregated, mr_key_provider, mr_system};
use super::bzimage::{BzImage, BzImageError, KernelSeen, Loading};
use super::event::{Event, Rtmr};
use super::expected::{Alternative, Expected};
use super::hob::HobError;
use super::mrtd::{PageOrder, mrtd};
use super::overlay::View;
use super::tdvf::{FirmwareError, Tdvf};
use super::uki::{self, Uki, UkiError};
use super::vm::Vm;
use super::{rtmr0, rtmr1, rtmr2, rtmr3};
use crate::identity::MrConfigId;
use crate::register::{LaunchRegisters, Register};

/// The files of an image that are measured, as bytes.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    /// `ovmf.fd`, or the firmware that the host has in its place.
    pub firmware: &'a [u8],
    /// What is given with `-kernel`.
    pub payload: Payload<'a>,
    /// SHA-256 of `sha256sum.txt`.
    pub os_image_hash: Option<Hash256>,
}

/// What the firmware starts.
#[derive(Clone, Copy, Debug)]
pub enum Payload<'a> {
    /// Kernel, initramfs and command line, each by its own option of QEMU's.
    Direct {
        /// `bzImage`.
        kernel: &'a [u8],
        /// `initramfs.cpio.zst`.
        initramfs: &'a [u8],
        /// The command line of `-append`.
        cmdline: &'a str,
    },
    /// All three in one file, `casemate.efi`.
    Uki(&'a [u8]),
}

/// What boots on the machine, for RTMR3 and MRCONFIGID.
#[derive(Clone, Debug)]
pub struct Measured {
    /// The events that PID 1 extends.
    pub boot: rtmr3::Boot,
    /// What the host binds at launch.
    pub mrconfigid: MrConfigId,
}

/// Why an image has no expected registers. The message says all of it: there is no other error behind it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// Of the firmware.
    #[error("firmware: {0}")]
    Firmware(FirmwareError),
    /// Of firmware and memory together.
    #[error("firmware: {0}")]
    Hob(HobError),
    /// Of the kernel.
    #[error("kernel: {0}")]
    Kernel(BzImageError),
    /// Of the unified kernel image.
    #[error("unified kernel image: {0}")]
    Uki(UkiError),
}

impl Image<'_> {
    /// Everything that this image must show on that machine. Every byte of its files is hashed once.
    ///
    /// # Errors
    /// If a file is not what it should be, or QEMU would not start it on that machine.
    pub fn expected(
        &self,
        vm: &Vm,
        acpi: &AcpiSource,
        measured: Option<&Measured>,
    ) -> Result<Expected, ImageError> {
        let firmware = Tdvf::parse(self.firmware).map_err(ImageError::Firmware)?;
        let mrtd = mrtd(&firmware, vm.page_order());
        let mut events = rtmr0::events(&firmware, vm, acpi).map_err(ImageError::Hob)?;
        events.extend(self.rtmr1(vm)?);
        events.extend(self.rtmr2(vm)?);
        events.extend(measured.into_iter().flat_map(|measured| rtmr3::events(&measured.boot)));
        let mut expected = Expected {
            mrtd,
            mrconfigid: measured.map(|measured| measured.mrconfigid),
            os_image_hash: self.os_image_hash,
            mr_system: None,
            mr_aggregated: None,
            events,
            alternatives: Vec::new(),
        };
        if let (Some(launch), Some(measured)) = (expected.launch(), measured) {
            let provider = mr_key_provider(Some(measured.boot.key_provider.event_payload().as_bytes()));
            expected.mr_system = Some(mr_system(&launch, &provider));
            expected.mr_aggregated = aggregated(&launch, expected.register(Rtmr::Rtmr3));
        }
        Ok(expected)
    }

    /// The same image with one input of the machine changed, as far as that changes a register: with what `diff` explains.
    /// Neither the initramfs nor the command line is hashed again.
    ///
    /// # Errors
    /// As [`Image::expected`]; a machine on which QEMU would not start the image is none.
    pub fn alternatives(
        &self,
        vm: &Vm,
        acpi: &AcpiSource,
        tables: &[&AcpiTable],
        firmware_sha256: &Hash256,
        expected: &Expected,
    ) -> Result<Vec<Alternative>, ImageError> {
        let firmware = Tdvf::parse(self.firmware).map_err(ImageError::Firmware)?;
        let mut found = Vec::new();
        let other_order = match vm.page_order() {
            PageOrder::SinglePass => (PageOrder::TwoPass, "pages measured in two passes (QEMU before 9.0)"),
            PageOrder::TwoPass => (PageOrder::SinglePass, "pages measured in one pass (QEMU 9.0 or later)"),
        };
        let changed = |label: String, mrtd: Option<Register>, events: Vec<Event>| {
            let mut other = Expected { alternatives: Vec::new(), ..expected.clone() };
            other.mrtd = mrtd.unwrap_or(expected.mrtd);
            for rtmr in Rtmr::ALL {
                if events.iter().any(|event| event.rtmr == rtmr) {
                    other.events.retain(|event| event.rtmr != rtmr);
                }
            }
            other.events.extend(events);
            Alternative::new(label, expected, &other)
        };
        found.push(changed(other_order.1.to_owned(), Some(mrtd(&firmware, other_order.0)), Vec::new()));
        let other_header = match vm.kernel_seen() {
            KernelSeen::AsFile => (KernelSeen::Patched, "a QEMU that fills in the kernel's setup header"),
            KernelSeen::Patched => (KernelSeen::AsFile, "a QEMU that leaves the kernel's setup header alone"),
        };
        let other = Vm { setup_header: Some(other_header.0), ..vm.clone() };
        found.push(changed(other_header.1.to_owned(), None, self.rtmr1(&other)?));
        for mib in MEMORIES.into_iter().filter(|mib| *mib != vm.memory_mib) {
            let other = Vm { memory_mib: mib, ..vm.clone() };
            // A size for which there is no room for the firmware or the initramfs is nobody's machine.
            let (Ok(mut events), Ok(rtmr1)) = (rtmr0::events(&firmware, &other, acpi), self.rtmr1(&other))
            else {
                continue;
            };
            events.extend(rtmr1);
            found.push(changed(format!("memory {mib} MiB"), None, events));
        }
        let behind = format!(" firmware={firmware_sha256}");
        for entry in tables.iter().flat_map(|table| table.entries()) {
            let same = (entry.qemu, &entry.shape) == (vm.qemu, &vm.shape_key(&firmware_sha256.0));
            let shape = entry.shape.strip_suffix(&behind).filter(|_| !same);
            let Some(shape) = shape else { continue };
            let label = format!("ACPI tables of QEMU {} ({shape})", entry.qemu);
            let acpi = AcpiSource::Captured(entry.digests);
            let events = rtmr0::events(&firmware, vm, &acpi).map_err(ImageError::Hob)?;
            found.push(changed(label, None, events));
        }
        Ok(found)
    }

    fn rtmr1(&self, vm: &Vm) -> Result<Vec<Event>, ImageError> {
        match self.payload {
            Payload::Direct { kernel, initramfs, cmdline } => {
                let loading = Loading { memory: vm.memory(), initrd: Some(initramfs.len() as u64), cmdline };
                let seen = vm.kernel_seen();
                let pe = BzImage::parse(kernel).and_then(|image| image.pe(seen, &loading));
                let pe = pe.map_err(ImageError::Kernel)?;
                Ok(rtmr1::direct(&pe, origin("bzImage", seen, vm)))
            }
            Payload::Uki(file) => {
                let seen = vm.uki_seen();
                Ok(self.uki(file, seen)?.rtmr1(origin("casemate.efi", seen, vm)))
            }
        }
    }

    fn rtmr2(&self, vm: &Vm) -> Result<Vec<Event>, ImageError> {
        Ok(match self.payload {
            Payload::Direct { initramfs, cmdline, .. } => {
                rtmr2::direct(cmdline, Some(initramfs), vm.initrd_argument())
            }
            Payload::Uki(file) => self.uki(file, vm.uki_seen())?.rtmr2(),
        })
    }

    fn uki<'f>(&self, file: &'f [u8], seen: KernelSeen) -> Result<Uki<'f>, ImageError> {
        let overlays = match seen {
            KernelSeen::AsFile => Vec::new(),
            KernelSeen::Patched => uki::patch("").map_err(ImageError::Uki)?,
        };
        // Overlays within the DOS header fit every file that has one; Uki::parse names one that has none.
        Uki::parse(View::new(file, overlays).unwrap_or_else(|| View::from(file))).map_err(ImageError::Uki)
    }
}

/// Over the registers, once RTMR3 is known, too. No owner is bound.
fn aggregated(launch: &LaunchRegisters, rtmr3: Option<Register>) -> Option<Hash256> {
    Some(mr_aggregated(launch, &rtmr3?, &Register::ZERO, &Register::ZERO))
}

fn origin(file: &str, seen: KernelSeen, vm: &Vm) -> String {
    match seen {
        KernelSeen::AsFile => format!("file {file}, Authenticode SHA-384"),
        KernelSeen::Patched => {
            format!("file {file} with what QEMU {} writes into its header, Authenticode SHA-384", vm.qemu)
        }
    }
}

/// Sizes of memory that are tried to explain a TD HOB, in MiB: the powers of two, and what lies between them.
const MEMORIES: [u32; 20] = [
    512,
    1 << 10,
    1536,
    2 << 10,
    3 << 10,
    4 << 10,
    6 << 10,
    8 << 10,
    12 << 10,
    16 << 10,
    24 << 10,
    32 << 10,
    48 << 10,
    64 << 10,
    96 << 10,
    128 << 10,
    192 << 10,
    256 << 10,
    512 << 10,
    1 << 20,
];
