//! From an image's files and a machine's shape to everything that the machine must show.

use super::acpi::{AcpiSource, AcpiTable};
use super::aggregated::{Hash256, mr_aggregated, mr_key_provider, mr_system};
use super::bzimage::{BzImage, BzImageError, KernelSeen, Loading};
use super::event::{Digest, Event, EventType, Rtmr};
use super::expected::{Alternative, Expected};
use super::hob::HobError;
use super::mrtd::{PageOrder, mrtd};
use super::overlay::{Overlay, View};
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

macro_rules! from {
    ($($error:ident => $variant:ident),+) => {
        $(impl From<$error> for ImageError {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })+
    };
}
from!(FirmwareError => Firmware, HobError => Hob, BzImageError => Kernel, UkiError => Uki);

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
        let firmware = Tdvf::parse(self.firmware)?;
        let mrtd = mrtd(&firmware, vm.page_order());
        let mut events = rtmr0::events(&firmware, vm, acpi)?;
        events.extend(self.rtmr1(vm)?);
        events.extend(self.rtmr2(vm)?);
        events.extend(measured.map_or_else(unknown_boot, |measured| rtmr3::events(&measured.boot)));
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
    /// `expected` is what this image shows on that machine: what of it stays is not hashed again.
    ///
    /// # Errors
    /// If the firmware is none. A machine on which QEMU would not start the image is no alternative.
    pub fn alternatives(
        &self,
        vm: &Vm,
        tables: &[&AcpiTable],
        firmware_sha256: &Hash256,
        expected: &Expected,
    ) -> Result<Vec<Alternative>, ImageError> {
        let firmware = Tdvf::parse(self.firmware)?;
        let mut kernels = Kernels::new(self, vm, expected);
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
        let mut found = Vec::new();
        let (order, label) = match vm.page_order() {
            PageOrder::SinglePass => (PageOrder::TwoPass, "pages measured in two passes (QEMU before 9.0)"),
            PageOrder::TwoPass => (PageOrder::SinglePass, "pages measured in one pass (QEMU 9.0 or later)"),
        };
        found.push(changed(label.to_owned(), Some(mrtd(&firmware, order)), Vec::new()));
        let (seen, label) = match self.seen(vm) {
            KernelSeen::AsFile => (KernelSeen::Patched, "a QEMU that fills in the kernel's setup header"),
            KernelSeen::Patched => (KernelSeen::AsFile, "a QEMU that leaves the kernel's setup header alone"),
        };
        let other = Vm { setup_header: Some(seen), ..vm.clone() };
        if let Ok(events) = kernels.rtmr1(&other) {
            found.push(changed(label.to_owned(), None, events));
        }
        for mib in MEMORIES.into_iter().filter(|mib| *mib != vm.memory_mib) {
            let other = Vm { memory_mib: mib, ..vm.clone() };
            // A size for which there is no room for the firmware or the initramfs is nobody's machine.
            let (Ok(hob), Ok(rtmr1)) = (rtmr0::td_hob(&firmware, &other), kernels.rtmr1(&other)) else {
                continue;
            };
            let mut events = replaced(expected.of(Rtmr::Rtmr0), &[hob]);
            events.extend(rtmr1);
            found.push(changed(format!("memory {mib} MiB"), None, events));
        }
        let behind = format!(" firmware={firmware_sha256}");
        for entry in tables.iter().flat_map(|table| table.entries()) {
            let same = (entry.qemu, &entry.shape) == (vm.qemu, &vm.shape_key(&firmware_sha256.0));
            let shape = entry.shape.strip_suffix(&behind).filter(|_| !same);
            let Some(shape) = shape else { continue };
            let label = format!("ACPI tables of QEMU {} ({shape})", entry.qemu);
            let blobs = rtmr0::acpi_blobs(vm, &AcpiSource::Captured(entry.digests));
            found.push(changed(label, None, replaced(expected.of(Rtmr::Rtmr0), &blobs)));
        }
        // What changes nothing explains nothing.
        found.retain(|other| other.mrtd.is_some() || !other.events.is_empty());
        Ok(found)
    }

    fn rtmr1(&self, vm: &Vm) -> Result<Vec<Event>, ImageError> {
        let seen = self.seen(vm);
        match self.payload {
            Payload::Direct { kernel, initramfs, cmdline } => {
                let pe = BzImage::parse(kernel)?.pe(seen, &loading(vm, initramfs, cmdline))?;
                Ok(rtmr1::direct(&pe, origin("bzImage", seen, vm)))
            }
            Payload::Uki(file) => Ok(self.uki(file, vm)?.rtmr1(origin("casemate.efi", seen, vm))),
        }
    }

    fn rtmr2(&self, vm: &Vm) -> Result<Vec<Event>, ImageError> {
        Ok(match self.payload {
            Payload::Direct { initramfs, cmdline, .. } => {
                rtmr2::direct(cmdline, Some(initramfs), vm.initrd_argument())
            }
            Payload::Uki(file) => self.uki(file, vm)?.rtmr2(),
        })
    }

    fn uki<'f>(&self, file: &'f [u8], vm: &Vm) -> Result<Uki<'f>, ImageError> {
        // Overlays within the DOS header fit every file that has one; Uki::parse names one that has none.
        Ok(Uki::parse(View::new(file, self.written(vm)?).unwrap_or_else(|| View::from(file)))?)
    }

    /// As what the firmware sees the payload.
    fn seen(&self, vm: &Vm) -> KernelSeen {
        match self.payload {
            Payload::Direct { .. } => vm.kernel_seen(),
            Payload::Uki(_) => vm.uki_seen(),
        }
    }

    /// What QEMU writes into the payload on that machine.
    fn written(&self, vm: &Vm) -> Result<Vec<Overlay>, ImageError> {
        match (self.seen(vm), self.payload) {
            (KernelSeen::AsFile, _) => Ok(Vec::new()),
            (KernelSeen::Patched, Payload::Direct { kernel, initramfs, cmdline }) => {
                Ok(BzImage::parse(kernel)?.patch(&loading(vm, initramfs, cmdline))?)
            }
            (KernelSeen::Patched, Payload::Uki(_)) => Ok(uki::patch("")?),
        }
    }
}

/// The kernel on several machines: hashed once for each form in which the firmware sees it.
struct Kernels<'i> {
    image: &'i Image<'i>,
    /// What QEMU writes into it, and the events of RTMR1 with that.
    hashed: Vec<(Vec<Overlay>, Vec<Event>)>,
}

impl<'i> Kernels<'i> {
    /// On the machine for which it was hashed already.
    fn new(image: &'i Image<'i>, vm: &Vm, expected: &Expected) -> Self {
        let first =
            image.written(vm).ok().map(|written| (written, expected.of(Rtmr::Rtmr1).cloned().collect()));
        Self { image, hashed: first.into_iter().collect() }
    }

    fn rtmr1(&mut self, vm: &Vm) -> Result<Vec<Event>, ImageError> {
        let written = self.image.written(vm)?;
        if let Some((_, events)) = self.hashed.iter().find(|(known, _)| *known == written) {
            return Ok(events.clone());
        }
        let events = self.image.rtmr1(vm)?;
        self.hashed.push((written, events.clone()));
        Ok(events)
    }
}

/// Events of which some have others in their place, by name.
fn replaced<'e>(events: impl Iterator<Item = &'e Event>, others: &[Event]) -> Vec<Event> {
    let other = |event: &Event| others.iter().find(|other| other.name == event.name).cloned();
    events.map(|event| other(event).unwrap_or_else(|| event.clone())).collect()
}

fn loading<'c>(vm: &Vm, initramfs: &[u8], cmdline: &'c str) -> Loading<'c> {
    Loading { memory: vm.memory(), initrd: Some(initramfs.len() as u64), cmdline }
}

/// Without a document: no events at all would be an RTMR3 of zero.
fn unknown_boot() -> Vec<Event> {
    vec![Event {
        rtmr: Rtmr::Rtmr3,
        event_type: EventType::DSTACK_RUNTIME,
        name: "boot events".to_owned(),
        digest: Digest::Unpinned,
        origin: "not pinned: no document was given".to_owned(),
    }]
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

#[cfg(test)]
mod tests;
