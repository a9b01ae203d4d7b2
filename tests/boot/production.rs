//! The production flavour: silent, off where there is no TEE, and without the simulator in it.

use std::collections::HashSet;
use std::fs;

use casemate_measure::image::Flavor;
use casemate_measure::status::{Flavour, Reason, Stage};

use crate::images::{self, DEMO, Image, workspace};
use crate::machine::{Machine, Options, qemu};

#[test]
fn without_a_tee_it_powers_off_and_prints_nothing() {
    if !qemu() {
        return;
    }
    let image = Image::build("production", Flavor::Prod, &workspace().join(DEMO));
    // The shape of a production machine has no serial port; here it gets one, so that it could be heard.
    let machine = Machine::switch_on(&image, Options { serial: true, ..Options::default() });
    let ended = machine.wait_end();
    ended.assert_failed(Stage::Tee, Reason::NoTee);
    assert!(ended.frames.iter().all(|frame| frame.flavour == Flavour::Prod), "{ended}");
    assert_eq!(ended.console, [""; 0], "{ended}");
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
