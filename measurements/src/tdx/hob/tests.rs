#![expect(clippy::arithmetic_side_effects, reason = "a test whose input overflows has failed")]

use super::*;
use crate::register::Register;
use crate::tdx::tdvf::synthetic::{DEBIAN_13, DSTACK, Raw, SMALL, TD_HOB, TEMP_MEM, of};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn digest(sections: &[Raw], memory: u64) -> String {
    let file = of(sections);
    Register::digest(&td_hob(&Tdvf::parse(&file).unwrap(), memory).unwrap()).to_string()
}

/// 2 and 64 GiB are of real logs (dstack's fixtures `tdx-lite-getquote.json` and `quote-report.json`), 16 GiB of the one in
/// its `sdk/simulator/attestation.bin` (Dstack-TEE/dstack, Apache-2.0); 1 and 4 GiB were computed independently.
#[test]
fn the_digests_of_real_machines() {
    for (gib, expected) in [
        (
            1,
            "1055c9b9a1fc534e688560e2304e18c8597b7261818cf61fb163d40c130547309b750575947a4dcaedbdce4b8d0535f2",
        ),
        (
            2,
            "0b8772e5b0b41b83e6044a68397e02f49fb47066b4fbe4917ea2c45c64f323fdacbb37948f821ebaf8bc9c938ba8a749",
        ),
        (
            4,
            "5b684faf8d02a733945f821d9cdd170802e72103977acf66949c9382500283adc90cbec57f8e7653f8bee1cab83689de",
        ),
        (
            16,
            "cd2312a0d87ef3c4a928df87088969a80b33d7bf3fc584bdde637b09ed808a8d821a56b78a13a6eb506db7578444abbe",
        ),
        (
            64,
            "8ae1e425351df7992c444586eff99d35af3b779aa2b0e981cb4b73bc5b279f2ade19b6a62a203fc3c3bbdaae80af596d",
        ),
    ] {
        assert_eq!(digest(&DSTACK, gib * GIB), expected, "{gib} GiB");
        assert_eq!(digest(&SMALL, gib * GIB), expected, "data sections are not in the list");
    }
}

/// Debian 13's firmware, whose heap begins a page later; computed independently.
#[test]
fn the_digests_of_another_section_layout() {
    for (gib, expected) in [
        (
            1,
            "2b630fa1d8fa9b6e8c6507d2256803ed227888f7d1f62ca5cfbddfe495338b1c6a0fc339ea64700f0835c0897a662789",
        ),
        (
            2,
            "0e35f1b315ba6c912cf791e5c79dd9d3a2b8704516aa27d4e5aa78fb09ede04aef2bbd02ac7a8734c48562b9c26ba35d",
        ),
        (
            4,
            "02a008e63d55a77823c04a5513a5810d4e592dc41bf2596267c09eae5d4b4e3b329ae614973fb192297d8833d37a08fd",
        ),
        (
            16,
            "794385a0fd4ad1933f2f10bc019228fe275b82a90d9cd73a0561ba3b3cc7ecfae40b1771fd78dc19a34a094bd4a5286b",
        ),
    ] {
        assert_eq!(digest(&DEBIAN_13, gib * GIB), expected, "{gib} GiB");
    }
}

/// (type, start, length) of each resource of a list.
fn resources_of(list: &[u8]) -> Vec<(u32, u64, u64)> {
    let u64_at = |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let of =
        |hob: &[u8]| (u32::from_le_bytes(hob[24..28].try_into().unwrap()), u64_at(hob, 32), u64_at(hob, 40));
    list[HANDOFF..].chunks(RESOURCE).map(of).collect()
}

#[test]
fn memory_is_split_where_q35_splits_it() {
    let file = of(&SMALL);
    let firmware = Tdvf::parse(&file).unwrap();
    let list = |memory| td_hob(&firmware, memory).unwrap();
    let below = list(LOW_LIMIT - MIB);
    assert_eq!(below.len(), 440);
    assert_eq!(resources_of(&below).last(), Some(&(7, 0x82_0000, LOW_LIMIT - MIB - 0x82_0000)));
    let at = list(LOW_LIMIT);
    assert_eq!(at.len(), 488);
    // The end mark's address, after 488 bytes and 8 of its own.
    assert_eq!(at[48..56], 0x80_91f0_u64.to_le_bytes());
    let expected = [
        (7, 0, 0x80_0000),
        (0, 0x80_0000, 0x6000),
        (7, 0x80_6000, 0x3000),
        (0, 0x80_9000, 0x2000),
        (0, 0x80_b000, 0x2000),
        (7, 0x80_d000, 0x3000),
        (0, 0x81_0000, 0x1_0000),
        (7, 0x82_0000, 0x8000_0000 - 0x82_0000),
        (7, 4 * GIB, LOW_LIMIT - 0x8000_0000),
    ];
    assert_eq!(resources_of(&at), expected);
}

#[test]
fn every_byte_of_memory_is_listed_once() {
    let mut high = SMALL;
    // A section above 4 GiB, one at the very start, one at the very end of low memory.
    high[2] = Raw::free(TEMP_MEM, 5 * GIB, 0x1000);
    high[3] = Raw::free(TEMP_MEM, 0, 0x1000);
    high[5] = Raw::free(TEMP_MEM, 0x8000_0000 - 0x1000, 0x1000);
    for (sections, memory) in [(SMALL, 16 * MIB), (SMALL, 3 * GIB), (high, 4 * GIB), (high, 64 << 40)] {
        let file = of(&sections);
        let list = resources_of(&td_hob(&Tdvf::parse(&file).unwrap(), memory).unwrap());
        assert_eq!(list.iter().map(|(_, _, length)| length).sum::<u64>(), memory);
        assert!(list.windows(2).all(|pair| pair[0].1 + pair[0].2 <= pair[1].1), "{list:x?}");
        let accepted = list.iter().filter(|(kind, ..)| *kind == 0).count();
        assert_eq!(accepted, 4);
    }
}

#[test]
fn a_machine_that_cannot_start_is_refused() {
    let file = of(&SMALL);
    let firmware = Tdvf::parse(&file).unwrap();
    assert_eq!(
        td_hob(&firmware, 8 * MIB + 0x1_0000).unwrap_err().to_string(),
        "memory: expected the firmware's temporary memory at 0x810000 to 0x820000 inside it, found 8454144 bytes of memory"
    );
    td_hob(&firmware, 8 * MIB + 0x2_0000).unwrap();
    let mut sections = SMALL;
    sections[2].address = 0xa000_0000;
    let file = of(&sections);
    let firmware = Tdvf::parse(&file).unwrap();
    td_hob(&firmware, LOW_LIMIT - MIB).unwrap();
    let error = td_hob(&firmware, LOW_LIMIT).unwrap_err();
    assert!(matches!(error, HobError::NoMemory { start: 0xa000_0000, .. }), "a hole is no memory: {error}");
    // As many resources as there can be fit into the smallest section.
    let free = (0..29).map(|n| Raw::free(TEMP_MEM, 0x100_0000 + n * 0x2000, 0x1000));
    let hob = Raw::free(TD_HOB, 0x80_9000, 0x1000);
    let sections: Vec<_> = SMALL[..2].iter().copied().chain([hob]).chain(free).collect();
    let file = of(&sections);
    let list = td_hob(&Tdvf::parse(&file).unwrap(), 16 * GIB).unwrap();
    assert_eq!(list.len(), HANDOFF + RESOURCE * 62);
}
