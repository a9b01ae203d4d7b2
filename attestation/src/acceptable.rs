//! Whose code is acceptable: the rules of a policy's `images` and of `mesh.images`.
//!
//! A genuine quote alone proves nothing about the code: anyone can boot a kernel of their own in a TD and extend RTMR3
//! with somebody else's events. What cannot be forged is what was launched: MRTD and RTMR0-2.

use casemate_measure::section::AcceptableImage;
use casemate_measure::{LaunchRegisters, Register};

use crate::error::{NotTrusted, Reason};
use crate::peer::{AuthenticEvidence, Tee};

/// One acceptable image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// The image of whoever judges, by the registers of its own quote.
    Same(LaunchRegisters),
    /// These registers; `None` is not compared, and a zero register, here or in the peer, satisfies nothing.
    Explicit {
        /// Firmware.
        mrtd: Option<Register>,
        /// Firmware configuration and ACPI.
        rtmr0: Option<Register>,
        /// Kernel.
        rtmr1: Option<Register>,
        /// Command line and initramfs, thus the code.
        rtmr2: Register,
    },
}

impl Image {
    /// The image that an entry of the measured document means, for a judge with these registers of its own.
    pub const fn from_document(entry: &AcceptableImage, own: LaunchRegisters) -> Self {
        match entry {
            AcceptableImage::Same => Self::Same(own),
            AcceptableImage::Registers(registers) => Self::Explicit {
                mrtd: registers.mrtd,
                rtmr0: registers.rtmr0,
                rtmr1: registers.rtmr1,
                rtmr2: registers.rtmr2,
            },
        }
    }
}

/// Whether the peer runs one of these images.
///
/// `Same` asks for an equal, non-zero RTMR2, an equal MRTD and RTMR1, and an RTMR0 that is equal or named by an explicit
/// image of the list; a zero MRTD, RTMR0 or RTMR1 ("not measured") passes only if the peer is the simulator.
///
/// # Errors
/// For each image the registers that differ; an empty list accepts nothing.
pub fn judge(images: &[Image], peer: &AuthenticEvidence) -> Result<(), NotTrusted> {
    let mut reasons = Vec::new();
    for (index, image) in images.iter().enumerate() {
        let differences = match image {
            Image::Same(own) => same(own, &listed_rtmr0(images), peer),
            Image::Explicit { mrtd, rtmr0, rtmr1, rtmr2 } => {
                explicit([*mrtd, *rtmr0, *rtmr1, Some(*rtmr2)], peer)
            }
        };
        if differences.is_empty() {
            return Ok(());
        }
        reasons.extend(
            differences.into_iter().map(|r| Reason { what: format!("images[{index}].{}", r.what), ..r }),
        );
    }
    if images.is_empty() {
        reasons.push(Reason::new("images", "at least one acceptable image", "none"));
    }
    Err(NotTrusted(reasons))
}

/// Names in the order of [`registers`].
const NAMES: [&str; 4] = ["mrtd", "rtmr0", "rtmr1", "rtmr2"];

const fn registers(launch: &LaunchRegisters) -> [Register; 4] {
    [launch.mrtd, launch.rtmr0, launch.rtmr1, launch.rtmr2]
}

fn explicit(expected: [Option<Register>; 4], peer: &AuthenticEvidence) -> Vec<Reason> {
    let found = registers(&peer.launch);
    let compared = NAMES.into_iter().zip(expected).zip(found);
    compared
        .filter_map(|((name, expected), found)| Some((name, expected?, found)))
        .filter(|(_, expected, found)| expected != found || found.is_zero())
        .map(|(name, expected, found)| Reason::new(name, shown(&expected), shown(&found)))
        .collect()
}

fn same(own: &LaunchRegisters, listed_rtmr0: &[Register], peer: &AuthenticEvidence) -> Vec<Reason> {
    let compared = NAMES.into_iter().zip(registers(own)).zip(registers(&peer.launch));
    compared
        .filter(|((name, own), found)| {
            let listed = *name == "rtmr0" && listed_rtmr0.contains(found);
            let may_be_zero = *name != "rtmr2" && peer.tee == Tee::Simulator;
            !(own == found || listed) || (found.is_zero() && !may_be_zero)
        })
        .map(|((name, own), found)| Reason::new(name, format!("our own, {}", shown(&own)), shown(&found)))
        .collect()
}

fn listed_rtmr0(images: &[Image]) -> Vec<Register> {
    let listed = images.iter().filter_map(|image| match image {
        Image::Explicit { rtmr0, .. } => *rtmr0,
        Image::Same(_) => None,
    });
    listed.filter(|register| !register.is_zero()).collect()
}

/// A register as a person should read it.
fn shown(register: &Register) -> String {
    if register.is_zero() { "zero (not measured)".into() } else { register.to_string() }
}
