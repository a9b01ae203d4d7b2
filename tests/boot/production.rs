//! The production flavour: silent, off where there is no TEE, and without the simulator in it.

use std::collections::HashSet;
use std::fs;
use std::sync::LazyLock;

use casemate_measure::image::Flavor;
use casemate_measure::status::{Flavour, Reason, Stage};

use crate::images::{self, DEMO, Image, workspace};
use crate::initramfs::Initramfs;
use crate::machine::{Ended, Machine, Options, qemu};

/// The demo's document on the production flavour.
fn image() -> &'static Image {
    static IMAGE: LazyLock<Image> =
        LazyLock::new(|| Image::build("production", Flavor::Prod, &workspace().join(DEMO)));
    &IMAGE
}

/// The shape of a production machine has no serial port; here it gets one, so that it could be heard.
fn boot(image: &Image) -> Ended {
    let ended = Machine::switch_on(image, Options { serial: true, ..Options::default() }).wait_end();
    assert!(ended.frames.iter().all(|frame| frame.flavour == Flavour::Prod), "{ended}");
    assert_eq!(ended.console, [""; 0], "{ended}");
    ended
}

#[test]
fn without_a_tee_it_powers_off_and_prints_nothing() {
    if !qemu() {
        return;
    }
    let ended = boot(image());
    ended.assert_failed(Stage::Tee, Reason::NoTee);
    // Settings, lockdown and mounts were read back on the way.
    let stages: Vec<Stage> = ended.frames.iter().map(|frame| frame.stage).collect();
    assert!(stages.contains(&Stage::Sysctls) && stages.contains(&Stage::Entropy), "{ended}");
}

/// It has mounted /dev when it fails, and not yet what the status port is found in.
#[test]
fn a_boot_that_fails_at_its_first_mounts_still_says_why() {
    if !qemu() {
        return;
    }
    let mut initramfs = Initramfs::of(image());
    initramfs.put_file("proc");
    let ended = boot(&image().with_initramfs("no-place-for-proc", &initramfs.compressed()));
    ended.assert_failed(Stage::Mounts, Reason::MountFailed);
    // EEXIST: a directory was to be made.
    assert_eq!(ended.last().detail, 17, "{ended}");
}

/// Keys, certificates and reports of the simulated TEE, as they lie in the tree.
const SIMULATORS: &[&str] = &[
    "attestation/src/simulator/root.der",
    "attestation/src/simulator/collateral.json",
    "init/agent/src/simulator/pki/attestation.key.hex",
    "init/agent/src/simulator/pki/pck.key.hex",
    "init/agent/src/simulator/pki/pck_chain.pem",
    "init/agent/src/simulator/pki/qe_report.hex",
];

/// In its messages, names of types and certificates.
const WORD: &[u8] = b"simulat";

/// The development binary has all of it, so the search can find it; the production binary has none of it.
#[test]
fn there_is_no_simulator_in_it() {
    let (dev, prod) = (&images::init(Flavor::Dev).bytes, &images::init(Flavor::Prod).bytes);
    for file in SIMULATORS {
        let whole = fs::read(workspace().join(file)).unwrap();
        let parts: HashSet<&[u8]> = whole.chunks_exact(PART).filter(|part| is_telling(part)).collect();
        assert!(!parts.is_empty(), "{file}");
        assert_eq!(found(dev, &parts), parts.len(), "{file}: expected all of it in the development binary");
        assert_eq!(found(prod, &parts), 0, "{file}: expected nothing of it in the production binary");
    }
    let says = |binary: &[u8]| binary.windows(WORD.len()).any(|window| window.eq_ignore_ascii_case(WORD));
    assert!(says(dev) && !says(prod), "development {}, production {}", says(dev), says(prod));
}

/// Parts are looked for, so that a piece of a file is found, too.
const PART: usize = 32;

/// Runs of zeros, and the words around a certificate, are in any binary.
fn is_telling(part: &[u8]) -> bool {
    part.iter().collect::<HashSet<_>>().len() >= 10 && !part.windows(5).any(|window| window == b"-----")
}

/// How many of the parts are in a binary.
fn found(binary: &[u8], parts: &HashSet<&[u8]>) -> usize {
    let starts: HashSet<[u8; 2]> = parts.iter().map(|part| [part[0], part[1]]).collect();
    let windows = binary.windows(PART).filter(|window| starts.contains(&[window[0], window[1]]));
    windows.filter(|window| parts.contains(window)).collect::<HashSet<_>>().len()
}
