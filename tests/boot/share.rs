//! Generic images: the document comes on the host share, and MRCONFIGID binds it. Machines that are refused end at once;
//! those that are not are followed until the egress lock, which comes after the last word about the document, and one of
//! them until it is ready.

use std::fs;
use std::io::{Cursor, Write as _};

use casemate_measure::status::{Reason, Stage};
use casemate_measure::{ComposeHash, KeyProvider, MrConfigId};
use casemate_qemu::share::{LABEL, Share};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};

use crate::images::{DEMO, Image, workspace};
use crate::machine::{Machine, Options, qemu};

fn document() -> Vec<u8> {
    fs::read(workspace().join(DEMO)).unwrap()
}

fn compose() -> ComposeHash {
    ComposeHash::of(&document())
}

fn v1() -> MrConfigId {
    MrConfigId::v1(&compose())
}

/// The demo's document on a share as `casemate-qemu` makes it.
fn share() -> Share {
    Share { document: document(), sys_config: None, instance_info: None }
}

fn options(share: &Share, bound: MrConfigId) -> Options {
    Options { share: Some(share.image().unwrap()), mrconfigid: Some(bound), ..Options::default() }
}

/// One line for each case.
fn say(case: &str, ending: &str) {
    println!("share: {case}: {ending}");
}

fn refused(case: &str, options: Options, stage: Stage, reason: Reason, says: &str) {
    let ended = Machine::switch_on(Image::generic(), options).wait_end();
    ended.assert_failed(stage, reason);
    assert!(ended.console_says(says), "{case}: expected {says:?} on the console: {ended}");
    say(case, &format!("off: {} ({})", reason.words(), ended.exit_status));
}

/// The document was accepted: the lock comes next.
fn accepted(case: &str, options: Options) {
    let machine = Machine::switch_on(Image::generic(), options);
    machine.wait(case, || machine.frames().iter().any(|frame| frame.stage == Stage::Lock).then_some(()));
    say(case, "accepted");
}

#[test]
fn the_bound_document_boots_to_ready() {
    if !qemu() {
        return;
    }
    let machine = Machine::switch_on(Image::generic(), options(&share(), v1()));
    machine.wait_ready();
    let ready = machine.frames().into_iter().find(|frame| frame.reason == Reason::Ready).unwrap();
    assert_eq!(ready.digest, compose().0);
    // The process that read the share is gone, and nobody remembers it.
    let status = machine
        .wait_status("processes", |status| status["processes"].as_array().is_some_and(|p| p.len() > 1));
    let names: Vec<_> = status["processes"].as_array().unwrap().iter().map(|p| p["name"].clone()).collect();
    assert!(names.iter().all(|name| name != "share"), "{names:?}");
    machine.power_off().assert_orderly();
    say("version 1, its document", "ready");
}

#[test]
fn mrconfigid_binds_the_document() {
    if !qemu() {
        return;
    }
    let mismatch = Reason::ConfigIdMismatch;
    let other = MrConfigId::v1(&ComposeHash::of(b"another document"));
    refused(
        "version 1 of another document",
        options(&share(), other),
        Stage::Measure,
        mismatch,
        "MRCONFIGID: expected",
    );
    let zero = options(&share(), MrConfigId::ZERO);
    refused("no MRCONFIGID", zero, Stage::Measure, mismatch, "accepted only with a baked document");

    let app = compose().app_id();
    let fat32 = Options {
        share: Some(fat(FatType::Fat32, &[("app-compose.json", &document())])),
        ..options(&share(), MrConfigId::v2(&compose(), &app, &KeyProvider::None))
    };
    accepted("version 2, on FAT32", fat32);

    let v3 =
        format!(r#"{{"app_id":"{app}","compose_hash":"{}","key_provider":"none","version":3}}"#, compose());
    let lie = v3.replace("none", "kms");
    let words = "mr_config.key_provider: expected none, found \"kms\"";
    let options = options(&with_mr_config(&lie), MrConfigId::v3(lie.as_bytes()));
    refused("version 3 that says something else", options, Stage::Document, mismatch, words);
    accepted("version 3, on QEMU's vvfat", vvfat(&with_mr_config(&v3), MrConfigId::v3(v3.as_bytes())));
}

#[test]
fn shares_that_cannot_be_read_are_refused() {
    if !qemu() {
        return;
    }
    let with = |image: Vec<u8>| Options { share: Some(image), ..options(&share(), v1()) };
    let none = Options { share: None, ..with(Vec::new()) };
    refused("a disk of zeros", none, Stage::Measure, Reason::NoDocument, "no disk has the FAT label");

    // Behind the boot sector, which has the label: tables and root directory. It holds files without end, none of them ours.
    let mut garbage = share().image().unwrap();
    garbage[512..300_000].fill(0x22);
    let words = "host share: there is no app-compose.json on it";
    refused("garbage behind the label", with(garbage), Stage::Measure, Reason::ShareRefused, words);

    let long = Share { document: vec![b' '; (4 << 20) + 1], ..share() };
    let words = "app-compose.json: expected at most 4194304 bytes, found 4194305";
    refused("a document that is too long", options(&long, v1()), Stage::Measure, Reason::ShareRefused, words);

    let other =
        Share { instance_info: Some(format!(r#"{{"app_id":"{}"}}"#, "09".repeat(20)).into()), ..share() };
    refused("another app id", options(&other, v1()), Stage::Document, Reason::AppIdMismatch, "without a KMS");

    let twice = Options { share: Some(share().image().unwrap()), ..vvfat(&share(), v1()) };
    refused("two disks with the label", twice, Stage::Measure, Reason::ShareRefused, "found vda and vdb");

    let failing = second_disk(
        "driver=blkdebug,image.driver=null-co,image.size=33554432,inject-error.0.event=none,inject-error.0.iotype=read,inject-error.0.errno=5",
    );
    let failing = Options { extra: failing, ..options(&share(), v1()) };
    refused("a disk that fails", failing, Stage::Measure, Reason::ShareRefused, "vdb: Input/output error");

    let dir = directory(&share());
    let device = format!(
        " -fsdev local,id=fs,path={dir},security_model=none,readonly=on -device virtio-9p-pci,fsdev=fs,mount_tag=host-shared,bus=pcie.0,addr=0x6,{VIRTIO}"
    );
    let plan9 = Options { share: None, extra: device.leak(), ..options(&share(), v1()) };
    refused("9p", plan9, Stage::Measure, Reason::ShareUnsupported, "9p is not supported");
}

fn with_mr_config(mr_config: &str) -> Share {
    let sys_config = serde_json::json!({ "mr_config": mr_config, "vm_config": "{}", "kms_urls": [] });
    Share { sys_config: Some(sys_config.to_string().into()), ..share() }
}

const VIRTIO: &str = "disable-legacy=on,iommu_platform=on";

/// The files in a directory that goes with cargo's folder.
fn directory(share: &Share) -> String {
    let dir =
        tempfile::Builder::new().prefix("share.").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap().keep();
    fs::write(dir.join("app-compose.json"), &share.document).unwrap();
    if let Some(sys_config) = &share.sys_config {
        fs::write(dir.join(".sys-config.json"), sys_config).unwrap();
    }
    dir.to_str().unwrap().to_owned()
}

/// A disk that QEMU makes of a directory, behind the machine's own, which has nothing on it.
fn vvfat(share: &Share, bound: MrConfigId) -> Options {
    let dir = directory(share);
    let extra = second_disk(&format!("driver=vvfat,dir={dir},label=DSTACKSHR"));
    Options { mrconfigid: Some(bound), extra, ..Options::default() }
}

/// QEMU's arguments for one more disk.
fn second_disk(blockdev: &str) -> &'static str {
    let disk = format!(
        " -blockdev node-name=second,read-only=on,{blockdev} -device virtio-blk-pci,drive=second,bus=pcie.0,addr=0x6,{VIRTIO}"
    );
    disk.leak()
}

fn fat(kind: FatType, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut disk = Cursor::new(vec![0; 40 << 20]);
    let options = FormatVolumeOptions::new().fat_type(kind).bytes_per_cluster(512).volume_label(LABEL);
    fatfs::format_volume(&mut disk, options).unwrap();
    let volume = FileSystem::new(&mut disk, FsOptions::new()).unwrap();
    for (name, content) in files {
        volume.root_dir().create_file(name).unwrap().write_all(content).unwrap();
    }
    volume.unmount().unwrap();
    disk.into_inner()
}
