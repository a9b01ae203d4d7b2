#![expect(clippy::arithmetic_side_effects, reason = "a test whose input overflows has failed")]

use proptest::prelude::*;

use super::*;
use crate::tdx::tdvf::synthetic::{Raw, SMALL, TEMP_MEM, firmware, of};

/// The stream as the specification has it, whole.
fn written_out(firmware: &Tdvf<'_>, order: PageOrder) -> Register {
    let record = |name: &[u8], address: u64| {
        let mut record = vec![0; 128];
        record[..name.len()].copy_from_slice(name);
        record[16..24].copy_from_slice(&address.to_le_bytes());
        record
    };
    let mut stream = Vec::new();
    for section in firmware.sections() {
        let (mut adds, mut both) = (Vec::new(), Vec::new());
        let mut extends = Vec::new();
        for page in (0..section.size).step_by(4096) {
            let add = if section.augment { vec![] } else { record(b"MEM.PAGE.ADD", section.address + page) };
            let mut extend = Vec::new();
            if section.extend {
                for chunk in (page..page + 4096).step_by(256) {
                    extend.extend(record(b"MR.EXTEND", section.address + chunk));
                    extend.extend(&section.data[usize::try_from(chunk).unwrap()..][..256]);
                }
            }
            both.extend([add.clone(), extend.clone()].concat());
            adds.extend(add);
            extends.extend(extend);
        }
        match order {
            PageOrder::SinglePass => stream.extend(both),
            PageOrder::TwoPass => stream.extend([adds, extends].concat()),
        }
    }
    Register::digest(&stream)
}

/// Computed by a Python script of its own (`struct` and `hashlib`) over the same bytes.
#[test]
fn both_orders_of_a_small_firmware() {
    let file = of(&SMALL);
    let firmware = Tdvf::parse(&file).unwrap();
    assert_eq!(mrtd(&firmware, PageOrder::SinglePass).to_string(), SINGLE_PASS);
    assert_eq!(mrtd(&firmware, PageOrder::TwoPass).to_string(), TWO_PASS);
}

const SINGLE_PASS: &str =
    "41d8e15e77557a9335cb874f17901ed0005aded22315d80ee6efe0261e880fc17f3e8d7423db9fe5b67fb702d0b35505";
const TWO_PASS: &str =
    "ce8ea0457b14295ac64002e3944f8707185a4c40a23a12a71ed7ec8d335dfa94cbd7ec99d5daa60d2c890ad206028b48";

#[test]
fn a_page_added_after_launch_is_not_measured() {
    let mut sections = SMALL;
    let file = of(&sections);
    let before = mrtd(&Tdvf::parse(&file).unwrap(), PageOrder::SinglePass);
    sections[2].attributes = 2;
    let file = firmware(file.len(), &sections);
    let parsed = Tdvf::parse(&file).unwrap();
    assert_ne!(mrtd(&parsed, PageOrder::SinglePass), before);
    assert_eq!(mrtd(&parsed, PageOrder::SinglePass), written_out(&parsed, PageOrder::SinglePass));
}

proptest! {
    #[test]
    fn the_stream_is_that_of_the_specification(
        heap in (0x900_u64..0x1000, 1_u64..20),
        measured in any::<[bool; 2]>(),
    ) {
        let mut sections = SMALL;
        sections[1].attributes = measured[0].into();
        sections[2] = Raw::free(TEMP_MEM, heap.0 << 12, heap.1 << 12);
        sections[2].attributes = if measured[1] { 2 } else { 0 };
        let file = of(&sections);
        let firmware = Tdvf::parse(&file).unwrap();
        for order in [PageOrder::SinglePass, PageOrder::TwoPass] {
            prop_assert_eq!(mrtd(&firmware, order), written_out(&firmware, order));
        }
    }
}
