//! Why the TDX hardware, or the kernel before it, did not do what it was asked.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use casemate_verify::EvidenceError;

/// Why the TDX hardware, or the kernel before it, did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TdxError {
    /// A system call failed, also after the retries that it deserved.
    #[error("{path}: {action}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A file, a report or a log is not what it must be.
    #[error("{what}: expected {expected}, found {found}")]
    Unexpected {
        /// The file, or what it holds, and the field.
        what: String,
        /// What must be there.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The firmware's log cannot be read.
    #[error(transparent)]
    BootLog(#[from] casemate_measure::log::Problem),
    /// The quote cannot be read.
    #[error("the TEE's quote: {0}")]
    Quote(#[from] EvidenceError),
}

impl TdxError {
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }

    pub(super) fn unexpected(what: impl Display, expected: impl Display, found: impl Display) -> Self {
        Self::Unexpected { what: what.to_string(), expected: expected.to_string(), found: found.to_string() }
    }

    /// The errno, for a status frame.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            Self::Unexpected { .. } | Self::BootLog(_) | Self::Quote(_) => None,
        }
    }
}
