#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod acceptable;
mod anchor;
mod boot_events;
pub mod challenge;
pub mod collateral;
mod error;
pub mod evidence;
mod key_provider;
mod kms;
mod peer;
mod platform;
pub mod policy;
pub mod quote;
pub mod ratls;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod tls;
mod verdict;
mod verifier;

pub use anchor::{Tee, TrustAnchor};
/// Intel's (or the simulator's) signed statements about a platform, as `dcap-qvl` and PCCS clients write them.
pub use dcap_qvl::QuoteCollateralV3;
/// How current the platform's trusted computing base is, as the collateral's signer sees it. `Revoked` is refused.
pub use dcap_qvl::TcbStatus;
pub use error::{Class, EvidenceError, NotTrusted, PolicyError, Reason, VerifyError};
pub use evidence::{Evidence, Presented};
pub use key_provider::ProviderClaim;
pub use kms::KmsRoot;
pub use peer::{AuthenticEvidence, AuthenticPeer, AuthenticQuote, Binding, Key, VerifiedPeer};
pub use platform::{Ca, PlatformKind};
pub use policy::{Policy, PolicyApp, PolicyImage, PolicyParts};
pub use verdict::Verdict;
pub use verifier::Verifier;
