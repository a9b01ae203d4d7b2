//! What QEMU makes of a directory (`vvfat`, one of the ways in which a dstack host offers its share), read by our reader.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use casemate_init::share::{self, Refusal};

/// The virtual disk as a file: half a gigabyte, of which nearly nothing is kept.
fn disk(directory: &Path, kind: u8, label: &str) -> File {
    let raw = directory.with_extension(format!("{kind}.raw"));
    let options = format!("driver=vvfat,dir={},label={label},fat-type={kind}", directory.display());
    let made =
        Command::new("qemu-img").args(["convert", "-O", "raw", "--image-opts", &options]).arg(&raw).status();
    assert!(made.unwrap().success());
    File::open(raw).unwrap()
}

fn read(disk: File) -> Result<share::answer::Answer, Refusal> {
    share::read(vec![("vda".to_owned(), disk)]).map_err(|error| error.refusal())
}

#[test]
fn peer_qemus_vvfat_is_read() {
    if Command::new("qemu-img").arg("--version").output().is_err() {
        eprintln!("SKIPPED: vvfat is not read: qemu-img is not installed");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let directory = temp.path().join("share");
    fs::create_dir(&directory).unwrap();
    let document: Vec<u8> = (0..300_000_u32).map(|n| (n % 253) as u8).collect();
    fs::write(directory.join("app-compose.json"), &document).unwrap();
    fs::write(directory.join(".sys-config.json"), r#"{"mr_config": "{}", "vm_config": "{}"}"#).unwrap();
    fs::write(directory.join(".user-config"), "never read").unwrap();
    // Not 32: QEMU gives that a boot sector of FAT16 before tables of FAT32, which nobody can read.
    for kind in [12, 16] {
        let answer = read(disk(&directory, kind, "DSTACKSHR")).unwrap();
        assert!(answer.document == document, "FAT{kind}: another document");
        assert_eq!(answer.mr_config.as_deref(), Some(&b"{}"[..]), "FAT{kind}");
        assert_eq!(read(disk(&directory, kind, "OTHER")), Err(Refusal::NoneLabelled), "FAT{kind}");
    }
}
