//! What the `key-provider` event says: who made the app's keys (dstack reference 3.1).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::printable;

/// A key provider by its name and id, as an event says it and as a policy names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderClaim {
    /// `none`, `kms`, `local-sgx` or `tpm`.
    pub name: String,
    /// Of a KMS the SubjectPublicKeyInfo of its root (DER), of a local one its MRENCLAVE; lower-case hex, else empty.
    #[serde(default)]
    pub id: String,
}

impl ProviderClaim {
    /// Nobody: keys are made at each boot.
    pub fn none() -> Self {
        Self { name: "none".into(), id: String::new() }
    }

    /// Whether a KMS handed the keys out; it then also decided who may bear the app id.
    pub fn is_kms(&self) -> bool {
        self.name == "kms"
    }

    /// Whether it is one of dstack's, with an id exactly where it has one.
    pub(crate) fn is_known(&self) -> bool {
        let lower_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
        match self.name.as_str() {
            "none" | "tpm" => self.id.is_empty(),
            "kms" | "local-sgx" => !self.id.is_empty() && self.id.chars().all(lower_hex),
            _ => false,
        }
    }

    /// Reads the event's payload; `None` if it is not of that form.
    pub(crate) fn of_event(payload: &str) -> Option<Self> {
        serde_json::from_str(payload).ok()
    }
}

impl fmt::Display for ProviderClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.name))?;
        if self.id.is_empty() { Ok(()) } else { write!(f, " {}", printable(&self.id)) }
    }
}
