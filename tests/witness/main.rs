//! An independent witness: real firmware, kernel and systemd-stub measure into a software TPM what they measure into RTMR1 and
//! RTMR2 of a TDX machine, and the log that they leave is what was computed from the files.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests and their rig: what fails here fails the test"
)]

mod log;
mod machine;

use std::collections::BTreeMap;
use std::fs;

use casemate_measure::Register;
use casemate_measure::tdx::bzimage::{BzImage, KernelSeen, Loading};
use casemate_measure::tdx::overlay::View;
use casemate_measure::tdx::rtmr2::InitrdArgument;
use casemate_measure::tdx::uki::{self, Uki};
use casemate_measure::tdx::{Digest, Event, Rtmr, pcr, rtmr1, rtmr2};

use crate::machine::{Qemu, Told, boot, image, installed, newer};

const LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";
const EV_SEPARATOR: u32 = 4;

/// What the guest has seen.
struct Witness {
    entries: Vec<log::Entry>,
    files: BTreeMap<String, Told>,
}

/// Type and digest.
type Measured = (u32, Register);

impl Witness {
    fn of(qemu: &Qemu, memory_mib: u32, arguments: &[&str]) -> Self {
        let files = boot(qemu, memory_mib, arguments);
        let entries = log::parse(&files[LOG].content);
        let witness = Self { entries, files };
        witness.the_log_is_what_the_tpm_has();
        witness
    }

    /// The guest's own kernel measures into PCR 10 after it has left the firmware.
    fn the_log_is_what_the_tpm_has(&self) {
        let replayed = log::replay(&self.entries);
        for index in (0..16).filter(|index| *index != 10) {
            let text = &self.files[&format!("/sys/class/tpm/tpm0/pcr-sha384/{index}")].content;
            let has = Register::from_hex(String::from_utf8_lossy(text).trim()).unwrap();
            assert_eq!(replayed.get(&index).copied().unwrap_or(Register::ZERO), has, "PCR {index}");
        }
    }

    /// What went into the PCRs that a register stands for. Each PCR has a separator of its own, and a register has one.
    fn measured(&self, rtmr: Rtmr) -> Vec<Measured> {
        let ours = self.entries.iter().filter(|entry| pcr::rtmr(entry.pcr) == Some(rtmr));
        let mut measured: Vec<Measured> = ours.map(|entry| (entry.event_type, entry.digest)).collect();
        measured.dedup_by(|a, b| a == b && a.0 == EV_SEPARATOR);
        measured
    }

    /// The first difference, by the event's name.
    fn difference(&self, rtmr: Rtmr, expected: &[Event]) -> Option<String> {
        let measured = self.measured(rtmr);
        for (index, event) in expected.iter().enumerate() {
            assert_eq!(event.rtmr, rtmr);
            let Digest::Known(digest) = event.digest else { panic!("{}: unpinned", event.name) };
            if measured.get(index) != Some(&(event.event_type.0, digest)) {
                return Some(format!("{}: {:?}", event.name, measured.get(index)));
            }
        }
        (measured.len() > expected.len()).then(|| format!("more: {:?}", &measured[expected.len()..]))
    }
}

fn read(name: &str) -> Vec<u8> {
    fs::read(image().join(name)).unwrap()
}

/// A direct boot of a kernel in this file, and what must be measured of it; also by whoever sees the kernel otherwise.
fn direct(qemu: &Qemu, memory_mib: u32, kernel: &[u8]) {
    let cmdline = String::from_utf8(read("cmdline")).unwrap();
    let initrd = read("initramfs.cpio.zst");
    // Of its own: other tests wait for their machines.
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), kernel).unwrap();
    let initrd_file = image().join("initramfs.cpio.zst");
    let witness = Witness::of(
        qemu,
        memory_mib,
        &[
            "-kernel",
            file.path().to_str().unwrap(),
            "-initrd",
            initrd_file.to_str().unwrap(),
            "-append",
            &cmdline,
        ],
    );
    let loading =
        Loading { memory: u64::from(memory_mib) << 20, initrd: Some(initrd.len() as u64), cmdline: &cmdline };
    // The pinned firmware, edk2-stable202502, looks for the unpatched kernel.
    let seen = KernelSeen::of((qemu.version.0, qemu.version.1), true);
    for view in [KernelSeen::AsFile, KernelSeen::Patched] {
        let pe = BzImage::parse(kernel).unwrap().pe(view, &loading).unwrap();
        let difference = witness.difference(Rtmr::Rtmr1, &rtmr1::direct(&pe, "bzImage"));
        if view == seen {
            assert_eq!(difference, None, "{:?}", qemu.version);
        } else {
            assert!(difference.unwrap().starts_with("kernel: "));
        }
    }
    let events =
        |cmdline: &str, initrd: &[u8]| rtmr2::direct(cmdline, Some(initrd), InitrdArgument::Appended);
    assert_eq!(witness.difference(Rtmr::Rtmr2, &events(&cmdline, &initrd)), None);
    // The check can fail.
    let other = witness.difference(Rtmr::Rtmr2, &events(&format!("{cmdline} "), &initrd)).unwrap();
    assert!(other.starts_with("LOADED_IMAGE::LoadOptions: "), "{other}");
    let other = witness.difference(Rtmr::Rtmr2, &events(&cmdline, &initrd[1..])).unwrap();
    assert!(other.starts_with("Linux initrd: "), "{other}");
    let fewer = witness.difference(Rtmr::Rtmr2, &events(&cmdline, &initrd)[..1]).unwrap();
    assert!(fewer.starts_with("more: "), "{fewer}");
}

fn unified(qemu: &Qemu) {
    let file = image().join("casemate.efi");
    let witness = Witness::of(qemu, 1024, &["-kernel", file.to_str().unwrap()]);
    let bytes = read("casemate.efi");
    let overlays = match uki::seen(qemu.version) {
        KernelSeen::AsFile => Vec::new(),
        KernelSeen::Patched => uki::patch("").unwrap(),
    };
    let uki = Uki::parse(View::new(&bytes, overlays).unwrap()).unwrap();
    assert_eq!(witness.difference(Rtmr::Rtmr1, &uki.rtmr1("casemate.efi")), None, "{:?}", qemu.version);
    assert_eq!(witness.difference(Rtmr::Rtmr2, &uki.rtmr2()), None);
    // The command line is the image's own, and what the stub adds is as the initramfs has it already.
    assert_eq!(witness.files["/proc/cmdline"].content.trim_ascii_end(), read("cmdline"));
    assert_eq!(witness.files["/.extra"].mode, 0o555);
    let os_release = &witness.files["/.extra/os-release"];
    assert_eq!(os_release.mode, 0o444);
    assert!(os_release.content.starts_with(b"NAME=Casemate\n"));
}

/// In a machine of this size the initramfs is placed by memory, and its place is in the header that an older QEMU patches.
#[test]
fn a_direct_boot() {
    if let Some(qemu) = installed("a_direct_boot") {
        direct(&qemu, 1024, &read("bzImage"));
    }
}

/// A file whose length is no multiple of 8, with something behind its certificates: no padding, and the rest counts.
#[test]
fn a_kernel_with_something_behind_it() {
    if let Some(qemu) = installed("a_kernel_with_something_behind_it") {
        let mut kernel = read("bzImage");
        kernel.extend(b"odd");
        direct(&qemu, 768, &kernel);
    }
}

#[test]
fn a_unified_kernel_image() {
    if let Some(qemu) = installed("a_unified_kernel_image") {
        unified(&qemu);
    }
}

#[test]
fn a_direct_boot_that_qemu_does_not_patch() {
    if let Some(qemu) = newer("a_direct_boot_that_qemu_does_not_patch") {
        direct(&qemu, 1024, &read("bzImage"));
    }
}

#[test]
fn a_unified_kernel_image_under_a_newer_qemu() {
    if let Some(qemu) = newer("a_unified_kernel_image_under_a_newer_qemu") {
        unified(&qemu);
    }
}
