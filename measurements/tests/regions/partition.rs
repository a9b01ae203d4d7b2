//! The regions of a file are a partition of it.

use std::collections::BTreeSet;

use casemate_measure::tdx::region::{self, Part, Region};
use proptest::prelude::*;

use crate::build::Image as Pe;
use crate::firmware::firmware;
use crate::machine::{kernel, linux, uki};

/// Each byte once, in order, and no two neighbours of one region.
fn check(parts: &[Part], length: usize) {
    let mut at = 0;
    for part in parts {
        assert_eq!(part.range.start, at, "{parts:?}");
        assert!(!part.range.is_empty(), "{parts:?}");
        at = part.range.end;
    }
    assert_eq!(at, length, "{parts:?}");
    assert!(parts.windows(2).all(|pair| pair[0].region != pair[1].region), "{parts:?}");
}

fn of(parts: &[Part], region: Region) -> Vec<std::ops::Range<usize>> {
    parts.iter().filter(|part| part.region == region).map(|part| part.range.clone()).collect()
}

#[test]
fn a_firmware() {
    let file = firmware(0);
    let parts = region::firmware(&file).unwrap();
    check(&parts, file.len());
    // Two entries of 22 bytes and the footer, in front of the reset vector; in front of them a head and four rows.
    let (table, metadata) = (0x4000 - 32 - 62, 0x4000 - 32 - 62 - 144);
    assert_eq!(
        parts.iter().map(|part| (part.range.clone(), part.region)).collect::<Vec<_>>(),
        [
            (0..0x1000, Region::FirmwareVariables),
            (0x1000..0x2000, Region::FirmwareUnclaimed),
            (0x2000..metadata, Region::FirmwareCode),
            (metadata..table, Region::FirmwareMetadata),
            (table..0x4000 - 32, Region::FirmwareTable),
            (0x4000 - 32..0x4000, Region::FirmwareCode),
        ]
    );
    assert_eq!(&file[metadata..metadata + 4], b"TDVF");
    let extended = region::firmware(&firmware(1)).unwrap();
    assert_eq!(of(&extended, Region::FirmwareVariablesExtended), [0..0x1000]);
}

#[test]
fn a_kernel() {
    let file = kernel();
    let parts = region::kernel(&file).unwrap();
    check(&parts, file.len());
    assert_eq!(of(&parts, Region::PeCheckSum), [0x98..0x9c]);
    assert_eq!(&file[0x98..0x9c], b"SUM!");
    assert_eq!(of(&parts, Region::PeCertificatePlace), [0xe8..0xec]);
    assert_eq!(of(&parts, Region::PeCertificateSize), [0xec..0xf0]);
    assert_eq!(of(&parts, Region::KernelLoadFlags), [0x211..0x212]);
    assert_eq!(of(&parts, Region::KernelWritten), [0x210..0x211, 0x218..0x220, 0x224..0x226, 0x228..0x22c]);
    assert_eq!(of(&parts, Region::KernelHeaders), [0..0x98, 0x9c..0xe8, 0xf0..0x1e8]);
    // The hole is 512 bytes; so more of what is behind it is measured.
    let (first, second) = (0x1e8 + 3584, 0x1e8 + 4096);
    assert_eq!(of(&parts, Region::PeGap), [first..second]);
    assert_eq!(of(&parts, Region::PeTrailing), [second + 8192..second + 8192 + 700]);
    assert_eq!(of(&parts, Region::PeCertificates), [file.len() - 256..file.len()]);
    assert!(file[file.len() - 256..].iter().all(|byte| *byte == 0x5a));
}

#[test]
fn a_unified_kernel_image() {
    let file = uki();
    let parts = region::uki(&file).unwrap();
    check(&parts, file.len());
    let text = |region| of(&parts, region).into_iter().map(|range| &file[range]).collect::<Vec<_>>();
    assert_eq!(text(Region::UkiCommandLine), [b"quiet panic=-1"]);
    assert_eq!(text(Region::UkiSignature), [b"{}"]);
    let measured: [&[u8]; 7] =
        [b"ID=casemate\n", b"7.3.4", b"sbat,1", b"BM", b"PUBLIC KEY", b"microcode", b"archive"];
    assert_eq!(text(Region::UkiMeasured), measured, "without the second of a name");
    assert_eq!(text(Region::UkiKernel), [&linux()]);
    assert_eq!(of(&parts, Region::UkiWritten), [0x20..0x24]);
    assert_eq!(of(&parts, Region::PeGap).len(), 1);
    assert_eq!(text(Region::PeTrailing), [[0x77; 100]]);
    assert_eq!(text(Region::PeCertificates), [[0x5a; 128]]);
}

#[test]
fn what_is_refused_has_no_regions() {
    let file = firmware(0);
    assert_eq!(
        region::firmware(&file[..1023]).unwrap_err().to_string(),
        "size: expected 1 KiB to 16777216 bytes, found 1023"
    );
    assert!(region::kernel(&file).unwrap_err().to_string().starts_with("header: expected HdrS"));
    assert!(region::uki(&kernel()).unwrap_err().to_string().contains(".sdmagic"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Images of any make: PE32 or PE32+, with so many directories, sections in any order, holes, and whatever follows.
    #[test]
    fn any_image(
        plus in any::<bool>(),
        directories in 0_u32..=16,
        sizes in prop::collection::vec((0_usize..400, 0_usize..40), 0..6),
        backwards in any::<bool>(),
        (trailing, certificates) in (0_usize..40, 0_usize..40),
    ) {
        let stub = b"systemd-stub 257\0".to_vec();
        let kernel = linux();
        let mut sections = vec![(".sdmagic", 0x1000, 17, stub), (".linux", 0x2000, u32::try_from(kernel.len()).unwrap(), kernel)];
        sections.extend(sizes.iter().zip(0x10_u32..).map(|((size, _), n)| (".osrel", n << 12, 7, vec![1; *size])));
        let mut file_order: Vec<usize> = (0..sections.len()).collect();
        if backwards {
            file_order.reverse();
        }
        let image = Pe {
            plus,
            directories,
            sections,
            file_order,
            trailing: vec![2; trailing],
            certificates: if directories > 4 { vec![3; certificates] } else { vec![] },
            headers: 1024,
        };
        let mut file = image.bytes();
        for (index, (size, hole)) in sizes.iter().enumerate() {
            let row = image.table_at() + 40 * (index + 2);
            let size = u32::try_from(size.saturating_sub(*hole)).unwrap();
            file[row + 16..row + 20].copy_from_slice(&size.to_le_bytes());
            let memory = size.min(7);
            file[row + 8..row + 12].copy_from_slice(&memory.to_le_bytes());
        }
        let parts = region::uki(&file).unwrap();
        check(&parts, file.len());
        let regions: BTreeSet<Region> = parts.iter().map(|part| part.region).collect();
        prop_assert!(regions.contains(&Region::UkiKernel) && regions.contains(&Region::PeCheckSum));
        prop_assert_eq!(regions.contains(&Region::PeCertificateSize), directories > 4);
    }
}
