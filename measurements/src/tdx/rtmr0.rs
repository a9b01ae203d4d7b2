//! RTMR0: what the firmware measures of its own configuration and of what QEMU tells it, for a direct boot (edk2
//! `OvmfPkg`; UEFI 2.10 section 38.4.1: PCR 1 and 7).
//!
//! Both known layouts were compared with logs of real machines: before edk2-stable202505 with two, from it on with one.
//! Not modelled: firmware before edk2-stable202411, whose second separator went into RTMR0 instead of RTMR1 (edk2
//! efaf8931bbfa), and boot options other than those that OVMF registers before a direct boot.

use serde::{Deserialize, Serialize};

use super::acpi::AcpiSource;
use super::efi::{self, LoadOption, Variable};
use super::event::{Digest, Event, EventType, Rtmr};
use super::hob::{self, HobError};
use super::tdvf::Tdvf;
use super::vm::{FwCfg, SecureBoot, Vm};
use crate::register::Register;

/// What a firmware measures, by its age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FirmwareLayout {
    /// edk2-stable202411 and 202502, which is Debian 13's and dstack's.
    Pre202505,
    /// edk2-stable202505 and later: fw_cfg items and SMBIOS too, and another boot menu (edk2 2eac71a1ee08, cd76265f1af6,
    /// 9d9e3a2ba820).
    From202505,
}

/// The events of RTMR0, in order.
///
/// # Errors
/// A machine that QEMU would not start with that firmware.
pub fn events(firmware: &Tdvf<'_>, vm: &Vm, acpi: &AcpiSource) -> Result<Vec<Event>, HobError> {
    let later = vm.firmware_layout() == FirmwareLayout::From202505;
    let mut events = vec![td_hob(firmware, vm)?];
    events.push(event(
        EventType::EFI_PLATFORM_FIRMWARE_BLOB2,
        "CFV",
        Register::digest(firmware.cfv().data),
        format!("{} bytes of the firmware: its variables", firmware.cfv().data.len()),
    ));
    if later {
        events.extend(fw_cfg(&vm.fw_cfg));
    }
    events.extend(secure_boot(vm.secure_boot.as_ref()));
    events.push(event(EventType::SEPARATOR, "separator", efi::separator(), "constant: 00000000"));
    events.extend(acpi_blobs(vm, acpi));
    if vm.secure_boot.as_ref().is_some_and(SecureBoot::enabled) {
        events.push(unpinned(
            EventType::EFI_VARIABLE_AUTHORITY,
            "image authority",
            "unpinned: which entry of db let the kernel start is not computed here",
        ));
    }
    if later {
        events.push(vm.smbios.map_or_else(
            || {
                let origin = "unpinned: varies with QEMU and memory; the shape's smbios gives it";
                unpinned(EventType::EFI_HANDOFF_TABLES, "SMBIOS", origin)
            },
            |digest| event(EventType::EFI_HANDOFF_TABLES, "SMBIOS", digest, "given by the shape"),
        ));
    }
    events.extend(boot_variables(if later {
        &[LoadOption::BOOT_MANAGER_MENU, LoadOption::FIRMWARE_SETUP]
    } else {
        &[LoadOption::UI_APP]
    }));
    Ok(events)
}

/// The one event that depends on memory.
pub(super) fn td_hob(firmware: &Tdvf<'_>, vm: &Vm) -> Result<Event, HobError> {
    let hob = hob::td_hob(firmware, vm.memory())?;
    Ok(event(
        EventType::EFI_HANDOFF_TABLES2,
        "TD HOB",
        Register::digest(&hob),
        format!("memory of {} MiB and the firmware's sections", vm.memory_mib),
    ))
}

/// What is there of the items, in the firmware's order.
fn fw_cfg(items: &FwCfg) -> Vec<Event> {
    // Paths one a line, the last with a NUL instead of the line's end (QEMU `system/bootdevice.c`).
    let boot_order = items.boot_order.join("\n");
    let boot_order = (!boot_order.is_empty()).then(|| [boot_order.as_bytes(), &[0]].concat());
    let number = |value: Option<u64>| value.map(|value| value.to_le_bytes().to_vec());
    let measured = [
        ("etc/extra-pci-roots", number(items.extra_pci_roots)),
        ("BootMenu", Some(u16::from(items.boot_menu).to_le_bytes().to_vec())),
        ("etc/boot-menu-wait", items.boot_menu_wait.map(|wait| wait.to_le_bytes().to_vec())),
        ("etc/reserved-memory-end", number(items.reserved_memory_end)),
        ("opt/ovmf/X-PciMmio64Mb", items.pci_mmio64_mb.clone().map(String::into_bytes)),
        ("bootorder", boot_order),
    ];
    let there = measured.into_iter().filter_map(|(name, data)| Some((name, data?)));
    there
        .map(|(name, data)| {
            let origin = format!("{} bytes by fw_cfg, from the shape", data.len());
            event(EventType::PLATFORM_CONFIG_FLAGS, name, Register::digest(&data), origin)
        })
        .collect()
}

/// The secure boot policy: five variables, whether they exist or not, and a sixth if it does.
fn secure_boot(given: Option<&SecureBoot>) -> Vec<Event> {
    let absent = SecureBoot::default();
    let content = given.unwrap_or(&absent);
    let policy = [
        (Variable::SECURE_BOOT, &content.secure_boot),
        (Variable::PK, &content.pk),
        (Variable::KEK, &content.kek),
        (Variable::DB, &content.db),
        (Variable::DBX, &content.dbx),
        (Variable::DBT, &content.dbt),
    ];
    let measured =
        policy.into_iter().filter(|(variable, data)| *variable != Variable::DBT || !data.is_empty());
    measured
        .map(|(variable, data)| {
            let origin = match data.len() {
                0 => "the variable does not exist".to_owned(),
                length => format!("{length} bytes, from the shape"),
            };
            event(EventType::EFI_VARIABLE_DRIVER_CONFIG, variable.name, variable.digest(data), origin)
        })
        .collect()
}

/// The three that depend on the ACPI tables.
pub(super) fn acpi_blobs(vm: &Vm, acpi: &AcpiSource) -> [Event; 3] {
    let digests = acpi.digests();
    let blobs = [
        ("etc/table-loader", digests.map(|d| d.loader)),
        ("etc/acpi/rsdp", digests.map(|d| d.rsdp)),
        ("etc/acpi/tables", digests.map(|d| d.tables)),
    ];
    blobs.map(|(name, digest)| match digest {
        Some(digest) => event(EventType::PLATFORM_CONFIG_FLAGS, name, digest, acpi.words(vm)),
        None => unpinned(EventType::PLATFORM_CONFIG_FLAGS, name, acpi.words(vm)),
    })
}

/// `BootOrder` and each option in it, by content alone.
fn boot_variables(options: &[LoadOption]) -> Vec<Event> {
    let numbers: Vec<u16> = (0..).take(options.len()).collect();
    let order = Register::digest(&efi::boot_order(&numbers));
    let names: Vec<_> = numbers.iter().map(|number| format!("{number:04X}")).collect();
    let origin = format!("the firmware's own options: {}", names.join(", "));
    let mut events = vec![event(EventType::EFI_VARIABLE_BOOT, "BootOrder", order, origin)];
    for (number, option) in numbers.iter().zip(options) {
        let origin = format!("\"{}\" of the firmware", option.description);
        let name = format!("Boot{number:04X}");
        events.push(event(EventType::EFI_VARIABLE_BOOT, name, Register::digest(&option.bytes()), origin));
    }
    events
}

fn event(
    event_type: EventType,
    name: impl Into<String>,
    digest: Register,
    origin: impl Into<String>,
) -> Event {
    let digest = Digest::Known(digest);
    Event { rtmr: Rtmr::Rtmr0, event_type, name: name.into(), digest, origin: origin.into() }
}

fn unpinned(event_type: EventType, name: impl Into<String>, origin: impl Into<String>) -> Event {
    let digest = Digest::Unpinned;
    Event { rtmr: Rtmr::Rtmr0, event_type, name: name.into(), digest, origin: origin.into() }
}

#[cfg(test)]
mod tests;
