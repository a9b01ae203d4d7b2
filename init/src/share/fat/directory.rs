//! Directory entries of 32 bytes, of which several in a row make one file with a long name.

use super::{ENTRIES_MAX, Entry, FatError, Root, SECTOR};

/// Length of an entry (specification, "Directory structure").
const ENTRY: usize = 32;
/// No entry follows.
const LAST: u8 = 0;
/// The entry is free.
const FREE: u8 = 0xe5;
/// Attribute bits (specification, "DIR_Attr"); the upper two are reserved, and QEMU's `vvfat` sets one of them.
const ATTRIBUTES: u8 = 0x3f;
const LABEL: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
/// A part of a long name.
const LONG: u8 = 0x0f;
/// Marks the part that comes first and is the name's last.
const LONG_FIRST: u8 = 0x40;
/// The most parts: 255 characters, 13 in each.
const PARTS_MAX: u8 = 20;
/// Where the 13 characters of a part lie.
const CHARACTERS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];

/// Gathers what is asked for from one entry after the other.
#[derive(Debug)]
pub(super) struct Listing<'w> {
    wanted: &'w [&'w str],
    seen: usize,
    name: Option<LongName>,
    label: Option<[u8; 11]>,
    files: Vec<Entry>,
}

/// A long name, of which parts are still missing.
#[derive(Debug)]
struct LongName {
    /// The number of the part that came last; 1 is the last to come.
    part: u8,
    checksum: u8,
    /// From the name's end to its start, as the parts come.
    reversed: Vec<u16>,
}

impl<'w> Listing<'w> {
    pub(super) const fn new(wanted: &'w [&'w str]) -> Self {
        Self { wanted, seen: 0, name: None, label: None, files: Vec::new() }
    }

    /// Takes a sector of entries in; true when the directory has ended.
    pub(super) fn take(&mut self, sector: &[u8; SECTOR]) -> Result<bool, FatError> {
        let (entries, _) = sector.as_chunks::<ENTRY>();
        for entry in entries {
            let [first, ..] = entry;
            if *first == LAST {
                return Ok(true);
            }
            if self.seen >= ENTRIES_MAX {
                return Err(FatError::TooManyEntries);
            }
            self.seen = self.seen.saturating_add(1);
            self.one(entry)?;
        }
        Ok(false)
    }

    fn one(&mut self, entry: &[u8; ENTRY]) -> Result<(), FatError> {
        let name = self.name.take();
        let attributes = byte(entry, 11) & ATTRIBUTES;
        if byte(entry, 0) == FREE {
            return Ok(());
        }
        if attributes == LONG {
            self.name = LongName::with(name, entry);
            return Ok(());
        }
        if attributes & (LABEL | DIRECTORY) == LABEL {
            let label = entry.first_chunk::<11>().copied();
            self.label = self.label.or(label);
            return Ok(());
        }
        // A long name that does not belong to the entry behind it names nothing (Linux `fat_parse_long`).
        let Some(name) = name.and_then(|name| name.of(entry)) else { return Ok(()) };
        let Some(wanted) = self.wanted.iter().find(|wanted| name.iter().copied().eq(wanted.encode_utf16()))
        else {
            return Ok(());
        };
        let wanted = (*wanted).to_owned();
        if attributes & (LABEL | DIRECTORY) != 0 {
            return Err(FatError::NoFile(wanted));
        }
        if self.files.iter().any(|file| file.name == wanted) {
            return Err(FatError::Twice(wanted));
        }
        let cluster = u32::from(word(entry, 20)) << 16 | u32::from(word(entry, 26));
        let size = u32::from(word(entry, 30)) << 16 | u32::from(word(entry, 28));
        self.files.push(Entry { name: wanted, cluster, size });
        Ok(())
    }

    pub(super) fn finish(self) -> Root {
        Root { label: self.label, files: self.files }
    }
}

impl LongName {
    /// The name with one more part, if the part fits.
    fn with(name: Option<Self>, entry: &[u8; ENTRY]) -> Option<Self> {
        let (number, checksum) = (byte(entry, 0), byte(entry, 13));
        let mut name = if number & LONG_FIRST == 0 {
            let name = name?;
            let follows =
                name.part.checked_sub(1) == Some(number) && number != 0 && name.checksum == checksum;
            follows.then_some(Self { part: number, ..name })?
        } else {
            let part = number & !LONG_FIRST;
            (1..=PARTS_MAX).contains(&part).then_some(Self { part, checksum, reversed: Vec::new() })?
        };
        name.reversed.extend(CHARACTERS.iter().rev().map(|at| word(entry, *at)));
        Some(name)
    }

    /// The characters, if the name is whole and belongs to this entry.
    fn of(self, entry: &[u8; ENTRY]) -> Option<Vec<u16>> {
        let short = entry.first_chunk::<11>()?;
        let sum = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
        if self.part != 1 || sum != self.checksum {
            return None;
        }
        // A name that does not fill its last part ends with a zero, and what follows is padding.
        Some(self.reversed.into_iter().rev().take_while(|character| *character != 0).collect())
    }
}

fn byte(entry: &[u8; ENTRY], at: usize) -> u8 {
    entry.get(at).copied().unwrap_or_default()
}

fn word(entry: &[u8; ENTRY], at: usize) -> u16 {
    u16::from_le_bytes([byte(entry, at), byte(entry, at.saturating_add(1))])
}
