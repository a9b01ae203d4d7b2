//! `services[].dstack` of the measured document.

use casemate_measure::section;
use serde::{Deserialize, Serialize};

/// Where the appliance derives keys of its own, such as its identity on the VPN: out of every service's reach.
const OWN_KEYS: &str = "casemate/";

/// What one service may ask of the guest agent, beside `Version` and `Info`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceDstack {
    /// Key paths that it may derive; a `*` at the end is any rest.
    pub get_key: Vec<String>,
    /// Quotes that it may ask for.
    pub quote: ServiceQuote,
}

/// `services[].dstack.quote`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceQuote {
    /// None.
    #[serde(rename = "none")]
    None,
    /// Over a hash of `app-data:` and what it gives.
    #[serde(rename = "app-data")]
    AppData,
    /// Over whatever it gives, and certificates: it can speak as the appliance.
    #[serde(rename = "raw")]
    Raw,
}

impl ServiceDstack {
    /// Whether it may derive the key of that path: never one of our own. Bytes are compared as the agent will see them: it normalises nothing.
    pub(super) fn may_derive(&self, path: &str) -> bool {
        if path.starts_with(OWN_KEYS) {
            return false;
        }
        self.get_key.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(stem) => path.starts_with(stem),
            None => path == allowed,
        })
    }
}

impl ServiceQuote {
    /// The document's word.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::AppData => "app-data",
            Self::Raw => "raw",
        }
    }
}

impl From<&section::ServiceDstack> for ServiceDstack {
    fn from(measured: &section::ServiceDstack) -> Self {
        let quote = match measured.quote {
            section::ServiceQuote::None => ServiceQuote::None,
            section::ServiceQuote::AppData => ServiceQuote::AppData,
            section::ServiceQuote::Raw => ServiceQuote::Raw,
        };
        Self { get_key: measured.get_key.clone(), quote }
    }
}
