//! PE images as the firmware measures them: the Authenticode digest of the headers and sections that it accepts.
//!
//! The rules are edk2's, `PeCoffLoaderGetImageInfo` (`MdePkg/Library/BasePeCoffLib/BasePeCoff.c`) and
//! `MeasurePeImageAndExtend` (`OvmfPkg/Tcg/TdTcg2Dxe/MeasureBootPeCoff.c`), which follow Microsoft's "Windows Authenticode
//! Portable Executable Signature Format", "Calculating the PE Image Hash". Two differences: sections that share bytes are
//! refused here (with them a small file takes days to hash), and so is what is no EFI application.
//!
//! The firmware pads nothing. Tools that sign do, to 8 bytes, and so their digests of a file of another length are others.

use sha2::{Digest as _, Sha384};

use super::overlay::View;
use crate::register::Register;

/// A PE image whose headers the firmware accepts.
#[derive(Clone, Debug)]
pub struct Pe<'a> {
    view: View<'a>,
    sections: Vec<Section>,
    check_sum: usize,
    /// The certificate table's entry of the data directories, and how long that table is.
    certificates: Option<(usize, u32)>,
    size_of_headers: u32,
    dll_characteristics: u16,
}

/// A row of the section table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Padded with NUL bytes.
    pub name: [u8; 8],
    /// Length in memory.
    pub virtual_size: u32,
    /// Place in memory, from where the image is loaded.
    pub virtual_address: u32,
    /// Length in the file.
    pub raw_size: u32,
    /// Place in the file.
    pub raw_pointer: u32,
}

/// Why bytes are no image that the firmware loads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeError {
    /// Something lies outside of the file.
    #[error("{field}: expected an end within the file's {length} bytes, found {end}")]
    Outside {
        /// What.
        field: &'static str,
        /// Where it would end.
        end: u64,
        /// The file's length.
        length: usize,
    },
    /// A header has another value than it must have.
    #[error("{field}: expected {expected}, found {found:#x}")]
    Field {
        /// Its name in the specification.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: u64,
    },
    /// A row of the section table is wrong.
    #[error("section {index}: {field}: expected {expected}, found {found:#x}")]
    Section {
        /// Which, from 0.
        index: usize,
        /// Its name in the specification.
        field: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: u64,
    },
    /// Two sections share bytes of the file.
    #[error("section {index}: expected bytes of its own, found bytes of section {other}")]
    Shared {
        /// The one that begins later.
        index: usize,
        /// The one before it.
        other: usize,
    },
}

impl<'a> Pe<'a> {
    /// Reads the headers.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub fn parse(view: View<'a>) -> Result<Self, PeError> {
        let headers = Headers::read(&view)?;
        let sections = headers.sections(&view)?;
        Ok(Self {
            view,
            sections,
            check_sum: headers.optional.saturating_add(CHECK_SUM),
            certificates: headers.certificates,
            size_of_headers: headers.size_of_headers,
            dll_characteristics: headers.dll_characteristics,
        })
    }

    /// Its sections, in the table's order.
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// `DllCharacteristics`.
    pub const fn dll_characteristics(&self) -> u16 {
        self.dll_characteristics
    }

    /// The file as it is seen.
    pub const fn view(&self) -> &View<'a> {
        &self.view
    }

    /// SHA-384 over all that a signature would be over.
    pub fn authenticode(&self) -> Register {
        let mut hash = Sha384::new();
        // Every range is inside of the file: `parse` looked.
        let mut update = |start: usize, end: usize| {
            self.view.pieces(start..end).into_iter().flatten().for_each(|piece| hash.update(piece));
        };
        let headers = self.size_of_headers as usize;
        let after_sum = self.check_sum.saturating_add(size_of::<u32>());
        update(0, self.check_sum);
        match self.certificates {
            Some((entry, _)) => {
                update(after_sum, entry);
                update(entry.saturating_add(DIRECTORY_ENTRY), headers);
            }
            None => update(after_sum, headers),
        }
        let mut sorted: Vec<&Section> = self.sections.iter().filter(|section| section.raw_size > 0).collect();
        sorted.sort_by_key(|section| section.raw_pointer);
        // How much was hashed, not where: with a gap between sections, what follows begins inside of the last one.
        let mut hashed = headers;
        for section in sorted {
            let start = section.raw_pointer as usize;
            update(start, start.saturating_add(section.raw_size as usize));
            hashed = hashed.saturating_add(section.raw_size as usize);
        }
        let table = self.certificates.map_or(0, |(_, size)| size as usize);
        let rest = self.view.len().saturating_sub(table);
        if rest > hashed {
            update(hashed, rest);
        }
        Register(hash.finalize().into())
    }
}

impl Section {
    /// Its name without the padding.
    pub fn name(&self) -> &[u8] {
        self.name.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    fn raw_end(&self) -> u64 {
        u64::from(self.raw_pointer).saturating_add(self.raw_size.into())
    }
}

/// What was read of the headers before the section table.
struct Headers {
    /// Where the optional header begins.
    optional: usize,
    /// Where the section table begins, and how many rows it has.
    table: usize,
    rows: u16,
    size_of_headers: u32,
    certificates: Option<(usize, u32)>,
    dll_characteristics: u16,
}

impl Headers {
    fn read(view: &View<'_>) -> Result<Self, PeError> {
        let outside = |field, end| PeError::Outside { field, end, length: view.len() };
        let wrong = |field, expected, found: u64| PeError::Field { field, expected, found };
        let u16_at = |at: usize, field| {
            view.array(at)
                .map(u16::from_le_bytes)
                .ok_or_else(|| outside(field, (at as u64).saturating_add(2)))
        };
        let u32_at = |at: usize, field| {
            view.array(at)
                .map(u32::from_le_bytes)
                .ok_or_else(|| outside(field, (at as u64).saturating_add(4)))
        };

        view.array::<DOS_HEADER>(0).ok_or_else(|| outside("DOS header", DOS_HEADER as u64))?;
        let magic = u16_at(0, "e_magic")?;
        if magic != MZ {
            return Err(wrong("e_magic", "MZ", magic.into()));
        }
        let header = u32_at(E_LFANEW, "e_lfanew")? as usize;
        // edk2 reads as much as a PE32+ header with all its directories has, whatever the header says.
        let end = (header as u64).saturating_add(LONGEST_HEADER as u64);
        view.array::<LONGEST_HEADER>(header).ok_or_else(|| outside("e_lfanew", end))?;
        // No field below is further than that from here.
        let at = |offset: usize| header.saturating_add(offset);
        let signature = u32_at(header, "Signature")?;
        if signature != SIGNATURE {
            return Err(wrong("Signature", "PE and two NUL bytes", signature.into()));
        }
        let machine = u16_at(at(4), "Machine")?;
        if ![MACHINE_X64, MACHINE_I386].contains(&machine) {
            return Err(wrong("Machine", "x86-64 or i386", machine.into()));
        }
        let rows = u16_at(at(6), "NumberOfSections")?;
        let size_of_optional = u16_at(at(20), "SizeOfOptionalHeader")?;
        let optional = at(24);
        let within = |offset: usize| optional.saturating_add(offset);
        let magic = u16_at(optional, "Magic")?;
        // PE32 has BaseOfData and four fields of half the length.
        let directories = match magic {
            MAGIC_PE32 => 96_usize,
            MAGIC_PE32_PLUS => 112,
            _ => return Err(wrong("Magic", "PE32 or PE32+", magic.into())),
        };
        let count = u32_at(within(directories.saturating_sub(4)), "NumberOfRvaAndSizes")?;
        if count > MAX_DIRECTORIES {
            return Err(wrong("NumberOfRvaAndSizes", "at most 16", count.into()));
        }
        let expected = (count as usize).saturating_mul(DIRECTORY_ENTRY).saturating_add(directories);
        if usize::from(size_of_optional) != expected {
            let expected = "what NumberOfRvaAndSizes directories take";
            return Err(wrong("SizeOfOptionalHeader", expected, size_of_optional.into()));
        }
        let table = within(size_of_optional.into());
        let table_end = usize::from(rows).saturating_mul(SECTION_ROW).saturating_add(table) as u64;

        let size_of_image = u32_at(within(56), "SizeOfImage")?;
        let size_of_headers = u32_at(within(60), "SizeOfHeaders")?;
        if u64::from(size_of_image) < table_end.saturating_add(SECTION_ROW as u64) {
            return Err(wrong("SizeOfImage", "more than the section table takes", size_of_image.into()));
        }
        if u64::from(size_of_headers) < table_end.max((table as u64).saturating_add(1)) {
            return Err(wrong("SizeOfHeaders", "at least the section table's end", size_of_headers.into()));
        }
        if size_of_headers >= size_of_image {
            return Err(wrong("SizeOfHeaders", "less than SizeOfImage", size_of_headers.into()));
        }
        if size_of_headers as usize > view.len() {
            return Err(outside("SizeOfHeaders", size_of_headers.into()));
        }
        let subsystem = u16_at(within(68), "Subsystem")?;
        if subsystem != EFI_APPLICATION {
            return Err(wrong("Subsystem", "10, an EFI application", subsystem.into()));
        }
        let dll_characteristics = u16_at(within(70), "DllCharacteristics")?;
        let certificates = if count > SECURITY_DIRECTORY {
            let entry = (SECURITY_DIRECTORY as usize).saturating_mul(DIRECTORY_ENTRY);
            let entry = within(directories.saturating_add(entry));
            let place = u32_at(entry, "certificate table")?;
            let size = u32_at(entry.saturating_add(4), "certificate table")?;
            let end = u64::from(place).saturating_add(size.into());
            if size > 0 && end > view.len() as u64 {
                return Err(outside("certificate table", end));
            }
            Some((entry, size))
        } else {
            None
        };
        Ok(Self { optional, table, rows, size_of_headers, certificates, dll_characteristics })
    }

    fn sections(&self, view: &View<'_>) -> Result<Vec<Section>, PeError> {
        let mut sections = Vec::with_capacity(self.rows.into());
        for index in 0..usize::from(self.rows) {
            let at = self.table.saturating_add(index.saturating_mul(SECTION_ROW));
            // SizeOfHeaders is inside of the file, and the table inside of SizeOfHeaders.
            let section = view.array(at).and_then(|row| Section::of(&row)).ok_or(PeError::Outside {
                field: "section table",
                end: at as u64,
                length: view.len(),
            })?;
            self.check(view, index, &section)?;
            sections.push(section);
        }
        let mut sorted: Vec<(usize, &Section)> =
            sections.iter().enumerate().filter(|(_, section)| section.raw_size > 0).collect();
        sorted.sort_by_key(|(_, section)| section.raw_pointer);
        let mut hashed = u64::from(self.size_of_headers);
        for ((other, before), (index, section)) in sorted.iter().zip(sorted.iter().skip(1)) {
            if before.raw_end() > u64::from(section.raw_pointer) {
                return Err(PeError::Shared { index: *index, other: *other });
            }
        }
        for section in &sections {
            hashed = hashed.saturating_add(section.raw_size.into());
        }
        // edk2 refuses to measure a file that is longer than what was hashed, but not by a whole certificate table.
        let table = self.certificates.map_or(0, |(_, size)| size);
        let length = view.len() as u64;
        if length > hashed && length < hashed.saturating_add(table.into()) {
            let expected = "no more than what follows headers and sections";
            return Err(PeError::Field { field: "certificate table", expected, found: table.into() });
        }
        Ok(sections)
    }

    fn check(&self, view: &View<'_>, index: usize, section: &Section) -> Result<(), PeError> {
        if section.raw_size == 0 {
            return Ok(());
        }
        let wrong = |field, expected, found: u32| {
            Err(PeError::Section { index, field, expected, found: found.into() })
        };
        if section.virtual_address < self.size_of_headers {
            return wrong("VirtualAddress", "at least SizeOfHeaders", section.virtual_address);
        }
        if section.raw_pointer < self.size_of_headers {
            return wrong("PointerToRawData", "at least SizeOfHeaders", section.raw_pointer);
        }
        if section.raw_end() > view.len() as u64 {
            return wrong("SizeOfRawData", "an end within the file", section.raw_size);
        }
        Ok(())
    }
}

impl Section {
    fn of(row: &[u8; SECTION_ROW]) -> Option<Self> {
        let (name, rest) = row.split_first_chunk()?;
        let [virtual_size, virtual_address, raw_size, raw_pointer, ..] = rest.as_chunks().0 else {
            return None;
        };
        Some(Self {
            name: *name,
            virtual_size: u32::from_le_bytes(*virtual_size),
            virtual_address: u32::from_le_bytes(*virtual_address),
            raw_size: u32::from_le_bytes(*raw_size),
            raw_pointer: u32::from_le_bytes(*raw_pointer),
        })
    }
}

// All from Microsoft's "PE Format" (the sections are named); offsets of the optional header are the same in both forms
// up to `DllCharacteristics`.

/// `MS-DOS Stub`: the header that edk2 reads (`EFI_IMAGE_DOS_HEADER`), its magic, and where the PE header's place is.
const DOS_HEADER: usize = 64;
const MZ: u16 = 0x5a4d;
const E_LFANEW: usize = 0x3c;
/// `sizeof (EFI_IMAGE_OPTIONAL_HEADER_UNION)`: signature, COFF header, PE32+ header with 16 directories.
const LONGEST_HEADER: usize = 264;
/// `Signature`: `PE\0\0`.
const SIGNATURE: u32 = 0x0000_4550;
/// `Machine Types`: what edk2 for x86-64 loads, EBC aside.
const MACHINE_X64: u16 = 0x8664;
const MACHINE_I386: u16 = 0x14c;
/// `Optional Header`.
const MAGIC_PE32: u16 = 0x10b;
const MAGIC_PE32_PLUS: u16 = 0x20b;
const CHECK_SUM: usize = 64;
/// `Windows Subsystem`: `IMAGE_SUBSYSTEM_EFI_APPLICATION`, which edk2 measures as an application, into PCR 4.
const EFI_APPLICATION: u16 = 10;
/// `Optional Header Data Directories`.
const MAX_DIRECTORIES: u32 = 16;
const DIRECTORY_ENTRY: usize = 8;
const SECURITY_DIRECTORY: u32 = 4;
/// `Section Table`.
const SECTION_ROW: usize = 40;
