//! The production flavour: silent, off where there is no TEE, and without the simulator in it.

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

/// The development binary has all of it, so the search can find it; the production binary has none.
#[test]
fn there_is_no_simulator_in_it() {
    let (dev, prod) = (&images::init(Flavor::Dev).bytes, &images::init(Flavor::Prod).bytes);
    for file in SIMULATORS {
        let whole = fs::read(workspace().join(file)).unwrap();
        assert!(holds(dev, &whole), "{file}: expected in the development binary");
        // Not even a part: 32 bytes from anywhere in it.
        for part in whole.chunks(PART).filter(|part| part.len() == PART) {
            assert!(!holds(prod, part), "{file}: {part:?} is in the production binary");
        }
    }
}

const PART: usize = 32;

fn holds(binary: &[u8], part: &[u8]) -> bool {
    binary.windows(part.len()).any(|window| window == part)
}
