//! Which kind of machine a quote comes from: what collateral is for.

use std::fmt;

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

impl fmt::Display for PlatformKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FMSPC {} ({} CA)", hex::encode_upper(self.fmspc), self.ca.word())
    }
}
