//! Which machine made a quote, as far as its PCK certificate says (Intel SGX PCK Certificate and CRL Profile, section 1.3.5).

use std::fmt;

use dcap_qvl::config::PckCa;
use dcap_qvl::intel;

use crate::error::EvidenceError;

/// What collateral is for: all platforms of one kind whose certificates one CA signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlatformKind {
    /// Family, model, stepping, platform type, custom SKU.
    pub fmspc: [u8; 6],
    /// Who signs the platform's certificate.
    pub ca: Ca,
}

/// Intel's two intermediates below the SGX root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ca {
    /// "Intel SGX PCK Processor CA".
    Processor,
    /// "Intel SGX PCK Platform CA".
    Platform,
}

impl Ca {
    /// As it stands in requests to a PCCS.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Processor => "processor",
            Self::Platform => "platform",
        }
    }
}

impl PlatformKind {
    /// As a PCK certificate says, unverified.
    pub(crate) fn of_pck(pck_der: &[u8]) -> Result<Self, EvidenceError> {
        let malformed =
            |error| EvidenceError::malformed("quote: PCK certificate", "Intel's extension", error);
        let extension = intel::parse_pck_extension(pck_der).map_err(malformed)?;
        let ca = match intel::pck_ca(pck_der).map_err(malformed)? {
            PckCa::Processor => Ca::Processor,
            PckCa::Platform => Ca::Platform,
        };
        Ok(Self { fmspc: extension.fmspc, ca })
    }

    /// As the quote's own PCK certificate says, unverified.
    ///
    /// # Errors
    /// A quote that cannot be read.
    pub fn of_quote(quote: &[u8]) -> Result<Self, EvidenceError> {
        let [pck, ..] = crate::quote::certificate_chain(quote)?;
        Self::of_pck(&pck)
    }
}

impl fmt::Display for PlatformKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FMSPC {} ({} CA)", hex::encode_upper(self.fmspc), self.ca.word())
    }
}
