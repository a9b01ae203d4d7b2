//! Where a TDX machine has what a machine with a TPM has in a PCR.

use super::event::Rtmr;

/// UEFI 2.10 section 38.4.1; edk2 `TdMapPcrToMrIndex`. `None` for PCR 0, which MRTD stands for, and beyond 15.
pub const fn rtmr(pcr: u32) -> Option<Rtmr> {
    match pcr {
        1 | 7 => Some(Rtmr::Rtmr0),
        2..=6 => Some(Rtmr::Rtmr1),
        8..=15 => Some(Rtmr::Rtmr2),
        _ => None,
    }
}
