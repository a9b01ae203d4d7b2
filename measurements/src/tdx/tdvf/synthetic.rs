//! Small firmware files for tests, with everything that a TDVF has and each field free to be wrong.
#![expect(clippy::arithmetic_side_effects, reason = "a test whose input overflows has failed")]

use super::{METADATA_OFFSET, TABLE_FOOTER};
use crate::tdx::efi::Guid;

/// One section as it stands in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    pub(crate) data_offset: u32,
    pub(crate) raw_size: u32,
    pub(crate) address: u64,
    pub(crate) size: u64,
    pub(crate) kind: u32,
    pub(crate) attributes: u32,
}

impl Raw {
    /// A section without data.
    pub(crate) const fn free(kind: u32, address: u64, size: u64) -> Self {
        Self { data_offset: 0, raw_size: 0, address, size, kind, attributes: 0 }
    }

    /// A section whose data ends where the one after it begins, up to 4 GiB.
    pub(crate) const fn data(kind: u32, data_offset: u32, raw_size: u32, firmware: u32) -> Self {
        let address = (1 << 32) - firmware as u64 + data_offset as u64;
        let attributes = if kind == BFV { 1 } else { 0 };
        Self { data_offset, raw_size, address, size: raw_size as u64, kind, attributes }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.data_offset, self.raw_size].map(u32::to_le_bytes).concat();
        bytes.extend([self.address, self.size].map(u64::to_le_bytes).concat());
        bytes.extend([self.kind, self.attributes].map(u32::to_le_bytes).concat());
        bytes
    }
}

pub(crate) const BFV: u32 = 0;
pub(crate) const CFV: u32 = 1;
pub(crate) const TD_HOB: u32 = 2;
pub(crate) const TEMP_MEM: u32 = 3;

/// A page of variables, two of code, and edk2's places in memory.
pub(crate) const SMALL: [Raw; 6] = edk2(0x1000, 0x2000, 0x81_0000, 0x1_0000);

/// The sections of edk2 up to stable202502 (dstack's firmware, Debian 12's), with a variable store of 528 KiB.
pub(crate) const DSTACK: [Raw; 6] = edk2(0x8_4000, 0x1000, 0x81_0000, 0x1_0000);

/// Debian 13's, which begins its heap a page later.
pub(crate) const DEBIAN_13: [Raw; 6] = edk2(0x8_4000, 0x1000, 0x81_1000, 0xf000);

const fn edk2(cfv: u32, bfv: u32, heap: u64, heap_size: u64) -> [Raw; 6] {
    [
        Raw::data(BFV, cfv, bfv, cfv + bfv),
        Raw::data(CFV, 0, cfv, cfv + bfv),
        Raw::free(TEMP_MEM, heap, heap_size),
        Raw::free(TEMP_MEM, 0x80_b000, 0x2000),
        Raw::free(TD_HOB, 0x80_9000, 0x2000),
        Raw::free(TEMP_MEM, 0x80_0000, 0x6000),
    ]
}

/// A file of that length whose last bytes are metadata, GUIDed table and reset vector; the rest is not uniform.
pub(crate) fn firmware(length: usize, sections: &[Raw]) -> Vec<u8> {
    with_table(length, &metadata(sections), |offset| {
        let other = Guid::new(0x00f7_71de, 0x1a7e, 0x4fcb, [0x89, 0x0e, 0x68, 0xc7, 0x7e, 0x2f, 0xb4, 0x4e]);
        vec![(METADATA_OFFSET, offset.to_le_bytes().to_vec()), (other, vec![4, 0xb0, 0x80, 0])]
    })
}

/// The same of sections alone: as long as their data.
pub(crate) fn of(sections: &[Raw]) -> Vec<u8> {
    let end = sections.iter().map(|section| section.data_offset + section.raw_size).max();
    firmware(usize::try_from(end.unwrap()).unwrap(), sections)
}

/// The metadata of these sections.
pub(crate) fn metadata(sections: &[Raw]) -> Vec<u8> {
    let count = u32::try_from(sections.len()).unwrap();
    let mut bytes = b"TDVF".to_vec();
    bytes.extend([16 + 32 * count, 1, count].map(u32::to_le_bytes).concat());
    bytes.extend(sections.iter().flat_map(Raw::bytes));
    bytes
}

/// A file with that metadata and a table of the entries that a function makes of the metadata's distance from the end.
pub(crate) fn with_table(
    length: usize,
    metadata: &[u8],
    entries: impl Fn(u32) -> Vec<(Guid, Vec<u8>)>,
) -> Vec<u8> {
    let table = |offset| {
        let mut table = Vec::new();
        for (guid, data) in entries(offset) {
            table.extend(&data);
            table.extend(u16::try_from(data.len() + 18).unwrap().to_le_bytes());
            table.extend(guid.0);
        }
        table.extend(u16::try_from(table.len() + 18).unwrap().to_le_bytes());
        table.extend(TABLE_FOOTER.0);
        table
    };
    let offset = metadata.len() + table(0).len() + 32;
    let mut file: Vec<u8> = (0..length - offset).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();
    file.extend(metadata);
    file.extend(table(u32::try_from(offset).unwrap()));
    file.extend([0x90; 32]);
    file
}

/// The empty variable store of a 4 MiB OVMF (edk2 `OvmfPkg/Include/Fdf/VarStore.fdf.inc`): a firmware volume header, the
/// header of an authenticated variable store, and the header of the fault-tolerant write block, in erased flash.
pub(crate) fn empty_variable_store() -> Vec<u8> {
    let mut store = vec![0xff; 0x8_4000];
    let volume = Guid::new(0xfff1_2b8d, 0x7696, 0x4c8b, [0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50]);
    let variables = Guid::new(0xaaf3_2c78, 0x947b, 0x439a, [0xa1, 0x80, 0x2e, 0x14, 0x4e, 0xc3, 0x77, 0x92]);
    let working = Guid::new(0x9e58_292b, 0x7c68, 0x497d, [0xa0, 0xce, 0x65, 0x00, 0xfd, 0x9f, 0x1b, 0x95]);
    let header = [
        &[0; 16][..],
        &volume.0,
        &0x8_4000_u64.to_le_bytes(),
        b"_FVH",
        &0x0004_feff_u32.to_le_bytes(),
        // Header length, checksum, no extended header, revision 2.
        &[0x48, 0, 0xaf, 0xb8, 0, 0, 0, 2],
        // 0x84 blocks of 4 KiB, and no others.
        &[0x84, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &variables.0,
        &(0x4_0000_u32 - 0x48).to_le_bytes(),
        // Formatted, healthy.
        &[0x5a, 0xfe, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    store[..header.len()].copy_from_slice(&header);
    // Its CRC-32, valid, a write queue of what is left of the page.
    let block = [&working.0[..], &[0x2c, 0xaf, 0x2c, 0x64, 0xfe, 0xff, 0xff, 0xff], &0xfe0_u64.to_le_bytes()]
        .concat();
    store[0x4_1000..][..block.len()].copy_from_slice(&block);
    store
}

/// A firmware with these sections whose variables are that store.
pub(crate) fn with_empty_store(sections: &[Raw]) -> Vec<u8> {
    let mut file = of(sections);
    let store = empty_variable_store();
    file[..store.len()].copy_from_slice(&store);
    file
}
