//! Whose signature a verifier believes.

use dcap_qvl::verify::QuoteVerifier;
use serde::Serialize;

/// What made the evidence. AMD SEV-SNP has its place beside these, and no code yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tee {
    /// An Intel TDX module.
    Tdx,
    /// The simulated TEE: its key is public, it protects nothing.
    Simulator,
}

/// A root of trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TrustAnchor {
    /// Intel's SGX root CA, as `dcap-qvl` carries it.
    Intel,
    /// The simulated TEE's root. Its key is public: whoever trusts it trusts everybody.
    #[cfg(feature = "simulator")]
    Simulator,
}

impl TrustAnchor {
    /// Every anchor that this build knows.
    pub(crate) const KNOWN: &[Self] = &[
        Self::Intel,
        #[cfg(feature = "simulator")]
        Self::Simulator,
    ];

    /// Whose it is, for messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Intel => "an Intel TDX module",
            #[cfg(feature = "simulator")]
            Self::Simulator => "the simulated TEE",
        }
    }

    pub(crate) const fn tee(self) -> Tee {
        match self {
            Self::Intel => Tee::Tdx,
            #[cfg(feature = "simulator")]
            Self::Simulator => Tee::Simulator,
        }
    }

    /// SHA-256 of the root certificate, DER.
    pub(crate) fn fingerprint(self) -> [u8; 32] {
        match self {
            Self::Intel => INTEL_ROOT_SHA256,
            #[cfg(feature = "simulator")]
            Self::Simulator => {
                use sha2::Digest as _;
                sha2::Sha256::digest(SIMULATOR_ROOT_DER).into()
            }
        }
    }

    pub(crate) fn quote_verifier(self) -> QuoteVerifier {
        match self {
            Self::Intel => QuoteVerifier::new_prod(),
            #[cfg(feature = "simulator")]
            Self::Simulator => QuoteVerifier::new(SIMULATOR_ROOT_DER.to_vec()),
        }
    }
}

/// SHA-256 of Intel's "SGX Root CA" certificate as its provisioning certification service publishes it. It only
/// selects which root judges a quote; the judgement is `dcap-qvl`'s, by the root that it carries.
const INTEL_ROOT_SHA256: [u8; 32] = [
    0x44, 0xa0, 0x19, 0x6b, 0x2b, 0x99, 0xf8, 0x89, 0xb8, 0xe1, 0x49, 0xe9, 0x5b, 0x80, 0x7a, 0x35, 0x0e,
    0x74, 0x24, 0x96, 0x43, 0x99, 0xe8, 0x85, 0xa7, 0xcb, 0xb8, 0xcc, 0xfa, 0xb6, 0x74, 0xd3,
];

/// The simulated TEE's root certificate, DER.
#[cfg(feature = "simulator")]
pub(crate) const SIMULATOR_ROOT_DER: &[u8] = include_bytes!("simulator/root.der");
