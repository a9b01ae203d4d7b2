//! The whole guest: an EFI application that powers the machine off. That it runs says that the firmware is done.

/// Where its one section is loaded, and lies in the file.
const CODE: u32 = 0x1000;

/// `cli; mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt; jmp $-1`: writes S5 with SLP_EN to PM1a_CNT (ACPI 6.5, section
/// 4.8.3.2.1; SLP_TYP of S5 is 0 in QEMU's q35). OVMF has the register at 0x604 (edk2 `OvmfPkg/Include/IndustryStandard/
/// Q35MchIch9.h`, `ICH9_PMBASE_VALUE` 0x600; `PcAtChipset`: PM1a_CNT at 4).
const OFF: [u8; 14] = [0xfa, 0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x20, 0x66, 0xef, 0xf4, 0xeb, 0xfd];

/// The application: a PE32+ image (Microsoft PE Format; UEFI 2.10, section 2.1.1) with one section, which runs at any address.
/// QEMU takes what has no `HdrS` at 0x202 for a kernel before boot protocol 2.00 and passes it on as it is, but for four
/// bytes at 0x20 (`hw/i386/x86-common.c`), in the MS-DOS header that nobody reads.
pub(crate) fn power_off() -> Vec<u8> {
    let mut image = Vec::new();
    let mut put = |bytes: &[u8]| image.extend_from_slice(bytes);
    let zeros = [0; 128];
    // MS-DOS header: the magic, and at 0x3c where the PE header is.
    put(b"MZ");
    put(&[0; 0x3a]);
    put(&0x40_u32.to_le_bytes());
    // COFF header: x86-64, one section, an optional header of 240 bytes, executable and aware of large addresses.
    put(b"PE\0\0");
    for field in [0x8664_u16, 1, 0, 0, 0, 0, 0, 0, 240, 0x22] {
        put(&field.to_le_bytes());
    }
    // Optional header: PE32+; sizes of code and data; entry point and base of code.
    put(&[0x0b, 0x02, 0, 0]);
    for field in [CODE, 0, 0, CODE, CODE] {
        put(&field.to_le_bytes());
    }
    // Image base 0; section and file alignment; versions; size of image and of headers; subsystem 10, EFI application.
    put(&0_u64.to_le_bytes());
    for field in [CODE, CODE, 0, 0, 0, 0, 2 * CODE, CODE, 0, 10] {
        put(&field.to_le_bytes());
    }
    // Stack and heap sizes, loader flags, and 16 data directories, all empty.
    put(&[0; 36]);
    put(&16_u32.to_le_bytes());
    put(&zeros);
    // The section: name, size and address in memory, size and place in the file, and that it is code to be run and read.
    put(b".text\0\0\0");
    for field in [CODE, CODE, CODE, CODE, 0, 0, 0, 0x6000_0020] {
        put(&field.to_le_bytes());
    }
    let whole = CODE as usize;
    image.resize(whole, 0);
    image.extend_from_slice(&OFF);
    image.resize(2 * whole, 0);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(image: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(image[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn it_is_a_pe_image_whose_entry_point_is_the_code() {
        let image = power_off();
        assert_eq!(&image[..2], b"MZ");
        let pe = word(&image, 0x3c) as usize;
        assert_eq!(&image[pe..pe + 6], b"PE\0\0\x64\x86");
        let optional = pe + 24;
        assert_eq!(&image[optional..optional + 2], &[0x0b, 0x02]);
        assert_eq!(word(&image, optional + 16), CODE, "the entry point");
        assert_eq!(word(&image, optional + 56) as usize, image.len(), "the size in memory");
        assert_eq!(&image[optional + 68..optional + 70], &[10, 0], "the subsystem");
        assert_eq!(word(&image, optional + 108), 16, "the number of directories");
        let section = optional + 240;
        assert_eq!(&image[section..section + 5], b".text");
        assert_eq!(word(&image, section + 20), CODE, "where the code lies in the file");
        assert_eq!(&image[CODE as usize..][..OFF.len()], &OFF);
    }

    #[test]
    fn qemu_must_not_take_it_for_a_linux_or_multiboot_kernel() {
        let image = power_off();
        assert_ne!(&image[0x202..0x206], b"HdrS");
        assert!(!image.chunks(4).any(|word| word == 0x1bad_b002_u32.to_le_bytes()));
        // Protocol 0: five setup sectors, and a kernel behind them.
        assert_eq!(image[0x1f1], 0);
        assert!(image.len() > 5 * 512);
    }
}
