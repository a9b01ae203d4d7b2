use casemate_measure::Register;
use casemate_measure::tdx::overlay::{Overlay, View};
use casemate_measure::tdx::pe::{Pe, PeError};

use crate::build::{Image, OPTIONAL};

fn parse(file: &[u8]) -> Result<Pe<'_>, PeError> {
    Pe::parse(View::from(file))
}

/// What Microsoft's text says is hashed, put together from the parts.
fn hashed(image: &Image) -> Register {
    let file = image.bytes();
    let mut bytes = file[..OPTIONAL + 64].to_vec();
    if image.directories > 4 {
        let entry = image.directories_at() + 32;
        bytes.extend(&file[OPTIONAL + 68..entry]);
        bytes.extend(&file[entry + 8..image.headers]);
    } else {
        bytes.extend(&file[OPTIONAL + 68..image.headers]);
    }
    for index in &image.file_order {
        bytes.extend(&image.sections[*index].3);
    }
    bytes.extend(&image.trailing);
    Register::digest(&bytes)
}

#[test]
fn headers_sections_and_what_follows() {
    let all = Image { trailing: b"more".to_vec(), certificates: vec![1; 24], ..Image::default() };
    let cases = [
        Image::default(),
        Image { plus: false, ..all.clone() },
        Image { directories: 4, certificates: Vec::new(), ..all.clone() },
        // Not a multiple of 8: the firmware pads nothing.
        Image { certificates: Vec::new(), trailing: b"abc".to_vec(), ..all.clone() },
        all,
    ];
    for image in cases {
        let file = image.bytes();
        assert_eq!(parse(&file).unwrap().authenticode(), hashed(&image), "{image:?}");
    }
}

#[test]
fn check_sum_and_certificates_do_not_count() {
    let image = Image { certificates: vec![1; 24], ..Image::default() };
    let mut file = image.bytes();
    let before = parse(&file).unwrap().authenticode();
    file[OPTIONAL + 64] ^= 0xff;
    *file.last_mut().unwrap() ^= 0xff;
    assert_eq!(parse(&file).unwrap().authenticode(), before);
    file[OPTIONAL + 63] ^= 0xff;
    assert_ne!(parse(&file).map(|pe| pe.authenticode()), Ok(before));
}

/// With a gap, what follows the sections begins where as much was hashed, and not where the last one ends.
#[test]
fn a_gap_between_sections() {
    let image = Image {
        sections: vec![
            (".a", 0x1000, 8, vec![1; 512]),
            (".gap", 0, 0, Vec::new()),
            (".b", 0x2000, 8, vec![2; 512]),
        ],
        file_order: vec![0, 2],
        trailing: b"0123456789".to_vec(),
        ..Image::default()
    };
    let mut file = image.bytes();
    // .a ends 100 bytes early.
    let row = image.table_at() + 16;
    file[row..row + 4].copy_from_slice(&412_u32.to_le_bytes());
    let entry = image.directories_at() + 32;
    let mut expected = file[..OPTIONAL + 64].to_vec();
    expected.extend(&file[OPTIONAL + 68..entry]);
    expected.extend(&file[entry + 8..512]);
    expected.extend([vec![1; 412], vec![2; 512]].concat());
    expected.extend(&file[512 + 412 + 512..]);
    assert_eq!(parse(&file).unwrap().authenticode(), Register::digest(&expected));
}

#[test]
fn overlays_count_in_headers_and_sections() {
    let image = Image { trailing: b"more".to_vec(), ..Image::default() };
    let file = image.bytes();
    let end = file.len();
    for offset in [0x20, OPTIONAL + 2, OPTIONAL + 63, OPTIONAL + 66, 510, 512, 1023, end - 3] {
        let overlay = Overlay { offset, bytes: vec![0x17, 0x18, 0x19] };
        let mut changed = file.clone();
        changed[offset..offset + 3].copy_from_slice(&overlay.bytes);
        let view = View::new(&file, vec![overlay]).unwrap();
        let seen = Pe::parse(view).map(|pe| pe.authenticode());
        assert_eq!(seen, parse(&changed).map(|pe| pe.authenticode()), "{offset}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    type Change = fn(&mut Vec<u8>);
    fn put(file: &mut [u8], at: usize, value: u32) {
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    /// The first row of the section table.
    const ROW: usize = OPTIONAL + 112 + 128;
    let cases: [(Change, &str); 22] = [
        (|f| f.truncate(63), "DOS header: expected an end within the file's 63 bytes, found 64"),
        (|f| f[0] = b'N', "e_magic: expected MZ, found 0x5a4e"),
        (
            |f| put(f, 0x3c, 0xffff_ffff),
            "e_lfanew: expected an end within the file's 2048 bytes, found 4294967559",
        ),
        (|f| f[0x41] = 0, "Signature: expected PE and two NUL bytes, found 0x50"),
        (|f| f[0x45] = 0xaa, "Machine: expected x86-64 or i386, found 0xaa64"),
        (|f| f[OPTIONAL] = 7, "Magic: expected PE32 or PE32+, found 0x207"),
        (|f| put(f, OPTIONAL + 108, 17), "NumberOfRvaAndSizes: expected at most 16, found 0x11"),
        (
            |f| put(f, OPTIONAL + 108, 15),
            "SizeOfOptionalHeader: expected what NumberOfRvaAndSizes directories take, found 0xf0",
        ),
        (|f| put(f, OPTIONAL + 56, 0), "SizeOfImage: expected more than the section table takes, found 0x0"),
        (|f| f[0x47] = 0xff, "SizeOfImage: expected more than the section table takes, found 0x100000"),
        (|f| f[0x46] = 6, "SizeOfHeaders: expected at least the section table's end, found 0x200"),
        (|f| put(f, OPTIONAL + 56, 512), "SizeOfHeaders: expected less than SizeOfImage, found 0x200"),
        (
            |f| put(f, OPTIONAL + 60, 0xf_0000),
            "SizeOfHeaders: expected an end within the file's 2048 bytes, found 983040",
        ),
        (|f| f[OPTIONAL + 68] = 11, "Subsystem: expected 10, an EFI application, found 0xb"),
        (
            |f| put(f, OPTIONAL + 112 + 36, 0xffff_ffff),
            "certificate table: expected an end within the file's 2048 bytes, found 4294967295",
        ),
        (
            |f| {
                put(f, OPTIONAL + 112 + 36, 4);
                f.push(0);
            },
            "certificate table: expected no more than what follows headers and sections, found 0x4",
        ),
        (
            |f| put(f, ROW + 12, 511),
            "section 0: VirtualAddress: expected at least SizeOfHeaders, found 0x1ff",
        ),
        (
            |f| put(f, ROW + 20, 511),
            "section 0: PointerToRawData: expected at least SizeOfHeaders, found 0x1ff",
        ),
        (
            |f| put(f, ROW + 16, 0xffff_ffff),
            "section 0: SizeOfRawData: expected an end within the file, found 0xffffffff",
        ),
        (
            |f| put(f, ROW + 20, 0xffff_ffff),
            "section 0: SizeOfRawData: expected an end within the file, found 0x400",
        ),
        (|f| put(f, ROW + 20, 1023), "section 0: expected bytes of its own, found bytes of section 2"),
        (|f| put(f, ROW + 80 + 20, 1024), "section 2: expected bytes of its own, found bytes of section 0"),
    ];
    for (change, message) in cases {
        let mut file = Image::default().bytes();
        change(&mut file);
        assert_eq!(parse(&file).unwrap_err().to_string(), message);
    }
}
