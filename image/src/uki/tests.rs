use super::fixture::{kernel, stub};
use super::*;

fn parts<'a>(stub: &'a [u8], kernel: &'a [u8]) -> Parts<'a> {
    Parts {
        stub,
        os_release: "ID=casemate\n",
        cmdline: "quiet",
        release: "7.3.4",
        initramfs: b"initramfs",
        kernel,
    }
}

#[test]
fn every_part_is_a_section_where_the_firmware_finds_it() {
    let (stub, kernel) = (stub(), kernel("7.3.4", 0x0100));
    let file = parts(&stub, &kernel).assemble().unwrap();
    assert_eq!(file, parts(&stub, &kernel).assemble().unwrap());
    let pe = Pe::parse(View::from(file.as_slice())).unwrap();
    let mut free = (1024, 0x1000);
    for (section, (name, content)) in pe.sections().iter().zip([
        (".sdmagic", &b"#### LoaderInfo: systemd-stub 257.1 ####\0"[..]),
        (".osrel", b"ID=casemate\n"),
        (".cmdline", b"quiet"),
        (".uname", b"7.3.4"),
        (".initrd", b"initramfs"),
        (".linux", &kernel),
    ]) {
        assert_eq!(section.name(), name.as_bytes());
        let start = section.raw_pointer as usize;
        assert_eq!(&file[start..start + section.virtual_size as usize], content, "{name}");
        // Aligned, one behind the other, padded with zeros.
        assert_eq!(
            (section.raw_pointer % 512, section.raw_size % 512, section.virtual_address % 4096),
            (0, 0, 0)
        );
        assert_eq!((section.raw_pointer, section.virtual_address), free);
        free = (
            section.raw_pointer + section.raw_size,
            (section.virtual_address + section.virtual_size).next_multiple_of(0x1000),
        );
        let padding = &file[start + content.len()..start + section.raw_size as usize];
        assert!(padding.iter().all(|byte| *byte == 0));
    }
    assert_eq!((pe.sections().len(), free.0 as usize), (6, file.len()));
    // SizeOfImage; no time, no check sum; how much code and data there is.
    let field = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    assert_eq!(field(0x58 + 56), free.1);
    assert_eq!((field(0x48), field(0x58 + 64)), (0, 0));
    assert_eq!((field(0x58 + 4) as usize, field(0x58 + 8)), (kernel.len(), 12 + 5 + 5 + 9));
}

#[test]
fn it_is_no_stricter_than_its_kernel() {
    let flags = |dll_characteristics| {
        let (stub, kernel) = (stub(), kernel("7.3.4", dll_characteristics));
        let file = parts(&stub, &kernel).assemble().unwrap();
        Pe::parse(View::from(file.as_slice())).unwrap().dll_characteristics()
    };
    assert_eq!((flags(0x0100), flags(0)), (0x0160, 0x0060));
}

#[test]
fn what_does_not_fit_is_named() {
    let kernel = kernel("7.3.4", 0x0100);
    let error = |change: fn(&mut Vec<u8>)| {
        let mut stub = stub();
        change(&mut stub);
        parts(&stub, &kernel).assemble().unwrap_err().to_string()
    };
    let loads = "unified kernel image: expected parts that the firmware loads";
    assert_eq!(
        error(|stub| stub[0] = 0),
        format!("systemd-stub: {loads}, found e_magic: expected MZ, found 0x5a00")
    );
    assert_eq!(
        error(|stub| stub[1024 + 30] = b'9'),
        format!(
            "casemate.efi: {loads}, found .sdmagic: systemd-stub: expected version 257, found \
             \"#### LoaderInfo: systemd-stub 957.1 ####\""
        )
    );
    assert_eq!(error(|stub| stub[0x4c] = 1), "systemd-stub: symbol table: expected none, found one");
    assert_eq!(
        error(|stub| stub[0x58 + 37] = 3),
        "systemd-stub: FileAlignment: expected a power of two up to 65536, found 768"
    );
    // Headers that end behind three more rows.
    assert_eq!(
        error(|stub| stub[0x58 + 60..0x58 + 62].copy_from_slice(&(0xf8_u16 + 4 * 40).to_le_bytes())),
        "systemd-stub: section table: expected room for .initrd, found 408 bytes of headers"
    );
    let stub = stub();
    let error = parts(&stub, b"\x7fELF").assemble().unwrap_err().to_string();
    assert_eq!(
        error,
        format!("kernel: {loads}, found DOS header: expected an end within the file's 4 bytes, found 64")
    );
}
