//! Why a stage failed.

use casemate_measure::status::Reason;

/// What the status frame says (reason, detail, digest) and what the development console says (text).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code.
    pub reason: Reason,
    /// An errno or a number that belongs to the reason; else 0.
    pub detail: u64,
    /// What it is about; else zero.
    pub digest: [u8; 32],
    /// For people; never leaves a production image.
    pub text: String,
}

impl Failure {
    /// A failure without a number.
    pub fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, detail: 0, digest: [0; 32], text: text.into() }
    }

    /// A failed system call.
    pub fn errno(reason: Reason, what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        let detail = error.raw_os_error().and_then(|code| u64::try_from(code).ok()).unwrap_or(0);
        Self { detail, ..Self::new(reason, format!("{what}: {error}")) }
    }

    /// The same with a digest.
    #[must_use]
    pub const fn about(mut self, digest: [u8; 32]) -> Self {
        self.digest = digest;
        self
    }

    /// The same with a number.
    #[must_use]
    pub const fn numbered(mut self, detail: u64) -> Self {
        self.detail = detail;
        self
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}
