//! What another implementation writes, and what nobody should.

use std::io::{Cursor, Write as _};

use fatfs::{FatType, FormatVolumeOptions, FsOptions};
use proptest::prelude::*;

use super::*;

/// A small volume of each kind, with files; in order of writing.
pub(in crate::share) fn image(kind: FatType, label: [u8; 11], files: &[(&str, &[u8])]) -> Vec<u8> {
    let (sectors, cluster) = match kind {
        FatType::Fat12 => (12_000, 4096),
        FatType::Fat16 => (30_000, 512),
        // The fewest clusters that make it FAT32, and some.
        FatType::Fat32 => (67_000 + 1100, 512),
    };
    let mut bytes = vec![0; sectors * SECTOR];
    let options = FormatVolumeOptions::new().fat_type(kind).bytes_per_cluster(cluster).volume_label(label);
    fatfs::format_volume(Cursor::new(&mut bytes), options).unwrap();
    let volume = fatfs::FileSystem::new(Cursor::new(&mut bytes), FsOptions::new()).unwrap();
    for (name, content) in files {
        volume.root_dir().create_file(name).unwrap().write_all(content).unwrap();
    }
    volume.unmount().unwrap();
    bytes
}

const KINDS: [FatType; 3] = [FatType::Fat12, FatType::Fat16, FatType::Fat32];
const NAME: &str = "app-compose.json";

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect()
}

fn read(image: &[u8], name: &str) -> Result<Option<Vec<u8>>, FatError> {
    let mut volume = Volume::open(image)?.expect("FAT");
    let root = volume.root(&[name])?;
    root.file(name).map(|entry| volume.read(entry)).transpose()
}

#[test]
fn files_of_every_kind_of_fat_are_read_whole() {
    for kind in KINDS {
        for length in [0, 1, 511, 512, 513, 4096, 4097, 70_000] {
            let wanted = content(length);
            // Two files that grow in turns: their clusters are scattered.
            let bytes = image(
                kind,
                *b"DSTACKSHR  ",
                &[("other file.txt", b"x"), (NAME, b""), (".instance_info", b"y")],
            );
            let mut bytes = bytes;
            {
                let volume = fatfs::FileSystem::new(Cursor::new(&mut bytes), FsOptions::new()).unwrap();
                let root = volume.root_dir();
                let mut file = root.open_file(NAME).unwrap();
                let mut other = root.open_file("other file.txt").unwrap();
                for part in wanted.chunks(3000) {
                    file.write_all(part).unwrap();
                    other.write_all(&[0xff; 5000]).unwrap();
                }
            }
            assert_eq!(read(&bytes, NAME).unwrap().unwrap(), wanted, "{kind:?} {length}");
        }
    }
}

#[test]
fn names_are_exact_and_labels_are_found() {
    let files: Vec<(String, Vec<u8>)> =
        (0..40).map(|n| (format!("a rather long name of file {n}.json"), content(n))).collect();
    let mut list: Vec<(&str, &[u8])> =
        files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    list.push((NAME, b"it"));
    for kind in KINDS {
        let bytes = image(kind, *b"SOME LABEL ", &list);
        assert_eq!(read(&bytes, NAME).unwrap().unwrap(), b"it");
        assert_eq!(read(&bytes, list[39].0).unwrap().unwrap(), list[39].1);
        for other in
            ["APP-COMPOSE.JSON", "app-compose.jso", "app-compose.json ", "app-co~1.jso", "APP-CO~1.JSO", ""]
        {
            assert_eq!(read(&bytes, other).unwrap(), None, "{other:?}");
        }
        let mut volume = Volume::open(bytes.as_slice()).unwrap().unwrap();
        assert_eq!(volume.boot_sector_label(), Some(*b"SOME LABEL "));
        assert_eq!(volume.root(&[]).unwrap().label, Some(*b"SOME LABEL "));
    }
}

#[test]
fn the_only_fat_partition_is_read() {
    let inner = image(FatType::Fat16, *b"X          ", &[(NAME, b"inside")]);
    let disk = |entries: &[(usize, u8, u32)]| {
        let mut bytes = vec![0; 63 * SECTOR];
        for (slot, kind, start) in entries {
            bytes[446 + slot * 16 + 4] = *kind;
            bytes[446 + slot * 16 + 8..446 + slot * 16 + 12].copy_from_slice(&start.to_le_bytes());
        }
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        bytes.extend(&inner);
        bytes
    };
    for (slot, kind) in (0..4).cycle().zip(FAT_TYPES) {
        assert_eq!(
            read(&disk(&[(slot, kind, 63), ((slot + 1) % 4, 0x83, 5)]), NAME).unwrap().unwrap(),
            b"inside"
        );
    }
    let nothing: [&[(usize, u8, u32)]; 7] = [
        &[],
        &[(0, 0x06, 63), (1, 0x06, 63)],
        &[(0, 0x83, 63)],
        &[(0, 0xee, 1)],
        &[(0, 0x06, 0)],
        &[(0, 0x06, 62)],
        &[(0, 0x06, u32::MAX)],
    ];
    for entries in nothing {
        assert!(Volume::open(disk(entries).as_slice()).unwrap().is_none(), "{entries:?}");
    }
    let mut unsigned = disk(&[(0, 0x06, 63)]);
    unsigned[511] = 0;
    assert!(Volume::open(unsigned.as_slice()).unwrap().is_none());
}

const FAT_TYPES: [u8; 6] = [0x01, 0x04, 0x06, 0x0b, 0x0c, 0x0e];

/// Where the boot sector says its parts are: sectors, for a volume of 512-byte sectors.
struct Layout {
    table: usize,
    root: usize,
}

fn layout(image: &[u8]) -> Layout {
    let word = |at: usize| usize::from(u16::from_le_bytes([image[at], image[at + 1]]));
    let per_table = if word(22) == 0 { word(36) } else { word(22) };
    Layout { table: word(14) * SECTOR, root: (word(14) + usize::from(image[16]) * per_table) * SECTOR }
}

#[test]
fn a_chain_that_goes_round_ends_and_one_that_breaks_off_is_refused() {
    let length = 5 * 512;
    let bytes = image(FatType::Fat16, *b"X          ", &[(NAME, &content(length))]);
    let table = layout(&bytes).table;
    let start = (2..100).find(|n| bytes[table + n * 2] != 0xff || bytes[table + n * 2 + 1] != 0xff).unwrap();
    let set = |value: u16| {
        let mut changed = bytes.clone();
        changed[table + (start + 1) * 2..table + (start + 2) * 2].copy_from_slice(&value.to_le_bytes());
        read(&changed, NAME)
    };
    let first = u16::try_from(start).unwrap();
    let looped = set(first).unwrap().unwrap();
    assert_eq!((looped.len(), &looped[1024..1536]), (length, &content(length)[..512]));
    for bad in [0, 1, 0xfff7, 0xfff8, 0xffff, 60_000] {
        let error = set(bad).unwrap_err();
        assert!(matches!(&error, FatError::Cluster { of, .. } if of == NAME), "{bad:#x}: {error}");
    }
}

#[test]
fn a_directory_without_end_is_refused() {
    let mut bytes = image(FatType::Fat32, *b"X          ", &[]);
    let Layout { table, root } = layout(&bytes);
    // The root directory's one cluster follows itself, and all its entries are in use.
    let own = u32::from_le_bytes(bytes[44..48].try_into().unwrap());
    bytes[table + own as usize * 4..][..4].copy_from_slice(&own.to_le_bytes());
    for entry in bytes[root..root + 512].chunks_mut(32) {
        entry.copy_from_slice(b"SHORT   TXT\x20                    ");
    }
    let error = read(&bytes, NAME).unwrap_err();
    assert!(matches!(error, FatError::TooManyEntries), "{error}");
}

/// The file's run of entries in the root directory of a FAT16 image: where it starts, and how many there are.
fn run(bytes: &[u8]) -> (usize, usize) {
    let root = layout(bytes).root;
    let start = (root..).step_by(32).find(|at| bytes[at + 11] == LONG_PART).unwrap();
    (start, (start..).step_by(32).take_while(|at| bytes[at + 11] == LONG_PART).count() + 1)
}

const LONG_PART: u8 = 0x0f;

#[test]
fn entries_that_are_not_one_plain_file_are_refused_or_name_nothing() {
    let bytes = image(FatType::Fat16, *b"X          ", &[(NAME, b"it")]);
    let (start, count) = run(&bytes);
    assert_eq!(count, 3, "two parts and the short name");
    let short = start + 2 * 32;
    let with = |changes: &[(usize, u8)]| {
        let mut changed = bytes.clone();
        changes.iter().for_each(|(at, byte)| changed[*at] = *byte);
        read(&changed, NAME)
    };
    assert_eq!(with(&[]).unwrap().unwrap(), b"it");
    assert!(matches!(with(&[(short + 11, 0x10)]), Err(FatError::NoFile(_))), "a directory");
    assert!(matches!(with(&[(short + 11, 0x18)]), Err(FatError::NoFile(_))), "a directory and a label");
    let nothing = [
        ("another short name", short, b'Q'),
        ("a wrong checksum", start + 13, bytes[start + 13] ^ 1),
        ("the first part missing", start, 0xe5),
        ("the second part missing", start + 32, 0xe5),
        ("a part's number", start + 32, 2),
        ("no first part", start, 2),
        ("too many parts", start, 0x40 | 21),
        ("part zero", start, 0x40),
        ("the end before it", start, 0),
        ("a character", start + 32 + 1, b'b'),
    ];
    for (what, at, byte) in nothing {
        assert_eq!(with(&[(at, byte)]).unwrap(), None, "{what}");
    }
    let mut twice = bytes.clone();
    twice.copy_within(start..start + count * 32, start + count * 32);
    assert!(matches!(read(&twice, NAME), Err(FatError::Twice(_))));
    let mut huge = bytes.clone();
    huge[short + 28..short + 32].copy_from_slice(&70_000_u32.to_le_bytes());
    assert!(matches!(read(&huge, NAME), Err(FatError::Cluster { .. })), "longer than its chain");
    let mut high = bytes;
    high[short + 20] = 0xff;
    assert_eq!(read(&high, NAME).unwrap().unwrap(), b"it", "not part of the cluster's number");
}

#[test]
fn absurd_boot_sectors_are_no_file_system() {
    let cases: [(usize, &[u8]); 18] = [
        (0, &[0x90]),
        (510, &[0]),
        (511, &[0]),
        (11, &[0, 0]),
        (11, &[0, 3]),
        (11, &[0, 0x20]),
        (13, &[0]),
        (13, &[3]),
        (14, &[0, 0]),
        (16, &[0]),
        (16, &[3]),
        (17, &[0, 0]),
        (17, &[1, 2]),
        (19, &[0, 0, 0xf8]),
        (19, &[5, 0]),
        (21, &[0]),
        (22, &[0xff, 0xff]),
        (22, &[0, 0]),
    ];
    let bytes = image(FatType::Fat16, *b"X          ", &[(NAME, b"it")]);
    for (at, change) in cases {
        let mut changed = bytes.clone();
        changed[at..at + change.len()].copy_from_slice(change);
        assert!(Volume::open(changed.as_slice()).unwrap().is_none(), "{at}: {change:?}");
    }
    let bytes = image(FatType::Fat32, *b"X          ", &[(NAME, b"it")]);
    for (at, change) in [(40, 0x82), (42, 1), (36, 0), (17, 16)] {
        let mut changed = bytes.clone();
        changed[at] = change;
        if at == 36 {
            changed[at..at + 4].fill(0);
        }
        assert!(Volume::open(changed.as_slice()).unwrap().is_none(), "{at}");
    }
    let mut outside = bytes;
    outside[44..48].copy_from_slice(&0x0fff_fff0_u32.to_le_bytes());
    assert!(matches!(read(&outside, NAME), Err(FatError::Cluster { .. })));
}

#[test]
fn the_table_that_is_in_use_is_followed() {
    let mut bytes = image(FatType::Fat32, *b"X          ", &[(NAME, &content(2000))]);
    let table = layout(&bytes).table;
    let length = u32::from_le_bytes(bytes[36..40].try_into().unwrap()) as usize * SECTOR;
    bytes[table..table + length].fill(0);
    assert!(read(&bytes, NAME).is_err(), "the first is empty now");
    bytes[40] = 0x81;
    assert_eq!(read(&bytes, NAME).unwrap().unwrap(), content(2000));
}

#[test]
fn the_upper_bits_of_a_table_entry_are_not_part_of_it() {
    let mut bytes = image(FatType::Fat32, *b"X          ", &[(NAME, &content(5000))]);
    let table = layout(&bytes).table;
    for entry in bytes[table..table + 512].chunks_mut(4) {
        entry[3] |= 0xf0;
    }
    assert_eq!(read(&bytes, NAME).unwrap().unwrap(), content(5000));
}

#[test]
fn a_long_name_without_its_start_is_not_its_end() {
    let long = format!("thirteen-char{NAME}");
    let mut bytes = image(FatType::Fat16, *b"X          ", &[(&long, b"it")]);
    let (start, count) = run(&bytes);
    assert_eq!(count, 4);
    assert_eq!(read(&bytes, &long).unwrap().unwrap(), b"it");
    // The parts of the end move up to the short name, over the part of the start.
    bytes.copy_within(start..start + 2 * 32, start + 32);
    bytes[start] = 0xe5;
    assert_eq!(read(&bytes, NAME).unwrap(), None);
    assert_eq!(read(&bytes, &long).unwrap(), None);
}

/// The specification's limits are exact, and there are never more clusters than the table has entries for.
#[test]
fn the_number_of_clusters_decides() {
    let bytes = image(FatType::Fat16, *b"X          ", &[]);
    let with = |clusters: u32, per_table: u16| {
        let mut sector: [u8; SECTOR] = bytes[..SECTOR].try_into().unwrap();
        sector[22..24].copy_from_slice(&per_table.to_le_bytes());
        let word = |at: usize| u32::from(u16::from_le_bytes([sector[at], sector[at + 1]]));
        let data = word(14) + u32::from(sector[16]) * u32::from(per_table) + word(17) * 32 / 512;
        let total = data + clusters * u32::from(sector[13]);
        sector[19..21].fill(0);
        sector[32..36].copy_from_slice(&total.to_le_bytes());
        Geometry::read(&sector, 0).map(|geometry| (geometry.kind, geometry.clusters))
    };
    assert_eq!(with(1, 300), Some((Kind::Fat12, 1)));
    assert_eq!(with(4084, 300), Some((Kind::Fat12, 4084)));
    assert_eq!(with(4085, 300), Some((Kind::Fat16, 4085)));
    assert_eq!(with(65_524, 300), Some((Kind::Fat16, 65_524)));
    assert_eq!(with(65_525, 300), None);
    assert_eq!(with(0, 300), None);
    assert_eq!(with(5000, 3), Some((Kind::Fat16, 3 * 512 / 2 - 2)));
    assert_eq!(with(4000, 3), Some((Kind::Fat12, 3 * 512 * 8 / 12 - 2)));
}

#[test]
fn no_more_than_the_budget_is_read() {
    struct Counting(u64);
    impl Source for &mut Counting {
        fn fill(&mut self, _: u64, into: &mut [u8]) -> io::Result<()> {
            self.0 += into.len() as u64;
            into.fill(0x22);
            Ok(())
        }
    }
    let mut counting = Counting(0);
    let mut source = Bounded { source: &mut counting, left: BUDGET };
    let mut megabyte = vec![0; 1 << 20];
    let error = (0..1000).find_map(|n| source.fill(n, &mut megabyte).err()).unwrap();
    assert!(error.to_string().contains("expected to read at most 25165824 bytes"), "{error}");
    assert_eq!(counting.0, BUDGET);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bytes, behind any boot sector that another implementation wrote: an end, never a panic.
    #[test]
    fn damage_ends(
        kind in prop::sample::select(vec![FatType::Fat12, FatType::Fat16]),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        area in 1_usize..40_000,
    ) {
        let mut bytes = image(kind, *b"X          ", &[(NAME, &content(9000))]);
        for (at, byte) in damage {
            let at = at.index(area);
            bytes[at] = byte;
        }
        if let Ok(Some(mut volume)) = Volume::open(bytes.as_slice())
            && let Ok(root) = volume.root(&[NAME])
            && let Some(entry) = root.file(NAME).filter(|entry| entry.size <= 1 << 20)
        {
            drop(volume.read(entry));
        }
    }

    #[test]
    fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        drop(read_root(&bytes, &[NAME]));
    }
}
