//! A bounded reader of FAT12, FAT16 and FAT32: the root directory's label, and whole files of it by their long names.
//!
//! Our own, because the kept library for FAT (`fatfs`) wants a device that it may write to, follows a cyclic directory for
//! ever and has no bound on what it reads; the tests read what that library writes. Format: Microsoft's "FAT32 File System
//! Specification" 1.03 ("the specification"); where file systems in use differ from it, what Linux reads counts
//! (`fs/fat/inode.c`, `fs/fat/dir.c`).
//!
//! Bounds, whatever the device says: [`BUDGET`] bytes are read, a directory has [`ENTRIES_MAX`] entries, a file has the
//! length of its entry, which the caller has bounded. Subdirectories and other files are never looked at.

mod directory;
mod geometry;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use directory::Listing;
use geometry::{Geometry, Kind};

/// How much is read of one device at most: the longest document, the table entries of a scattered one, and a directory, each
/// more than twice over.
pub const BUDGET: u64 = 24 << 20;
/// The most directory entries that are looked at: long names take several; dstack's share has six files.
pub const ENTRIES_MAX: usize = 4096;

/// Sector size of the boot sector and of partition tables.
const SECTOR: usize = 512;

/// Where sectors come from.
pub trait Source {
    /// Fills the buffer from this byte on.
    ///
    /// # Errors
    /// If there are not so many bytes, or the device does not give them.
    fn fill(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

impl Source for &[u8] {
    fn fill(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = self.get(start..start.saturating_add(into.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}

impl Source for File {
    fn fill(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }
}

/// What is wrong with a file system.
#[derive(Debug, thiserror::Error)]
pub enum FatError {
    /// The device, or the budget for it.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A cluster that no file may have.
    #[error("{of}: expected a data cluster, found {found:#x}")]
    Cluster {
        /// Whose.
        of: String,
        /// Its number.
        found: u32,
    },
    /// A directory that does not end.
    #[error("root directory: expected at most {ENTRIES_MAX} entries, found more")]
    TooManyEntries,
    /// Two files of one name.
    #[error("{0}: expected once in the root directory, found twice")]
    Twice(String),
    /// A directory, or a volume label, where a file should be.
    #[error("{0}: expected a file, found something else")]
    NoFile(String),
}

/// The root directory, as far as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The volume label among its entries.
    pub label: Option<[u8; 11]>,
    files: Vec<Entry>,
}

impl Root {
    /// The file of that name.
    pub fn file(&self, name: &str) -> Option<&Entry> {
        self.files.iter().find(|entry| entry.name == name)
    }
}

/// A file of the root directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    name: String,
    cluster: u32,
    /// Its size in bytes.
    pub size: u32,
}

/// An open file system.
#[derive(Debug)]
pub struct Volume<S> {
    source: Bounded<S>,
    geometry: Geometry,
    /// One sector of the table: the entries of neighbours lie together.
    table: Option<(u64, [u8; SECTOR])>,
}

impl<S: Source> Volume<S> {
    /// Opens the FAT file system that starts the device, or that fills the one FAT partition of its partition table. `None`
    /// if there is neither.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn open(source: S) -> Result<Option<Self>, FatError> {
        let mut source = Bounded { source, left: BUDGET };
        let Some(first) = source.sector(0)? else { return Ok(None) };
        let geometry = match Geometry::read(&first, 0) {
            Some(geometry) => Some(geometry),
            None => match geometry::only_partition(&first) {
                Some(start) => source.sector(start)?.and_then(|sector| Geometry::read(&sector, start)),
                None => None,
            },
        };
        Ok(geometry.map(|geometry| Self { source, geometry, table: None }))
    }

    /// The label in the boot sector.
    pub const fn boot_sector_label(&self) -> Option<[u8; 11]> {
        self.geometry.label
    }

    /// Goes through the root directory once, for its label and these names. Names are compared exactly, so only entries with
    /// a long name can have one of them.
    ///
    /// # Errors
    /// If the directory is damaged or the device cannot be read.
    pub fn root(&mut self, wanted: &[&str]) -> Result<Root, FatError> {
        let mut listing = Listing::new(wanted);
        match self.geometry.kind {
            Kind::Fat32 { root_cluster } => {
                let mut cluster = root_cluster;
                loop {
                    let at = self.data(cluster, "root directory")?;
                    let length = self.geometry.cluster_bytes;
                    if self.list(&mut listing, at, length)? {
                        break;
                    }
                    match self.next(cluster)? {
                        Some(next) => cluster = next,
                        None => break,
                    }
                }
            }
            Kind::Fat12 | Kind::Fat16 => {
                self.list(&mut listing, self.geometry.root_start, self.geometry.root_bytes)?;
            }
        }
        Ok(listing.finish())
    }

    /// Lists a run of entries; true when the directory has ended.
    fn list(&mut self, listing: &mut Listing<'_>, start: u64, length: u64) -> Result<bool, FatError> {
        let mut at = start;
        let end = start.saturating_add(length);
        let mut sector = [0; SECTOR];
        // Runs are whole sectors: `Geometry::read` sees to it.
        while at < end {
            self.source.fill(at, &mut sector)?;
            if listing.take(&sector)? {
                return Ok(true);
            }
            at = at.saturating_add(SECTOR as u64);
        }
        Ok(false)
    }

    /// The whole file. Its size decides how many clusters are followed, so a cyclic chain ends, too; the caller has bounded
    /// the size.
    ///
    /// # Errors
    /// If the chain is shorter than the file, leads outside, or the device cannot be read.
    pub fn read(&mut self, entry: &Entry) -> Result<Vec<u8>, FatError> {
        let mut content = vec![0; usize::try_from(entry.size).unwrap_or(usize::MAX)];
        let length = usize::try_from(self.geometry.cluster_bytes).unwrap_or(usize::MAX);
        // The upper half is something else in FAT12 and FAT16 (Linux `fat_get_start`).
        let mut cluster = Some(match self.geometry.kind {
            Kind::Fat32 { .. } => entry.cluster,
            Kind::Fat12 | Kind::Fat16 => entry.cluster & 0xffff,
        });
        for chunk in content.chunks_mut(length.max(1)) {
            let Some(current) = cluster else {
                return Err(FatError::Cluster { of: entry.name.clone(), found: END });
            };
            let at = self.data(current, &entry.name)?;
            self.source.fill(at, chunk)?;
            // What follows the last cluster is never asked for.
            cluster = if chunk.len() == length { self.next(current)? } else { None };
        }
        Ok(content)
    }

    /// Where a cluster lies.
    fn data(&self, cluster: u32, of: &str) -> Result<u64, FatError> {
        let geometry = &self.geometry;
        let index = cluster.checked_sub(FIRST).filter(|index| *index < geometry.clusters);
        let index = index.ok_or_else(|| FatError::Cluster { of: of.to_owned(), found: cluster })?;
        Ok(geometry.data_start.saturating_add(u64::from(index).saturating_mul(geometry.cluster_bytes)))
    }

    /// What the table says follows a cluster; `None` at the end of a chain. That it is a data cluster is for
    /// [`Volume::data`] to judge.
    fn next(&mut self, cluster: u32) -> Result<Option<u32>, FatError> {
        let number = u64::from(cluster);
        let (value, end) = match self.geometry.kind {
            Kind::Fat12 => {
                // One and a half bytes each, which may lie on both sides of a sector's end.
                let at = number.saturating_add(number / 2);
                let pair = u16::from_le_bytes([self.table_byte(at)?, self.table_byte(at.saturating_add(1))?]);
                let value = if number % 2 == 0 { pair & 0xfff } else { pair >> 4 };
                (u32::from(value), 0xff8)
            }
            Kind::Fat16 => {
                let at = number.saturating_mul(2);
                let pair = [self.table_byte(at)?, self.table_byte(at.saturating_add(1))?];
                (u32::from(u16::from_le_bytes(pair)), 0xfff8)
            }
            Kind::Fat32 { .. } => {
                let at = number.saturating_mul(4);
                let mut bytes = [0; 4];
                for (index, byte) in (0..).zip(&mut bytes) {
                    *byte = self.table_byte(at.saturating_add(index))?;
                }
                // The upper four bits are reserved (specification, "FAT32 entries").
                (u32::from_le_bytes(bytes) & END, 0x0fff_fff8)
            }
        };
        Ok((value < end).then_some(value))
    }

    fn table_byte(&mut self, at: u64) -> Result<u8, FatError> {
        let size = SECTOR as u64;
        let (start, within) = (at - at % size, at % size);
        let start = self.geometry.table_start.saturating_add(start);
        if self.table.as_ref().is_none_or(|(held, _)| *held != start) {
            let mut sector = [0; SECTOR];
            self.source.fill(start, &mut sector)?;
            self.table = Some((start, sector));
        }
        let held = self.table.as_ref().and_then(|(_, sector)| sector.get(usize::try_from(within).ok()?));
        held.copied().ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof).into())
    }
}

/// The number of the first data cluster (specification, "FAT data structure").
const FIRST: u32 = 2;
/// The highest number a table entry of FAT32 holds.
const END: u32 = 0x0fff_ffff;

/// Opens an image and lists its root directory for these names: an entry point for fuzzers.
///
/// # Errors
/// As [`Volume::open`] and [`Volume::root`].
pub fn read_root(image: &[u8], wanted: &[&str]) -> Result<Option<Root>, FatError> {
    Volume::open(image)?.map(|mut volume| volume.root(wanted)).transpose()
}

/// A source that gives no more than its budget.
#[derive(Debug)]
struct Bounded<S> {
    source: S,
    left: u64,
}

impl<S: Source> Bounded<S> {
    fn fill(&mut self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let left = self.left.checked_sub(into.len() as u64);
        self.left = left.ok_or_else(|| {
            io::Error::other(format!("expected to read at most {BUDGET} bytes, found more"))
        })?;
        self.source.fill(offset, into)
    }

    /// A boot sector; `None` behind the end of the device.
    fn sector(&mut self, number: u64) -> io::Result<Option<[u8; SECTOR]>> {
        let mut sector = [0; SECTOR];
        match self.fill(number.saturating_mul(SECTOR as u64), &mut sector) {
            Ok(()) => Ok(Some(sector)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
