//! The metadata of a TDVF: which pieces of a firmware file go where in a trust domain's memory, and which are measured
//! (Intel "TDX Virtual Firmware Design Guide", "TDVF metadata"; edk2 `OvmfPkg/ResetVector/X64/IntelTdxMetadata.asm`; read
//! by QEMU `hw/i386/tdvf.c`).
//!
//! Everything that QEMU refuses is refused here, and more: what no firmware does and no two loaders agree upon. The work
//! that a file can ask for is bounded by the file itself and by [`MAX_FREE_BYTES`].

use std::fmt;
use std::ops::Range;

use super::efi::Guid;

/// The longest firmware: QEMU's own limit for `-bios` on q35 (`hw/i386/pc.c`, `max-fw-size`).
pub const MAX_BYTES: usize = 16 << 20;

/// The most sections. edk2 has 6, Intel's td-shim about 10.
pub const MAX_SECTIONS: u32 = 32;

/// The most memory that sections without data may claim, together: each of their pages is measured by 128 bytes. edk2
/// claims 100 KiB.
pub const MAX_FREE_BYTES: u64 = 64 << 20;

/// What a page is to TDX.
pub const PAGE: usize = 4096;

/// Why a file is no firmware for a trust domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FirmwareError {
    /// Too short to end in a table, or longer than a firmware can be.
    #[error("size: expected 1 KiB to {MAX_BYTES} bytes, found {found}")]
    Size {
        /// Its length.
        found: usize,
    },
    /// The GUIDed table at the end of OVMF is not there.
    #[error("GUIDed table: expected its footer {TABLE_FOOTER} 48 bytes before the end, found {found}")]
    NoTable {
        /// What is there.
        found: Guid,
    },
    /// The table is longer than the file, or shorter than its footer.
    #[error("GUIDed table: length: expected {GUID_ENTRY} to {limit}, found {found}")]
    TableLength {
        /// The longest that fits.
        limit: usize,
        /// What it says.
        found: u16,
    },
    /// An entry that does not fit between the table's start and the entry after it.
    #[error("GUIDed table: length of entry {entry}: expected {GUID_ENTRY} to {limit}, found {found}")]
    TableEntry {
        /// Its GUID.
        entry: Guid,
        /// The longest that fits.
        limit: usize,
        /// What it says.
        found: u16,
    },
    /// Bytes before the first entry.
    #[error("GUIDed table: expected entries from its first byte on, found {found} bytes before them")]
    TableRest {
        /// How many.
        found: usize,
    },
    /// The table does not say where the metadata is: a firmware without TDX.
    #[error("GUIDed table: expected one entry {METADATA_OFFSET} (TDX metadata), found {found}")]
    NoMetadata {
        /// How many.
        found: usize,
    },
    /// The entry that says where the metadata is has another form.
    #[error("GUIDed table: TDX metadata entry: expected 4 bytes, found {found}")]
    MetadataEntry {
        /// Its length.
        found: usize,
    },
    /// The metadata would lie outside the file.
    #[error("TDX metadata: offset from the end: expected {DESCRIPTOR} to {limit}, found {found}")]
    MetadataOffset {
        /// The file's length.
        limit: usize,
        /// What it says.
        found: u32,
    },
    /// Not the metadata.
    #[error("TDX metadata: signature: expected \"TDVF\", found {}", found.escape_ascii())]
    Signature {
        /// What is there.
        found: [u8; 4],
    },
    /// A version that nobody has defined.
    #[error("TDX metadata: version: expected 1, found {found}")]
    Version {
        /// What it says.
        found: u32,
    },
    /// No section, or absurdly many.
    #[error("TDX metadata: number of sections: expected 1 to {MAX_SECTIONS}, found {found}")]
    SectionCount {
        /// What it says.
        found: u32,
    },
    /// The length and the number of sections disagree.
    #[error("TDX metadata: length: expected {expected} for its sections, found {found}")]
    MetadataLength {
        /// By the number of sections.
        expected: u32,
        /// What it says.
        found: u32,
    },
    /// The section table runs past the end of the file.
    #[error("TDX metadata: expected {expected} bytes of it, found {found} before the end of the file")]
    MetadataEnd {
        /// By its length.
        expected: u32,
        /// What is left of the file.
        found: usize,
    },
    /// A type of section that QEMU does not load.
    #[error(
        "section {index}: type: expected 0 (BFV), 1 (CFV), 2 (TD HOB) or 3 (temporary memory), found {found}"
    )]
    SectionType {
        /// Which section, from 0.
        index: usize,
        /// What it says.
        found: u32,
    },
    /// A field of a section that cannot be right.
    #[error("section {index} ({kind}): {field}: expected {expected}, found {found:#x}")]
    Section {
        /// Which section, from 0.
        index: usize,
        /// Its type.
        kind: SectionKind,
        /// The field, in the design guide's spelling.
        field: &'static str,
        /// What would be right.
        expected: &'static str,
        /// What it says.
        found: u64,
    },
    /// Two sections claim the same bytes.
    #[error("sections {first} and {second}: expected {space} of their own, found both at {at:#x}")]
    Overlap {
        /// One of them.
        first: usize,
        /// The other.
        second: usize,
        /// Of the file, or of the guest's memory.
        space: Space,
        /// The first byte that both claim.
        at: u64,
    },
    /// Sections without data claim too much memory.
    #[error(
        "sections without data: expected at most {MAX_FREE_BYTES} bytes of memory together, found {found}"
    )]
    TooMuchMemory {
        /// What they claim.
        found: u64,
    },
    /// A section that must be there once (or at least once, for the BFV).
    #[error("sections: expected {expected} {kind}, found {found}")]
    Missing {
        /// Which.
        kind: SectionKind,
        /// `one`, or `at least one`.
        expected: &'static str,
        /// How many are there.
        found: usize,
    },
}

/// In which space two sections overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// Offsets in the firmware file.
    File,
    /// Guest physical addresses.
    Memory,
}

impl fmt::Display for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "bytes of the file",
            Self::Memory => "guest memory",
        })
    }
}

/// What a section is (design guide; the types that QEMU loads).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// Boot firmware volume: code, measured into MRTD.
    Bfv,
    /// Configuration firmware volume: variables, measured into RTMR0 by the firmware.
    Cfv,
    /// Where the VMM leaves the list of memory.
    TdHob,
    /// Memory for the firmware's start: stack, heap, page tables, mailbox.
    TempMem,
}

impl SectionKind {
    const fn of(value: u32) -> Option<Self> {
        match value {
            0 => Some(Self::Bfv),
            1 => Some(Self::Cfv),
            2 => Some(Self::TdHob),
            3 => Some(Self::TempMem),
            _ => None,
        }
    }

    /// Whether its bytes come from the file.
    pub const fn has_data(self) -> bool {
        matches!(self, Self::Bfv | Self::Cfv)
    }
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bfv => "BFV",
            Self::Cfv => "CFV",
            Self::TdHob => "TD HOB",
            Self::TempMem => "temporary memory",
        })
    }
}

/// One section. Whole pages, inside the file and below 2^52; a section with data has as much memory as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section<'f> {
    /// What it is.
    pub kind: SectionKind,
    /// Its bytes in the file; empty for a section without data.
    pub data: &'f [u8],
    /// Where it lies in the guest.
    pub address: u64,
    /// How much memory it takes.
    pub size: u64,
    /// Whether its content is measured into MRTD (`MR.EXTEND`), not only its place.
    pub extend: bool,
    /// Whether its pages are added after launch (`PAGE.AUG`), which MRTD does not see.
    pub augment: bool,
}

impl Section<'_> {
    /// The first byte after it; it was checked not to overflow.
    pub const fn end(&self) -> u64 {
        self.address.saturating_add(self.size)
    }
}

/// A firmware whose metadata passed every check; nothing but [`Tdvf::parse`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tdvf<'f> {
    sections: Vec<Section<'f>>,
    cfv: Section<'f>,
    td_hob: Section<'f>,
}

impl<'f> Tdvf<'f> {
    /// Reads the metadata of a firmware file.
    ///
    /// # Errors
    /// The first thing that is wrong: field, expectation, finding.
    pub fn parse(firmware: &'f [u8]) -> Result<Self, FirmwareError> {
        if !(MIN_BYTES..=MAX_BYTES).contains(&firmware.len()) {
            return Err(FirmwareError::Size { found: firmware.len() });
        }
        let raw = descriptor(firmware, metadata_offset(firmware)?)?;
        let mut sections = Vec::new();
        let mut ranges = Vec::new();
        for (index, raw) in raw.chunks_exact(SECTION).enumerate() {
            let (section, range) = section(firmware, index, raw)?;
            sections.push(section);
            ranges.push(range);
        }
        check_overlaps(&sections, &ranges)?;
        check_free_memory(&sections)?;
        check_at_least_one(&sections, SectionKind::Bfv)?;
        let cfv = only(&sections, SectionKind::Cfv)?;
        let td_hob = only(&sections, SectionKind::TdHob)?;
        Ok(Self { sections, cfv, td_hob })
    }

    /// All sections, in the order of the table, which is the order of measurement.
    pub fn sections(&self) -> &[Section<'f>] {
        &self.sections
    }

    /// The one configuration volume.
    pub const fn cfv(&self) -> &Section<'f> {
        &self.cfv
    }

    /// The one place for the list of memory.
    pub const fn td_hob(&self) -> &Section<'f> {
        &self.td_hob
    }
}

/// The distance of the metadata from the file's end, as the GUIDed table at the end of OVMF says it (edk2
/// `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm`): entries of data, length and GUID, to be read from the back.
fn metadata_offset(firmware: &[u8]) -> Result<u32, FirmwareError> {
    let table_end = firmware.len().saturating_sub(RESET_VECTOR);
    let head = firmware.get(..table_end).unwrap_or_default();
    let Some((head, length, footer)) = split_entry(head) else {
        return Err(FirmwareError::Size { found: firmware.len() });
    };
    if footer != TABLE_FOOTER {
        return Err(FirmwareError::NoTable { found: footer });
    }
    let body = usize::from(length).checked_sub(GUID_ENTRY).and_then(|body| last(head, body));
    let Some(mut body) = body else {
        return Err(FirmwareError::TableLength {
            limit: head.len().saturating_add(GUID_ENTRY),
            found: length,
        });
    };
    let mut found = Vec::new();
    while let Some((before, length, entry)) = split_entry(body) {
        let data = usize::from(length).checked_sub(GUID_ENTRY).and_then(|data| last(before, data));
        let Some(data) = data else {
            return Err(FirmwareError::TableEntry { entry, limit: body.len(), found: length });
        };
        if entry == METADATA_OFFSET {
            found.push(data);
        }
        body = before.get(..before.len().saturating_sub(data.len())).unwrap_or_default();
    }
    if !body.is_empty() {
        return Err(FirmwareError::TableRest { found: body.len() });
    }
    match found.as_slice() {
        [data] => match <[u8; 4]>::try_from(*data) {
            Ok(data) => Ok(u32::from_le_bytes(data)),
            Err(_) => Err(FirmwareError::MetadataEntry { found: data.len() }),
        },
        others => Err(FirmwareError::NoMetadata { found: others.len() }),
    }
}

/// The table of sections, raw, behind the descriptor at that distance from the end.
fn descriptor(firmware: &[u8], offset: u32) -> Result<&[u8], FirmwareError> {
    let refuse = || FirmwareError::MetadataOffset { limit: firmware.len(), found: offset };
    let rest = usize::try_from(offset).ok().and_then(|offset| last(firmware, offset)).ok_or_else(refuse)?;
    let (descriptor, sections) = rest.split_first_chunk::<DESCRIPTOR>().ok_or_else(refuse)?;
    let mut fields = Reader(descriptor);
    let signature = fields.take::<4>();
    if signature != *b"TDVF" {
        return Err(FirmwareError::Signature { found: signature });
    }
    let (length, version, count) = (fields.u32(), fields.u32(), fields.u32());
    if version != 1 {
        return Err(FirmwareError::Version { found: version });
    }
    if !(1..=MAX_SECTIONS).contains(&count) {
        return Err(FirmwareError::SectionCount { found: count });
    }
    let expected = count.saturating_mul(32).saturating_add(16);
    if length != expected {
        return Err(FirmwareError::MetadataLength { expected, found: length });
    }
    let wanted = usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(SECTION);
    sections.get(..wanted).ok_or(FirmwareError::MetadataEnd { expected, found: rest.len() })
}

/// One section and its bytes in the file.
fn section<'f>(
    firmware: &'f [u8],
    index: usize,
    raw: &[u8],
) -> Result<(Section<'f>, Range<usize>), FirmwareError> {
    let mut fields = Reader(raw);
    let (offset, raw_size) = (fields.u32(), fields.u32());
    let (address, size) = (fields.u64(), fields.u64());
    let (kind, attributes) = (fields.u32(), fields.u32());
    let kind = SectionKind::of(kind).ok_or(FirmwareError::SectionType { index, found: kind })?;
    let check = |right: bool, field, expected, found: u64| {
        if right { Ok(()) } else { Err(FirmwareError::Section { index, kind, field, expected, found }) }
    };
    let page = PAGE as u64;
    check(address.is_multiple_of(page), "MemoryAddress", "a page's address", address)?;
    check(size.is_multiple_of(page) && size != 0, "MemoryDataSize", "one or more whole pages", size)?;
    let inside = address.checked_add(size).is_some_and(|end| end <= GPA_END);
    check(inside, "MemoryAddress", "to end, with its MemoryDataSize, below 2^52", address)?;
    let known = attributes & !(EXTEND | AUGMENT) == 0;
    let (extend, augment) = (attributes & EXTEND != 0, attributes & AUGMENT != 0);
    let attributes = u64::from(attributes);
    check(known, "Attributes", "MR.EXTEND (1), PAGE.AUG (2) or none", attributes)?;
    let range = if kind.has_data() {
        check(raw_size != 0, "RawDataSize", "data from the file", 0)?;
        check(u64::from(raw_size) == size, "RawDataSize", "as much as MemoryDataSize", raw_size.into())?;
        check(!augment, "Attributes", "no PAGE.AUG on a section with data", attributes)?;
        let measured = kind != SectionKind::Bfv || extend;
        check(measured, "Attributes", "MR.EXTEND, or MRTD would say nothing of the code", attributes)?;
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(raw_size).unwrap_or(usize::MAX));
        let inside = end <= firmware.len();
        check(inside, "DataOffset", "to end, with its RawDataSize, inside the file", offset.into())?;
        start..end
    } else {
        check(raw_size == 0, "RawDataSize", "0: it has no data", raw_size.into())?;
        check(!extend, "Attributes", "no MR.EXTEND on a section without data", attributes)?;
        0..0
    };
    let data = firmware.get(range.clone()).unwrap_or_default();
    Ok((Section { kind, data, address, size, extend, augment }, range))
}

/// No two sections share a byte of the guest's memory or of the file.
fn check_overlaps(sections: &[Section<'_>], ranges: &[Range<usize>]) -> Result<(), FirmwareError> {
    for (second, (one, one_range)) in sections.iter().zip(ranges).enumerate() {
        for (first, (other, other_range)) in sections.iter().zip(ranges).take(second).enumerate() {
            let at = one.address.max(other.address);
            if at < one.end().min(other.end()) {
                return Err(FirmwareError::Overlap { first, second, space: Space::Memory, at });
            }
            let at = one_range.start.max(other_range.start);
            if at < one_range.end.min(other_range.end) {
                let at = u64::try_from(at).unwrap_or(u64::MAX);
                return Err(FirmwareError::Overlap { first, second, space: Space::File, at });
            }
        }
    }
    Ok(())
}

fn check_free_memory(sections: &[Section<'_>]) -> Result<(), FirmwareError> {
    let free = sections.iter().filter(|section| !section.kind.has_data());
    let found = free.fold(0_u64, |sum, section| sum.saturating_add(section.size));
    if found > MAX_FREE_BYTES { Err(FirmwareError::TooMuchMemory { found }) } else { Ok(()) }
}

fn check_at_least_one(sections: &[Section<'_>], kind: SectionKind) -> Result<(), FirmwareError> {
    let there = sections.iter().any(|section| section.kind == kind);
    if there { Ok(()) } else { Err(FirmwareError::Missing { kind, expected: "at least one", found: 0 }) }
}

fn only<'f>(sections: &[Section<'f>], kind: SectionKind) -> Result<Section<'f>, FirmwareError> {
    let mut of_kind = sections.iter().filter(|section| section.kind == kind);
    match (of_kind.next(), of_kind.count()) {
        (Some(section), 0) => Ok(section.clone()),
        (first, others) => {
            let found = others.saturating_add(usize::from(first.is_some()));
            Err(FirmwareError::Missing { kind, expected: "one", found })
        }
    }
}

/// The last bytes of a slice, if it has so many.
fn last(bytes: &[u8], count: usize) -> Option<&[u8]> {
    bytes.get(bytes.len().checked_sub(count)?..)
}

/// What lies before a length and a GUID at the end, and the two.
fn split_entry(bytes: &[u8]) -> Option<(&[u8], u16, Guid)> {
    let (rest, guid) = bytes.split_last_chunk::<16>()?;
    let (rest, length) = rest.split_last_chunk::<2>()?;
    Some((rest, u16::from_le_bytes(*length), Guid(*guid)))
}

/// Little-endian fields one after another, of bytes whose length was checked: what is missing reads as zero.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk::<N>() else { return [0; N] };
        self.0 = rest;
        *field
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// The footer of OVMF's GUIDed table (edk2 `OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm`).
const TABLE_FOOTER: Guid =
    Guid::new(0x96b5_82de, 0x1fb2, 0x45f7, [0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d]);

/// The entry with the metadata's offset (same file; QEMU `TDX_METADATA_OFFSET_GUID`).
const METADATA_OFFSET: Guid =
    Guid::new(0xe47a_6535, 0x984a, 0x4798, [0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2]);

/// The code between the table and 4 GiB: the reset vector.
const RESET_VECTOR: usize = 32;
/// Length and GUID of a table entry.
const GUID_ENTRY: usize = 18;
/// Signature, length, version, number of sections.
const DESCRIPTOR: usize = 16;
/// One section of the metadata.
const SECTION: usize = 32;
/// Shorter than any firmware, long enough for what ends one.
const MIN_BYTES: usize = 1024;
/// Guest physical addresses have at most 52 bits (Intel TDX module specification, GPAW).
const GPA_END: u64 = 1 << 52;
/// Attribute bit: measure the content into MRTD.
const EXTEND: u32 = 1;
/// Attribute bit: the page is added after launch.
const AUGMENT: u32 = 2;

#[cfg(test)]
pub(super) mod synthetic;
#[cfg(test)]
mod tests;
