//! The measured document, `app-compose.json`: strict reading, then checked types.

use crate::identity::{AppId, ComposeHash, KeyProvider};
use crate::section::Section;

/// Whose column of the table of dstack's fields judges the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Our own image.
    Appliance,
    /// A container under stock dstack.
    Container,
}

/// A document that passed every check; nothing but [`MeasuredConfig::parse`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredConfig {
    compose_hash: ComposeHash,
    name: String,
    key_provider: KeyProvider,
    section: Section,
}

/// Why a document was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Placeholder until the reader lands.
    #[error("{0}")]
    Other(String),
}

impl MeasuredConfig {
    /// Reads and checks a document. `file` is only named in errors.
    ///
    /// # Errors
    /// The first thing that is wrong: file, path, expectation, finding.
    pub fn parse(_file: &str, _document: &[u8], _platform: Platform) -> Result<Self, DocumentError> {
        Err(DocumentError::Other("the reader has not landed".into()))
    }

    /// SHA-256 of the document's bytes.
    pub const fn compose_hash(&self) -> ComposeHash {
        self.compose_hash
    }

    /// The app id without a KMS.
    pub fn app_id(&self) -> AppId {
        self.compose_hash.app_id()
    }

    /// dstack's `name`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where keys come from.
    pub const fn key_provider(&self) -> &KeyProvider {
        &self.key_provider
    }

    /// The `casemate` section.
    pub const fn section(&self) -> &Section {
        &self.section
    }
}
