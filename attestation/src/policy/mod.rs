//! The policy file of a relying party: which apps, on which images, on which platforms, how fresh.

mod file;
mod images;
mod rules;

use std::collections::BTreeSet;

use casemate_measure::tdx::aggregated::Hash256;
use casemate_measure::{AppId, ComposeHash, LaunchRegisters, Register};
use serde::{Deserialize, Serialize};

use crate::error::{Class, NotTrusted, PolicyError, Reason};
use crate::evidence::{Evidence, Presented};
use crate::key_provider::ProviderClaim;
use crate::kms::KmsRoot;
use crate::peer::{AuthenticPeer, Binding, VerifiedPeer};
use crate::ratls::CertificateEvidence;
use crate::{Verdict, Verifier, VerifyError, acceptable, kms};

pub use images::PolicyImage;
pub use rules::{Freshness, Platform, TcbRules};

/// A policy that passed its checks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Policy {
    version: u32,
    images: Vec<PolicyImage>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kms: Vec<KmsRoot>,
    apps: Vec<PolicyApp>,
    key_providers: Vec<ProviderClaim>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    os_image_hashes: BTreeSet<Hash256>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    tdx_modules: BTreeSet<Register>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    platforms: Vec<Platform>,
    tcb: TcbRules,
    freshness: Freshness,
}

/// One acceptable app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyApp {
    /// What a person calls it.
    pub name: String,
    /// Its app id.
    pub app_id: AppId,
    /// SHA-256 of its measured document; `null`: any document that its KMS lets bear the app id.
    pub compose_hash: Option<ComposeHash>,
    /// The tags that its document gives it.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// The parts of a policy, unchecked. What is left out is as strict as it can be for a machine that is up to date.
#[derive(Clone, Debug, Default)]
pub struct PolicyParts {
    /// Acceptable images.
    pub images: Vec<PolicyImage>,
    /// KMS roots whose judgement of an image is taken.
    pub kms: Vec<KmsRoot>,
    /// Acceptable apps.
    pub apps: Vec<PolicyApp>,
    /// Acceptable key providers; none given: `none` only.
    pub key_providers: Vec<ProviderClaim>,
    /// Acceptable `os-image-hash` events; none given: not judged.
    pub os_image_hashes: BTreeSet<Hash256>,
    /// Acceptable MRSEAM; none given: whatever Intel signs.
    pub tdx_modules: BTreeSet<Register>,
    /// Acceptable machines; none given: any.
    pub platforms: Vec<Platform>,
    /// What the platform's TCB may be.
    pub tcb: TcbRules,
    /// How fresh it must be.
    pub freshness: Freshness,
}

impl Policy {
    /// Checks the parts. `file` is only named in errors.
    ///
    /// # Errors
    /// Neither an image nor a KMS, no app, a register that nothing can satisfy, rules that contradict each other.
    pub fn new(file: &str, parts: PolicyParts) -> Result<Self, PolicyError> {
        file::check(file, parts)
    }

    /// Reads a policy file. `file` is only named in errors. `own`: the judge's own registers, if it has some to accept as
    /// `same`.
    ///
    /// # Errors
    /// Bad JSON, an unknown or doubled key, another version, `same` without own registers; as [`Policy::new`].
    pub fn from_json(file: &str, json: &[u8], own: Option<&LaunchRegisters>) -> Result<Self, PolicyError> {
        file::read(file, json, own)
    }

    /// The acceptable apps.
    pub fn apps(&self) -> &[PolicyApp] {
        &self.apps
    }

    /// The acceptable images.
    pub fn images(&self) -> &[PolicyImage] {
        &self.images
    }

    /// The acceptable TDX modules (MRSEAM); empty: whatever Intel signs.
    pub const fn tdx_modules(&self) -> &BTreeSet<Register> {
        &self.tdx_modules
    }

    /// The acceptable machines; empty: any.
    pub fn platforms(&self) -> &[Platform] {
        &self.platforms
    }

    /// Whether evidence must be an answer to a challenge.
    pub const fn demands_challenge(&self) -> bool {
        self.freshness.challenge
    }

    /// The verdict on evidence: authentic, and acceptable, at that time.
    pub fn verdict(&self, verifier: &Verifier, presented: &Presented<'_>, now: u64) -> Verdict {
        let peer = verifier.authenticate(presented, now).map(|peer| match presented.evidence {
            Evidence::Certificate(certificate) => self.vouched(peer, certificate, now),
            _ => peer,
        });
        self.verdict_on(peer, now)
    }

    /// The same peer, with a note if one of this policy's KMS vouches for its image: the certificate's chain leads to its
    /// root, and the peer speaks for that certificate's key.
    pub fn vouched(&self, peer: AuthenticPeer, certificate: &CertificateEvidence, now: u64) -> AuthenticPeer {
        kms::vouched(peer, certificate, &self.kms, now)
    }

    /// The verdict on who was authenticated, or why nobody was.
    pub fn verdict_on(&self, peer: Result<AuthenticPeer, VerifyError>, now: u64) -> Verdict {
        match peer {
            Ok(peer) => match self.judge(peer.clone(), now) {
                Ok(verified) => Verdict::Trusted(Box::new(verified)),
                Err(NotTrusted(reasons)) => Verdict::NotTrusted { peer: Some(Box::new(peer)), reasons },
            },
            Err(error @ VerifyError::NoCollateral { .. }) => Verdict::Undecided(error),
            Err(error) => Verdict::NotTrusted { peer: None, reasons: error.into_reasons() },
        }
    }

    /// Whether this peer is acceptable.
    ///
    /// # Errors
    /// Every difference that was found.
    pub fn judge(&self, peer: AuthenticPeer, now: u64) -> Result<VerifiedPeer, NotTrusted> {
        let mut reasons = Vec::new();
        reasons.extend(self.binding(&peer));
        reasons.extend(self.image(&peer));
        reasons.extend(self.os_image(&peer));
        reasons.extend(self.key_provider(&peer));
        reasons.extend(self.tcb.judge(&peer, now));
        reasons.extend(self.module(&peer));
        reasons.extend(rules::platform(&self.platforms, &peer));
        reasons.extend(self.freshness.judge(&peer, now));
        match self.app(&peer) {
            Ok(app) if reasons.is_empty() => Ok(VerifiedPeer { tags: app.tags.clone(), peer }),
            Ok(_) => Err(NotTrusted(reasons)),
            Err(reason) => {
                reasons.push(reason);
                Err(NotTrusted(reasons))
            }
        }
    }

    fn binding(&self, peer: &AuthenticPeer) -> Option<Reason> {
        let found = match peer.binding() {
            Binding::Challenge(..) => return None,
            Binding::Key(_) | Binding::ReportData if !self.freshness.challenge => return None,
            Binding::Key(_) => "evidence for the key alone",
            Binding::ReportData => "evidence for report data",
            Binding::Nothing => "evidence that speaks for nothing that was asked",
        };
        let expected = if self.freshness.challenge {
            "an answer to a challenge"
        } else {
            "evidence for a certificate's key, a challenge, or the report data that was asked for"
        };
        Some(Reason::new(Class::Binding, "evidence", expected, found))
    }

    /// One of the images, or a KMS that judged it.
    fn image(&self, peer: &AuthenticPeer) -> Vec<Reason> {
        // A note of another policy's is none of ours.
        if peer.kms_root.as_ref().is_some_and(|found| self.kms.iter().any(|root| root.is(found))) {
            return Vec::new();
        }
        let images: Vec<_> = self.images.iter().map(PolicyImage::as_image).collect();
        if images.is_empty() {
            let names: Vec<_> = self.kms.iter().map(|root| root.name.as_str()).collect();
            let expected = format!("a certificate that leads to the root of KMS {}", names.join(" or "));
            return vec![Reason::new(Class::Image, "certificate chain", expected, "none that does")];
        }
        acceptable::judge(&images, peer).err().map_or_else(Vec::new, |NotTrusted(reasons)| reasons)
    }

    fn os_image(&self, peer: &AuthenticPeer) -> Option<Reason> {
        let found = peer.os_image_hash();
        let listed = found.is_some_and(|found| self.os_image_hashes.contains(&found));
        (!self.os_image_hashes.is_empty() && !listed).then(|| {
            let found = found.map_or_else(|| "no such event".into(), |hash| hash.to_string());
            Reason::new(Class::Image, "os_image_hash", listing(&self.os_image_hashes), found)
        })
    }

    fn key_provider(&self, peer: &AuthenticPeer) -> Option<Reason> {
        let found = peer.key_provider();
        (!self.key_providers.contains(found))
            .then(|| Reason::new(Class::KeyProvider, "key_provider", listing(&self.key_providers), found))
    }

    fn module(&self, peer: &AuthenticPeer) -> Option<Reason> {
        let found = peer.report().mr_seam;
        let refused = !self.tdx_modules.is_empty() && !self.tdx_modules.contains(&found);
        refused.then(|| Reason::new(Class::Module, "mr_seam", listing(&self.tdx_modules), found))
    }

    fn app(&self, peer: &AuthenticPeer) -> Result<&PolicyApp, Reason> {
        let is_it = |app: &&PolicyApp| {
            app.app_id == peer.app_id()
                && match app.compose_hash {
                    Some(hash) => hash == peer.compose_hash(),
                    None => peer.key_provider().is_kms(),
                }
        };
        self.apps.iter().find(is_it).ok_or_else(|| {
            let shown = |app: &PolicyApp| match app.compose_hash {
                Some(hash) => format!("{} with document {hash} ({})", app.app_id, app.name),
                None => format!("{} of a KMS ({})", app.app_id, app.name),
            };
            let expected = self.apps.iter().map(shown).collect::<Vec<_>>().join(" or ");
            let found = format!("{} with document {}", peer.app_id(), peer.compose_hash());
            Reason::new(Class::App, "app", expected, found)
        })
    }
}

fn listing<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests;
