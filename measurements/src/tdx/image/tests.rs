#[path = "../../../tests/kernel/build.rs"]
#[expect(clippy::arithmetic_side_effects, reason = "a fixture of the integration tests, of known size")]
mod build;

use std::collections::BTreeSet;

use super::*;
use crate::identity::{AppId, ComposeHash, InstanceId, KeyProvider};
use crate::tdx::acpi::{AcpiDigests, AcpiEntry};
use crate::tdx::event::Digest;
use crate::tdx::rtmr3::{Boot, Instance};
use crate::tdx::tdvf::synthetic::{SMALL, of};
use crate::tdx::vm::QemuVersion;

const CMDLINE: &str = "quiet panic=-1";

fn kernel_and(initramfs: &[u8], run: impl FnOnce(Image<'_>)) {
    let (firmware, kernel) = (of(&SMALL), build::kernel());
    let payload = Payload::Direct { kernel: &kernel, initramfs, cmdline: CMDLINE };
    run(Image { firmware: &firmware, payload, os_image_hash: Some(Hash256([3; 32])) });
}

fn vm(qemu: &str) -> Vm {
    Vm::new(qemu.parse().unwrap(), 2048, 2)
}

fn digests(byte: u8) -> AcpiDigests {
    AcpiDigests { loader: Register([byte; 48]), rsdp: Register([byte; 48]), tables: Register([byte; 48]) }
}

fn measured(instance: Instance) -> Measured {
    let compose_hash = ComposeHash([1; 32]);
    let boot = Boot {
        compose_hash,
        app_id: AppId([2; 20]),
        instance,
        key_provider: KeyProvider::None,
        storage_fs: None,
    };
    Measured { boot, mrconfigid: MrConfigId::v1(&compose_hash) }
}

fn names(events: &[Event], rtmr: Rtmr) -> Vec<&str> {
    events.iter().filter(|event| event.rtmr == rtmr).map(|event| event.name.as_str()).collect()
}

#[test]
fn everything_of_a_direct_boot_in_order() {
    kernel_and(b"archive", |image| {
        let acpi = AcpiSource::Given(digests(1));
        let measured = measured(Instance::Known(InstanceId([4; 20])));
        let found = image.expected(&vm("10.0.13"), &acpi, Some(&measured)).unwrap();
        let firmware = Tdvf::parse(image.firmware).unwrap();
        assert_eq!(found.mrtd, mrtd(&firmware, PageOrder::SinglePass));
        assert_eq!(found.mrconfigid, Some(measured.mrconfigid));
        assert_eq!(found.os_image_hash, Some(Hash256([3; 32])));
        assert_eq!(names(&found.events, Rtmr::Rtmr0).first(), Some(&"TD HOB"));
        assert_eq!(names(&found.events, Rtmr::Rtmr1).first(), Some(&"kernel"));
        assert_eq!(names(&found.events, Rtmr::Rtmr2), ["LOADED_IMAGE::LoadOptions", "Linux initrd"]);
        assert_eq!(names(&found.events, Rtmr::Rtmr3).first(), Some(&"system-preparing"));
        assert_eq!(found.register(Rtmr::Rtmr2), Some(rtmr2::register(CMDLINE, b"archive")));
        let order: Vec<Rtmr> = found.events.iter().map(|event| event.rtmr).collect();
        assert!(order.is_sorted());

        let launch = found.launch().unwrap();
        let provider = mr_key_provider(Some(br#"{"name":"none","id":""}"#));
        assert_eq!(found.mr_system, Some(mr_system(&launch, &provider)));
        let rtmr3 = found.register(Rtmr::Rtmr3).unwrap();
        assert_eq!(
            found.mr_aggregated,
            Some(mr_aggregated(&launch, &rtmr3, &Register::ZERO, &Register::ZERO))
        );
    });
}

#[test]
fn what_is_not_given_is_not_known() {
    kernel_and(b"archive", |image| {
        let vm = vm("10.0.13");
        let expected = |acpi, instance: Option<Instance>| {
            image.expected(&vm, &acpi, instance.map(measured).as_ref()).unwrap()
        };
        let known = AcpiSource::Given(digests(1));
        let without = expected(known, None);
        assert_eq!((without.mrconfigid, without.mr_system, without.mr_aggregated), (None, None, None));
        assert_eq!(without.register(Rtmr::Rtmr3), None, "not zero: nobody said what boots");
        let any = expected(known, Some(Instance::Unknown));
        assert!(any.mr_system.is_some() && any.mr_aggregated.is_none());
        let unpinned = expected(AcpiSource::Unpinned, Some(Instance::Without));
        assert_eq!((unpinned.register(Rtmr::Rtmr0), unpinned.mr_system), (None, None));
        assert!(unpinned.register(Rtmr::Rtmr3).is_some());
    });
}

/// The machines that a table knows; the last entry is of another firmware.
fn table(vm: &Vm, firmware: &Hash256) -> AcpiTable {
    let entry = |qemu, vm: &Vm, firmware, byte| AcpiEntry {
        qemu,
        shape: vm.shape_key(firmware),
        digests: digests(byte),
    };
    let four = Vm { cpus: 4, ..vm.clone() };
    AcpiTable::new([
        entry(vm.qemu, vm, &firmware.0, 1),
        entry(QemuVersion::new(11, 1, 3), vm, &firmware.0, 2),
        entry(vm.qemu, &four, &firmware.0, 3),
        // The same tables as this machine's.
        entry(QemuVersion::new(10, 0, 12), vm, &firmware.0, 1),
        entry(vm.qemu, &four, &[0; 32], 4),
    ])
}

/// An alternative is what a machine with that input, and with nothing else, would show.
#[test]
fn each_alternative_is_the_machine_that_its_label_says() {
    for qemu in ["8.2.2", "10.0.13"] {
        kernel_and(b"archive", |image| {
            let vm = vm(qemu);
            let sha256 = Hash256::of(image.firmware);
            let (acpi, table) = (AcpiSource::Captured(digests(1)), table(&vm, &sha256));
            let expected = image.expected(&vm, &acpi, None).unwrap();
            let found = image.alternatives(&vm, &[&table], &sha256, &expected).unwrap();
            let labels: BTreeSet<&str> = found.iter().map(|other| other.label.as_str()).collect();
            assert_eq!(labels.len(), found.len());

            let (order, passes) = match vm.page_order() {
                PageOrder::SinglePass => {
                    (PageOrder::TwoPass, "pages measured in two passes (QEMU before 9.0)")
                }
                PageOrder::TwoPass => {
                    (PageOrder::SinglePass, "pages measured in one pass (QEMU 9.0 or later)")
                }
            };
            let (seen, header) = match vm.kernel_seen() {
                KernelSeen::AsFile => (KernelSeen::Patched, "a QEMU that fills in the kernel's setup header"),
                KernelSeen::Patched => {
                    (KernelSeen::AsFile, "a QEMU that leaves the kernel's setup header alone")
                }
            };
            let mut machines = vec![
                (passes.to_owned(), Vm { page_order: Some(order), ..vm.clone() }, acpi),
                (header.to_owned(), Vm { setup_header: Some(seen), ..vm.clone() }, acpi),
                (
                    "ACPI tables of QEMU 11.1.3 (casemate cpus=2 memory=2048M)".into(),
                    vm.clone(),
                    AcpiSource::Captured(digests(2)),
                ),
                (
                    format!("ACPI tables of QEMU {qemu} (casemate cpus=4 memory=2048M)"),
                    vm.clone(),
                    AcpiSource::Captured(digests(3)),
                ),
            ];
            for mib in MEMORIES.into_iter().filter(|mib| *mib != 2048) {
                machines.push((format!("memory {mib} MiB"), Vm { memory_mib: mib, ..vm.clone() }, acpi));
            }
            assert_eq!(labels, machines.iter().map(|(label, ..)| label.as_str()).collect());
            for (label, other, acpi) in &machines {
                let found = found.iter().find(|found| found.label == *label).unwrap();
                let whole = image.expected(other, acpi, None).unwrap();
                let should = Alternative::new(label.as_str(), &expected, &whole);
                assert_eq!(found.mrtd, should.mrtd, "{label}");
                for rtmr in Rtmr::ALL {
                    let digests = |other: &Alternative| {
                        other.of(rtmr).map(|e| (e.name.clone(), e.digest)).collect::<Vec<_>>()
                    };
                    assert_eq!(digests(found), digests(&should), "{label}: {rtmr}");
                }
                assert!(found.events.iter().all(|event| !event.origin.is_empty()), "{label}");
            }
        });
    }
}

#[test]
fn the_kernel_is_hashed_once_for_each_form_that_the_firmware_sees() {
    kernel_and(b"archive", |image| {
        for (qemu, forms) in [("10.0.13", 1), ("8.2.2", 4)] {
            let vm = vm(qemu);
            let expected = image.expected(&vm, &AcpiSource::Unpinned, None).unwrap();
            let mut kernels = Kernels::new(&image, &vm, &expected);
            for mib in MEMORIES {
                let other = Vm { memory_mib: mib, ..vm.clone() };
                assert_eq!(kernels.rtmr1(&other).unwrap(), image.rtmr1(&other).unwrap(), "{mib}");
            }
            // Filled in: the place of the initramfs is another one with 512, 1024 and 1536 MiB, and the same from 2048 on.
            assert_eq!(kernels.hashed.len(), forms, "{qemu}");
        }
    });
}

#[test]
fn machines_that_would_not_start_are_no_alternatives() {
    // Larger than what a machine of 512 MiB has room for: only with a header that is filled in does QEMU say so.
    let initramfs = vec![0; 600 << 20];
    let labels = |image: &Image<'_>, qemu| {
        let vm = vm(qemu);
        // None of it is hashed for this: what is expected is not looked at where it stays.
        let expected = Expected {
            mrtd: Register::ZERO,
            mrconfigid: None,
            os_image_hash: None,
            mr_system: None,
            mr_aggregated: None,
            events: rtmr0::events(&Tdvf::parse(image.firmware).unwrap(), &vm, &AcpiSource::Unpinned).unwrap(),
            alternatives: Vec::new(),
        };
        let found = image.alternatives(&vm, &[], &Hash256([0; 32]), &expected).unwrap();
        found.into_iter().map(|other| other.label).collect::<Vec<_>>()
    };
    kernel_and(&initramfs, |image| {
        assert!(labels(&image, "10.0.13").contains(&"memory 512 MiB".to_owned()));
        let patched = labels(&image, "8.2.2");
        assert!(
            !patched.contains(&"memory 512 MiB".to_owned())
                && patched.contains(&"memory 1024 MiB".to_owned())
        );
    });
    // A video mode is written into the header: such a machine is no alternative, but the file itself is measured.
    let (firmware, kernel) = (of(&SMALL), build::kernel());
    let payload = Payload::Direct { kernel: &kernel, initramfs: b"", cmdline: "vga=ask" };
    let image = Image { firmware: &firmware, payload, os_image_hash: None };
    assert!(labels(&image, "10.0.13").iter().all(|label| !label.contains("header")));
    let error = image.expected(&vm("8.2.2"), &AcpiSource::Unpinned, None).unwrap_err();
    assert_eq!(error, ImageError::Kernel(BzImageError::VideoMode));
}

#[test]
fn an_error_names_the_file() {
    let (firmware, kernel) = (of(&SMALL), build::kernel());
    let direct = |kernel, initramfs| Payload::Direct { kernel, initramfs, cmdline: CMDLINE };
    let error = |firmware, payload, qemu, mib| {
        let vm = Vm { memory_mib: mib, ..vm(qemu) };
        let image = Image { firmware, payload, os_image_hash: None };
        image.expected(&vm, &AcpiSource::Unpinned, None).unwrap_err().to_string()
    };
    let initramfs = vec![0; 9 << 20];
    for (error, says) in [
        (error(&firmware[..1000], direct(&kernel, b""), "10.0.13", 512), "firmware: size: expected 1 KiB to"),
        (error(&firmware, direct(&kernel, b""), "10.0.13", 8), "firmware: memory: expected the firmware's"),
        (
            error(&firmware, direct(&kernel[..600], b""), "10.0.13", 512),
            "kernel: setup header: expected at least",
        ),
        (error(&firmware, direct(&firmware, b""), "8.2.2", 512), "kernel: header: expected HdrS"),
        (error(&firmware, direct(&kernel, &initramfs), "8.2.2", 9), "kernel: initramfs: expected less than"),
        (
            error(&firmware, Payload::Uki(&kernel), "10.0.13", 512),
            "unified kernel image: sections: expected .sdmagic",
        ),
        (error(&firmware, Payload::Uki(b"MZ"), "8.2.2", 512), "unified kernel image: DOS header: expected"),
    ] {
        assert!(error.starts_with(says), "expected {says:?}, found {error:?}");
    }
}

#[test]
fn unpinned_acpi_stays_unpinned_where_only_memory_changes() {
    kernel_and(b"archive", |image| {
        let vm = vm("10.0.13");
        let expected = image.expected(&vm, &AcpiSource::Unpinned, None).unwrap();
        let found = image.alternatives(&vm, &[], &Hash256([0; 32]), &expected).unwrap();
        let of_memory = found.iter().filter(|other| other.label.starts_with("memory "));
        assert_eq!(of_memory.clone().count(), MEMORIES.len() - 1);
        for other in of_memory {
            let unpinned = other.of(Rtmr::Rtmr0).filter(|event| event.digest == Digest::Unpinned).count();
            assert_eq!(unpinned, 3, "{}", other.label);
        }
    });
}
