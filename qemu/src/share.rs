//! The host share: what a generic image reads its document from, as dstack's host makes it in mode `vhd` (dstack
//! `vmm/src/app/qemu.rs`): a FAT file system without a partition table, found by its label. Made in this process, the
//! same bytes for the same files.

use std::io::{self, Cursor, Write as _};

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions, format_volume};

/// The volume's label (dstack `dstack-util/src/host_shared.rs`), padded as FAT pads it.
pub const LABEL: [u8; 11] = *b"DSTACKSHR  ";
/// The measured document.
pub const DOCUMENT: &str = "app-compose.json";
/// What the host says of itself; not measured.
pub const SYS_CONFIG: &str = ".sys-config.json";
/// What the host kept of an earlier boot: seed, instance id, app id; not measured.
pub const INSTANCE_INFO: &str = ".instance_info";

/// The size of an image whose files fit, in bytes. FAT16 has room for that with clusters of 1 KiB, and the file is sparse.
pub const SIZE: u64 = 32 << 20;
/// The largest image: what FAT16 addresses with clusters of 32 KiB, less a margin (Microsoft FAT specification 1.03).
const MAX_SIZE: u64 = 1 << 30;

/// The files of a share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// [`DOCUMENT`].
    pub document: Vec<u8>,
    /// [`SYS_CONFIG`].
    pub sys_config: Option<Vec<u8>>,
    /// [`INSTANCE_INFO`].
    pub instance_info: Option<Vec<u8>>,
}

impl Share {
    /// The block device's bytes.
    ///
    /// # Errors
    /// If the files are larger than a FAT16 file system.
    pub fn image(&self) -> io::Result<Vec<u8>> {
        let files = [
            (DOCUMENT, Some(&self.document)),
            (SYS_CONFIG, self.sys_config.as_ref()),
            (INSTANCE_INFO, self.instance_info.as_ref()),
        ];
        let files = || files.iter().filter_map(|(name, content)| Some((*name, (*content)?)));
        let total: u64 = files().map(|(_, content)| content.len() as u64).sum();
        // Twice the content is room enough for tables and half-filled clusters.
        let size = total.saturating_mul(2).next_power_of_two().max(SIZE);
        if size > MAX_SIZE {
            return Err(io::Error::other(format!(
                "expected at most {} bytes in the share, found {total}",
                MAX_SIZE / 2
            )));
        }
        let mut disk = Cursor::new(vec![0; usize::try_from(size).map_err(io::Error::other)?]);
        let format = FormatVolumeOptions::new().fat_type(FatType::Fat16).volume_label(LABEL);
        format_volume(&mut disk, format)?;
        let volume = FileSystem::new(&mut disk, FsOptions::new())?;
        for (name, content) in files() {
            let mut file = volume.root_dir().create_file(name)?;
            file.write_all(content)?;
            file.flush()?;
        }
        volume.unmount()?;
        Ok(disk.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn share() -> Share {
        Share {
            document: br#"{"name":"x"}"#.to_vec(),
            sys_config: Some(vec![b'{'; 5000]),
            instance_info: Some(Vec::new()),
        }
    }

    fn read(image: &[u8]) -> Vec<(String, Vec<u8>)> {
        let volume = FileSystem::new(Cursor::new(image.to_vec()), FsOptions::new()).unwrap();
        assert_eq!(volume.volume_label(), "DSTACKSHR");
        assert_eq!(volume.read_volume_label_from_root_dir().unwrap().unwrap(), "DSTACKSHR");
        assert_eq!(volume.fat_type(), FatType::Fat16);
        let entries = volume.root_dir().iter().map(|entry| {
            let entry = entry.unwrap();
            let mut content = Vec::new();
            entry.to_file().read_to_end(&mut content).unwrap();
            (entry.file_name(), content)
        });
        entries.collect()
    }

    #[test]
    fn the_files_are_there_under_their_names_and_no_others() {
        let image = share().image().unwrap();
        assert_eq!(image.len() as u64, SIZE);
        let expected = [
            (DOCUMENT.to_owned(), share().document),
            (SYS_CONFIG.to_owned(), share().sys_config.unwrap()),
            (INSTANCE_INFO.to_owned(), Vec::new()),
        ];
        assert_eq!(read(&image), expected);
        let only = Share { sys_config: None, instance_info: None, ..share() };
        assert_eq!(read(&only.image().unwrap()).len(), 1);
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        assert_eq!(share().image().unwrap(), share().image().unwrap());
    }

    #[test]
    fn what_needs_more_room_gets_it_up_to_the_bound() {
        let large = Share { document: vec![b' '; 20 << 20], ..share() };
        let image = large.image().unwrap();
        assert_eq!(image.len(), 64 << 20);
        assert_eq!(read(&image)[0].1, large.document);
        let error = Share { document: vec![b' '; 513 << 20], ..share() }.image().unwrap_err();
        assert!(error.to_string().contains("expected at most 536870912 bytes"), "{error}");
    }
}
