//! The host share: the document, and what the host says beside it, from a FAT file system on a block device.
//!
//! Everything in here reads what the host wrote. It runs in a process of its own ([`crate::roles::SHARE`]) without network,
//! files or privileges, which answers PID 1 in one bounded message ([`answer`]); nothing is ever mounted.
//!
//! The share is dstack's (dstack `dstack-util/src/host_shared.rs`): a whole virtio disk whose FAT label is [`LABEL`], written
//! by QEMU's `vvfat` or by anything that makes FAT images. Three files of its root directory are read, names exact:
//!
//! | file | at most | what of it is used |
//! | --- | --- | --- |
//! | `app-compose.json` | 4 MiB | all of it, byte for byte; required |
//! | `.sys-config.json` | 32 KiB | `mr_config`; the other documented fields are checked for type and bounds, then ignored; others refused |
//! | `.instance_info` | 10 KiB | `instance_id_seed` and `app_id`; `instance_id` is checked for form only, because it is derived |
//!
//! Any other file is never read.
//!
//! # Entry points for fuzzers
//! Each is a pure function of bytes that returns, whatever the bytes are, and in bounded time and memory:
//! [`read_image`], [`fat::read_root`], [`files::sys_config`], [`files::instance_info`], [`answer::Answer::decode`].

pub mod answer;
mod error;
pub mod fat;
pub mod files;

use answer::Answer;
use fat::{Root, Source, Volume};

pub use error::{Refusal, ShareError};

/// dstack's volume label, as FAT keeps it (dstack `dstack-util/src/host_shared.rs`).
pub const LABEL: &[u8; 11] = b"DSTACKSHR  ";

/// The file of the share that holds the document.
pub const DOCUMENT: &str = "app-compose.json";
/// What the host says to every guest.
pub const SYS_CONFIG: &str = ".sys-config.json";
/// What the host kept of an earlier boot.
pub const INSTANCE_INFO: &str = ".instance_info";

/// The longest document in bytes (design section 2; dstack itself takes 50 MiB).
pub const DOCUMENT_MAX: u32 = 4 << 20;
/// The longest [`SYS_CONFIG`] in bytes (dstack `dstack-util/src/host_shared.rs`).
pub const SYS_CONFIG_MAX: u32 = 32 << 10;
/// The longest [`INSTANCE_INFO`] in bytes (dstack `dstack-util/src/host_shared.rs`).
pub const INSTANCE_INFO_MAX: u32 = 10 << 10;

/// Finds the one labelled device and reads it. Devices without the label are left alone, whatever is on them.
///
/// # Errors
/// If none or more than one is labelled, and whatever is wrong with the one that is.
pub fn read<S: Source>(devices: Vec<(String, S)>) -> Result<Answer, ShareError> {
    let count = devices.len();
    let mut found: Option<(String, Volume<S>, Root)> = None;
    for (name, source) in devices {
        let Some((volume, root)) = labelled(source).map_err(|why| ShareError::fat(&name, why))? else {
            continue;
        };
        if let Some((first, ..)) = found {
            return Err(ShareError::TwoLabelled(first, name));
        }
        found = Some((name, volume, root));
    }
    let (name, mut volume, root) = found.ok_or(ShareError::NoneLabelled(count))?;
    answer(&name, &mut volume, &root)
}

/// Reads an image of a single device: what [`read`] does with it.
///
/// # Errors
/// As [`read`].
pub fn read_image(image: &[u8]) -> Result<Answer, ShareError> {
    read(vec![("image".to_owned(), image)])
}

/// The volume, if it is a FAT file system with the share's label.
fn labelled<S: Source>(source: S) -> Result<Option<(Volume<S>, Root)>, fat::FatError> {
    let Some(mut volume) = Volume::open(source)? else { return Ok(None) };
    let in_boot_sector = volume.boot_sector_label() == Some(*LABEL);
    match volume.root(&[DOCUMENT, SYS_CONFIG, INSTANCE_INFO]) {
        // The root directory's label counts before the boot sector's, as for Linux (util-linux libblkid, superblocks/vfat.c).
        Ok(root) if root.label.map_or(in_boot_sector, |label| label == *LABEL) => Ok(Some((volume, root))),
        Ok(_) => Ok(None),
        Err(error @ fat::FatError::Io(_)) => Err(error),
        // Some other disk that is damaged is not the guest's business.
        Err(error) => {
            if in_boot_sector {
                Err(error)
            } else {
                Ok(None)
            }
        }
    }
}

fn answer<S: Source>(device: &str, volume: &mut Volume<S>, root: &Root) -> Result<Answer, ShareError> {
    let mut file = |name: &'static str, limit: u32| {
        let Some(entry) = root.file(name) else { return Ok(None) };
        if entry.size > limit {
            return Err(ShareError::TooLong { file: name, limit, found: entry.size });
        }
        volume.read(entry).map(Some).map_err(|why| ShareError::fat(device, why))
    };
    let document = file(DOCUMENT, DOCUMENT_MAX)?.ok_or(ShareError::NoDocument)?;
    let sys_config = file(SYS_CONFIG, SYS_CONFIG_MAX)?;
    let instance_info = file(INSTANCE_INFO, INSTANCE_INFO_MAX)?;
    let mr_config = match sys_config {
        Some(bytes) => files::sys_config(&bytes)?.mr_config,
        None => None,
    };
    let instance =
        instance_info.map_or_else(|| Ok(files::InstanceInfo::default()), |b| files::instance_info(&b))?;
    Ok(Answer { document, mr_config: mr_config.map(String::into_bytes), instance })
}

#[cfg(test)]
mod tests;
