//! Who is there: values that only the verifier makes, each holding one more proof than the one inside it.

use std::ops::Deref;

use casemate_measure::{AppId, ComposeHash, InstanceId, LaunchRegisters, Register};
use dcap_qvl::TcbStatus;
use serde::Serialize;

use crate::quote::TdReport;

/// What made the evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Tee {
    /// An Intel TDX module.
    Tdx,
    /// The simulated TEE: its key is public, it protects nothing.
    Simulator,
}

/// A quote whose signatures, revocation state and attributes hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticQuote {
    pub(crate) tee: Tee,
    pub(crate) report: TdReport,
    pub(crate) tcb_status: TcbStatus,
    pub(crate) advisory_ids: Vec<String>,
    pub(crate) collateral_expires: u64,
}

impl AuthenticQuote {
    /// What made the quote.
    pub const fn tee(&self) -> Tee {
        self.tee
    }

    /// The signed report.
    pub const fn report(&self) -> &TdReport {
        &self.report
    }

    /// MRTD, RTMR0-2 and MRCONFIGID.
    pub const fn launch(&self) -> LaunchRegisters {
        self.report.launch()
    }

    /// RTMR3.
    pub const fn rtmr3(&self) -> Register {
        self.report.rtmr3()
    }

    /// What the guest put into the quote.
    pub const fn report_data(&self) -> &[u8; 64] {
        &self.report.report_data
    }

    /// How current the platform is. Never `Revoked`.
    pub const fn tcb_status(&self) -> TcbStatus {
        self.tcb_status
    }

    /// The advisories of the collateral's signer that apply to the platform.
    pub fn advisory_ids(&self) -> &[String] {
        &self.advisory_ids
    }

    /// When the first piece of the collateral that this rests on expires, Unix seconds.
    pub const fn collateral_expires(&self) -> u64 {
        self.collateral_expires
    }
}

/// An authentic quote with the event log that leads to its RTMR3. Says who is there, not whether that is acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticEvidence {
    pub(crate) quote: AuthenticQuote,
    pub(crate) app_id: AppId,
    pub(crate) compose_hash: ComposeHash,
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) key_provider: String,
}

impl AuthenticEvidence {
    /// The app.
    pub const fn app_id(&self) -> AppId {
        self.app_id
    }

    /// The measured document.
    pub const fn compose_hash(&self) -> ComposeHash {
        self.compose_hash
    }

    /// The instance, unless its document says `no_instance_id`.
    pub const fn instance_id(&self) -> Option<InstanceId> {
        self.instance_id
    }

    /// The payload of the `key-provider` event.
    pub fn key_provider(&self) -> &str {
        &self.key_provider
    }
}

impl Deref for AuthenticEvidence {
    type Target = AuthenticQuote;

    fn deref(&self) -> &AuthenticQuote {
        &self.quote
    }
}

/// Authentic evidence that is bound to the key of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticPeer {
    pub(crate) evidence: AuthenticEvidence,
    pub(crate) spki_sha256: [u8; 32],
    pub(crate) not_after: u64,
}

impl AuthenticPeer {
    /// SHA-256 of the certificate's SubjectPublicKeyInfo, DER.
    pub const fn spki_sha256(&self) -> &[u8; 32] {
        &self.spki_sha256
    }

    /// The certificate's last valid second, Unix.
    pub const fn not_after(&self) -> u64 {
        self.not_after
    }
}

impl Deref for AuthenticPeer {
    type Target = AuthenticEvidence;

    fn deref(&self) -> &AuthenticEvidence {
        &self.evidence
    }
}

/// An authentic peer that a policy, or the mesh's list of images, accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPeer {
    pub(crate) peer: AuthenticPeer,
    pub(crate) tags: Vec<String>,
}

impl VerifiedPeer {
    /// The tags that the policy gives to this app; empty where images alone were judged.
    pub fn tags(&self) -> &[String] {
        &self.tags
    }
}

impl Deref for VerifiedPeer {
    type Target = AuthenticPeer;

    fn deref(&self) -> &AuthenticPeer {
        &self.peer
    }
}
