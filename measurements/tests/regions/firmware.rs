//! A firmware of four pages, laid out by hand: variables, a page of no section, two pages of code that end in the metadata,
//! the GUIDed table and the reset vector (TDVF Design Guide; edk2 `OvmfPkg/ResetVector`).

/// Attributes of the variables' section: `MR.EXTEND`, or none.
pub(crate) fn firmware(variables_attributes: u32) -> Vec<u8> {
    let mut file: Vec<u8> = (0..0x4000_u32).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect();
    let mut metadata = b"TDVF".to_vec();
    metadata.extend([16 + 32 * 4, 1, 4].map(u32::to_le_bytes).concat());
    let mut row = |offset: u32, raw: u32, address: u64, size: u64, kind: u32, attributes: u32| {
        metadata.extend([offset, raw].map(u32::to_le_bytes).concat());
        metadata.extend([address, size].map(u64::to_le_bytes).concat());
        metadata.extend([kind, attributes].map(u32::to_le_bytes).concat());
    };
    row(0x2000, 0x2000, 0xffff_e000, 0x2000, 0, 1);
    row(0, 0x1000, 0xffff_c000, 0x1000, 1, variables_attributes);
    row(0, 0, 0x81_0000, 0x1000, 3, 0);
    row(0, 0, 0x80_9000, 0x1000, 2, 0);
    let mut table = Vec::new();
    // Of SEV, and of no concern here: 00f771de-1a7e-4fcb-890e-68c77e2fb44e.
    entry(&mut table, &[4, 0xb0, 0x80, 0], "de71f7007e1acb4f890e68c77e2fb44e");
    // The entry, its data, the footer and the reset vector follow.
    let distance = u32::try_from(metadata.len() + table.len() + 22 + 18 + 32).unwrap();
    entry(&mut table, &distance.to_le_bytes(), "35657ae44a989847865e4685a7bf8ec2");
    let whole = u16::try_from(table.len() + 18).unwrap();
    table.extend(whole.to_le_bytes());
    table.extend(hex::decode("de82b596b21ff745baeaa366c55a082d").unwrap());
    let end = [metadata, table, vec![0x90; 32]].concat();
    let at = file.len() - end.len();
    file[at..].copy_from_slice(&end);
    file
}

fn entry(table: &mut Vec<u8>, data: &[u8], guid: &str) {
    table.extend(data);
    table.extend(u16::try_from(data.len() + 18).unwrap().to_le_bytes());
    table.extend(hex::decode(guid).unwrap());
}
