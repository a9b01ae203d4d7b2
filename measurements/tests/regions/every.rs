//! That no input was forgotten.

use std::collections::BTreeSet;

use casemate_measure::tdx::region::Region;
use casemate_measure::tdx::rtmr3::Boot;
use casemate_measure::tdx::{Image, Measured, Payload, Vm};

use crate::files::{FIRMWARE, KERNEL, PE, UKI};
use crate::inputs::INPUTS;
use crate::machine::Machine;

#[test]
fn every_region_of_the_table_is_tried() {
    let tried: Vec<Region> = [&FIRMWARE[..], &PE, &KERNEL, &UKI, &INPUTS].concat();
    let each: BTreeSet<Region> = tried.iter().copied().collect();
    assert_eq!(each, Region::ALL.iter().copied().collect());
    assert_eq!(tried.len(), each.len());
}

/// Patterns without `..`: a new field does not compile until it has a region here.
#[test]
fn every_input_has_a_region() {
    let Image { firmware: _, payload, os_image_hash: _ } =
        Image { firmware: &[], payload: Payload::Uki(&[]), os_image_hash: None };
    let mut regions = FIRMWARE.to_vec();
    match payload {
        Payload::Direct { kernel: _, initramfs: _, cmdline: _ } | Payload::Uki(_) => {
            regions.extend([&PE[..], &KERNEL, &UKI].concat());
            regions.extend([
                Region::Initramfs,
                Region::InitramfsLength,
                Region::CommandLine,
                Region::CommandLineLength,
            ]);
        }
    }
    let machine = Machine::kernel(casemate_measure::tdx::bzimage::KernelSeen::AsFile);
    let Measured { boot, mrconfigid: _ } = machine.measured;
    // There is no data disk, and where keys come from is the document's to say.
    let Boot { compose_hash: _, app_id: _, instance: _, key_provider: _, storage_fs: None } = boot else {
        panic!("a document of ours")
    };
    regions.extend([Region::Document, Region::Instance]);
    let Vm {
        memory_mib: _,
        cpus: _,
        qemu: _,
        machine: _,
        page_order: _,
        firmware_layout: _,
        setup_header: _,
        initrd_argument: _,
        secure_boot: _,
        fw_cfg: _,
        smbios: _,
    } = machine.vm;
    regions.extend([
        Region::Memory,
        Region::Cpus,
        Region::Qemu,
        Region::Machine,
        Region::PageOrder,
        Region::FirmwareLayout,
        Region::SetupHeader,
        Region::InitrdArgument,
        Region::SecureBoot,
        Region::FwCfg,
        Region::Smbios,
        Region::AcpiTables,
    ]);
    let regions: BTreeSet<Region> = regions.into_iter().collect();
    assert_eq!(regions, Region::ALL.iter().copied().collect());
}
