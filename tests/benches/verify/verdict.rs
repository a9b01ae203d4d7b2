//! A real dstack machine's attestation, judged whole, and by `dcap-qvl` alone.

use anyhow::{Context as _, ensure};
use casemate_measure::ComposeHash;
use casemate_verify::collateral::Collateral;
use casemate_verify::evidence::{Detected, detect};
use casemate_verify::quote::TdReport;
use casemate_verify::{
    Evidence, Policy, PolicyApp, PolicyImage, PolicyParts, Presented, ProviderClaim, QuoteCollateralV3,
    TrustAnchor, Verifier,
};
use dcap_qvl::QuotePolicy;
use dcap_qvl::verify::QuoteVerifier;

use crate::Work;

const ANSWER: &[u8] = include_bytes!("../../../attestation/tests/fixtures/dstack_getquote.json");
const COLLATERAL: &[u8] =
    include_bytes!("../../../attestation/tests/fixtures/tdx_quote_outdated_collateral.json");
/// 2026-02-25T06:13:20Z, when [`COLLATERAL`] is valid.
const VALID: u64 = 1_772_000_000;

pub(crate) struct Verdicts {
    /// As a certificate has it.
    attestation: Vec<u8>,
    report_data: [u8; 64],
    verifier: Verifier,
    policy: Policy,
    quote: Vec<u8>,
    collateral: QuoteCollateralV3,
}

impl Verdicts {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let Detected::Evidence(Evidence::Attestation(attestation), _) = detect(ANSWER)? else {
            anyhow::bail!("the fixture is no answer of an agent")
        };
        let verifier = Verifier::new([TrustAnchor::Intel], Default::default());
        let collateral = Collateral::from_json(COLLATERAL)?;
        let verified = verifier.verify_collateral(&attestation.quote, collateral, VALID)?;
        verifier.store().keep(verified, VALID);

        let compose_hash = attestation.events.compose_hash().context("compose hash")?;
        let provider = attestation.events.find("key-provider").context("key provider")?;
        let provider: ProviderClaim = serde_json::from_slice(&provider.payload)?;
        let parts = PolicyParts {
            images: vec![PolicyImage::from(&TdReport::of_quote(&attestation.quote)?.launch())],
            apps: vec![app(compose_hash)],
            key_providers: vec![provider],
            ..PolicyParts::default()
        };
        let mut collateral: QuoteCollateralV3 = serde_json::from_slice(COLLATERAL)?;
        collateral.pck_certificate_chain = None;
        Ok(Self {
            report_data: attestation.report_data,
            quote: attestation.quote.clone(),
            attestation: attestation.encode_v0(),
            verifier,
            policy: Policy::new("bench", parts)?,
            collateral,
        })
    }
}

fn app(compose_hash: ComposeHash) -> PolicyApp {
    let app_id = compose_hash.app_id();
    PolicyApp { name: "app".into(), app_id, compose_hash: Some(compose_hash), tags: Vec::new() }
}

impl Work for Verdicts {
    fn name(&self) -> &'static str {
        "verdict"
    }

    fn promised(&self) -> f64 {
        0.95
    }

    fn times(&self) -> usize {
        100
    }

    fn ours(&self) -> anyhow::Result<()> {
        let Detected::Evidence(evidence, _) = detect(&self.attestation)? else { anyhow::bail!("a log") };
        let report_data = Some(&self.report_data);
        let presented = Presented { evidence: &evidence, firmware_log: None, report_data };
        let verdict = self.policy.verdict(&self.verifier, &presented, VALID);
        ensure!(verdict.trusted().is_some(), "not trusted: {verdict:?}");
        Ok(())
    }

    fn peer(&self) -> anyhow::Result<()> {
        let policy =
            QuotePolicy::strict(VALID).allow_smt(true).allow_dynamic_platform(true).allow_cached_keys(true);
        QuoteVerifier::new_prod().verify_with_policy(&self.quote, &self.collateral, VALID, &policy).map(drop)
    }
}
