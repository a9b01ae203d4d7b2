//! Inputs that are no files with fields: command line, initramfs, document, instance, and all that a shape says.

use casemate_measure::Register;
use casemate_measure::identity::InstanceId;
use casemate_measure::tdx::bzimage::KernelSeen;
use casemate_measure::tdx::region::Region;
use casemate_measure::tdx::rtmr2::InitrdArgument;
use casemate_measure::tdx::rtmr3::Instance;
use casemate_measure::tdx::vm::{FwCfg, SecureBoot};
use casemate_measure::tdx::{FirmwareLayout, PageOrder, QemuVersion};
use proptest::prelude::*;

use crate::judge::{BOTH, Judge};
use crate::machine::{Boots, DOCUMENT, File, Machine, measured};

/// The regions of this file.
pub(crate) const INPUTS: [Region; 18] = [
    Region::CommandLine,
    Region::CommandLineLength,
    Region::Initramfs,
    Region::InitramfsLength,
    Region::Document,
    Region::Instance,
    Region::AcpiTables,
    Region::Memory,
    Region::Cpus,
    Region::Qemu,
    Region::Machine,
    Region::PageOrder,
    Region::SetupHeader,
    Region::InitrdArgument,
    Region::FirmwareLayout,
    Region::SecureBoot,
    Region::FwCfg,
    Region::Smbios,
];

/// One change of a machine, and what it is one of.
fn change(judge: &mut Judge, region: Region, before: &Machine, change: impl FnOnce(&mut Machine)) {
    let mut after = before.clone();
    change(&mut after);
    let what = (&after.vm, after.acpi);
    let seen = before.vm.setup_header.unwrap();
    judge.change((region, seen), &before.expected().unwrap(), after.expected(), &what);
}

fn direct(machine: &mut Machine) -> (&mut Vec<u8>, &mut String) {
    match &mut machine.boots {
        Boots::Kernel { initramfs, cmdline, .. } => (initramfs, cmdline),
        Boots::Uki(_) => panic!("a machine with a kernel"),
    }
}

#[test]
fn the_command_line() {
    let mut judge = Judge::default();
    for seen in BOTH {
        let machine = Machine::kernel(seen);
        for at in 0.."quiet panic=-1".len() {
            // The low bits: it remains text.
            for bit in 0..4 {
                change(&mut judge, Region::CommandLine, &machine, |machine| {
                    let mut bytes = direct(machine).1.clone().into_bytes();
                    bytes[at] ^= 1 << bit;
                    *direct(machine).1 = String::from_utf8(bytes).unwrap();
                });
            }
        }
        // As long as it was.
        change(&mut judge, Region::CommandLine, &machine, |machine| {
            *direct(machine).1 = "quiet vga=ask1".into()
        });
        let mut low = machine.clone();
        low.file(File::Payload)[0x211] = 0;
        for length in 0..80 {
            for machine in [&machine, &low] {
                change(&mut judge, Region::CommandLineLength, machine, |machine| {
                    let cmdline = direct(machine).1;
                    *cmdline = "x".repeat(cmdline.len() + 1 + length);
                });
            }
        }
    }
    judge.verdict(&[Region::CommandLine, Region::CommandLineLength]);
}

/// What QEMU writes of a kernel that is loaded high is the same for command lines of any length.
#[test]
fn the_length_of_the_command_line_shows_in_rtmr1_only_below_640_kib() {
    let machine = Machine::kernel(KernelSeen::Patched);
    let kernel = |machine: &Machine| machine.expected().unwrap().register(casemate_measure::tdx::Rtmr::Rtmr1);
    let mut longer = machine.clone();
    direct(&mut longer).1.push_str(&" x".repeat(500));
    assert_eq!(kernel(&machine), kernel(&longer));
    for machine in [&mut longer, &mut machine.clone()] {
        machine.file(File::Payload)[0x211] = 0;
    }
    assert_ne!(kernel(&machine), kernel(&longer));
}

#[test]
fn the_initramfs() {
    let mut judge = Judge::default();
    for seen in BOTH {
        let machine = Machine::kernel(seen);
        for at in 0..700 {
            change(&mut judge, Region::Initramfs, &machine, |machine| direct(machine).0[at] ^= 1 << (at % 8));
        }
        for length in [0, 1, 699, 701, 4096, 1 << 20] {
            change(&mut judge, Region::InitramfsLength, &machine, |machine| {
                direct(machine).0.resize(length, 0x33)
            });
        }
        // As large as all memory: QEMU finds no place for it.
        let mut small = machine.clone();
        small.vm.memory_mib = 9;
        change(&mut judge, Region::InitramfsLength, &small, |machine| {
            direct(machine).0.resize(9 << 20, 0x33)
        });
    }
    judge.verdict(&[Region::Initramfs, Region::InitramfsLength]);
}

#[test]
fn the_document_and_the_instance() {
    let mut judge = Judge::default();
    for seen in BOTH {
        let machine = Machine::kernel(seen);
        let before = machine.expected().unwrap();
        for at in 0..DOCUMENT.len() {
            let mut document = DOCUMENT.to_vec();
            document[at] ^= 1 << (at % 8);
            let after = measured(&document)
                .map(|measured| Machine { measured, ..machine.clone() }.expected().unwrap());
            judge.change((Region::Document, seen), &before, after, &at);
        }
        // A space more is another document, whatever it says.
        let longer = measured(&[DOCUMENT, b" "].concat()).unwrap();
        change(&mut judge, Region::Document, &machine, |machine| machine.measured = longer);
        for instance in [Instance::Known(InstanceId([8; 20])), Instance::Without] {
            change(&mut judge, Region::Instance, &machine, |machine| {
                machine.measured.boot.instance = instance
            });
        }
    }
    judge.verdict(&[Region::Document, Region::Instance]);
}

#[test]
fn memory_and_cpus() {
    let mut judge = Judge::default();
    let sizes = [9, 512, 1024, 2048, 2815, 2816, 3072, 4096, 65_536, 1 << 20];
    for seen in BOTH {
        let machine = Machine::kernel(seen);
        for from in sizes {
            let mut machine = machine.clone();
            machine.vm.memory_mib = from;
            for to in sizes.into_iter().filter(|to| *to != from) {
                change(&mut judge, Region::Memory, &machine, |machine| machine.vm.memory_mib = to);
            }
        }
        // The firmware's own memory is not there.
        change(&mut judge, Region::Memory, &machine, |machine| machine.vm.memory_mib = 8);
        for cpus in [1, 3, 4, 64, 4096] {
            change(&mut judge, Region::Cpus, &machine, |machine| machine.vm.cpus = cpus);
        }
    }
    judge.verdict(&[Region::Memory, Region::Cpus]);
}

/// Each pair of versions: page order, ACPI tables and header change where they must, and nowhere else.
#[test]
fn the_version_of_qemu() {
    let versions = ["8.0.5", "8.2.2", "9.0.0", "9.2.1", "10.0.13", "10.2.0", "11.1.3"];
    let versions = versions.map(|version| version.parse::<QemuVersion>().unwrap());
    let mut judge = Judge::default();
    for seen in BOTH {
        for from in versions {
            for to in versions.into_iter().filter(|to| *to != from) {
                let mut machine = Machine::kernel(seen);
                machine.vm.qemu = from;
                // The version decides; that of the machine is for the judge's column alone.
                let mut before = machine.clone();
                before.vm.setup_header = None;
                let mut after = before.clone();
                after.vm.qemu = to;
                let (one, other) = (before.expected().unwrap(), after.expected().unwrap());
                assert_eq!(one.mrtd != other.mrtd, before.vm.page_order() != after.vm.page_order());
                let rtmr1 = |expected: &casemate_measure::tdx::Expected| {
                    expected.register(casemate_measure::tdx::Rtmr::Rtmr1)
                };
                assert_eq!(rtmr1(&one) != rtmr1(&other), before.vm.kernel_seen() != after.vm.kernel_seen());
                judge.change((Region::Qemu, seen), &one, after.expected(), &(from, to));
            }
        }
    }
    judge.verdict(&[Region::Qemu]);
}

#[test]
fn what_else_a_shape_says() {
    let mut judge = Judge::default();
    for seen in BOTH {
        let other = if seen == KernelSeen::AsFile { KernelSeen::Patched } else { KernelSeen::AsFile };
        let machine = Machine::kernel(seen);
        let mut changes = |region, to: &dyn Fn(&mut Machine)| change(&mut judge, region, &machine, to);
        changes(Region::AcpiTables, &|machine| machine.acpi = 1);
        changes(Region::Machine, &|machine| machine.vm.machine = "casemate-dev".into());
        changes(Region::PageOrder, &|machine| machine.vm.page_order = Some(PageOrder::TwoPass));
        changes(Region::SetupHeader, &|machine| machine.vm.setup_header = Some(other));
        changes(Region::InitrdArgument, &|machine| {
            machine.vm.initrd_argument = Some(InitrdArgument::Prepended)
        });
        changes(Region::FirmwareLayout, &|machine| {
            machine.vm.firmware_layout = Some(FirmwareLayout::Pre202505)
        });
        changes(Region::Smbios, &|machine| machine.vm.smbios = Some(Register([8; 48])));
        changes(Region::Smbios, &|machine| machine.vm.smbios = None);
        let none = SecureBoot::default;
        for variables in [
            SecureBoot { secure_boot: vec![0], ..none() },
            SecureBoot { secure_boot: vec![1], ..none() },
            SecureBoot { pk: vec![1], ..none() },
            SecureBoot { kek: vec![1], ..none() },
            SecureBoot { db: vec![1], ..none() },
            SecureBoot { dbx: vec![1], ..none() },
            SecureBoot { dbt: vec![1], ..none() },
        ] {
            changes(Region::SecureBoot, &|machine| machine.vm.secure_boot = Some(variables.clone()));
        }
        let plain = FwCfg::default;
        for items in [
            FwCfg { extra_pci_roots: Some(1), ..plain() },
            FwCfg { boot_menu: true, ..plain() },
            FwCfg { boot_menu_wait: Some(1), ..plain() },
            FwCfg { reserved_memory_end: Some(1), ..plain() },
            FwCfg { pci_mmio64_mb: Some("1".into()), ..plain() },
            FwCfg { boot_order: vec![], ..plain() },
        ] {
            changes(Region::FwCfg, &|machine| machine.vm.fw_cfg = items.clone());
        }
    }
    judge.verdict(&[
        Region::AcpiTables,
        Region::Machine,
        Region::PageOrder,
        Region::SetupHeader,
        Region::InitrdArgument,
        Region::FirmwareLayout,
        Region::Smbios,
        Region::SecureBoot,
        Region::FwCfg,
    ]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_machine(
        seen in prop::sample::select(&BOTH[..]),
        memory in (9_u32..8192, 9_u32..8192),
        cpus in (1_u16..300, 1_u16..300),
        lines in ("[ -~]{0,100}", "[ -~]{0,100}"),
        contents in (prop::collection::vec(any::<u8>(), 0..200), prop::collection::vec(any::<u8>(), 0..200)),
    ) {
        let mut judge = Judge::default();
        let mut machine = Machine::kernel(seen);
        (machine.vm.memory_mib, machine.vm.cpus) = (memory.0, cpus.0);
        (*direct(&mut machine).1, *direct(&mut machine).0) = (lines.0.replace("vga", ""), contents.0.clone());
        if memory.0 != memory.1 {
            change(&mut judge, Region::Memory, &machine, |machine| machine.vm.memory_mib = memory.1);
        }
        if cpus.0 != cpus.1 {
            change(&mut judge, Region::Cpus, &machine, |machine| machine.vm.cpus = cpus.1);
        }
        let line = lines.1.replace("vga", "");
        if *direct(&mut machine).1 != line {
            change(&mut judge, Region::CommandLineLength, &machine, |machine| *direct(machine).1 = line);
        }
        if contents.0 != contents.1 {
            let region = if contents.0.len() == contents.1.len() { Region::Initramfs } else { Region::InitramfsLength };
            change(&mut judge, region, &machine, |machine| *direct(machine).0 = contents.1);
        }
    }
}
