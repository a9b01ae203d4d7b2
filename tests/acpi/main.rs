//! ACPI tables as firmware measures them, captured from real QEMU: the same each time, dependent on nothing but what they are
//! told apart by, equal to what a Linux guest reads and to what a trust domain of somebody else's had, and as recorded in
//! `measurements/acpi.json`.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests and their rig: what fails here fails the test"
)]

#[path = "../boot/images.rs"]
#[expect(dead_code, reason = "the rig of the boot tests, of which not all is needed here")]
mod images;
mod live;
mod witness;

use std::fs;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use casemate_image::assemble::{self, Plan};
use casemate_image::io::store::Store;
use casemate_image::progress::Progress;
use casemate_measure::image::Flavor;
use casemate_qemu::Error;
use casemate_qemu::acpi::{AcpiTable, Blobs, Capture, Machine};
use casemate_qemu::io::capture::{Captured, Request, capture};
use sha2::{Digest as _, Sha256};

use crate::images::{lock, place, workspace};

/// For one machine; it takes two seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const QEMU: &str = "qemu-system-x86_64";

/// Whether machines can be booted here; said loudly where not, and under CI=true a failure.
fn qemu() -> bool {
    if Command::new(QEMU).arg("--version").output().is_ok_and(|output| output.status.success()) {
        return true;
    }
    let why = format!("no machine is booted: {QEMU} is not installed");
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "SKIPPED under CI=true: {why}");
    eprintln!("SKIPPED: {why}");
    false
}

/// Another QEMU; `None`, said loudly, where it cannot be had.
fn fetched(major: &str, test: &str) -> Option<String> {
    let script = workspace().join("qemu/tests/peer/fetch-qemu");
    let output = Command::new("bash").arg(script).arg(major).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Some(text(&output.stdout));
    }
    let why = text(&output.stderr).replace('\n', "; ");
    eprintln!("SKIPPED: {test}: QEMU {major} cannot be fetched: {why}");
    None
}

/// A production image with the pinned kernel and firmware; its init is the witness.
fn image() -> &'static Path {
    static IMAGE: LazyLock<PathBuf> = LazyLock::new(|| {
        let plan = Plan {
            flavor: Flavor::Prod,
            document: None,
            workloads: Vec::new(),
            lock: lock(),
            store: Store::new(None).unwrap(),
            max_size: None,
            out: place("acpi"),
        };
        assemble::build(&plan, |_| Ok(witness::init()), &Progress::silent()).unwrap().out
    });
    &IMAGE
}

fn firmware() -> PathBuf {
    image().join("ovmf.fd")
}

fn machine(cpus: u16, memory_mib: u32) -> Machine {
    Machine { cpus: NonZeroU16::new(cpus).unwrap(), memory_mib, flavor: Flavor::Prod }
}

fn captured(program: &str, machine: Machine) -> Captured {
    let request = Request { program: program.into(), machine, firmware: firmware(), limit: PATIENCE };
    capture(&request, &mut |line| println!("{line}")).unwrap()
}

/// Where two blobs of the same length differ.
fn differences(a: &[u8], b: &[u8]) -> Vec<usize> {
    assert_eq!(a.len(), b.len());
    (0..a.len()).filter(|&at| a[at] != b[at]).collect()
}

#[test]
fn each_capture_of_a_machine_is_the_same_and_vcpus_and_low_memory_show() {
    if !qemu() {
        return;
    }
    let blobs = |cpus, memory| captured(QEMU, machine(cpus, memory)).blobs;
    let two = blobs(2, 512);
    assert_eq!(blobs(2, 512), two);
    assert_eq!(two.signatures(), ["FACS", "DSDT", "FACP", "APIC", "MCFG", "WAET", "RSDT"]);
    assert_eq!(two.loader.len() % 128, 0, "linker commands of 128 bytes (QEMU hw/acpi/bios-linker-loader.c)");
    assert_eq!(&two.rsdp[..8], b"RSD PTR ");

    // Each CPU is in the DSDT and the MADT; where the tables behind them lie is in the other two files.
    let four = blobs(4, 512);
    for (name, of_two, of_four) in [
        ("loader", &two.loader, &four.loader),
        ("rsdp", &two.rsdp, &four.rsdp),
        ("tables", &two.tables, &four.tables),
    ] {
        assert_ne!(of_two, of_four, "{name}");
    }

    // Memory shows where the PCI hole begins, in the DSDT alone: the begin, and the length. From 2816 MiB on it is at 2 GiB.
    let large = blobs(2, 2048);
    assert_eq!((&large.loader, &large.rsdp), (&two.loader, &two.rsdp));
    let [begin, length] = differences(&large.tables, &two.tables)[..] else { panic!("expected two bytes") };
    let word =
        |blobs: &Blobs, top: usize| u32::from_le_bytes(blobs.tables[top - 3..=top].try_into().unwrap());
    assert_eq!([word(&two, begin), word(&large, begin)], [512 << 20, 2048 << 20]);
    assert_eq!(
        [word(&two, length), word(&large, length)],
        [0xe000_0000 - (512 << 20), 0xe000_0000 - (2048 << 20)]
    );
    assert_ne!(blobs(2, 2815), large);
    for memory in [2816, 1 << 20] {
        assert_eq!(blobs(2, memory), large, "{memory} MiB");
    }
}

#[test]
fn a_linux_guest_reads_the_same() {
    if !qemu() {
        return;
    }
    let machine = machine(2, 512);
    assert_eq!(witness::testify(image(), &machine, QEMU), captured(QEMU, machine).blobs);
}

#[test]
fn time_is_bounded_and_so_are_the_tries() {
    if !qemu() {
        return;
    }
    let limit = Duration::from_millis(1);
    let request = Request { program: QEMU.into(), machine: machine(1, 512), firmware: firmware(), limit };
    let mut notes = Vec::new();
    let error = capture(&request, &mut |line| notes.push(line.to_owned())).unwrap_err();
    assert!(matches!(error, Error::Capture(_)), "{error}");
    assert!(error.to_string().contains("went astray 3 times"), "{error}");
    assert_eq!(notes.len(), 2, "{notes:?}");

    // Firmware that never gets anywhere.
    let dir = tempfile::tempdir().unwrap();
    let hang = dir.path().join("hang.fd");
    fs::write(&hang, [0xf4; 1 << 16]).unwrap();
    let request = Request { firmware: hang, limit: Duration::from_secs(1), ..request };
    let error = capture(&request, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("the firmware had not started its guest within 1 s"), "{error}");
}

/// QEMU that knows TDX makes the tables that are recorded.
#[test]
fn the_recorded_tables_are_captured_again() {
    let path = workspace().join("measurements/acpi.json");
    let recorded = AcpiTable::read(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(
        recorded.text().unwrap(),
        fs::read_to_string(&path).unwrap(),
        "as `cargo qemu acpi` writes it"
    );
    let firmware: [u8; 32] = Sha256::digest(fs::read(firmware()).unwrap()).into();
    for (major, again) in [
        ("10", [machine(1, 512), machine(4, 4096)]),
        ("11", [machine(2, 512), Machine { flavor: Flavor::Dev, ..machine(2, 2048) }]),
    ] {
        let test = "the_recorded_tables_are_captured_again";
        let Some(program) = fetched(major, test) else { continue };
        for machine in again {
            let captured = captured(&program, machine);
            let found = Capture::of(captured.qemu, machine.shape(&firmware), &captured.blobs);
            if !recorded.entries().iter().any(|entry| entry.qemu == found.qemu) {
                eprintln!(
                    "SKIPPED: {test}: nothing is recorded of QEMU {}: the archive has a newer one",
                    found.qemu
                );
                break;
            }
            assert_eq!(recorded.clone().add(found), Ok(false), "recorded, and the same");
        }
    }
}

/// QEMU 10.0 makes what 10.2.1 made for that trust domain.
#[test]
fn a_trust_domain_that_ran_had_the_tables_that_are_captured() {
    let test = "a_trust_domain_that_ran_had_the_tables_that_are_captured";
    let Some(program) = fetched("10", test) else { return };
    let firmware = firmware();
    let bytes = fs::read(&firmware).unwrap();
    let mut captured = live::captured(&program, &firmware);
    assert_eq!(live::rtmr0(&bytes, &captured.blobs).to_string(), live::RTMR0);
    captured.blobs.tables[0x100] ^= 1;
    assert_ne!(live::rtmr0(&bytes, &captured.blobs).to_string(), live::RTMR0);
}
