//! The TD HOB: the list of memory that the VMM leaves for the firmware, and the first thing that the firmware measures
//! (QEMU `hw/i386/tdvf-hob.c`, `target/i386/kvm/tdx.c`; edk2 `OvmfPkg/IntelTdx/TdxHelperLib/SecTdxHelper.c`).
//!
//! It depends on the size of memory and on where the firmware's sections lie, and on nothing else.

use std::ops::Range;

use super::tdvf::{SectionKind, Tdvf};

/// Why there is no such machine: QEMU would not start it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HobError {
    /// A section that the firmware needs in memory lies where there is none.
    #[error(
        "memory: expected the firmware's {kind} at {start:#x} to {end:#x} inside it, found {memory} bytes of memory"
    )]
    NoMemory {
        /// What needs it.
        kind: SectionKind,
        /// Its first byte.
        start: u64,
        /// The first byte after it.
        end: u64,
        /// The machine's memory.
        memory: u64,
    },
}

/// The memory of a q35 machine of that size: what lies below 4 GiB, and what lies above (QEMU `hw/i386/pc_q35.c`,
/// without `max-ram-below-4g`). A machine of 2.75 GiB or more keeps 2 GiB below.
pub fn ram(memory: u64) -> [Range<u64>; 2] {
    let below = if memory >= LOW_LIMIT { LOW_SPLIT } else { memory };
    [0..below, HIGH_START..HIGH_START.saturating_add(memory.saturating_sub(below))]
}

/// The bytes that the firmware measures: the list without its end mark.
///
/// # Errors
/// Memory too small for the firmware.
pub fn td_hob(firmware: &Tdvf<'_>, memory: u64) -> Result<Vec<u8>, HobError> {
    let resources = resources(firmware, memory)?;
    // A page, the least that a section has, holds 84 resources; the most sections that there may be make 62.
    let length = resources.len().saturating_mul(RESOURCE).saturating_add(HANDOFF).saturating_add(END_MARK);
    let end = firmware.td_hob().address.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    // EFI_HOB_HANDOFF_INFO_TABLE (UEFI PI 1.8, volume 3 section 5.3): boot mode and the four memory limits stay zero.
    let mut list = header(HANDOFF_TYPE, HANDOFF);
    list.extend(HANDOFF_VERSION.to_le_bytes());
    list.extend([0; 36]);
    list.extend(end.to_le_bytes());
    for resource in resources {
        // EFI_HOB_RESOURCE_DESCRIPTOR (section 5.5), without an owner.
        list.extend(header(RESOURCE_TYPE, RESOURCE));
        list.extend([0; 16]);
        list.extend(if resource.accepted { SYSTEM_MEMORY } else { UNACCEPTED_MEMORY }.to_le_bytes());
        list.extend(ATTRIBUTES.to_le_bytes());
        list.extend(resource.range.start.to_le_bytes());
        list.extend(resource.range.end.saturating_sub(resource.range.start).to_le_bytes());
    }
    Ok(list)
}

struct Resource {
    accepted: bool,
    range: Range<u64>,
}

/// Memory in order: what was added before launch is accepted, the rest is not.
fn resources(firmware: &Tdvf<'_>, memory: u64) -> Result<Vec<Resource>, HobError> {
    let mut added: Vec<_> = firmware.sections().iter().filter(|section| !section.kind.has_data()).collect();
    added.sort_by_key(|section| section.address);
    let ram = ram(memory);
    let outside = added.iter().find(|section| {
        !ram.iter().any(|range| range.start <= section.address && section.end() <= range.end)
    });
    if let Some(section) = outside {
        let (kind, start, end) = (section.kind, section.address, section.end());
        return Err(HobError::NoMemory { kind, start, end, memory });
    }
    let mut resources = Vec::new();
    for range in ram {
        let mut at = range.start;
        for section in added.iter().filter(|section| range.contains(&section.address)) {
            push(&mut resources, false, at..section.address);
            push(&mut resources, true, section.address..section.end());
            at = section.end();
        }
        push(&mut resources, false, at..range.end);
    }
    Ok(resources)
}

fn push(resources: &mut Vec<Resource>, accepted: bool, range: Range<u64>) {
    if !range.is_empty() {
        resources.push(Resource { accepted, range });
    }
}

/// EFI_HOB_GENERIC_HEADER: type, length, reserved.
fn header(kind: u16, length: usize) -> Vec<u8> {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    [kind.to_le_bytes(), length.to_le_bytes(), [0; 2], [0; 2]].concat()
}

/// Memory from which on q35 keeps only 2 GiB below 4 GiB, to have room for PCI.
const LOW_LIMIT: u64 = 0xb000_0000;
/// How much it then keeps.
const LOW_SPLIT: u64 = 0x8000_0000;
/// Where the rest begins.
const HIGH_START: u64 = 0x1_0000_0000;

/// `EFI_HOB_TYPE_HANDOFF`.
const HANDOFF_TYPE: u16 = 1;
/// Its length.
const HANDOFF: usize = 56;
/// `EFI_HOB_HANDOFF_TABLE_VERSION`.
const HANDOFF_VERSION: u32 = 9;
/// `EFI_HOB_TYPE_RESOURCE_DESCRIPTOR`.
const RESOURCE_TYPE: u16 = 3;
/// Its length.
const RESOURCE: usize = 48;
/// The end mark, a header alone: inside the list's end address, but not measured.
const END_MARK: usize = 8;
/// `EFI_RESOURCE_SYSTEM_MEMORY`.
const SYSTEM_MEMORY: u32 = 0;
/// `EFI_RESOURCE_MEMORY_UNACCEPTED`.
const UNACCEPTED_MEMORY: u32 = 7;
/// Present, initialised, tested.
const ATTRIBUTES: u32 = 7;

#[cfg(test)]
mod tests;
