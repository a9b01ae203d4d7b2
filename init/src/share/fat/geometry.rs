//! Boot sector and partition table: where things lie. Pure arithmetic on two sectors.

use super::{FIRST, SECTOR};

/// Which FAT, and where the root directory of FAT32 starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// 12 bits for each cluster.
    Fat12,
    /// 16.
    Fat16,
    /// 28 of 32, and a root directory made of clusters.
    Fat32 {
        /// Its first cluster.
        root_cluster: u32,
    },
}

/// Offsets in bytes from the start of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) kind: Kind,
    /// The table that is in use.
    pub(super) table_start: u64,
    /// The root directory of FAT12 and FAT16.
    pub(super) root_start: u64,
    /// Its length; whole sectors.
    pub(super) root_bytes: u64,
    pub(super) data_start: u64,
    /// At least [`SECTOR`], at most 512 KiB.
    pub(super) cluster_bytes: u64,
    /// How many data clusters there are.
    pub(super) clusters: u32,
    /// The label in the boot sector.
    pub(super) label: Option<[u8; 11]>,
}

/// FAT12 has fewer clusters than this (specification, "FAT type determination"; Linux `MAX_FAT12`).
const FAT16_FROM: u32 = 4085;
/// FAT16 has fewer clusters than this.
const FAT32_FROM: u32 = 65525;
/// The highest number of a data cluster of FAT32 (Linux `MAX_FAT32`).
const FAT32_LAST: u32 = 0x0fff_fff6;
/// Types of FAT partitions: 12, 16 small, 16, 32, 32 with LBA, 16 with LBA.
const FAT_PARTITIONS: [u8; 6] = [0x01, 0x04, 0x06, 0x0b, 0x0c, 0x0e];

fn u8_at(sector: &[u8; SECTOR], at: usize) -> u8 {
    sector.get(at).copied().unwrap_or_default()
}

fn u16_at(sector: &[u8; SECTOR], at: usize) -> u16 {
    u16::from_le_bytes([u8_at(sector, at), u8_at(sector, at.saturating_add(1))])
}

fn u32_at(sector: &[u8; SECTOR], at: usize) -> u32 {
    u32::from(u16_at(sector, at)) | u32::from(u16_at(sector, at.saturating_add(2))) << 16
}

fn is_signed(sector: &[u8; SECTOR]) -> bool {
    u16_at(sector, 510) == 0xaa55
}

/// The first sector of the only FAT partition of an MBR.
pub(super) fn only_partition(sector: &[u8; SECTOR]) -> Option<u64> {
    let mut found = None;
    for entry in (446_usize..510).step_by(16) {
        if FAT_PARTITIONS.contains(&u8_at(sector, entry.saturating_add(4))) {
            let start = u32_at(sector, entry.saturating_add(8));
            if start == 0 || found.replace(u64::from(start)).is_some() {
                return None;
            }
        }
    }
    found.filter(|_| is_signed(sector))
}

impl Geometry {
    /// From the boot sector at this sector of the device; `None` if it is none, or says what cannot be.
    pub(super) fn read(sector: &[u8; SECTOR], at: u64) -> Option<Self> {
        let jumps = matches!(u8_at(sector, 0), 0xeb | 0xe9);
        if !jumps || !is_signed(sector) {
            return None;
        }
        let sector_bytes = u64::from(u16_at(sector, 11));
        let per_cluster = u8_at(sector, 13);
        let reserved = u64::from(u16_at(sector, 14));
        let tables = u64::from(u8_at(sector, 16));
        let root_bytes = u64::from(u16_at(sector, 17)).checked_mul(32)?;
        let media = u8_at(sector, 21);
        let plausible = [512, 1024, 2048, 4096].contains(&sector_bytes)
            && per_cluster.is_power_of_two()
            && reserved != 0
            && (1..=2).contains(&tables)
            && root_bytes % sector_bytes == 0
            && (media == 0xf0 || media >= 0xf8);
        if !plausible {
            return None;
        }
        let short = |short: usize, long: usize| match u16_at(sector, short) {
            0 => u32_at(sector, long),
            length => length.into(),
        };
        let total = u64::from(short(19, 32));
        let table = u64::from(short(22, 36));
        let is_fat32 = u16_at(sector, 22) == 0;
        let root_sectors = root_bytes / sector_bytes;
        let data_sector = tables.checked_mul(table)?.checked_add(reserved)?.checked_add(root_sectors)?;
        let clusters = total.checked_sub(data_sector)? / u64::from(per_cluster);
        let clusters = u32::try_from(clusters).ok().filter(|clusters| *clusters != 0 && table != 0)?;
        let (kind, bits, active) = if is_fat32 {
            let flags = u16_at(sector, 40);
            // Bit 7: the tables are not mirrored, and the low bits name the one in use.
            let active = if flags & 0x80 == 0 { 0 } else { u64::from(flags & 0xf) };
            let version = u16_at(sector, 42);
            if version != 0 || root_bytes != 0 || active >= tables || clusters > FAT32_LAST.saturating_sub(1)
            {
                return None;
            }
            (Kind::Fat32 { root_cluster: u32_at(sector, 44) }, 32, active)
        } else if root_bytes == 0 || clusters >= FAT32_FROM {
            return None;
        } else if clusters >= FAT16_FROM {
            (Kind::Fat16, 16, 0)
        } else {
            (Kind::Fat12, 12, 0)
        };
        // Clusters that the table has no entry for cannot be followed (Linux `fat_fill_super`).
        let entries = table.checked_mul(sector_bytes)?.checked_mul(8)? / bits;
        let held = u32::try_from(entries).unwrap_or(u32::MAX).checked_sub(FIRST)?;
        let bytes =
            |sectors: u64| sectors.checked_mul(sector_bytes)?.checked_add(at.checked_mul(SECTOR as u64)?);
        let table_start = reserved.checked_add(active.checked_mul(table)?)?;
        let root_start = data_sector.checked_sub(root_sectors)?;
        Some(Self {
            kind,
            table_start: bytes(table_start)?,
            root_start: bytes(root_start)?,
            root_bytes,
            data_start: bytes(data_sector)?,
            cluster_bytes: sector_bytes.checked_mul(per_cluster.into())?,
            clusters: clusters.min(held),
            label: label(sector, if is_fat32 { 66 } else { 38 }),
        })
    }
}

/// The label behind an extended boot signature at this place (specification, "BS_BootSig").
fn label(sector: &[u8; SECTOR], signature: usize) -> Option<[u8; 11]> {
    if u8_at(sector, signature) != 0x29 {
        return None;
    }
    let start = signature.saturating_add(5);
    sector.get(start..start.saturating_add(11))?.try_into().ok()
}
