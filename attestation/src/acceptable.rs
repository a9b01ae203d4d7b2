//! Whose code is acceptable: the rules of a policy's `images` and of `mesh.images`.
//!
//! A genuine quote alone proves nothing about the code: anyone can boot a kernel of their own in a TD and extend RTMR3
//! with somebody else's events. What cannot be forged is what was launched: MRTD and RTMR0-2.

use casemate_measure::section::AcceptableImage;
use casemate_measure::{LaunchRegisters, Register};

use crate::anchor::Tee;
use crate::error::{Class, NotTrusted, Reason};
use crate::peer::AuthenticEvidence;

/// One acceptable image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// The image of whoever judges, by the registers of its own quote.
    Same(LaunchRegisters),
    /// These registers; a zero register, here or in the peer, satisfies nothing. `None` is not compared: of MRTD and RTMR1 it
    /// satisfies the simulator only, since a TD's firmware can extend whatever it likes into what follows.
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
        reasons.push(Reason::new(Class::Image, "images", "at least one acceptable image", "none"));
    }
    Err(NotTrusted(reasons))
}

/// Names in the order of [`registers`].
const NAMES: [&str; 4] = ["mrtd", "rtmr0", "rtmr1", "rtmr2"];

const fn registers(launch: &LaunchRegisters) -> [Register; 4] {
    [launch.mrtd, launch.rtmr0, launch.rtmr1, launch.rtmr2]
}

fn explicit(expected: [Option<Register>; 4], peer: &AuthenticEvidence) -> Vec<Reason> {
    let compared = NAMES.into_iter().zip(expected).zip(registers(&peer.launch()));
    let judge = |((name, expected), found): ((&str, Option<Register>), Register)| match expected {
        Some(expected) if expected == found && !found.is_zero() => None,
        Some(expected) => Some(Reason::new(Class::Image, name, shown(&expected), shown(&found))),
        None if peer.tee() == Tee::Simulator || name == "rtmr0" => None,
        None => {
            let expected = "a value to compare with (a TD's firmware can extend anything)";
            Some(Reason::new(
                Class::Image,
                name,
                expected,
                format_args!("null, and {} in the peer", shown(&found)),
            ))
        }
    };
    compared.filter_map(judge).collect()
}

fn same(own: &LaunchRegisters, listed_rtmr0: &[Register], peer: &AuthenticEvidence) -> Vec<Reason> {
    let compared = NAMES.into_iter().zip(registers(own)).zip(registers(&peer.launch()));
    compared
        .filter(|((name, own), found)| {
            let listed = *name == "rtmr0" && listed_rtmr0.contains(found);
            let may_be_zero = *name != "rtmr2" && peer.tee() == Tee::Simulator;
            !(own == found || listed) || (found.is_zero() && !may_be_zero)
        })
        .map(|((name, own), found)| {
            Reason::new(Class::Image, name, format!("our own, {}", shown(&own)), shown(&found))
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::sample;

    const A: Register = Register([0xaa; 48]);
    const B: Register = Register([0xbb; 48]);
    const ZERO: Register = Register::ZERO;
    /// As `casemate-image` measures in this version.
    const RTMR2_ONLY: LaunchRegisters = LaunchRegisters { rtmr2: A, ..LaunchRegisters::ZERO };
    const MEASURED: LaunchRegisters =
        LaunchRegisters { mrtd: A, rtmr0: A, rtmr1: A, rtmr2: A, ..LaunchRegisters::ZERO };

    /// The registers that differ, by name.
    fn refused(images: &[Image], tee: Tee, launch: LaunchRegisters) -> Vec<String> {
        judge(images, &sample::evidence(tee, launch))
            .map_or_else(|NotTrusted(reasons)| reasons.into_iter().map(|r| r.what).collect(), |()| Vec::new())
    }

    const fn explicit_rtmr2(rtmr2: Register) -> Image {
        Image::Explicit { mrtd: None, rtmr0: None, rtmr1: None, rtmr2 }
    }

    #[test]
    fn nothing_listed_accepts_nothing() {
        assert_eq!(refused(&[], Tee::Tdx, MEASURED), ["images"]);
    }

    #[test]
    fn same_wants_every_register() {
        let images = [Image::Same(MEASURED)];
        assert!(refused(&images, Tee::Tdx, MEASURED).is_empty());
        let changes = [
            ("mrtd", LaunchRegisters { mrtd: B, ..MEASURED }),
            ("rtmr0", LaunchRegisters { rtmr0: B, ..MEASURED }),
            ("rtmr1", LaunchRegisters { rtmr1: B, ..MEASURED }),
            ("rtmr2", LaunchRegisters { rtmr2: B, ..MEASURED }),
        ];
        for (name, launch) in changes {
            assert_eq!(refused(&images, Tee::Tdx, launch), [format!("images[0].{name}")]);
        }
    }

    #[test]
    fn same_without_measured_firmware_is_for_the_simulator_only() {
        let images = [Image::Same(RTMR2_ONLY)];
        assert!(refused(&images, Tee::Simulator, RTMR2_ONLY).is_empty());
        let zeros = ["images[0].mrtd", "images[0].rtmr0", "images[0].rtmr1"];
        assert_eq!(refused(&images, Tee::Tdx, RTMR2_ONLY), zeros);
    }

    #[test]
    fn same_never_accepts_a_zero_rtmr2() {
        let images = [Image::Same(LaunchRegisters::ZERO)];
        assert_eq!(refused(&images, Tee::Simulator, LaunchRegisters::ZERO), ["images[0].rtmr2"]);
    }

    #[test]
    fn same_accepts_a_listed_rtmr0() {
        let other_shape = LaunchRegisters { rtmr0: B, ..MEASURED };
        let listed = Image::Explicit { mrtd: Some(B), rtmr0: Some(B), rtmr1: None, rtmr2: B };
        assert!(refused(&[Image::Same(MEASURED), listed], Tee::Tdx, other_shape).is_empty());
        // A zero in the list lists nothing.
        let zero = Image::Explicit { mrtd: None, rtmr0: Some(ZERO), rtmr1: None, rtmr2: B };
        let unmeasured = LaunchRegisters { rtmr0: ZERO, ..MEASURED };
        assert_eq!(
            refused(&[Image::Same(MEASURED), zero], Tee::Simulator, unmeasured),
            ["images[0].rtmr0", "images[1].rtmr0", "images[1].rtmr2"]
        );
    }

    #[test]
    fn explicit_compares_what_it_names() {
        assert!(refused(&[explicit_rtmr2(A)], Tee::Simulator, RTMR2_ONLY).is_empty());
        assert!(refused(&[explicit_rtmr2(B), explicit_rtmr2(A)], Tee::Simulator, RTMR2_ONLY).is_empty());
        assert_eq!(refused(&[explicit_rtmr2(B)], Tee::Simulator, RTMR2_ONLY), ["images[0].rtmr2"]);
        let all = Image::Explicit { mrtd: Some(A), rtmr0: Some(A), rtmr1: Some(A), rtmr2: A };
        assert!(refused(std::slice::from_ref(&all), Tee::Tdx, MEASURED).is_empty());
        assert_eq!(refused(&[all], Tee::Tdx, LaunchRegisters { rtmr1: B, ..MEASURED }), ["images[0].rtmr1"]);
    }

    /// Firmware of somebody's own extends what a policy of RTMR2 alone asks for.
    #[test]
    fn a_real_td_needs_its_firmware_and_kernel_compared() {
        let unnamed = ["images[0].mrtd", "images[0].rtmr1"];
        assert_eq!(refused(&[explicit_rtmr2(A)], Tee::Tdx, MEASURED), unnamed);
        let without_acpi = Image::Explicit { mrtd: Some(A), rtmr0: None, rtmr1: Some(A), rtmr2: A };
        assert!(refused(&[without_acpi], Tee::Tdx, MEASURED).is_empty());
    }

    #[test]
    fn a_zero_register_satisfies_no_explicit_value() {
        let all = Image::Explicit { mrtd: Some(A), rtmr0: None, rtmr1: None, rtmr2: A };
        assert_eq!(refused(&[all], Tee::Simulator, RTMR2_ONLY), ["images[0].mrtd"]);
        let zeros = Image::Explicit { mrtd: Some(ZERO), rtmr0: None, rtmr1: None, rtmr2: ZERO };
        let names = ["images[0].mrtd", "images[0].rtmr2"];
        assert_eq!(refused(&[zeros], Tee::Simulator, LaunchRegisters::ZERO), names);
    }

    #[test]
    fn reasons_say_what_was_there() {
        let NotTrusted(reasons) = judge(
            &[Image::Same(MEASURED)],
            &sample::evidence(Tee::Tdx, LaunchRegisters { mrtd: ZERO, ..MEASURED }),
        )
        .unwrap_err();
        let expected = format!("images[0].mrtd: expected our own, {A}, found zero (not measured)");
        assert_eq!(reasons[0].to_string(), expected);
    }
}
