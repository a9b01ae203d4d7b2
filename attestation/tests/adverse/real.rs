//! Real items, each with a time at which its collateral is valid, and the plain verifier.

use casemate_verify::collateral::Collateral;
use casemate_verify::evidence::{Detected, detect};
use casemate_verify::quote::TdReport;
use casemate_verify::{AuthenticQuote, Evidence, QuoteCollateralV3, TrustAnchor, Verifier, VerifyError};
use dcap_qvl::verify::QuoteVerifier;

/// A quote and what it is verified with.
pub(crate) struct Real {
    pub(crate) name: &'static str,
    pub(crate) quote: &'static [u8],
    pub(crate) collateral: &'static [u8],
    pub(crate) valid: u64,
}

/// Version 4, valid at 2025-06-19T10:40:00Z.
pub(crate) const VERSION_4: Real = Real {
    name: "tdx_quote",
    quote: include_bytes!("../fixtures/tdx_quote"),
    collateral: include_bytes!("../fixtures/tdx_quote_collateral.json"),
    valid: 1_750_329_600,
};

/// Version 5 with the longest report, valid at 2026-10-20T00:00:00Z.
pub(crate) const VERSION_5: Real = Real {
    name: "tdx_quote_td15ex",
    quote: include_bytes!("../fixtures/tdx_quote_td15ex"),
    collateral: include_bytes!("../fixtures/tdx_quote_td15ex_collateral.json"),
    valid: 1_792_454_400,
};

/// Of another kind of platform, whose TCB is out of date; valid at 2026-02-25T06:13:20Z.
pub(crate) const OUTDATED: Real = Real {
    name: "tdx_quote_outdated",
    quote: include_bytes!("../fixtures/tdx_quote_outdated"),
    collateral: include_bytes!("../fixtures/tdx_quote_outdated_collateral.json"),
    valid: 1_772_000_000,
};

/// A dstack machine's answer, of a platform of [`OUTDATED`]'s kind.
pub(crate) const ANSWER: &[u8] = include_bytes!("../fixtures/dstack_getquote.json");

impl Real {
    pub(crate) fn collateral(&self) -> Collateral {
        Collateral::from_json(self.collateral).unwrap()
    }

    pub(crate) fn verify(
        &self,
        quote: &[u8],
        collateral: &Collateral,
    ) -> Result<AuthenticQuote, VerifyError> {
        intel().verify_quote_with(quote, collateral, self.valid)
    }
}

pub(crate) fn intel() -> Verifier {
    Verifier::new([TrustAnchor::Intel], Default::default())
}

/// What `dcap-qvl` makes of the two, on its own.
pub(crate) fn bare(quote: &[u8], collateral: &[u8], now: u64) -> Option<TdReport> {
    let mut collateral: QuoteCollateralV3 = serde_json::from_slice(collateral).ok()?;
    // It would be believed instead of the quote's own.
    collateral.pck_certificate_chain = None;
    let verified = QuoteVerifier::new_prod().verify(quote, &collateral, now).ok()?;
    verified.report.as_td10().map(TdReport::from)
}

/// The evidence in an answer, and the firmware's part of its log.
pub(crate) fn detected(bytes: &[u8]) -> (Evidence, Option<casemate_measure::log::Log>) {
    match detect(bytes).unwrap() {
        Detected::Evidence(evidence, log) => (evidence, log),
        Detected::Log(_) => panic!("a log"),
    }
}
