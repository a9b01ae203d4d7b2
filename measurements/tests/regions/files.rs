//! Bits of files. Where a file has fields, every bit; elsewhere any.

use casemate_measure::tdx::Expected;
use casemate_measure::tdx::bzimage::KernelSeen;
use casemate_measure::tdx::region::{self, Part, Region};
use proptest::prelude::*;

use crate::firmware::firmware;
use crate::judge::{BOTH, Judge};
use crate::machine::{File, Machine};

/// The regions of a firmware file.
pub(crate) const FIRMWARE: [Region; 6] = [
    Region::FirmwareCode,
    Region::FirmwareTable,
    Region::FirmwareMetadata,
    Region::FirmwareVariables,
    Region::FirmwareVariablesExtended,
    Region::FirmwareUnclaimed,
];

/// Those of every PE image.
pub(crate) const PE: [Region; 6] = [
    Region::PeCheckSum,
    Region::PeCertificatePlace,
    Region::PeCertificateSize,
    Region::PeCertificates,
    Region::PeTrailing,
    Region::PeGap,
];

/// Those of a kernel.
pub(crate) const KERNEL: [Region; 5] = [
    Region::KernelHeaders,
    Region::KernelSetupHeader,
    Region::KernelLoadFlags,
    Region::KernelWritten,
    Region::KernelSection,
];

/// Those of a unified kernel image.
pub(crate) const UKI: [Region; 8] = [
    Region::UkiHeaders,
    Region::UkiWritten,
    Region::UkiStubVersion,
    Region::UkiKernel,
    Region::UkiCommandLine,
    Region::UkiMeasured,
    Region::UkiSignature,
    Region::UkiOther,
];

/// A machine, one of its files and that file's parts.
struct Scene {
    machine: Machine,
    seen: KernelSeen,
    file: File,
    parts: Vec<Part>,
    before: Expected,
}

impl Scene {
    fn new(mut machine: Machine, file: File, parts: fn(&[u8]) -> Vec<Part>) -> Self {
        let parts = parts(machine.file(file));
        let (before, seen) = (machine.expected().unwrap(), machine.vm.setup_header.unwrap());
        Self { machine, seen, file, parts, before }
    }

    fn firmware(seen: KernelSeen, variables: u32) -> Self {
        let machine = Machine { firmware: firmware(variables), ..Machine::kernel(seen) };
        Self::new(machine, File::Firmware, |file| region::firmware(file).unwrap())
    }

    fn kernel(seen: KernelSeen) -> Self {
        Self::new(Machine::kernel(seen), File::Payload, |file| region::kernel(file).unwrap())
    }

    fn uki(seen: KernelSeen) -> Self {
        Self::new(Machine::uki(seen), File::Payload, |file| region::uki(file).unwrap())
    }

    fn flip(&mut self, judge: &mut Judge, part: usize, at: usize, bit: usize) {
        self.machine.file(self.file)[at] ^= 1 << bit;
        let after = self.machine.expected();
        judge.change((self.parts[part].region, self.seen), &self.before, after, &(at, bit));
        self.machine.file(self.file)[at] ^= 1 << bit;
    }

    /// Of fields every bit, or every fourth one of the longest headers; of what has none the ends, and what lies a way apart.
    fn flip_all(&mut self, judge: &mut Judge) {
        for part in 0..self.parts.len() {
            let Part { range, region } = self.parts[part].clone();
            let fields = range.len() <= FIELD || region.row().refused && range.len() <= HEADERS;
            let step = if fields { 1 } else { range.len() / 16 };
            for at in range.clone().step_by(step).chain([range.end - 1]) {
                // A header that is filled in has the same fields: a bit of each byte is enough there.
                let step = match range.len() {
                    0..=FIELD => 1,
                    _ if !fields || self.seen == KernelSeen::Patched => 8,
                    513.. => 4,
                    _ => 1,
                };
                (at % step..8).step_by(step).for_each(|bit| self.flip(judge, part, at, bit));
            }
        }
    }
}

/// The longest field, with room.
const FIELD: usize = 16;
/// Longer than headers and tables.
const HEADERS: usize = 1024;

#[test]
fn every_field_of_a_firmware() {
    let mut judge = Judge::default();
    for seen in BOTH {
        Scene::firmware(seen, 0).flip_all(&mut judge);
        Scene::firmware(seen, 1).flip_all(&mut judge);
    }
    judge.verdict(&FIRMWARE);
}

#[test]
fn every_field_of_a_kernel() {
    let mut judge = Judge::default();
    for seen in BOTH {
        Scene::kernel(seen).flip_all(&mut judge);
    }
    judge.verdict(&KERNEL);
    judge.verdict(&PE);
}

#[test]
fn every_field_of_a_unified_kernel_image() {
    let mut judge = Judge::default();
    for seen in BOTH {
        Scene::uki(seen).flip_all(&mut judge);
    }
    judge.verdict(&UKI);
    judge.verdict(&PE);
}

fn scenes() -> impl Strategy<Value = Scene> {
    let seen = prop::sample::select(&BOTH[..]);
    (seen, 0..4).prop_map(|(seen, which)| match which {
        0 => Scene::firmware(seen, 0),
        1 => Scene::firmware(seen, 1),
        2 => Scene::kernel(seen),
        _ => Scene::uki(seen),
    })
}

impl std::fmt::Debug for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?} of {:?}", self.seen, self.file, self.parts)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any bit of any region, as often of a short one as of a long one.
    #[test]
    fn any_bit(
        mut scene in scenes(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_usize..8), 16),
    ) {
        let mut judge = Judge::default();
        for (part, at, bit) in flips {
            let part = part.index(scene.parts.len());
            let range = scene.parts[part].range.clone();
            scene.flip(&mut judge, part, range.start + at.index(range.len()), bit);
        }
    }
}
