//! A machine that somebody else ran as a trust domain: what its guest read, TCG shows too.

use std::fs;
use std::num::NonZeroU16;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use casemate_measure::Register;
use casemate_measure::image::Flavor;
use casemate_qemu::acpi::{Blobs, Machine};
use casemate_qemu::io::capture::{Captured, Request, capture};

use crate::PATIENCE;

/// RTMR0 of a trust domain under QEMU 10.2.1 whose guest kept its `etc/acpi/tables`: 8 vCPUs, 16 GiB, five PCI devices, HPET
/// (virtee/tdx-measure, Apache-2.0, `tests/fixtures/runtime-capture`: `expected.json`, and `SOURCE-OF-TRUTH.md` on how).
pub(crate) const RTMR0: &str =
    "a2749c840579faca6adf0c9c3ab69f277556cda67f8a6b3553c2c7fbf00e9706ec77a6f6960d802433b339ff8b72eefb";

/// Its TD HOB: 16 GiB, and the sections that Ubuntu's 2025.02 firmware shares with Debian's.
const TD_HOB: &str =
    "794385a0fd4ad1933f2f10bc019228fe275b82a90d9cd73a0561ba3b3cc7ecfae40b1771fd78dc19a34a094bd4a5286b";
/// The firmware's variables are its first bytes (TDX metadata of the pinned `ovmf.fd`: section CFV).
const CFV: usize = 540_672;
/// `EFI_LOAD_OPTION` of Boot0000, `UiApp` in the firmware volume (edk2 `MdeModulePkg/Application/UiApp`).
const UI_APP: &str = "090100002c0055006900410070007000000004071400c9bdb87cebf8344faaea3ee4af6516a10406140021aa2c4614760345836e8ab6f46623317fff0400";

/// That machine's devices in ours' place: the card that needs a kernel module of the host's is another one in its slot, for the
/// tables name no card.
const DEVICES: &str = "-machine hpet=on -global q35-pcihost.pci-hole64-size=4096G -netdev hubport,id=net0,hubid=0 \
    -device e1000,netdev=net0,bus=pcie.0,addr=0x2,romfile= -device virtio-rng-pci,disable-legacy=on \
    -device virtio-scsi-pci,disable-legacy=on,iommu_platform=on -device virtio-scsi-pci,disable-legacy=on,iommu_platform=on \
    -device virtio-scsi-pci,disable-legacy=on,iommu_platform=on";

/// Captures its tables.
pub(crate) fn captured(qemu: &str, firmware: &Path) -> Captured {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("qemu");
    let script = format!(
        "#!/bin/sh\nleft=$#\nwhile [ $left -gt 0 ]; do\n  word=$1; shift; left=$((left - 1))\n  case $word in\n  \
         -device|-netdev|-blockdev) shift; left=$((left - 1)) ;;\n  *) set -- \"$@\" \"$word\" ;;\n  esac\ndone\n\
         exec {qemu} \"$@\" {DEVICES}\n"
    );
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let machine = Machine { cpus: NonZeroU16::new(8).unwrap(), memory_mib: 16 << 10, flavor: Flavor::Prod };
    let program = program.to_str().unwrap().to_owned();
    let request = Request { program, machine, firmware: firmware.to_owned(), limit: PATIENCE };
    capture(&request, &mut |line| println!("{line}")).unwrap()
}

/// RTMR0 of firmware before edk2-stable202505, with these blobs.
pub(crate) fn rtmr0(firmware: &[u8], blobs: &Blobs) -> Register {
    // EFI_GLOBAL_VARIABLE and EFI_IMAGE_SECURITY_DATABASE_GUID (UEFI 2.10, sections 3.3 and 32.4.1).
    let global = "61dfe48bca93d211aa0d00e098032b8c";
    let database = "cbb219d73a3d9645a3bcdad00e67656f";
    let variables =
        [("SecureBoot", global), ("PK", global), ("KEK", global), ("db", database), ("dbx", database)];
    // UEFI_VARIABLE_DATA of variables without content (TCG PC Client Platform Firmware Profile, "UEFI_VARIABLE_DATA").
    let absent = variables.map(|(name, guid)| {
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let lengths = [name.len() as u64 / 2, 0].map(u64::to_le_bytes).concat();
        Register::digest(&[hex::decode(guid).unwrap(), lengths, name].concat())
    });
    let before = [Register::from_hex(TD_HOB).unwrap(), Register::digest(&firmware[..CFV])];
    let separator = Register::digest(&[0; 4]);
    let acpi = [&blobs.loader, &blobs.rsdp, &blobs.tables].map(|blob| Register::digest(blob));
    let boot = [Register::digest(&[0; 2]), Register::digest(&hex::decode(UI_APP).unwrap())];
    let events = [&before[..], &absent, &[separator], &acpi, &boot].concat();
    events.iter().fold(Register::ZERO, |register, event| register.extended(event))
}
