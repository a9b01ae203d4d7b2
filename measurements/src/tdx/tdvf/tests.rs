#![expect(clippy::arithmetic_side_effects, reason = "a test whose input overflows has failed")]

use proptest::prelude::*;

use super::synthetic::{
    BFV, CFV, DEBIAN_13, Raw, SMALL, TD_HOB, TEMP_MEM, empty_variable_store, firmware, metadata, of,
    with_table,
};
use super::*;
use crate::register::Register;
use crate::tdx::hob::td_hob;
use crate::tdx::mrtd::{PageOrder, mrtd};

fn refuse(file: &[u8]) -> FirmwareError {
    Tdvf::parse(file).unwrap_err()
}

/// The small firmware with one of its sections changed.
fn changed(index: usize, change: impl FnOnce(&mut Raw)) -> String {
    let mut sections = SMALL;
    change(&mut sections[index]);
    refuse(&firmware(0x3000, &sections)).to_string()
}

#[test]
fn sections_are_read_as_they_stand() {
    let file = of(&SMALL);
    let firmware = Tdvf::parse(&file).unwrap();
    let kinds: Vec<_> = firmware.sections().iter().map(|section| section.kind).collect();
    use SectionKind::{Bfv, Cfv, TdHob, TempMem};
    assert_eq!(kinds, [Bfv, Cfv, TempMem, TempMem, TdHob, TempMem]);
    let [code, variables, heap, ..] = firmware.sections() else { panic!("six sections") };
    assert_eq!((code.data, code.address, code.size), (&file[0x1000..], 0xffff_e000, 0x2000));
    assert!(code.extend && !code.augment && !variables.extend);
    assert_eq!((variables.data, variables.address), (&file[..0x1000], 0xffff_d000));
    assert_eq!((heap.data, heap.address, heap.end()), (&[][..], 0x81_0000, 0x82_0000));
    assert_eq!(firmware.cfv(), variables);
    assert_eq!(firmware.td_hob().address, 0x80_9000);
}

/// edk2's empty variable store, from its definition: the digest that dstack's verifier carries as a constant, and that
/// of Debian's `OVMF_VARS_4M.fd`.
#[test]
fn the_empty_variable_store_has_the_known_digest() {
    assert_eq!(
        Register::digest(&empty_variable_store()).to_string(),
        "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6412af21c097d473155875ffd561d6790"
    );
}

#[test]
fn every_field_of_a_section_is_checked() {
    for (error, says) in [
        (
            changed(0, |s| s.kind = 4),
            "section 0: type: expected 0 (BFV), 1 (CFV), 2 (TD HOB) or 3 (temporary memory), found 4",
        ),
        (
            changed(0, |s| s.address += 1),
            "section 0 (BFV): MemoryAddress: expected a page's address, found 0xffffe001",
        ),
        (
            changed(0, |s| s.size += 1),
            "section 0 (BFV): MemoryDataSize: expected one or more whole pages, found 0x2001",
        ),
        (
            changed(2, |s| s.size = 0),
            "section 2 (temporary memory): MemoryDataSize: expected one or more whole pages, found 0x0",
        ),
        (
            changed(2, |s| s.size = 1 << 52),
            "section 2 (temporary memory): MemoryAddress: expected to end, with its MemoryDataSize, below 2^52, found 0x810000",
        ),
        (
            changed(2, |s| s.address = 0u64.wrapping_sub(0x1000)),
            "MemoryAddress: expected to end, with its MemoryDataSize, below 2^52, found 0xfffffffffffff000",
        ),
        (
            changed(0, |s| s.attributes = 5),
            "section 0 (BFV): Attributes: expected MR.EXTEND (1), PAGE.AUG (2) or none, found 0x5",
        ),
        (
            changed(0, |s| s.attributes = 3),
            "section 0 (BFV): Attributes: expected no PAGE.AUG on a section with data, found 0x3",
        ),
        (
            changed(0, |s| s.attributes = 0),
            "section 0 (BFV): Attributes: expected MR.EXTEND, or MRTD would say nothing of the code, found 0x0",
        ),
        (
            changed(0, |s| s.raw_size = 0),
            "section 0 (BFV): RawDataSize: expected data from the file, found 0x0",
        ),
        (
            changed(0, |s| s.size = 1 << 32),
            "section 0 (BFV): RawDataSize: expected as much as MemoryDataSize, found 0x2000",
        ),
        (
            changed(0, |s| s.data_offset += 1),
            "section 0 (BFV): DataOffset: expected to end, with its RawDataSize, inside the file, found 0x1001",
        ),
        (
            changed(0, |s| s.data_offset = u32::MAX),
            "DataOffset: expected to end, with its RawDataSize, inside the file, found 0xffffffff",
        ),
        (
            changed(4, |s| s.raw_size = 1),
            "section 4 (TD HOB): RawDataSize: expected 0: it has no data, found 0x1",
        ),
        // What 4 GiB of nothing would cost to measure is not for a file to say.
        (
            changed(2, |s| (s.size, s.attributes) = (1 << 32, 1)),
            "section 2 (temporary memory): Attributes: expected no MR.EXTEND on a section without data, found 0x1",
        ),
        (
            changed(2, |s| s.size = 1 << 32),
            "sections 0 and 2: expected guest memory of their own, found both at 0xffffe000",
        ),
        (
            changed(2, |s| (s.address, s.size) = (1 << 40, 1 << 40)),
            "sections without data: expected at most 67108864 bytes of memory together, found 1099511668736",
        ),
        (
            changed(5, |s| s.address = 0x80_5000),
            "sections 4 and 5: expected guest memory of their own, found both at 0x809000",
        ),
        (
            changed(1, |s| (s.data_offset, s.address) = (0x2000, 0)),
            "sections 0 and 1: expected bytes of the file of their own, found both at 0x2000",
        ),
        (changed(1, |s| (s.kind, s.attributes) = (BFV, 1)), "sections: expected one CFV, found 0"),
        (changed(0, |s| (s.kind, s.attributes) = (CFV, 0)), "sections: expected at least one BFV, found 0"),
        (changed(4, |s| s.kind = TEMP_MEM), "sections: expected one TD HOB, found 0"),
        (changed(5, |s| s.kind = TD_HOB), "sections: expected one TD HOB, found 2"),
    ] {
        assert!(error.ends_with(says), "expected {says:?}, found {error}");
    }
}

/// Debian ships OVMF also in two halves. `OVMF_CODE_4M.fd` alone says where its parts lie in the whole.
#[test]
fn half_a_firmware_is_refused() {
    let whole = of(&DEBIAN_13);
    Tdvf::parse(&whole).unwrap();
    let error = refuse(&whole[0x8_4000..]).to_string();
    assert_eq!(
        error,
        "section 0 (BFV): DataOffset: expected to end, with its RawDataSize, inside the file, found 0x84000"
    );
}

#[test]
fn the_descriptor_is_checked() {
    let with = |at: usize, value: u32| {
        let mut metadata = metadata(&SMALL);
        metadata[at..at + 4].copy_from_slice(&value.to_le_bytes());
        refuse(&with_table(0x3000, &metadata, |offset| {
            vec![(METADATA_OFFSET, offset.to_le_bytes().to_vec())]
        }))
    };
    assert_eq!(with(0, 0x11), FirmwareError::Signature { found: [0x11, 0, 0, 0] });
    assert_eq!(with(4, 207), FirmwareError::MetadataLength { expected: 208, found: 207 });
    assert_eq!(with(8, 2), FirmwareError::Version { found: 2 });
    for found in [0, 33, u32::MAX] {
        assert_eq!(with(12, found), FirmwareError::SectionCount { found });
    }
    // As many sections as there may be, which would reach past the end of the file.
    let mut long = metadata(&SMALL);
    long[4..8].copy_from_slice(&(16 + 32 * 32_u32).to_le_bytes());
    long[12..16].copy_from_slice(&32_u32.to_le_bytes());
    let file = with_table(0x3000, &long, |offset| vec![(METADATA_OFFSET, offset.to_le_bytes().to_vec())]);
    assert_eq!(refuse(&file), FirmwareError::MetadataEnd { expected: 1040, found: 208 + 22 + 18 + 32 });
}

#[test]
fn the_table_is_checked() {
    let table =
        |entries: fn(u32) -> Vec<(Guid, Vec<u8>)>| refuse(&with_table(0x3000, &metadata(&SMALL), entries));
    assert_eq!(table(|_| vec![]), FirmwareError::NoMetadata { found: 0 });
    let twice = |offset: u32| vec![(METADATA_OFFSET, offset.to_le_bytes().to_vec()); 2];
    assert_eq!(table(twice), FirmwareError::NoMetadata { found: 2 });
    assert_eq!(table(|_| vec![(METADATA_OFFSET, vec![0; 3])]), FirmwareError::MetadataEntry { found: 3 });
    for found in [0, 15, 0x3001, u32::MAX] {
        let file =
            with_table(0x3000, &metadata(&SMALL), |_| vec![(METADATA_OFFSET, found.to_le_bytes().to_vec())]);
        assert_eq!(refuse(&file), FirmwareError::MetadataOffset { limit: 0x3000, found });
    }
    let mut file = of(&SMALL);
    let end = file.len() - 32;
    // The footer's length, then that of the entry before it.
    for (found, limit) in [(0, 0x3000 - 32), (17, 0x3000 - 32), (0x3000 - 31, 0x3000 - 32)] {
        file[end - 18..end - 16].copy_from_slice(&u16::to_le_bytes(found));
        assert_eq!(refuse(&file), FirmwareError::TableLength { limit, found });
    }
    file[end - 18..end - 16].copy_from_slice(&u16::to_le_bytes(63));
    assert_eq!(refuse(&file), FirmwareError::TableRest { found: 1 });
    file[end - 18..end - 16].copy_from_slice(&u16::to_le_bytes(62));
    let inner = file[end - 34..end - 18].to_vec();
    for found in [17, 45] {
        file[end - 36..end - 34].copy_from_slice(&u16::to_le_bytes(found));
        let entry = Guid(inner.as_slice().try_into().unwrap());
        assert_eq!(refuse(&file), FirmwareError::TableEntry { entry, limit: 44, found });
    }
    file[end - 1] ^= 1;
    assert!(matches!(refuse(&file), FirmwareError::NoTable { .. }));
}

#[test]
fn files_that_are_no_firmware_are_refused() {
    for length in [0, 1, 49, 1023, MAX_BYTES + 1] {
        assert_eq!(refuse(&vec![0; length]), FirmwareError::Size { found: length });
    }
    for fill in [0, 0xff] {
        let found = Guid([fill; 16]);
        assert_eq!(refuse(&[fill; 4096]), FirmwareError::NoTable { found });
    }
}

proptest! {
    /// Whatever becomes of a firmware, it is read or refused, and what is read can be measured.
    #[test]
    fn damage_is_refused_or_measured(
        damage in prop::collection::vec((0_usize..400, any::<u8>()), 1..6),
        cut in prop_oneof![4 => Just(0), 1 => 0_usize..0x3000],
        memory in any::<u64>(),
    ) {
        let mut file = of(&SMALL);
        for (from_end, byte) in damage {
            let at = file.len() - 1 - from_end;
            file[at] = byte;
        }
        file.truncate(file.len() - cut);
        if let Ok(firmware) = Tdvf::parse(&file) {
            let _registers = [PageOrder::SinglePass, PageOrder::TwoPass].map(|order| mrtd(&firmware, order));
            if let Ok(hob) = td_hob(&firmware, memory) {
                prop_assert!(hob.len() <= 56 + 48 * (2 * 32 + 2));
            }
        }
    }

    /// The same of the fields, which random bytes seldom make plausible.
    #[test]
    fn any_sections_are_refused_or_measured(
        sections in prop::collection::vec(raw(), 0..34),
        memory in any::<u64>(),
    ) {
        let file = firmware(0x4000, &sections);
        if let Ok(firmware) = Tdvf::parse(&file) {
            let free: u64 = firmware.sections().iter().filter(|s| !s.kind.has_data()).map(|s| s.size).sum();
            prop_assert!(free <= MAX_FREE_BYTES);
            let data: usize = firmware.sections().iter().map(|s| s.data.len()).sum();
            prop_assert!(data <= file.len());
            let _register = mrtd(&firmware, PageOrder::SinglePass);
            let _hob = td_hob(&firmware, memory);
        }
    }

    /// A byte of code changes MRTD; nothing outside the code and the table of sections does.
    #[test]
    fn mrtd_covers_the_code(at in 0_usize..0x3000, bit in 0_u8..8) {
        let whole = of(&SMALL);
        let mut file = whole.clone();
        file[at] ^= 1 << bit;
        let before = mrtd(&Tdvf::parse(&whole).unwrap(), PageOrder::SinglePass);
        if let Ok(firmware) = Tdvf::parse(&file) {
            let after = mrtd(&firmware, PageOrder::SinglePass);
            prop_assert_eq!(before != after, at >= 0x1000);
        }
    }
}

fn raw() -> impl Strategy<Value = Raw> {
    let pages = |most: u64| prop_oneof![8 => (0..most).prop_map(|page| page << 12), 1 => any::<u64>()];
    let offset = prop_oneof![8 => (0_u32..6).prop_map(|page| page << 12), 1 => any::<u32>()];
    let size = prop_oneof![8 => (1_u32..3).prop_map(|page| page << 12), 1 => any::<u32>()];
    (offset, size, pages(64), pages(64), 0_u32..5, 0_u32..5, any::<bool>()).prop_map(
        |(data_offset, raw_size, address, size, kind, attributes, fits)| {
            let data = matches!(kind, BFV | CFV);
            let raw_size = if data || !fits { raw_size } else { 0 };
            let size = if data && fits { raw_size.into() } else { size };
            let attributes = if fits { u32::from(kind == BFV) } else { attributes };
            Raw { data_offset, raw_size, address, size, kind, attributes }
        },
    )
}
