//! The regions of a firmware file.

use super::super::tdvf::{FirmwareError, Tdvf};
use super::{Fields, Part, Region, parts};

/// A firmware file in regions, in order and without holes.
///
/// # Errors
/// If it is no firmware for a trust domain.
pub fn firmware(file: &[u8]) -> Result<Vec<Part>, FirmwareError> {
    Tdvf::parse(file)?;
    let fields = Fields(file);
    let end = file.len().saturating_sub(RESET_VECTOR);
    let table = end.saturating_sub(fields.u16(end.saturating_sub(ENTRY)));
    let metadata = file.len().saturating_sub(metadata_offset(fields, end));
    let count = fields.u32(metadata.saturating_add(12));
    let row = |index: usize| index.saturating_mul(ROW).saturating_add(DESCRIPTOR).saturating_add(metadata);
    let mut claims =
        vec![(metadata..row(count), Region::FirmwareMetadata), (table..end, Region::FirmwareTable)];
    for index in 0..count {
        let at = |offset: usize| row(index).saturating_add(offset);
        let start = fields.u32(at(0));
        let range = start..start.saturating_add(fields.u32(at(4)));
        let extend = fields.u32(at(28)) & EXTEND != 0;
        match (fields.u32(at(24)), extend) {
            (BFV, _) => claims.push((range, Region::FirmwareCode)),
            (CFV, true) => claims.push((range, Region::FirmwareVariablesExtended)),
            (CFV, false) => claims.push((range, Region::FirmwareVariables)),
            _ => {}
        }
    }
    Ok(parts(file.len(), &claims, Region::FirmwareUnclaimed))
}

/// How far before the end of the file the metadata begins. Entries are read from the back, behind the footer's.
fn metadata_offset(fields: Fields<'_>, end: usize) -> usize {
    let start = end.saturating_sub(fields.u16(end.saturating_sub(ENTRY)));
    let mut at = end.saturating_sub(ENTRY);
    while at > start {
        let entry = at.saturating_sub(ENTRY);
        let length = fields.u16(entry).max(ENTRY);
        if fields.array(entry.saturating_add(2)) == METADATA {
            return fields.u32(at.saturating_sub(length));
        }
        at = at.saturating_sub(length);
    }
    0
}

/// What follows the GUIDed table (edk2 `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm`).
const RESET_VECTOR: usize = 32;
/// Length and GUID of an entry (same file).
const ENTRY: usize = 18;
/// e47a6535-984a-4798-865e-4685a7bf8ec2 (same file; QEMU `TDX_METADATA_OFFSET_GUID`).
const METADATA: [u8; 16] =
    [0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2];
/// Signature, length, version, number of sections; then a row for each (TDVF Design Guide, "TDVF metadata").
const DESCRIPTOR: usize = 16;
const ROW: usize = 32;
/// Types, and the attribute `MR.EXTEND` (same table).
const BFV: usize = 0;
const CFV: usize = 1;
const EXTEND: usize = 1;
