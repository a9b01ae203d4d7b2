//! One extension of a runtime register, as we expect it: which register, what kind, which digest, and where from.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::register::Register;

/// A runtime register of a trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rtmr {
    /// Firmware configuration, ACPI, boot variables (TPM PCR 1 and 7; UEFI 2.10 section 38.4.1).
    Rtmr0,
    /// Boot applications: the kernel (PCR 2 to 6).
    Rtmr1,
    /// Command line and initramfs (PCR 8 to 15).
    Rtmr2,
    /// What the guest's own software measures.
    Rtmr3,
}

impl Rtmr {
    /// All four, in order.
    pub const ALL: [Self; 4] = [Self::Rtmr0, Self::Rtmr1, Self::Rtmr2, Self::Rtmr3];

    /// 0 to 3.
    pub const fn index(self) -> u8 {
        self as u8
    }

    /// Of an index from 0 to 3.
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|rtmr| u32::from(rtmr.index()) == index)
    }
}

impl fmt::Display for Rtmr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RTMR{}", self.index())
    }
}

/// The type of an event in a TCG log (TCG PC Client Platform Firmware Profile, "Event Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventType(pub u32);

/// What the firmware or the guest extended a register with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Digest {
    /// Computed from its definition.
    Known(Register),
    /// Nobody gave the input that it depends on: the register cannot be known either.
    Unpinned,
}

/// One expected extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Into which register.
    pub rtmr: Rtmr,
    /// Its type in the log.
    pub event_type: EventType,
    /// What it is, in a few words: `TD HOB`, `SecureBoot`, `kernel`.
    pub name: String,
    /// With what.
    pub digest: Digest,
    /// What the digest came from: a file, a value, a constant and its definition.
    pub origin: String,
}

/// A register as events make it, from zero; `None` if one of them is not pinned.
pub fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Option<Register> {
    events.into_iter().try_fold(Register::ZERO, |register, event| match &event.digest {
        Digest::Known(digest) => Some(register.extended(digest)),
        Digest::Unpinned => None,
    })
}
