//! RTMR1: what the firmware loaded and started.
//!
//! In the order of `TryRunningQemuKernel` (edk2 `OvmfPkg/Library/PlatformBootManagerLib/QemuKernel.c`): the kernel is
//! measured when it is loaded, then the signal "ready to boot" brings the first action and the separator (`OnReadyToBoot`,
//! `OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c`), then the kernel runs and leaves boot services.

use super::efi;
use super::event::{Digest, Event, EventType, Rtmr};
use super::pe::Pe;
use crate::register::Register;

/// A direct boot: the kernel, and what every boot has. `origin` says which file it is, and as whom it was seen.
pub fn direct(kernel: &Pe<'_>, origin: impl Into<String>) -> Vec<Event> {
    let [calling, separator] = ready_to_boot();
    let [invoked, succeeded] = exit_boot_services();
    vec![application("kernel", kernel, origin), calling, separator, invoked, succeeded]
}

/// An EFI application that is loaded.
pub fn application(name: &str, pe: &Pe<'_>, origin: impl Into<String>) -> Event {
    event(EventType::EFI_BOOT_SERVICES_APPLICATION, name, pe.authenticode(), origin.into())
}

/// What is measured when the firmware is ready to boot.
pub fn ready_to_boot() -> [Event; 2] {
    let origin = "constant: four zero bytes".to_owned();
    [action(efi::CALLING_EFI_APPLICATION), event(EventType::SEPARATOR, "separator", efi::separator(), origin)]
}

/// What is measured when the kernel leaves boot services.
pub fn exit_boot_services() -> [Event; 2] {
    [action(efi::EXIT_BOOT_SERVICES_INVOCATION), action(efi::EXIT_BOOT_SERVICES_SUCCEEDED)]
}

/// What comes before another `Calling EFI Application`, when a boot option has failed: no boot of ours has it.
pub fn returning() -> Event {
    action(efi::RETURNING_FROM_EFI_APPLICATION)
}

fn action(text: &str) -> Event {
    event(EventType::EFI_ACTION, text, efi::action(text), "constant: its name".to_owned())
}

fn event(event_type: EventType, name: &str, digest: Register, origin: String) -> Event {
    Event { rtmr: Rtmr::Rtmr1, event_type, name: name.to_owned(), digest: Digest::Known(digest), origin }
}
