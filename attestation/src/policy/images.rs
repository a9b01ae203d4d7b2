//! The images of a policy: registers, the output of `cargo measure image --json` as it is, or `same`.

use casemate_measure::tdx::{Expected, Rtmr};
use casemate_measure::{LaunchRegisters, Register};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::acceptable::Image;

/// One acceptable image. A register that is `null` or absent is not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyImage {
    /// What a person calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Firmware.
    #[serde(default)]
    pub mrtd: Option<Register>,
    /// Firmware configuration and ACPI.
    #[serde(default)]
    pub rtmr0: Option<Register>,
    /// Kernel.
    #[serde(default)]
    pub rtmr1: Option<Register>,
    /// Command line and initramfs, thus the code: always compared.
    pub rtmr2: Register,
}

impl From<&LaunchRegisters> for PolicyImage {
    /// The registers that were measured; a zero one becomes `null`.
    fn from(launch: &LaunchRegisters) -> Self {
        let measured = |register: Register| (!register.is_zero()).then_some(register);
        Self {
            name: None,
            mrtd: measured(launch.mrtd),
            rtmr0: measured(launch.rtmr0),
            rtmr1: measured(launch.rtmr1),
            rtmr2: launch.rtmr2,
        }
    }
}

impl PolicyImage {
    /// What `cargo measure image` computed.
    ///
    /// # Errors
    /// A register of which nobody could say what is extended.
    pub fn of_expected(expected: &Expected) -> Result<Self, String> {
        let pinned = |rtmr: Rtmr| {
            let refused =
                || format!("expected every event of {rtmr} with its digest, found one that is not pinned");
            expected
                .register(rtmr)
                .ok_or_else(refused)
                .map(|register| (!register.is_zero()).then_some(register))
        };
        Ok(Self {
            name: None,
            mrtd: Some(expected.mrtd),
            rtmr0: pinned(Rtmr::Rtmr0)?,
            rtmr1: pinned(Rtmr::Rtmr1)?,
            rtmr2: pinned(Rtmr::Rtmr2)?.unwrap_or(Register::ZERO),
        })
    }

    pub(super) const fn as_image(&self) -> Image {
        Image::Explicit { mrtd: self.mrtd, rtmr0: self.rtmr0, rtmr1: self.rtmr1, rtmr2: self.rtmr2 }
    }

    /// Every register that is compared, by name.
    pub(super) fn named(&self) -> [(&'static str, Option<Register>); 4] {
        [("mrtd", self.mrtd), ("rtmr0", self.rtmr0), ("rtmr1", self.rtmr1), ("rtmr2", Some(self.rtmr2))]
    }
}

/// Which form an entry has.
#[derive(Deserialize)]
struct Peek {
    events: Option<serde::de::IgnoredAny>,
}

/// Reads one entry of `images`.
pub(super) fn read(entry: &RawValue, own: Option<&LaunchRegisters>) -> Result<PolicyImage, String> {
    let text = entry.get();
    if text.starts_with('"') {
        let word: String = serde_json::from_str(text).map_err(|error| error.to_string())?;
        return match (word.as_str(), own) {
            ("same", Some(own)) => Ok(PolicyImage { name: Some(word), ..PolicyImage::from(own) }),
            ("same", None) => {
                Err("expected registers (who judges has none of its own here), found \"same\"".into())
            }
            _ => Err(format!("expected \"same\" or an object, found {text}")),
        };
    }
    let peek: Peek = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if peek.events.is_some() {
        let expected: Expected = serde_json::from_str(text)
            .map_err(|error| format!("expected the output of `cargo measure image --json`, found {error}"))?;
        return PolicyImage::of_expected(&expected);
    }
    serde_json::from_str(text).map_err(|error| error.to_string())
}
