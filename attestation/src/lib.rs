#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod acceptable;
mod anchor;
mod boot_events;
mod error;
mod peer;
mod policy;
pub mod quote;
pub mod ratls;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod tls;
mod verifier;

pub use anchor::TrustAnchor;
/// Intel's (or the simulator's) signed statements about a platform: TCB info, QE identity, revocation lists.
pub use dcap_qvl::QuoteCollateralV3;
/// How current the platform's trusted computing base is, as the collateral's signer sees it. `Revoked` is refused.
pub use dcap_qvl::TcbStatus;
pub use error::{EvidenceError, NotTrusted, PolicyError, Reason, VerifyError};
pub use peer::{AuthenticEvidence, AuthenticPeer, AuthenticQuote, Tee, VerifiedPeer};
pub use policy::{Policy, PolicyApp, PolicyImage};
pub use verifier::Verifier;
