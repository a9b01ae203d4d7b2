//! An initramfs that is not the one that was built: cut short, changed, or without its list.

use casemate_measure::status::{Reason, Stage};
use sha2::{Digest as _, Sha256};

use crate::images::Image;
use crate::initramfs::{Initramfs, bare};
use crate::machine::{Ended, Machine, Options, qemu};

/// `casemate-qemu`'s exit status for a machine that reset itself.
const KERNEL_PANIC: u8 = 13;

fn boot(name: &str, initramfs: &[u8]) -> Ended {
    let image = Image::demo().with_initramfs(name, initramfs);
    Machine::switch_on(&image, Options::default()).wait_end()
}

#[test]
fn cut_short_it_does_not_boot_at_all() {
    if !qemu() {
        return;
    }
    let whole = Image::demo().initramfs();
    // Even the last byte: the kernel runs an /init that is whole, whatever it says of the archive.
    for (place, length) in [
        ("quarter", whole.len() / 4),
        ("half", whole.len() / 2),
        ("in-init", whole.len() - 4096),
        ("last-byte", whole.len() - 1),
    ] {
        let ended = boot(&format!("cut-{place}"), &whole[..length]);
        assert_eq!(ended.exit_status, KERNEL_PANIC, "{place}: {ended}");
        assert_eq!(ended.report.frames, 0, "{place}: {ended}");
    }
}

#[test]
fn a_changed_member_is_named() {
    if !qemu() {
        return;
    }
    const PATH: &str = "services/web/www/index.html";
    let mut initramfs = Initramfs::of(Image::demo());
    let mut content = initramfs.content(PATH);
    content[0] ^= 1;
    initramfs.replace(PATH, content);
    let ended = boot("changed-member", &initramfs.compressed());
    ended.assert_failed(Stage::Manifest, Reason::ManifestMismatch);
    assert_eq!(ended.last().digest, <[u8; 32]>::from(Sha256::digest(PATH)), "{ended}");
    assert!(ended.console_says(&format!("/{PATH}: ")), "{ended}");
}

#[test]
fn a_member_that_is_not_listed_is_named() {
    if !qemu() {
        return;
    }
    const PATH: &str = "etc/casemate/more";
    let mut initramfs = Initramfs::of(Image::demo());
    initramfs.add(PATH, b"more");
    let ended = boot("added-member", &initramfs.compressed());
    ended.assert_failed(Stage::Manifest, Reason::ManifestMismatch);
    assert_eq!(ended.last().digest, <[u8; 32]>::from(Sha256::digest(PATH)), "{ended}");
}

#[test]
fn an_init_without_its_list_is_off() {
    if !qemu() {
        return;
    }
    let mut initramfs = Initramfs::of(Image::demo());
    let init = initramfs.content("init");
    initramfs.replace("init", bare(&init).to_vec());
    let ended = boot("no-trailer", &initramfs.compressed());
    ended.assert_failed(Stage::Manifest, Reason::NoManifest);
}
