//! The smallest PE images that pass for a stub and for a kernel, also used by the tests of the command.

/// With one section, and room in its headers for eight.
fn pe(name: &[u8], content: &[u8], dll_characteristics: u16) -> Vec<u8> {
    let mut file = vec![0; 1024];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &0x40_u32.to_le_bytes());
    // Signature, machine, one section, a time, an optional header of 112 + 6 * 8 bytes.
    put(0x40, b"PE\0\0\x64\x86\x01\0time");
    put(0x54, &160_u16.to_le_bytes());
    put(0x58, &0x20b_u16.to_le_bytes());
    for (offset, value) in [(32, 0x1000_u32), (36, 512), (56, 0x8000), (60, 1024), (64, 77), (108, 6)] {
        put(0x58 + offset, &value.to_le_bytes());
    }
    put(0x58 + 68, &10_u16.to_le_bytes());
    put(0x58 + 70, &dll_characteristics.to_le_bytes());
    let length = content.len().next_multiple_of(512);
    put(0xf8, name);
    for (offset, value) in [(8, content.len()), (12, 0x1000), (16, length), (20, 1024)] {
        put(0xf8 + offset, &u32::try_from(value).unwrap().to_le_bytes());
    }
    file.extend(content);
    file.resize(1024 + length, 0);
    file
}

/// A stub.
pub(crate) fn stub() -> Vec<u8> {
    pe(b".sdmagic", b"#### LoaderInfo: systemd-stub 257.1 ####\0", 0x0160)
}

/// A kernel of that release, for QEMU and for the firmware.
pub(crate) fn kernel(release: &str, dll_characteristics: u16) -> Vec<u8> {
    let mut file = pe(b".text", &[0x90; 700], dll_characteristics);
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1fe, b"\x55\xaa");
    put(0x202, b"HdrS\x0f\x02");
    put(0x20e, &0x100_u16.to_le_bytes());
    put(0x300, release.as_bytes());
    put(0x300 + release.len(), b" ");
    file
}
