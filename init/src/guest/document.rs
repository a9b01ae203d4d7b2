//! Where the document comes from: the initramfs, or the host share, which a process without privileges reads.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use casemate_measure::manifest::DOCUMENT_PATH;
use casemate_measure::status::Reason;

use super::processes::{Health, Recipe};
use super::{Guest, cgroup};
use crate::boot::{Failure, Shared};
use crate::layout::SHARE_UID;
use crate::roles::{self, ShareHandover};
use crate::share::{Refusal, answer};
use crate::supervise::{Exit, Restarts};
use crate::sys::{self, Namespaces};

/// The name of the process that reads the share.
const NAME: &str = "share";
/// More than any host has reason for: dstack gives a guest its root, its data, the share and a few volumes.
const DISKS_MAX: usize = 16;
/// Where the virtio bus shows its devices.
const VIRTIO: &str = "/sys/bus/virtio/devices";
/// dstack's tag of a 9p share (dstack `dstack-util/src/host_shared.rs`).
const TAG_9P: &str = "host-shared";
/// The answer (4 MiB and little else) is in memory once in the process, and once in the memfd.
const LIMITS: cgroup::Limits =
    cgroup::Limits { memory_max: Some(48 << 20), pids_max: Some(4), cpu_max: None };

/// The document that the image carries, if it does.
pub(super) fn baked(root: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let path = root.join(DOCUMENT_PATH);
    match fs::read(&path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Failure::errno(Reason::NoDocument, path.display(), &error)),
    }
}

impl Guest {
    /// Has the host share read. PID 1 itself reads nothing of a disk.
    pub(super) fn read_share(&mut self) -> Result<Shared, Failure> {
        let failed = |what: &str, error: &io::Error| Failure::errno(Reason::ShareReader, what, error);
        let devices = disks(Path::new("/sys/class/block"))?;
        if devices.is_empty() {
            return Err(no_share(Path::new(VIRTIO), "there is no disk"));
        }
        let answer = sys::answer_memfd(NAME).map_err(|e| failed("memfd", &e))?;
        let mut extra = vec![answer.try_clone().map_err(|e| failed("memfd", &e))?];
        for name in &devices {
            extra.push(open(&Path::new("/dev").join(name))?);
        }
        let handover = serde_json::to_vec(&ShareHandover { devices })
            .map_err(|error| Failure::new(Reason::ShareReader, error.to_string()))?;
        let recipe = Recipe {
            name: NAME.into(),
            role: roles::SHARE,
            handover,
            extra,
            uid: Some(SHARE_UID),
            namespaces: Namespaces::NoNetwork,
            leaf: Self::leaf(NAME, LIMITS, Reason::ShareReader)?,
            restarts: Restarts::never(),
            health: Health::Unknown,
        };
        self.processes()?.start(recipe).map_err(|e| failed(NAME, &e))?;
        self.wait_for(Reason::ShareReader, "the process that reads the host share", |guest| {
            exit(guest).is_some()
        })?;
        let exit = exit(self);
        self.processes()?.forget(NAME).map_err(|e| failed(NAME, &e))?;
        judge(exit)?;
        let bytes = sys::read_answer(answer, answer::MAX_LEN).map_err(|e| failed("answer", &e))?;
        let answer = answer::Answer::decode(&bytes)
            .map_err(|error| Failure::new(Reason::ShareReader, format!("answer: {error}")))?;
        Ok(Shared {
            document: answer.document,
            mr_config: answer.mr_config,
            instance_id_seed: answer.instance.seed,
            app_id: answer.instance.app_id,
        })
    }
}

fn exit(guest: &Guest) -> Option<Exit> {
    guest.processes.as_ref().and_then(|processes| processes.ended(NAME))
}

/// What its end says about the share.
fn judge(exit: Option<Exit>) -> Result<(), Failure> {
    let refusal = match exit {
        Some(Exit::Code(0)) => return Ok(()),
        Some(Exit::Code(status)) => Refusal::from_status(status),
        _ => None,
    };
    let Some(refusal) = refusal else {
        let words = exit.map_or_else(|| "nothing".to_owned(), |exit| exit.to_string());
        let text = format!("the process that reads the host share ended with {words}");
        return Err(Failure::new(Reason::ShareReader, text).numbered(exit.map_or(0, Exit::number)));
    };
    if refusal == Refusal::NoneLabelled {
        return Err(no_share(Path::new(VIRTIO), refusal.words()));
    }
    let text = format!("host share: {}", refusal.words());
    Err(Failure::new(Reason::ShareRefused, text).numbered(refusal.status().into()))
}

/// Nothing to read: said in other words where the host offers its share by 9p.
fn no_share(virtio: &Path, what: &str) -> Failure {
    if offers_9p(virtio) {
        return Failure::new(
            Reason::ShareUnsupported,
            "9p is not supported: the pinned kernel has none; use a block device labelled DSTACKSHR",
        );
    }
    let text = format!("the image carries no document, and there is no host share: {what}");
    Failure::new(Reason::NoDocument, text)
}

/// The whole virtio disks, in the order of their names: the kernel makes these, the host only has a say in how many.
fn disks(class: &Path) -> Result<Vec<String>, Failure> {
    let failed = |error: &io::Error| Failure::errno(Reason::ShareReader, class.display(), error);
    let mut names = Vec::new();
    for entry in fs::read_dir(class).map_err(|e| failed(&e))? {
        let entry = entry.map_err(|e| failed(&e))?;
        let driver = fs::read_link(entry.path().join("device/driver"));
        let is_virtio =
            driver.is_ok_and(|driver| driver.file_name().is_some_and(|name| name == "virtio_blk"));
        // Partitions have no driver of their own; this is for a kernel that would give them one.
        if !is_virtio || entry.path().join("partition").exists() {
            continue;
        }
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    if names.len() > DISKS_MAX {
        let text = format!("virtio disks: expected at most {DISKS_MAX}, found {}", names.len());
        return Err(Failure::new(Reason::ShareRefused, text));
    }
    Ok(names)
}

/// Whether a 9p device of dstack's is on the bus: virtio device id 9 (virtio 1.2, section 5). Its tag is an attribute of
/// the driver; the pinned kernel has none, and then any 9p device counts.
fn offers_9p(virtio: &Path) -> bool {
    let devices = fs::read_dir(virtio).into_iter().flatten().flatten();
    devices.map(|entry| entry.path()).any(|device| {
        let is_9p = fs::read_to_string(device.join("device")).is_ok_and(|id| id.trim_end() == "0x0009");
        let tag = fs::read_to_string(device.join("mount_tag"));
        is_9p && tag.map_or(true, |tag| tag.trim_end_matches(['\0', '\n']) == TAG_9P)
    })
}

/// A disk, for reading only.
fn open(path: &Path) -> Result<OwnedFd, Failure> {
    let failed = |error: &io::Error| Failure::errno(Reason::ShareReader, path.display(), error);
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)
        .map_err(|e| failed(&e))?;
    if !file.metadata().map_err(|e| failed(&e))?.file_type().is_block_device() {
        let text = format!("{}: expected a block device, found something else", path.display());
        return Err(Failure::new(Reason::ShareReader, text));
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn whole_virtio_disks_are_found_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let (class, drivers) = (dir.path().join("class"), dir.path().join("drivers"));
        for (name, driver) in [("vdb", "virtio_blk"), ("vda", "virtio_blk"), ("sda", "sd"), ("loop0", "")] {
            fs::create_dir_all(class.join(name).join("device")).unwrap();
            fs::create_dir_all(drivers.join(driver)).unwrap();
            if !driver.is_empty() {
                symlink(drivers.join(driver), class.join(name).join("device/driver")).unwrap();
            }
        }
        fs::create_dir(class.join("vda1")).unwrap();
        fs::write(class.join("vda1/partition"), "1\n").unwrap();
        assert_eq!(disks(&class).unwrap(), ["vda", "vdb"]);
        for number in 0..15 {
            fs::create_dir_all(class.join(format!("vdz{number}/device"))).unwrap();
            symlink(drivers.join("virtio_blk"), class.join(format!("vdz{number}/device/driver"))).unwrap();
        }
        let failure = disks(&class).unwrap_err();
        assert_eq!(failure.text, "virtio disks: expected at most 16, found 17");
    }

    #[test]
    fn a_9p_share_is_refused_by_name_and_only_dstacks() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("virtio3");
        fs::create_dir(&device).unwrap();
        let reason = || no_share(dir.path(), "x").reason;
        fs::write(device.join("device"), "0x0002\n").unwrap();
        assert_eq!(reason(), Reason::NoDocument);
        fs::write(device.join("device"), "0x0009\n").unwrap();
        assert_eq!(reason(), Reason::ShareUnsupported, "no driver, no tag");
        fs::write(device.join("mount_tag"), "host-shared\0").unwrap();
        assert_eq!(reason(), Reason::ShareUnsupported);
        fs::write(device.join("mount_tag"), "other").unwrap();
        assert_eq!(reason(), Reason::NoDocument);
        assert!(no_share(dir.path(), "there is no disk").text.ends_with("there is no disk"));
    }

    #[test]
    fn only_an_orderly_end_is_an_answer() {
        assert_eq!(judge(Some(Exit::Code(0))), Ok(()));
        let cases = [
            (Some(Exit::Code(11)), Reason::ShareRefused, 11),
            (Some(Exit::Code(13)), Reason::ShareRefused, 13),
            (Some(Exit::Code(14)), Reason::ShareRefused, 14),
            (Some(Exit::Code(1)), Reason::ShareReader, 1),
            (Some(Exit::Code(101)), Reason::ShareReader, 101),
            (Some(Exit::Signal(31)), Reason::ShareReader, 159),
            (None, Reason::ShareReader, 0),
        ];
        for (exit, reason, detail) in cases {
            let failure = judge(exit).unwrap_err();
            assert_eq!((failure.reason, failure.detail), (reason, detail), "{exit:?}");
        }
    }

    #[test]
    fn only_block_devices_are_handed_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vda");
        fs::write(&path, "").unwrap();
        assert!(open(&path).unwrap_err().text.contains("expected a block device"));
        symlink("/dev/null", dir.path().join("vdb")).unwrap();
        assert_eq!(open(&dir.path().join("vdb")).unwrap_err().reason, Reason::ShareReader);
    }

    #[test]
    fn the_baked_document_is_read_and_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(baked(dir.path()).unwrap(), None);
        let path = dir.path().join(DOCUMENT_PATH);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{}").unwrap();
        assert_eq!(baked(dir.path()).unwrap().unwrap(), b"{}");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(baked(dir.path()).unwrap_err().reason, Reason::NoDocument);
    }
}
