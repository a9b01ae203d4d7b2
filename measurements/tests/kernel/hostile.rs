//! Whatever is in a file, it ends in a digest or in a named error.

use casemate_measure::tdx::bzimage::{BzImage, KernelSeen, Loading};
use casemate_measure::tdx::overlay::View;
use casemate_measure::tdx::pe::Pe;
use casemate_measure::tdx::uki::{self, Uki};
use proptest::prelude::*;

use crate::build::{Image, kernel};
use crate::uki::usual;

/// Everything that reads a kernel or a unified kernel image.
fn read(file: &[u8], memory: u64, initrd: u64) {
    if let Ok(pe) = Pe::parse(View::from(file)) {
        pe.authenticode();
    }
    if let Ok(image) = BzImage::parse(file) {
        for seen in [KernelSeen::AsFile, KernelSeen::Patched] {
            drop(image.pe(seen, &Loading { memory, initrd: Some(initrd), cmdline: "quiet" }));
        }
    }
    for patch in [Vec::new(), uki::patch("").unwrap()] {
        if let Some(Ok(uki)) = View::new(file, patch).map(Uki::parse) {
            uki.rtmr1("");
            uki.rtmr2();
        }
    }
}

/// Values at which arithmetic goes wrong.
fn edges() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<u8>().prop_map(|byte| vec![byte]),
        proptest::sample::select(vec![0_u32, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_fe00, 0xffff_ffff])
            .prop_map(|word| word.to_le_bytes().to_vec()),
        any::<u32>().prop_map(|word| word.to_le_bytes().to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutated_files(
        which in 0_usize..3,
        // Where the headers are, most of the time.
        changes in proptest::collection::vec((prop_oneof![4 => 0_usize..0x400, 1 => 0_usize..0x5000], edges()), 0..4),
        cut in proptest::option::weighted(0.3, 0_usize..0x5000),
        memory in any::<u64>(),
        initrd in any::<u64>(),
    ) {
        let mut file = match which {
            0 => kernel(),
            1 => usual().bytes(),
            _ => Image { plus: false, certificates: vec![7; 64], ..Image::default() }.bytes(),
        };
        for (at, bytes) in changes {
            if let Some(place) = file.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(&bytes);
            }
        }
        file.truncate(cut.unwrap_or(file.len()));
        read(&file, memory, initrd);
    }

    #[test]
    fn noise(file in proptest::collection::vec(any::<u8>(), 0..2000)) {
        read(&file, 1 << 31, 1 << 20);
    }
}

/// 65,535 sections that all are the whole file would be hashed for days: they share bytes.
#[test]
fn many_sections_cost_no_time() {
    let mut image = Image { headers: 0x28_1000, directories: 16, ..Image::default() };
    image.sections = (0..65_535).map(|_| ("x", 0x30_0000, 0, Vec::new())).collect();
    image.file_order = Vec::new();
    image.trailing = vec![0; 1 << 20];
    let mut file = image.bytes();
    file[crate::build::OPTIONAL + 56..][..4].copy_from_slice(&0x400_0000_u32.to_le_bytes());
    Pe::parse(View::from(file.as_slice())).unwrap().authenticode();
    for index in 0..65_535 {
        let row = image.table_at() + 40 * index;
        file[row + 16..row + 20].copy_from_slice(&(1_u32 << 20).to_le_bytes());
        file[row + 20..row + 24].copy_from_slice(&0x28_1000_u32.to_le_bytes());
    }
    let error = Pe::parse(View::from(file.as_slice())).unwrap_err();
    assert_eq!(error.to_string(), "section 1: expected bytes of its own, found bytes of section 0");
}
