//! Everything that can be wrong with evidence, as matchable values.

use std::fmt;

/// Evidence that cannot be read: nothing was verified yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// Neither the attestation extension nor the older pair is there.
    #[error(
        "certificate: expected the RA-TLS attestation extension (1.3.6.1.4.1.62397.1.8, or .1 with .2), found none"
    )]
    NoExtension,
    /// The older form's quote came without its event log.
    #[error("certificate: expected the event log (1.3.6.1.4.1.62397.1.2) beside the quote (.1), found none")]
    NoEventLog,
    /// An extension occurs twice.
    #[error("certificate: extension {oid}: expected at most one, found more")]
    DuplicateExtension {
        /// Dotted object identifier.
        oid: String,
    },
    /// A bound was exceeded.
    #[error("{what}: expected at most {limit} bytes, found {found}")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// The bound in bytes.
        limit: usize,
        /// The size in bytes.
        found: usize,
    },
    /// Something does not have the form it must have.
    #[error("{what}: expected {expected}, found {found}")]
    Malformed {
        /// Which part.
        what: String,
        /// The right form.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A form that exists elsewhere, and that this version does not read.
    #[error("not implemented in this version: {what}")]
    NotImplemented {
        /// The form.
        what: String,
    },
}

impl EvidenceError {
    pub(crate) fn malformed(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl fmt::Display,
    ) -> Self {
        Self::Malformed { what: what.into(), expected: expected.into(), found: printable(&found.to_string()) }
    }
}

/// Why evidence is not authentic, or cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// It cannot be read.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// The certificate is not valid yet.
    #[error("certificate: valid from {not_before}, now is {now} (Unix seconds)")]
    NotYetValid {
        /// First valid second.
        not_before: u64,
        /// The caller's time.
        now: u64,
    },
    /// The certificate is not valid any more.
    #[error("certificate: valid until {not_after}, now is {now} (Unix seconds)")]
    Expired {
        /// Last valid second.
        not_after: u64,
        /// The caller's time.
        now: u64,
    },
    /// The evidence was made for another key.
    #[error(
        "report data: expected {expected} (SHA-512 of \"ratls-cert:\" and the certificate's key), found {found}"
    )]
    ReportDataNotForKey {
        /// What this key's evidence would carry, hex.
        expected: String,
        /// What the evidence carries, hex.
        found: String,
    },
    /// The quote carries other report data than the attestation says.
    #[error("report data: the attestation says {attestation}, the quote {quote}")]
    ReportDataNotQuoted {
        /// In the attestation, hex.
        attestation: String,
        /// In the quote, hex.
        quote: String,
    },
    /// The quote's certificate chain ends at a root that this verifier does not know.
    #[error("quote: certificate chain ends at an unknown root, SHA-256 {fingerprint} ({subject})")]
    UnknownRoot {
        /// SHA-256 of the root certificate, hex.
        fingerprint: String,
        /// Its subject, as it says of itself.
        subject: String,
    },
    /// The quote's root is known, and this verifier was not told to trust it.
    #[error("quote: made by {found}, which this verifier was not told to trust")]
    AnchorNotTrusted {
        /// Whose root.
        found: &'static str,
    },
    /// The quote's root is trusted, and there is no collateral to judge the platform by.
    #[error("quote: made by {anchor}: no collateral at hand (TCB info, QE identity, revocation lists)")]
    NoCollateral {
        /// Whose root.
        anchor: &'static str,
    },
    /// Signature chain, revocation, TCB or attributes: the reason in the quote verifier's words.
    #[error("quote: {0}")]
    Quote(String),
    /// The event log does not lead to the quote's RTMR3.
    #[error("event log: replays to RTMR3 {replayed}, the quote says {quoted}")]
    Rtmr3 {
        /// In the quote, hex.
        quoted: String,
        /// From the log, hex.
        replayed: String,
    },
    /// The log replays, and is not the log of a boot.
    #[error("event log: event {index} ({name}): expected {expected}, found {found}")]
    BootEvent {
        /// Its position, from 0; the length of the log where one is missing.
        index: usize,
        /// Its name, or the missing one's.
        name: String,
        /// The rule.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The app's keys come from a provider whose rules are not carried out yet.
    #[error("event log: key-provider {provider}: not implemented in this version (only \"none\")")]
    KeyProvider {
        /// Its name, as the log says it.
        provider: String,
    },
    /// Without a KMS an app id is the start of the compose hash; this one is not.
    #[error(
        "app id: expected {expected} (the start of the compose hash, since there is no KMS), found {found}"
    )]
    AppIdNotOfDocument {
        /// From the compose hash, hex.
        expected: String,
        /// In the log, hex.
        found: String,
    },
    /// MRCONFIGID was bound to another document.
    #[error("MRCONFIGID: expected {expected} (from the log's compose hash), found {found}")]
    ConfigId {
        /// From the log, hex.
        expected: String,
        /// In the quote, hex.
        found: String,
    },
    /// Authentic, and not acceptable.
    #[error(transparent)]
    NotTrusted(#[from] NotTrusted),
}

/// Authentic evidence of something that the policy does not accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not trusted: {}", reasons(.0))]
pub struct NotTrusted(pub Vec<Reason>);

/// One difference between what is acceptable and what is there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reason {
    /// Which value, such as `images[0].rtmr2`.
    pub what: String,
    /// What would have been accepted.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl Reason {
    pub(crate) fn new(
        what: impl Into<String>,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self { what: what.into(), expected: expected.to_string(), found: found.to_string() }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.what, self.expected, self.found)
    }
}

/// A policy file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {path}: {problem}")]
pub struct PolicyError {
    /// The file's name, as the caller gave it.
    pub file: String,
    /// Where in the file.
    pub path: String,
    /// Expectation and finding.
    pub problem: String,
}

fn reasons(list: &[Reason]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Text of hostile origin, safe for a terminal and a log, at most 200 characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}
