//! The answer, for a person and for a program.

mod json;
mod stages;
mod table;

use casemate_verify::ratls::{self, CertificateEvidence};
use casemate_verify::{Evidence, Policy};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Stop;
use super::verdict::Verdict;

/// What was judged, as far as the table names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It could not be read, or nobody answered.
    Unread,
    /// A certificate, alone or from a handshake.
    Certificate(Shown),
    /// The answer to a challenge, beside that certificate.
    Challenge(Shown),
    /// A quote with its log, and the firmware's log if that is there.
    Attestation { firmware_log: bool },
    /// A quote alone.
    Quote,
    /// A report of another TEE.
    Other,
}

/// A certificate's length of chain and validity (Unix seconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shown {
    chain: usize,
    not_before: u64,
    not_after: u64,
    firmware_log: bool,
}

impl Shown {
    fn of(certificate: &CertificateEvidence, firmware_log: bool) -> Self {
        let CertificateEvidence { not_before, not_after, chain, .. } = certificate;
        Self { chain: chain.len(), not_before: *not_before, not_after: *not_after, firmware_log }
    }
}

impl Kind {
    pub(super) fn of(evidence: &Evidence, firmware_log: bool) -> Self {
        match evidence {
            Evidence::Certificate(certificate) => Self::Certificate(Shown::of(certificate, firmware_log)),
            Evidence::Attestation(_) => Self::Attestation { firmware_log },
            Evidence::Quote(_) => Self::Quote,
            _ => Self::Other,
        }
    }

    /// Of a challenge, by the chain of its connection.
    pub(super) fn challenge(chain: &[Vec<u8>]) -> Result<Self, Stop> {
        let certificate =
            ratls::from_chain(chain).map_err(|error| Verdict::NotAuthentic(vec![error.into()]))?;
        Ok(Self::Challenge(Shown::of(&certificate, false)))
    }

    const fn certificate(&self) -> Option<&Shown> {
        match self {
            Self::Certificate(shown) | Self::Challenge(shown) => Some(shown),
            _ => None,
        }
    }

    fn has_firmware_log(&self) -> bool {
        match self {
            Self::Attestation { firmware_log } => *firmware_log,
            kind => kind.certificate().is_some_and(|shown| shown.firmware_log),
        }
    }
}

/// A verdict, and what it is about.
pub(super) struct Report<'a> {
    pub(super) target: &'a str,
    pub(super) verdict: &'a Verdict,
    pub(super) kind: Kind,
    pub(super) policy: Option<&'a Policy>,
    pub(super) now: u64,
}

impl Report<'_> {
    /// The stable form that `verdict.schema.json` describes.
    pub(super) fn json(&self) -> String {
        json::of(self)
    }

    /// The table for a person.
    pub(super) fn text(&self) -> String {
        table::of(self)
    }
}

/// A time as a person reads it.
fn rfc3339(unix: u64) -> String {
    let time = i64::try_from(unix).ok().and_then(|unix| OffsetDateTime::from_unix_timestamp(unix).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{unix} (Unix seconds)"))
}
