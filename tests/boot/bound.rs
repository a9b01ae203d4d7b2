//! What the host binds at launch: MRCONFIGID, which the simulated TEE has from an SMBIOS string.

use std::fs;

use casemate_measure::status::{Reason, Stage};
use casemate_measure::{ComposeHash, MrConfigId};

use crate::images::{DEMO, Image, workspace};
use crate::machine::{Machine, Options, qemu};

fn options(bound: MrConfigId) -> Options {
    Options { mrconfigid: Some(bound), ..Options::default() }
}

fn compose_hash() -> ComposeHash {
    ComposeHash::of(&fs::read(workspace().join(DEMO)).unwrap())
}

#[test]
fn the_documents_own_boots() {
    if !qemu() {
        return;
    }
    let machine = Machine::switch_on(Image::demo(), options(MrConfigId::v1(&compose_hash())));
    machine.wait_ready();
    machine.power_off().assert_orderly();
}

#[test]
fn another_documents_does_not() {
    if !qemu() {
        return;
    }
    let other = MrConfigId::v1(&ComposeHash::of(b"another document"));
    let ended = Machine::switch_on(Image::demo(), options(other)).wait_end();
    ended.assert_failed(Stage::Measure, Reason::ConfigIdMismatch);
    assert_eq!(ended.last().digest, compose_hash().0, "{ended}");
    assert!(ended.console_says("MRCONFIGID: expected"), "{ended}");
}
