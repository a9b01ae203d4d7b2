//! The `.modinfo` section of a kernel module: NUL-separated `key=value` strings in an ELF64 little-endian object
//! (System V gABI, chapters 4 and "Sections").

/// e_shoff, e_shentsize, e_shnum, e_shstrndx of an ELF64 header.
const SHOFF: usize = 0x28;
const SHENTSIZE: usize = 0x3a;
const SHNUM: usize = 0x3c;
const SHSTRNDX: usize = 0x3e;
/// sh_name, sh_offset, sh_size of a section header.
const SH_NAME: usize = 0;
const SH_OFFSET: usize = 0x18;
const SH_SIZE: usize = 0x20;

/// `key=value` pairs of `.modinfo`, in file order; `None` if this is no such object.
pub(crate) fn modinfo(elf: &[u8]) -> Option<Vec<(&str, &str)>> {
    // ELFCLASS64, ELFDATA2LSB
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let section = section(elf, b".modinfo")?;
    section
        .split(|byte| *byte == 0)
        .filter(|string| !string.is_empty())
        .map(|string| std::str::from_utf8(string).ok()?.split_once('='))
        .collect()
}

fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let table = usize::try_from(u64_at(elf, SHOFF)?).ok()?;
    let entry = usize::from(u16_at(elf, SHENTSIZE)?);
    let count = usize::from(u16_at(elf, SHNUM)?);
    let header = |index: usize| -> Option<&'a [u8]> {
        let start = table.checked_add(index.checked_mul(entry)?)?;
        elf.get(start..start.checked_add(entry)?)
    };
    let body = |header: &[u8]| -> Option<&'a [u8]> {
        let start = usize::try_from(u64_at(header, SH_OFFSET)?).ok()?;
        let length = usize::try_from(u64_at(header, SH_SIZE)?).ok()?;
        elf.get(start..start.checked_add(length)?)
    };
    let names = body(header(usize::from(u16_at(elf, SHSTRNDX)?))?)?;
    (0..count).filter_map(header).find_map(|header| {
        let name = names.get(usize::try_from(u32_at(header, SH_NAME)?).ok()?..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        if name == wanted { body(header) } else { None }
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The smallest object with a `.modinfo` section.
    pub(crate) fn object(strings: &[&str]) -> Vec<u8> {
        let modinfo: Vec<u8> = strings.iter().flat_map(|s| s.bytes().chain([0])).collect();
        let names = b"\0.modinfo\0.shstrtab\0";
        let (modinfo_at, names_at) = (64, 64 + modinfo.len());
        let table_at = names_at + names.len();
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[SHOFF..SHOFF + 8].copy_from_slice(&(table_at as u64).to_le_bytes());
        elf[SHENTSIZE..SHENTSIZE + 2].copy_from_slice(&64_u16.to_le_bytes());
        elf[SHNUM..SHNUM + 2].copy_from_slice(&3_u16.to_le_bytes());
        elf[SHSTRNDX..SHSTRNDX + 2].copy_from_slice(&2_u16.to_le_bytes());
        elf.extend(&modinfo);
        elf.extend(names);
        for (name, at, size) in [(0_u32, 0, 0), (1, modinfo_at, modinfo.len()), (10, names_at, names.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[SH_OFFSET..SH_OFFSET + 8].copy_from_slice(&(at as u64).to_le_bytes());
            header[SH_SIZE..SH_SIZE + 8].copy_from_slice(&(size as u64).to_le_bytes());
            elf.extend(header);
        }
        elf
    }

    #[test]
    fn modinfo_is_read() {
        let elf = object(&["license=GPL", "depends=nfnetlink,libcrc32c", "vermagic=7.3.4 SMP"]);
        let found = modinfo(&elf).unwrap();
        assert_eq!(found[1], ("depends", "nfnetlink,libcrc32c"));
    }

    #[test]
    fn no_input_panics() {
        let elf = object(&["depends="]);
        for length in 0..elf.len() {
            modinfo(&elf[..length]);
        }
        for at in 0..elf.len() {
            let mut changed = elf.clone();
            changed[at] = 0xff;
            modinfo(&changed);
        }
    }
}
