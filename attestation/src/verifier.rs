//! From evidence to an authentic peer. The order of the checks is dstack's (reference 2.4): a field is read for a
//! verdict only after everything that covers it held.

use casemate_measure::{KeyProvider, MrConfigId};
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{Policy as QuotePolicy, QuoteClaims, QuoteCollateralV3};
use sha2::{Digest as _, Sha256};

use crate::anchor::TrustAnchor;
use crate::boot_events::{self, BootFacts};
use crate::error::{VerifyError, printable};
use crate::peer::{AuthenticEvidence, AuthenticPeer, AuthenticQuote};
use crate::quote::{self, TdReport};
use crate::ratls::{self, Attestation};

/// Trust anchors, each with its collateral. The time is an argument of each call.
pub struct Verifier {
    trusted: Vec<Trusted>,
}

struct Trusted {
    anchor: TrustAnchor,
    verifier: QuoteVerifier,
    collateral: Option<QuoteCollateralV3>,
}

impl Verifier {
    /// A verifier that believes these anchors. Intel's needs collateral to judge anything; the simulator's is built in
    /// and used where `None` is given.
    pub fn new(anchors: Vec<(TrustAnchor, Option<QuoteCollateralV3>)>) -> Self {
        let trusted = anchors
            .into_iter()
            .map(|(anchor, collateral)| Trusted {
                anchor,
                verifier: anchor.quote_verifier(),
                collateral: match anchor {
                    TrustAnchor::Intel => collateral,
                    #[cfg(feature = "simulator")]
                    TrustAnchor::Simulator => collateral.or_else(crate::simulator::collateral),
                },
            })
            .collect();
        Self { trusted }
    }

    /// Verifies the evidence in a certificate and its binding to the certificate's key.
    ///
    /// The caller must have seen the peer prove that it holds the key (a TLS handshake does).
    ///
    /// # Errors
    /// The first check that does not hold.
    pub fn verify_certificate(&self, cert_der: &[u8], now_unix: u64) -> Result<AuthenticPeer, VerifyError> {
        let certificate = ratls::from_certificate(cert_der)?;
        let ratls::CertificateEvidence { attestation, spki_der, not_before, not_after } = certificate;
        if now_unix < not_before {
            return Err(VerifyError::NotYetValid { not_before, now: now_unix });
        }
        if now_unix > not_after {
            return Err(VerifyError::Expired { not_after, now: now_unix });
        }
        let expected = ratls::report_data_for_key(&spki_der);
        if attestation.report_data != expected {
            return Err(VerifyError::ReportDataNotForKey {
                expected: hex::encode(expected),
                found: hex::encode(attestation.report_data),
            });
        }
        let evidence = self.verify_attestation(&attestation, now_unix)?;
        Ok(AuthenticPeer { evidence, spki_sha256: Sha256::digest(&spki_der).into(), not_after })
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
            return Err(VerifyError::Rtmr3 {
                quoted: quote.rtmr3().to_string(),
                replayed: replayed.to_string(),
            });
        }
        if *quote.report_data() != attestation.report_data {
            return Err(VerifyError::ReportDataNotQuoted {
                attestation: hex::encode(attestation.report_data),
                quote: hex::encode(quote.report_data()),
            });
        }
        let facts = boot_events::read(&attestation.events)?;
        facts.require_no_key_provider()?;
        check_identity(&facts, quote.report())?;

        let BootFacts { app_id, compose_hash, instance_id, key_provider } = facts;
        Ok(AuthenticEvidence { quote, app_id, compose_hash, instance_id, key_provider })
    }

    /// Verifies a quote alone: signature chain, revocation, TCB and attributes, by the root that the quote's own chain
    /// names. Its RTMR3 means nothing without the event log.
    ///
    /// # Errors
    /// The first check that does not hold.
    pub fn verify_quote(&self, raw: &[u8], now_unix: u64) -> Result<AuthenticQuote, VerifyError> {
        let [_, _, root] = quote::certificate_chain(raw)?;
        let fingerprint: [u8; 32] = Sha256::digest(&root).into();
        let Some(trusted) = self.trusted.iter().find(|t| t.anchor.fingerprint() == fingerprint) else {
            return Err(unknown_root(&root, fingerprint));
        };
        let anchor = trusted.anchor;
        let Some(collateral) = &trusted.collateral else {
            return Err(VerifyError::NoCollateral { anchor: anchor.name() });
        };
        let claims = trusted
            .verifier
            .verify_with_policy(raw, collateral, now_unix, &ClaimsForAppraisal)
            .map_err(|error| VerifyError::Quote(printable(&format!("{error:#}"))))?;
        Ok(AuthenticQuote {
            tee: anchor.tee(),
            report: signed_report(&claims)?,
            tcb_status: claims.tcb.status,
            advisory_ids: claims.tcb.advisory_ids,
            collateral_expires: claims.earliest_expiration_date,
        })
    }
}

/// `dcap-qvl` refuses revoked platforms, debug and service TDs by itself; the TCB status is a value of the peer. (Its trait
/// asks for an `anyhow` result, which never leaves this impl.)
struct ClaimsForAppraisal;

impl QuotePolicy for ClaimsForAppraisal {
    fn validate(&self, _claims: &QuoteClaims) -> anyhow::Result<()> {
        Ok(())
    }
}

/// The report that the quote's signature covers.
fn signed_report(claims: &QuoteClaims) -> Result<TdReport, VerifyError> {
    let report = claims.report.as_td10().ok_or_else(|| VerifyError::Quote("not a TD report".into()))?;
    let report = TdReport::from(report);
    // Both are also `dcap-qvl`'s checks (attributes; module signer by the TCB info). A second lock on this door costs
    // nothing, and survives a change of that crate's defaults.
    if report.is_debug() {
        return Err(VerifyError::Quote("the TD runs in debug mode".into()));
    }
    if !report.mr_signer_seam.is_zero() {
        return Err(VerifyError::Quote("the TDX module is not signed by Intel".into()));
    }
    Ok(report)
}

/// App id and MRCONFIGID must follow from the compose hash.
fn check_identity(facts: &BootFacts, report: &TdReport) -> Result<(), VerifyError> {
    let of_document = facts.compose_hash.app_id();
    if facts.app_id != of_document {
        return Err(VerifyError::AppIdNotOfDocument {
            expected: of_document.to_string(),
            found: facts.app_id.to_string(),
        });
    }
    let found = report.mr_config_id;
    let [version, ..] = found.0;
    let expected = match version {
        1 => MrConfigId::v1(&facts.compose_hash),
        2 => MrConfigId::v2(&facts.compose_hash, &facts.app_id, &KeyProvider::None),
        // Zero binds nothing (a baked document); version 3 hashes a document that the evidence does not carry. The
        // guest checks that one, and RTMR2 says which guest.
        _ => found,
    };
    if expected != found {
        return Err(VerifyError::ConfigId { expected: expected.to_string(), found: found.to_string() });
    }
    Ok(())
}

fn unknown_root(root: &[u8], fingerprint: [u8; 32]) -> VerifyError {
    if let Some(known) = TrustAnchor::KNOWN.iter().find(|anchor| anchor.fingerprint() == fingerprint) {
        return VerifyError::AnchorNotTrusted { found: known.name() };
    }
    let subject = x509_parser::parse_x509_certificate(root)
        .map_or_else(|_| "unreadable".into(), |(_, certificate)| certificate.subject().to_string());
    VerifyError::UnknownRoot { fingerprint: hex::encode(fingerprint), subject: printable(&subject) }
}
