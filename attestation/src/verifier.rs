//! From evidence to an authentic peer. The order of the checks is dstack's (reference 2.4): a field is read for a
//! verdict only after everything that covers it held.

use std::sync::Arc;

use casemate_measure::log::{Log, replay};
use casemate_measure::tdx::Rtmr;
use casemate_measure::{KeyProvider, MrConfigId};
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QuoteClaims, QuoteCollateralV3, QuotePolicy};
use sha2::{Digest as _, Sha256};

use crate::anchor::TrustAnchor;
use crate::boot_events::{self, BootFacts};
use crate::challenge::{self, EXPORTER_LEN, Nonce};
use crate::collateral::{Collateral, Store, VerifiedCollateral};
use crate::error::{Class, EvidenceError, Reason, VerifyError, printable};
use crate::evidence::{Evidence, Presented};
use crate::peer::{AuthenticEvidence, AuthenticPeer, AuthenticQuote, Binding, Key};
use crate::platform::PlatformKind;
use crate::quote::{self, TdReport};
use crate::ratls::{self, Attestation, CertificateEvidence};

/// Trust anchors, and the collateral at hand. The time is an argument of each call.
pub struct Verifier {
    trusted: Vec<Trusted>,
    store: Arc<Store>,
}

struct Trusted {
    anchor: TrustAnchor,
    verifier: QuoteVerifier,
    /// What is used where the store has nothing: the simulator's, which is fixed.
    built_in: Option<Collateral>,
}

impl Verifier {
    /// A verifier that believes these anchors, and looks collateral up in that store. The simulator's is built in.
    pub fn new(anchors: impl IntoIterator<Item = TrustAnchor>, store: Arc<Store>) -> Self {
        let trusted = anchors
            .into_iter()
            .map(|anchor| Trusted { anchor, verifier: anchor.quote_verifier(), built_in: built_in(anchor) })
            .collect();
        Self { trusted, store }
    }

    /// Where collateral is looked up.
    pub const fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Authenticates evidence of any kind as it was presented.
    ///
    /// # Errors
    /// The first check that does not hold.
    pub fn authenticate(
        &self,
        presented: &Presented<'_>,
        now_unix: u64,
    ) -> Result<AuthenticPeer, VerifyError> {
        let evidence = match presented.evidence {
            Evidence::Certificate(certificate) => {
                let peer = self.certificate(certificate, now_unix)?;
                check_firmware_log(presented.firmware_log, peer.report())?;
                return match presented.report_data {
                    None => Ok(peer),
                    Some(_) => {
                        let found = "a certificate, whose evidence speaks for its key";
                        Err(Reason::new(Class::Binding, "report data", "evidence for those asked for", found)
                            .into())
                    }
                };
            }
            Evidence::Attestation(attestation) => self.verify_attestation(attestation, now_unix)?,
            Evidence::Quote(raw) => {
                self.verify_quote(raw, now_unix)?;
                let what = "a quote with its event log (nothing else says which app it is)";
                return Err(Reason::new(Class::Log, "event log", what, "none").into());
            }
            Evidence::SevSnp(_) => {
                return Err(EvidenceError::NotImplemented { what: "AMD SEV-SNP".into() }.into());
            }
        };
        check_firmware_log(presented.firmware_log, evidence.report())?;
        let binding = match presented.report_data {
            None => Binding::Nothing,
            Some(expected) if expected == evidence.report_data() => Binding::ReportData,
            Some(expected) => {
                let found = hex::encode(evidence.report_data());
                return Err(Reason::new(Class::Binding, "report data", hex::encode(expected), found).into());
            }
        };
        Ok(AuthenticPeer { evidence, binding, kms_root: None })
    }

    /// Verifies the evidence in a certificate and its binding to the certificate's key.
    ///
    /// The caller must have seen the peer prove that it holds the key (a TLS handshake does).
    ///
    /// # Errors
    /// The first check that does not hold.
    pub fn verify_certificate(&self, cert_der: &[u8], now_unix: u64) -> Result<AuthenticPeer, VerifyError> {
        self.certificate(&ratls::from_certificate(cert_der)?, now_unix)
    }

    fn certificate(
        &self,
        certificate: &CertificateEvidence,
        now_unix: u64,
    ) -> Result<AuthenticPeer, VerifyError> {
        check_validity(certificate, now_unix)?;
        let attestation = &certificate.attestation;
        let expected = ratls::report_data_for_key(&certificate.spki_der);
        if attestation.report_data != expected {
            return Err(not_for_key("ratls-cert:", &expected, &attestation.report_data));
        }
        let evidence = self.verify_attestation(attestation, now_unix)?;
        Ok(AuthenticPeer { evidence, binding: Binding::Key(key(certificate)), kms_root: None })
    }

    /// Verifies the answer to a challenge: evidence for this nonce, this connection and the key of its certificate.
    ///
    /// The caller must have seen the peer prove that it holds the key in that connection, and must have taken the exporter
    /// from it ([`challenge::EXPORTER_LABEL`], empty context).
    ///
    /// # Errors
    /// The first check that does not hold.
    pub fn verify_challenge(
        &self,
        cert_der: &[u8],
        answer: &Attestation,
        nonce: &Nonce,
        exporter: &[u8; EXPORTER_LEN],
        now_unix: u64,
    ) -> Result<AuthenticPeer, VerifyError> {
        let certificate = ratls::from_certificate(cert_der)?;
        check_validity(&certificate, now_unix)?;
        let expected = challenge::report_data(nonce, exporter, &certificate.spki_der);
        if answer.report_data != expected {
            return Err(not_for_key("casemate-challenge:, nonce, exporter", &expected, &answer.report_data));
        }
        let evidence = self.verify_attestation(answer, now_unix)?;
        let binding = Binding::Challenge(key(&certificate), *nonce);
        Ok(AuthenticPeer { evidence, binding, kms_root: None })
    }

    /// Verifies an attestation that no certificate carries. What its report data mean is the caller's to judge.
    ///
    /// # Errors
    /// The first check that does not hold.
    pub fn verify_attestation(
        &self,
        attestation: &Attestation,
        now_unix: u64,
    ) -> Result<AuthenticEvidence, VerifyError> {
        let quote = self.verify_quote(&attestation.quote, now_unix)?;
        let replayed = attestation.events.replay();
        if replayed != quote.rtmr3() {
            let expected =
                format_args!("a log that replays to the quote's RTMR3, {}", quote.rtmr3()).to_string();
            return Err(Reason::new(Class::Log, "event log", expected, replayed).into());
        }
        if *quote.report_data() != attestation.report_data {
            let expected = format!("the quote's, {}", hex::encode(quote.report_data()));
            let found = hex::encode(attestation.report_data);
            return Err(Reason::new(Class::Binding, "report data", expected, found).into());
        }
        let facts = boot_events::read(&attestation.events)?;
        check_identity(&facts, quote.report())?;
        let BootFacts { app_id, compose_hash, instance_id, key_provider, os_image_hash } = facts;
        Ok(AuthenticEvidence { quote, app_id, compose_hash, instance_id, key_provider, os_image_hash })
    }

    /// Verifies a quote alone: signature chain, revocation, TCB and attributes, by the root that the quote's own chain
    /// names. Its RTMR3 means nothing without the event log.
    ///
    /// # Errors
    /// The first check that does not hold; [`VerifyError::NoCollateral`] if such a platform is not known yet.
    pub fn verify_quote(&self, raw: &[u8], now_unix: u64) -> Result<AuthenticQuote, VerifyError> {
        let (trusted, platform) = self.trusted_root(raw)?;
        if let Some(found) = self.store.find(trusted.anchor, platform) {
            return trusted.verify(raw, platform, found.collateral(), now_unix);
        }
        match &trusted.built_in {
            Some(collateral) => trusted.verify(raw, platform, collateral, now_unix),
            None => Err(VerifyError::NoCollateral { anchor: trusted.anchor.name(), platform }),
        }
    }

    /// As [`Self::verify_quote`], with this collateral, whatever the store has.
    ///
    /// # Errors
    /// The first check that does not hold.
    pub fn verify_quote_with(
        &self,
        raw: &[u8],
        collateral: &Collateral,
        now_unix: u64,
    ) -> Result<AuthenticQuote, VerifyError> {
        let (trusted, platform) = self.trusted_root(raw)?;
        trusted.verify(raw, platform, collateral, now_unix)
    }

    /// Verifies collateral by the genuine quote that it was brought for. Only then may it be stored, and only for
    /// platforms of that kind.
    ///
    /// # Errors
    /// The first check of either that does not hold.
    pub fn verify_collateral(
        &self,
        raw: &[u8],
        collateral: Collateral,
        now_unix: u64,
    ) -> Result<VerifiedCollateral, VerifyError> {
        let (trusted, platform) = self.trusted_root(raw)?;
        let quote = trusted.verify(raw, platform, &collateral, now_unix)?;
        let expires = quote.collateral_expires();
        Ok(VerifiedCollateral { anchor: trusted.anchor, platform, collateral, expires })
    }

    /// The trusted root that the quote's own chain ends with, and what kind of platform it says to be. Unverified.
    fn trusted_root(&self, raw: &[u8]) -> Result<(&Trusted, PlatformKind), VerifyError> {
        let [pck, _, root] = quote::certificate_chain(raw)?;
        let fingerprint: [u8; 32] = Sha256::digest(&root).into();
        let trusted = self.trusted.iter().find(|t| t.anchor.fingerprint() == fingerprint);
        let trusted = trusted.ok_or_else(|| self.unknown_root(&root, fingerprint))?;
        Ok((trusted, PlatformKind::of_pck(&pck)?))
    }

    fn unknown_root(&self, root: &[u8], fingerprint: [u8; 32]) -> VerifyError {
        let names: Vec<_> = self.trusted.iter().map(|trusted| trusted.anchor.name()).collect();
        let expected = format!("made by {}", names.join(" or "));
        let known = TrustAnchor::KNOWN.iter().find(|anchor| anchor.fingerprint() == fingerprint);
        let found = known.map_or_else(
            || {
                let subject = x509_parser::parse_x509_certificate(root).map_or_else(
                    |_| "unreadable".into(),
                    |(_, certificate)| certificate.subject().to_string(),
                );
                format!("an unknown root, SHA-256 {} ({})", hex::encode(fingerprint), printable(&subject))
            },
            |known| format!("{}, which this verifier was not told to trust", known.name()),
        );
        Reason::new(Class::Root, "quote", expected, found).into()
    }
}

/// Collateral that belongs to an anchor itself.
fn built_in(anchor: TrustAnchor) -> Option<Collateral> {
    match anchor {
        TrustAnchor::Intel => None,
        #[cfg(feature = "simulator")]
        TrustAnchor::Simulator => crate::simulator::collateral(),
    }
}

impl Trusted {
    fn verify(
        &self,
        raw: &[u8],
        platform: PlatformKind,
        collateral: &Collateral,
        now_unix: u64,
    ) -> Result<AuthenticQuote, VerifyError> {
        // Statuses are the caller's policy to judge; what no policy may accept is refused all the same.
        let any_status = QuotePolicy::claims_only(now_unix);
        let claims = self
            .verifier
            .verify_with_policy(raw, collateral.parts(), now_unix, &any_status)
            .map_err(|error| self.refusal(raw, collateral, now_unix, &format!("{error:#}")))?;
        // What collateral was looked up by, and is kept under, must be what the verified certificate says.
        let verified = claims.platform.pck.fmspc;
        if verified != platform.fmspc {
            let expected = format!("a certificate chain with one reading, {platform}");
            let found = format_args!("FMSPC {}", hex::encode_upper(verified)).to_string();
            return Err(Reason::new(Class::Form, "quote: PCK certificate chain", expected, found).into());
        }
        Ok(AuthenticQuote {
            tee: self.anchor.tee(),
            report: signed_report(&claims)?,
            claims: Arc::new(claims),
            collateral_times: *collateral.times(),
        })
    }

    /// A refusal that says which chain was bad: only with good collateral does `dcap-qvl` get as far as the quote's own.
    fn refusal(&self, raw: &[u8], collateral: &Collateral, now_unix: u64, text: &str) -> VerifyError {
        if quote::is_of_some_chain(text) {
            let without = QuoteCollateralV3 {
                pck_certificate_chain: Some(String::new()),
                ..collateral.parts().clone()
            };
            let found = self.verifier.verify(raw, &without, now_unix).err();
            if !found.is_some_and(|error| format!("{error:#}").contains(quote::NO_CHAIN)) {
                let what = "collateral that dcap-qvl verifies";
                return Reason::new(Class::Collateral, "collateral", what, printable(text)).into();
            }
        }
        refusal(text)
    }
}

fn refusal(text: &str) -> VerifyError {
    Reason::new(quote::class_of_refusal(text), "quote", "one that dcap-qvl verifies", printable(text)).into()
}

/// The report that the quote's signature covers.
fn signed_report(claims: &QuoteClaims) -> Result<TdReport, VerifyError> {
    let report = claims.report.as_td10().ok_or_else(|| refusal("not a TD report"))?;
    let report = TdReport::from(report);
    // Both are also `dcap-qvl`'s checks (attributes; module signer by the TCB info). A second lock on this door costs
    // nothing, and survives a change of that crate's defaults.
    if report.is_debug() {
        return Err(refusal("Debug mode is enabled"));
    }
    if !report.mr_signer_seam.is_zero() {
        return Err(refusal("TDX module: not signed by Intel"));
    }
    Ok(report)
}

fn check_validity(certificate: &CertificateEvidence, now: u64) -> Result<(), VerifyError> {
    let CertificateEvidence { not_before, not_after, .. } = certificate;
    if !(*not_before..=*not_after).contains(&now) {
        let expected = format!("valid from {not_before} to {not_after} (Unix seconds)");
        return Err(Reason::new(Class::Validity, "certificate", expected, format_args!("now {now}")).into());
    }
    Ok(())
}

fn key(certificate: &CertificateEvidence) -> Key {
    Key { spki_sha256: Sha256::digest(&certificate.spki_der).into(), not_after: certificate.not_after }
}

fn not_for_key(tag: &str, expected: &[u8; 64], found: &[u8; 64]) -> VerifyError {
    let expected = format!("{} (SHA-512 of {tag} and the certificate's key)", hex::encode(expected));
    Reason::new(Class::Binding, "report data", expected, hex::encode(found)).into()
}

/// What the firmware logged, if that was shown, must lead to the quote's RTMR0 to RTMR2. Nothing in it is read for a verdict.
fn check_firmware_log(log: Option<&Log>, report: &TdReport) -> Result<(), VerifyError> {
    let Some(log) = log else { return Ok(()) };
    let replayed = replay(log);
    for (rtmr, quoted) in [Rtmr::Rtmr0, Rtmr::Rtmr1, Rtmr::Rtmr2].into_iter().zip(report.rtmr) {
        let register = replayed.register(rtmr).map(|replayed| replayed.register);
        if register != Some(quoted) {
            let expected = format!("a log that replays to the quote's {rtmr}, {quoted}");
            let found = register.map_or_else(|| "none".into(), |register| register.to_string());
            return Err(Reason::new(Class::Log, "firmware log", expected, found).into());
        }
    }
    Ok(())
}

/// App id and MRCONFIGID must follow from the compose hash. A KMS gives app ids of its own.
fn check_identity(facts: &BootFacts, report: &TdReport) -> Result<(), VerifyError> {
    let of_document = facts.compose_hash.app_id();
    if facts.app_id != of_document && !facts.key_provider.is_kms() {
        let expected = format!("{of_document} (the start of the compose hash, since there is no KMS)");
        return Err(Reason::new(Class::Identity, "app id", expected, facts.app_id).into());
    }
    let found = report.mr_config_id;
    let [version, ..] = found.0;
    let expected = match version {
        1 => MrConfigId::v1(&facts.compose_hash),
        2 => {
            let id = hex::decode(&facts.key_provider.id).unwrap_or_default();
            let provider = match facts.key_provider.name.as_str() {
                "kms" => KeyProvider::Kms(id),
                "local-sgx" => KeyProvider::Local(id),
                "tpm" => KeyProvider::Tpm,
                _ => KeyProvider::None,
            };
            MrConfigId::v2(&facts.compose_hash, &facts.app_id, &provider)
        }
        // Zero binds nothing (a baked document); version 3 hashes a document that the evidence does not carry. The
        // guest checks that one, and RTMR2 says which guest.
        _ => found,
    };
    if expected != found {
        let expected = format!("{expected} (from the log's compose hash)");
        return Err(Reason::new(Class::Identity, "MRCONFIGID", expected, found).into());
    }
    Ok(())
}
