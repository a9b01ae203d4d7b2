//! Everything that can be wrong with evidence, as matchable values.

use std::fmt;

use crate::platform::PlatformKind;

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
    /// Nothing that is known as evidence.
    #[error(
        "expected a TDX quote, an answer of a dstack agent, an attestation, a certificate or an event log"
    )]
    Unknown,
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
    /// Read, and refused: the reason.
    #[error("{0}")]
    Refused(Reason),
    /// The quote's root is trusted, and there is no collateral for such a platform. Fetch some and try again.
    #[error(
        "quote: made by {anchor} on a platform of {platform}: no collateral at hand (TCB info, QE identity, revocation lists)"
    )]
    NoCollateral {
        /// Whose root.
        anchor: &'static str,
        /// What collateral is needed for.
        platform: PlatformKind,
    },
    /// Authentic, and not acceptable.
    #[error(transparent)]
    NotTrusted(#[from] NotTrusted),
}

impl VerifyError {
    /// What is wrong, in the form of a verdict.
    pub fn into_reasons(self) -> Vec<Reason> {
        match self {
            Self::Evidence(error) => vec![error.into()],
            Self::Refused(reason) => vec![reason],
            Self::NoCollateral { anchor, platform } => {
                let expected = format!("collateral for {anchor} on a platform of {platform}");
                vec![Reason::new(Class::Collateral, "collateral", expected, "none")]
            }
            Self::NotTrusted(NotTrusted(reasons)) => reasons,
        }
    }

    /// The class of the first reason.
    pub fn class(&self) -> Class {
        match self {
            Self::Evidence(error) => error.class(),
            Self::Refused(reason) => reason.class,
            Self::NoCollateral { .. } => Class::Collateral,
            Self::NotTrusted(NotTrusted(reasons)) => {
                reasons.first().map_or(Class::Policy, |reason| reason.class)
            }
        }
    }
}

impl EvidenceError {
    const fn class(&self) -> Class {
        match self {
            Self::NotImplemented { .. } => Class::NotImplemented,
            _ => Class::Form,
        }
    }
}

impl From<EvidenceError> for Reason {
    fn from(error: EvidenceError) -> Self {
        let class = error.class();
        let text = error.to_string();
        match error {
            EvidenceError::Malformed { what, expected, found } => Self { class, what, expected, found },
            EvidenceError::TooLarge { what, limit, found } => {
                Self::new(class, what, format_args!("at most {limit} bytes"), found)
            }
            EvidenceError::NotImplemented { what } => {
                Self::new(class, "evidence", "a form of this version", what)
            }
            EvidenceError::NoExtension => Self::new(
                class,
                "certificate",
                "the RA-TLS attestation extension (1.3.6.1.4.1.62397.1.8, or .1 with .2)",
                "none",
            ),
            EvidenceError::NoEventLog => {
                Self::new(class, "certificate", "the event log (.2) beside the quote (.1)", "none")
            }
            EvidenceError::DuplicateExtension { oid } => {
                Self::new(class, format!("certificate: extension {oid}"), "at most one", "more")
            }
            EvidenceError::Unknown => Self::new(class, "evidence", "a form that is known", text),
        }
    }
}

/// Authentic evidence of something that the policy does not accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not trusted: {}", reasons(.0))]
pub struct NotTrusted(pub Vec<Reason>);

/// What kind of reason it is. The words of the JSON form; later versions may add some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Class {
    /// It cannot be read.
    Form,
    /// It is of a form or TEE that this version does not judge.
    NotImplemented,
    /// A certificate is not valid at that time.
    Validity,
    /// The evidence is for another key, connection, nonce or report data, or for none.
    Binding,
    /// The quote's certificates lead to a root that is not trusted.
    Root,
    /// Collateral is missing, not signed, for another platform, expired, or of the future.
    Collateral,
    /// A signature of the quote, or a certificate of its chain, does not hold.
    Signature,
    /// A certificate, or the platform's TCB, is revoked.
    Revocation,
    /// Debug, a service TD, migration, or another attribute that no verifier accepts.
    Attributes,
    /// An event log does not lead to the registers of the quote.
    Log,
    /// The log leads there, and is not the log of a boot.
    BootEvent,
    /// App id, compose hash and MRCONFIGID do not belong together.
    Identity,
    /// The image is not acceptable.
    Image,
    /// The app is not acceptable.
    App,
    /// The key provider is not acceptable.
    KeyProvider,
    /// The platform's TCB is not acceptable.
    Tcb,
    /// The TDX module is not acceptable.
    Module,
    /// The platform itself is not acceptable.
    Platform,
    /// The evidence or the collateral is not fresh enough.
    Freshness,
    /// The policy accepts nothing.
    Policy,
}

impl Class {
    /// Its word in the JSON form.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::NotImplemented => "not-implemented",
            Self::Validity => "validity",
            Self::Binding => "binding",
            Self::Root => "root",
            Self::Collateral => "collateral",
            Self::Signature => "signature",
            Self::Revocation => "revocation",
            Self::Attributes => "attributes",
            Self::Log => "log",
            Self::BootEvent => "boot-event",
            Self::Identity => "identity",
            Self::Image => "image",
            Self::App => "app",
            Self::KeyProvider => "key-provider",
            Self::Tcb => "tcb",
            Self::Module => "module",
            Self::Platform => "platform",
            Self::Freshness => "freshness",
            Self::Policy => "policy",
        }
    }
}

/// One difference between what is acceptable and what is there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Reason {
    /// What kind of reason.
    pub class: Class,
    /// Which value, such as `images[0].rtmr2`.
    pub what: String,
    /// What would have been accepted.
    pub expected: String,
    /// What is there.
    pub found: String,
}

impl Reason {
    pub(crate) fn new(
        class: Class,
        what: impl Into<String>,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Self {
        Self { class, what: what.into(), expected: expected.to_string(), found: found.to_string() }
    }
}

impl From<Reason> for VerifyError {
    fn from(reason: Reason) -> Self {
        Self::Refused(reason)
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
