//! Everything that a machine of an image must show, as `cargo measure image --json` prints it and `cargo measure diff` reads it.

use serde::{Deserialize, Serialize};

use super::aggregated::Hash256;
use super::event::{Digest, Event, Rtmr, fold};
use crate::identity::MrConfigId;
use crate::register::{LaunchRegisters, Register};

/// Version of the JSON form.
pub const VERSION: u32 = 1;

/// The longest file that is read: 16 MiB. Thirty events have 12 KiB, and so has each alternative at most.
pub const MAX_BYTES: usize = 16 << 20;

/// What is expected. A register is not stored but folded from its events; one without events is zero, and one of which
/// nobody could say what is extended has an event that is [`Digest::Unpinned`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Form", into = "Form")]
pub struct Expected {
    /// Firmware.
    pub mrtd: Register,
    /// What the host binds at launch; `None`: not judged.
    pub mrconfigid: Option<MrConfigId>,
    /// SHA-256 of the image directory's `sha256sum.txt`.
    pub os_image_hash: Option<Hash256>,
    /// dstack's name for image and key provider.
    pub mr_system: Option<Hash256>,
    /// dstack's name for all registers.
    pub mr_aggregated: Option<Hash256>,
    /// Every extension of RTMR0 to RTMR3; of one register in order.
    pub events: Vec<Event>,
    /// What it would be with other inputs: what a difference is explained with.
    pub alternatives: Vec<Alternative>,
}

/// The same machine with one input changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alternative {
    /// The input, as a person says it: `memory 4 GiB`, `QEMU 10.2 or later (kernel header not patched)`.
    pub label: String,
    /// MRTD, if it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mrtd: Option<Register>,
    /// All events of each register that changes; a register without events here is as expected.
    pub events: Vec<Event>,
}

impl Alternative {
    /// Another machine's expectation, less what is the same in this one.
    pub fn new(label: impl Into<String>, expected: &Expected, other: &Expected) -> Self {
        let changes = |rtmr: &Rtmr| !expected.of(*rtmr).eq(other.of(*rtmr));
        let changed: Vec<_> = Rtmr::ALL.into_iter().filter(changes).collect();
        Self {
            label: label.into(),
            mrtd: (expected.mrtd != other.mrtd).then_some(other.mrtd),
            events: other.events.iter().filter(|event| changed.contains(&event.rtmr)).cloned().collect(),
        }
    }

    /// The events of one register, in order; none if it is as expected.
    pub fn of(&self, rtmr: Rtmr) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.rtmr == rtmr)
    }
}

impl Expected {
    /// The events of one register, in order.
    pub fn of(&self, rtmr: Rtmr) -> impl Iterator<Item = &Event> {
        self.events.iter().filter(move |event| event.rtmr == rtmr)
    }

    /// A register; `None` if an event of it is not pinned.
    pub fn register(&self, rtmr: Rtmr) -> Option<Register> {
        fold(self.of(rtmr))
    }

    /// The registers of the launch, if all are pinned; MRCONFIGID zero if it is not judged.
    pub fn launch(&self) -> Option<LaunchRegisters> {
        Some(LaunchRegisters {
            mrtd: self.mrtd,
            rtmr0: self.register(Rtmr::Rtmr0)?,
            rtmr1: self.register(Rtmr::Rtmr1)?,
            rtmr2: self.register(Rtmr::Rtmr2)?,
            mrconfigid: self.mrconfigid.unwrap_or(MrConfigId::ZERO),
        })
    }

    /// Whether an event of the register is not pinned.
    pub fn is_unpinned(&self, rtmr: Rtmr) -> bool {
        self.of(rtmr).any(|event| event.digest == Digest::Unpinned)
    }

    /// Reads the JSON form. `file` is what errors call it.
    ///
    /// # Errors
    /// If it is too long, another form or version, or a register is not what its events make.
    pub fn read(file: &str, bytes: &[u8]) -> Result<Self, ExpectedError> {
        let refuse = |problem: String| ExpectedError { file: file.to_owned(), problem };
        if bytes.len() > MAX_BYTES {
            return Err(refuse(format!("expected at most {MAX_BYTES} bytes, found {}", bytes.len())));
        }
        serde_json::from_slice(bytes).map_err(|error| {
            let words: String = error.to_string().chars().take(200).flat_map(char::escape_debug).collect();
            refuse(format!("expected the output of `cargo measure image --json`, found {words}"))
        })
    }
}

/// Why an expectation was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct ExpectedError {
    /// The file as the caller named it.
    pub file: String,
    /// What is wrong with it: one printable line.
    pub problem: String,
}

/// The JSON form: with the registers, for readers that do not fold.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    version: u32,
    mrtd: Register,
    /// `null`: not pinned.
    rtmr0: Option<Register>,
    rtmr1: Option<Register>,
    rtmr2: Option<Register>,
    rtmr3: Option<Register>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mrconfigid: Option<MrConfigId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    os_image_hash: Option<Hash256>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mr_system: Option<Hash256>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mr_aggregated: Option<Hash256>,
    events: Vec<Event>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    alternatives: Vec<Alternative>,
}

impl From<Expected> for Form {
    fn from(expected: Expected) -> Self {
        let [rtmr0, rtmr1, rtmr2, rtmr3] = Rtmr::ALL.map(|rtmr| expected.register(rtmr));
        Self {
            version: VERSION,
            mrtd: expected.mrtd,
            rtmr0,
            rtmr1,
            rtmr2,
            rtmr3,
            mrconfigid: expected.mrconfigid,
            os_image_hash: expected.os_image_hash,
            mr_system: expected.mr_system,
            mr_aggregated: expected.mr_aggregated,
            events: expected.events,
            alternatives: expected.alternatives,
        }
    }
}

impl TryFrom<Form> for Expected {
    type Error = String;

    fn try_from(form: Form) -> Result<Self, String> {
        if form.version != VERSION {
            return Err(format!("version: expected {VERSION}, found {}", form.version));
        }
        let stated = [form.rtmr0, form.rtmr1, form.rtmr2, form.rtmr3];
        let expected = Self {
            mrtd: form.mrtd,
            mrconfigid: form.mrconfigid,
            os_image_hash: form.os_image_hash,
            mr_system: form.mr_system,
            mr_aggregated: form.mr_aggregated,
            events: form.events,
            alternatives: form.alternatives,
        };
        let words = |register: Option<Register>| {
            register.map_or_else(|| "null (not pinned)".to_owned(), |register| register.to_string())
        };
        for (rtmr, stated) in Rtmr::ALL.into_iter().zip(stated) {
            let folded = expected.register(rtmr);
            if folded != stated {
                let (name, folded, stated) = (rtmr.index(), words(folded), words(stated));
                return Err(format!("rtmr{name}: expected {folded} by its events, found {stated}"));
            }
        }
        Ok(expected)
    }
}
