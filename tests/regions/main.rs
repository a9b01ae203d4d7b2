//! The table of regions against the pinned files: bits of the real firmware, kernel and unified kernel image are flipped, and
//! what changes must be what the table says. `measurements/tests/regions` does it thoroughly with small files.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests and their rig: what fails here fails the test"
)]

#[path = "../boot/images.rs"]
#[expect(dead_code, reason = "the rig of the boot tests, of which not all is needed here")]
mod images;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use casemate_image::assemble::{self, InitBinary, Plan};
use casemate_image::io::store::Store;
use casemate_image::progress::Progress;
use casemate_measure::Register;
use casemate_measure::image::Flavor;
use casemate_measure::tdx::bzimage::{BzImage, KernelSeen, Loading};
use casemate_measure::tdx::mrtd::mrtd;
use casemate_measure::tdx::overlay::View;
use casemate_measure::tdx::region::{self, Part, Region, Shown};
use casemate_measure::tdx::uki::Uki;
use casemate_measure::tdx::{AcpiDigests, AcpiSource, Expected, PageOrder, Tdvf, Vm, rtmr0, rtmr1};

use crate::images::{lock, place};

/// A production image whose init is none: nothing of it runs.
fn image() -> &'static PathBuf {
    static IMAGE: LazyLock<PathBuf> = LazyLock::new(|| {
        let plan = Plan {
            flavor: Flavor::Prod,
            document: None,
            workloads: Vec::new(),
            lock: lock(),
            store: Store::new(None).unwrap(),
            max_size: None,
            out: place("regions"),
        };
        let init = |_: &Progress| Ok(InitBinary { bytes: b"\x7fELF".to_vec(), inputs: Vec::new() });
        assemble::build(&plan, init, &Progress::silent()).unwrap().out
    });
    &IMAGE
}

fn file(name: &str) -> Vec<u8> {
    fs::read(image().join(name)).unwrap()
}

/// What of a machine depends on one file. Nothing else is given that file, and so nothing else can change.
fn expected(mrtd: Register, events: Vec<casemate_measure::tdx::Event>) -> Expected {
    Expected {
        mrtd,
        mrconfigid: None,
        os_image_hash: None,
        mr_system: None,
        mr_aggregated: None,
        events,
        alternatives: Vec::new(),
    }
}

/// Flips the first bit, the last one and others of each part, in a fixed order that looks like none; gives the regions.
fn flip(
    mut file: Vec<u8>,
    parts: &[Part],
    seen: KernelSeen,
    each: usize,
    measure: impl Fn(&[u8]) -> Result<Expected, String>,
) -> BTreeSet<Region> {
    let before = measure(&file).unwrap();
    // xorshift64 (Marsaglia, "Xorshift RNGs", 2003).
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 8).unwrap()
    };
    let mut refused = 0;
    for Part { range, region } in parts {
        let row = region.row();
        for nth in 0..each {
            let (at, bit) = match nth {
                0 => (range.start, 0),
                1 => (range.end - 1, 7),
                _ => (range.start + random() % range.len(), random() % 8),
            };
            file[at] ^= 1 << bit;
            let after = measure(&file);
            file[at] ^= 1 << bit;
            match after {
                Ok(after) => {
                    let (changed, effect) = (Shown::changed(&before, &after), row.effect(seen));
                    let what = format!("{region:?} ({seen:?}), bit {bit} at {at:#x}");
                    assert!(effect.allows(&changed), "{what}: the table says {effect}, found {changed:?}");
                }
                Err(error) => {
                    assert!(
                        row.refused,
                        "{region:?}, bit {bit} at {at:#x}: refused, which the table does not say: {error}"
                    );
                    refused += 1;
                }
            }
        }
    }
    println!("{} flips ({seen:?}), of which {refused} made a file that is refused", parts.len() * each);
    parts.iter().map(|part| part.region).collect()
}

#[test]
fn the_pinned_firmware() {
    let file = file("ovmf.fd");
    let parts = region::firmware(&file).unwrap();
    assert_eq!(parts.iter().map(|part| part.range.len()).sum::<usize>(), file.len());
    let vm = Vm::new("10.0.13".parse().unwrap(), 2048, 2);
    let digest = Register([1; 48]);
    let acpi = AcpiSource::Given(AcpiDigests { loader: digest, rsdp: digest, tables: digest });
    let found = flip(file, &parts, KernelSeen::AsFile, 30, |file| {
        let firmware = Tdvf::parse(file).map_err(|error| error.to_string())?;
        let events = rtmr0::events(&firmware, &vm, &acpi).map_err(|error| error.to_string())?;
        Ok(expected(mrtd(&firmware, PageOrder::SinglePass), events))
    });
    // All of it is in sections.
    let expected =
        [Region::FirmwareCode, Region::FirmwareTable, Region::FirmwareMetadata, Region::FirmwareVariables];
    assert_eq!(found, expected.into());
}

#[test]
fn the_pinned_kernel() {
    let file = file("bzImage");
    let parts = region::kernel(&file).unwrap();
    assert_eq!(parts.iter().map(|part| part.range.len()).sum::<usize>(), file.len());
    let loading = Loading { memory: 1 << 30, initrd: Some(20 << 20), cmdline: "quiet" };
    for seen in [KernelSeen::AsFile, KernelSeen::Patched] {
        let found = flip(file.clone(), &parts, seen, 8, |file| {
            let pe = BzImage::parse(file).and_then(|kernel| kernel.pe(seen, &loading));
            let pe = pe.map_err(|error| error.to_string())?;
            Ok(expected(Register::ZERO, rtmr1::direct(&pe, "bzImage")))
        });
        // Signed, without holes, and with nothing behind its sections but signatures.
        let expected = [
            Region::PeCheckSum,
            Region::PeCertificatePlace,
            Region::PeCertificateSize,
            Region::PeCertificates,
            Region::KernelHeaders,
            Region::KernelSetupHeader,
            Region::KernelLoadFlags,
            Region::KernelWritten,
            Region::KernelSection,
        ];
        assert_eq!(found, expected.into());
    }
}

#[test]
fn the_unified_kernel_image() {
    let file = file("casemate.efi");
    let parts = region::uki(&file).unwrap();
    assert_eq!(parts.iter().map(|part| part.range.len()).sum::<usize>(), file.len());
    let found = flip(file, &parts, KernelSeen::AsFile, 3, |file| {
        let uki = Uki::parse(View::from(file)).map_err(|error| error.to_string())?;
        Ok(expected(Register::ZERO, [uki.rtmr1("casemate.efi"), uki.rtmr2()].concat()))
    });
    // Not signed; Linux in it is, which the stub's section has all of.
    let expected = [
        Region::PeCheckSum,
        Region::PeCertificatePlace,
        Region::PeCertificateSize,
        Region::UkiHeaders,
        Region::UkiWritten,
        Region::UkiStubVersion,
        Region::UkiKernel,
        Region::UkiCommandLine,
        Region::UkiMeasured,
        Region::UkiOther,
    ];
    assert_eq!(found, expected.into());
}
