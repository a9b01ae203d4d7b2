//! Who is there: values that only the verifier makes, each holding one more proof than the one inside it.

use std::ops::Deref;
use std::sync::Arc;

use casemate_measure::tdx::aggregated::Hash256;
use casemate_measure::{AppId, ComposeHash, InstanceId, LaunchRegisters, Register};
use dcap_qvl::{QuoteClaims, TcbStatus};

use crate::anchor::Tee;
use crate::challenge::Nonce;
use crate::collateral::Times;
use crate::key_provider::ProviderClaim;
use crate::quote::TdReport;

/// A quote whose signatures, revocation state and attributes hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticQuote {
    pub(crate) tee: Tee,
    pub(crate) report: TdReport,
    /// What `dcap-qvl` found, for its policy.
    pub(crate) claims: Arc<QuoteClaims>,
    pub(crate) collateral_times: Times,
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
    pub fn tcb_status(&self) -> TcbStatus {
        self.claims.tcb.status
    }

    /// The advisories of the collateral's signer that apply to the platform.
    pub fn advisory_ids(&self) -> &[String] {
        &self.claims.tcb.advisory_ids
    }

    /// The platform's PPID: which processor package (or, on a multi-package platform, which platform).
    pub fn ppid(&self) -> &[u8] {
        &self.claims.platform.pck.ppid
    }

    /// The platform instance, new with each registration of a multi-package platform; others have none.
    pub fn platform_instance_id(&self) -> Option<&[u8; 16]> {
        self.claims.platform.pck.platform_instance_id.as_ref()
    }

    /// Family, model, stepping, platform type, custom SKU.
    pub fn fmspc(&self) -> &[u8; 6] {
        &self.claims.platform.pck.fmspc
    }

    /// When the collateral that this rests on was signed.
    pub const fn collateral_times(&self) -> &Times {
        &self.collateral_times
    }

    /// When the first piece of that collateral expires, signing certificates included, Unix seconds.
    pub fn collateral_expires(&self) -> u64 {
        self.claims.earliest_expiration_date
    }
}

/// An authentic quote with the event log that leads to its RTMR3. Says who is there, not whether that is acceptable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticEvidence {
    pub(crate) quote: AuthenticQuote,
    pub(crate) app_id: AppId,
    pub(crate) compose_hash: ComposeHash,
    pub(crate) instance_id: Option<InstanceId>,
    pub(crate) key_provider: ProviderClaim,
    pub(crate) os_image_hash: Option<Hash256>,
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

    /// Where the app's keys come from, as its boot says.
    pub const fn key_provider(&self) -> &ProviderClaim {
        &self.key_provider
    }

    /// What the `os-image-hash` event says, if there is one (dstack writes it where a KMS answered).
    pub const fn os_image_hash(&self) -> Option<Hash256> {
        self.os_image_hash
    }
}

impl Deref for AuthenticEvidence {
    type Target = AuthenticQuote;

    fn deref(&self) -> &AuthenticQuote {
        &self.quote
    }
}

/// What evidence speaks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// The key of a certificate, whenever that was quoted.
    Key(Key),
    /// The key of a certificate in one connection, quoted for one nonce.
    Challenge(Key, Nonce),
    /// Report data that the verifier asked for.
    ReportData,
    /// Nothing that the verifier knows of: such a machine once was.
    Nothing,
}

/// A certificate's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// SHA-256 of the SubjectPublicKeyInfo, DER.
    pub spki_sha256: [u8; 32],
    /// The certificate's last valid second, Unix.
    pub not_after: u64,
}

/// Authentic evidence, and what it speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticPeer {
    pub(crate) evidence: AuthenticEvidence,
    pub(crate) binding: Binding,
    /// The KMS root that the certificate's chain leads to, by its SubjectPublicKeyInfo (DER), if the policy names one.
    pub(crate) kms_root: Option<Arc<[u8]>>,
}

impl AuthenticPeer {
    /// What the evidence speaks for.
    pub const fn binding(&self) -> &Binding {
        &self.binding
    }

    /// The certificate's key, if it speaks for one.
    pub const fn key(&self) -> Option<&Key> {
        match &self.binding {
            Binding::Key(key) | Binding::Challenge(key, _) => Some(key),
            Binding::ReportData | Binding::Nothing => None,
        }
    }

    /// The last second at which this counts: then certificate or collateral expire, Unix.
    pub fn expires(&self) -> u64 {
        let certificate = self.key().map_or(u64::MAX, |key| key.not_after);
        certificate.min(self.collateral_expires())
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

/// Values for unit tests: a real quote's, changed where a test says.
#[cfg(test)]
pub(crate) mod sample {
    use super::*;
    use crate::collateral::Collateral;
    use crate::{TrustAnchor, Verifier};

    /// When [`quote`]'s collateral is valid.
    pub(crate) const VALID: u64 = 1_750_329_600;

    pub(crate) fn quote() -> AuthenticQuote {
        let collateral = include_str!("../tests/fixtures/tdx_quote_collateral.json");
        let collateral = Collateral::from_json(collateral.as_bytes()).unwrap();
        let verifier = Verifier::new([TrustAnchor::Intel], Arc::default());
        let quote = include_bytes!("../tests/fixtures/tdx_quote");
        verifier.verify_quote_with(quote, &collateral, VALID).unwrap()
    }

    pub(crate) fn evidence(tee: Tee, launch: LaunchRegisters) -> AuthenticEvidence {
        let quote = quote();
        let report = TdReport {
            mrtd: launch.mrtd,
            mr_config_id: launch.mrconfigid,
            rtmr: [launch.rtmr0, launch.rtmr1, launch.rtmr2, Register::ZERO],
            ..quote.report
        };
        AuthenticEvidence {
            quote: AuthenticQuote { tee, report, ..quote },
            app_id: ComposeHash([0x11; 32]).app_id(),
            compose_hash: ComposeHash([0x11; 32]),
            instance_id: None,
            key_provider: ProviderClaim::none(),
            os_image_hash: None,
        }
    }

    pub(crate) fn peer(tee: Tee, launch: LaunchRegisters) -> AuthenticPeer {
        let key = Key { spki_sha256: [0; 32], not_after: VALID + 86_400 };
        AuthenticPeer { evidence: evidence(tee, launch), binding: Binding::Key(key), kms_root: None }
    }
}
