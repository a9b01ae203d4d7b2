//! Quotes from real machines, under Intel's root.

use casemate_measure::{EventLog, RuntimeEvent};
use casemate_verify::collateral::{Collateral, Kept};
use casemate_verify::quote::TdReport;
use casemate_verify::ratls::Attestation;
use casemate_verify::{
    AuthenticQuote, Ca, Class, PlatformKind, TcbStatus, Tee, TrustAnchor, Verifier, VerifyError,
};

const QUOTE: &[u8] = include_bytes!("../fixtures/tdx_quote");
const COLLATERAL: &str = include_str!("../fixtures/tdx_quote_collateral.json");
/// 2025-06-19T10:40:00Z, when [`COLLATERAL`] is valid.
const VALID: u64 = 1_750_329_600;

const VERSION_5: &[u8] = include_bytes!("../fixtures/tdx_quote_td15ex");
const VERSION_5_COLLATERAL: &str = include_str!("../fixtures/tdx_quote_td15ex_collateral.json");
/// 2026-10-20T00:00:00Z, when [`VERSION_5_COLLATERAL`] is valid.
const VERSION_5_VALID: u64 = 1_792_454_400;

/// Of the kind of platform that the dstack report comes from.
const DSTACK_COLLATERAL: &str = include_str!("../fixtures/tdx_quote_outdated_collateral.json");
/// 2026-02-25T06:13:20Z, when [`DSTACK_COLLATERAL`] is valid.
const DSTACK_VALID: u64 = 1_772_000_000;

/// Verifies with that collateral alone.
fn verify(collateral: &str, quote: &[u8], now: u64) -> Result<AuthenticQuote, VerifyError> {
    let collateral = Collateral::from_json(collateral.as_bytes()).unwrap();
    intel().verify_quote_with(quote, &collateral, now)
}

fn intel() -> Verifier {
    Verifier::new([TrustAnchor::Intel], Default::default())
}

/// A verifier that has verified and stored the collateral of the first fixture.
fn informed() -> Verifier {
    let verifier = intel();
    let collateral = Collateral::from_json(COLLATERAL.as_bytes()).unwrap();
    let verified = verifier.verify_collateral(QUOTE, collateral, VALID).unwrap();
    assert_eq!(verifier.store().keep(verified, VALID), Kept::Stored);
    verifier
}

#[test]
fn a_quote_verifies_while_its_collateral_is_valid() {
    let quote = informed().verify_quote(QUOTE, VALID).unwrap();
    assert_eq!(quote.tee(), Tee::Tdx);
    assert_eq!(quote.tcb_status(), TcbStatus::UpToDate);
    assert_eq!(*quote.report(), TdReport::of_quote(QUOTE).unwrap());
    assert!(!quote.launch().rtmr2.is_zero());
    // The earliest next update of all the collateral.
    assert!((VALID..VALID + 31 * 86_400).contains(&quote.collateral_expires()));

    let error = informed().verify_quote(QUOTE, VALID + 365 * 86_400).unwrap_err();
    assert_eq!(error.class(), Class::Collateral, "{error}");
    assert!(error.to_string().contains("xpired"), "{error}");
}

#[test]
fn a_version_5_quote_verifies() {
    let quote = verify(VERSION_5_COLLATERAL, VERSION_5, VERSION_5_VALID).unwrap();
    assert_eq!(quote.tee(), Tee::Tdx);
    assert_eq!(quote.tcb_status(), TcbStatus::UpToDate);
    assert_eq!(*quote.report(), TdReport::of_quote(VERSION_5).unwrap());
}

#[test]
fn another_platforms_collateral_does_not_fit() {
    let error = verify(DSTACK_COLLATERAL, QUOTE, DSTACK_VALID).unwrap_err();
    assert_eq!(error.class(), Class::Collateral, "{error}");
}

#[test]
fn without_collateral_there_is_no_verdict() {
    let verifier = Verifier::new([TrustAnchor::Intel], Default::default());
    let error = verifier.verify_quote(QUOTE, VALID).unwrap_err();
    let platform = PlatformKind { fmspc: [0xb0, 0xc0, 0x6f, 0, 0, 0], ca: Ca::Platform };
    assert_eq!(error, VerifyError::NoCollateral { anchor: "an Intel TDX module", platform });
}

#[test]
fn a_verifier_of_the_simulator_alone_refuses_intels() {
    let verifier = Verifier::new([TrustAnchor::Simulator], Default::default());
    let error = verifier.verify_quote(QUOTE, VALID).unwrap_err();
    assert_eq!(error.class(), Class::Root);
    assert!(
        error.to_string().contains("an Intel TDX module, which this verifier was not told to trust"),
        "{error}"
    );
}

#[test]
fn a_changed_register_breaks_the_signature() {
    let mut changed = QUOTE.to_vec();
    changed[casemate_verify::quote::offset::RTMR0 + 2 * 48] ^= 1;
    let error = informed().verify_quote(&changed, VALID).unwrap_err();
    assert_eq!(error.class(), Class::Signature);
    assert!(error.to_string().contains("ISV enclave report signature is invalid"), "{error}");
}

/// The quote of this fixture verifies, and an empty log is not its log: no event was looked at.
#[test]
fn a_log_that_does_not_replay_is_refused_before_it_is_read() {
    let attestation = Attestation {
        quote: QUOTE.to_vec(),
        events: EventLog::new(vec![RuntimeEvent::new("no boot event", [])]),
        report_data: TdReport::of_quote(QUOTE).unwrap().report_data,
        config: String::new(),
    };
    let error = informed().verify_attestation(&attestation, VALID).unwrap_err();
    assert_eq!(error.class(), Class::Log, "{error}");
}

/// Every TDX sample of the `dcap-qvl` crate and of go-tdx-guest, with every TDX collateral there is, at a date when it is
/// valid: how far each gets.
#[test]
fn every_sample_gets_as_far_as_its_collateral_allows() {
    let samples: [(&str, &[u8]); 6] = [
        ("tdx_quote", QUOTE),
        ("tdx_quote_outdated", include_bytes!("../fixtures/tdx_quote_outdated")),
        ("tdx_quote_td15ex", VERSION_5),
        ("tdx-quote.hex", include_bytes!("../fixtures/tdx-quote")),
        ("quote-from-tappd.hex", include_bytes!("../fixtures/quote-from-tappd")),
        ("tdx_prod_quote_SPR_E4", include_bytes!("../fixtures/tdx_prod_quote_SPR_E4")),
    ];
    let collaterals =
        [(COLLATERAL, VALID), (DSTACK_COLLATERAL, DSTACK_VALID), (VERSION_5_COLLATERAL, VERSION_5_VALID)];
    let outcome = |quote: &[u8], (collateral, now): (&str, u64)| match verify(collateral, quote, now) {
        Ok(quote) => quote.tcb_status().to_string(),
        Err(error) => error.class().word().to_owned(),
    };
    let table: Vec<_> = samples
        .iter()
        .map(|(name, quote)| (*name, collaterals.map(|collateral| outcome(quote, collateral))))
        .collect();
    let expected = [
        // The same kind of platform twice, a year apart: what was current is out of date.
        ("tdx_quote", ["UpToDate", "collateral", "OutOfDate"]),
        // Below every level of its own collateral.
        ("tdx_quote_outdated", ["validity", "tcb", "collateral"]),
        ("tdx_quote_td15ex", ["validity", "validity", "UpToDate"]),
        // An old module that no level of the collateral knows.
        ("tdx-quote.hex", ["tcb", "collateral", "tcb"]),
        ("quote-from-tappd.hex", ["tcb", "collateral", "tcb"]),
        // Every signature holds, and none of the collateral is for its kind of platform.
        ("tdx_prod_quote_SPR_E4", ["collateral", "collateral", "collateral"]),
    ];
    for ((name, found), (_, expected)) in table.iter().zip(expected) {
        assert_eq!(found.each_ref().map(String::as_str), expected, "{name}");
    }
}

#[test]
fn another_tee_of_intels_is_no_td() {
    let sgx = include_bytes!("../fixtures/sgx_quote");
    let error = intel().verify_quote(sgx, VALID).unwrap_err();
    assert_eq!(error.class(), Class::Form, "{error}");
}

/// The certification data are not signed: anybody can wrap a genuine quote anew. A frame that only `dcap-qvl` sees would make the
/// chain one platform's for it, and another's for whoever looks collateral up.
#[test]
fn a_chain_with_two_readings_is_refused() {
    let begin = QUOTE.windows(11).position(|window| window == b"-----BEGIN ").unwrap();
    let pem = &QUOTE[begin..];
    let leaf_end = pem.windows(25).position(|window| window == b"-----END CERTIFICATE-----").unwrap() + 26;
    let hidden = [b"x", &pem[..leaf_end]].concat();
    let wrapped = [&QUOTE[..begin], &hidden, pem].concat();
    // The lengths that stand before the chain, the certification data and the signature data grow with it.
    let grown = |bytes: &mut Vec<u8>, at: usize| {
        let field: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
        let length = u32::from_le_bytes(field) + u32::try_from(hidden.len()).unwrap();
        bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
    };
    let mut wrapped = wrapped;
    let (signature, certification) = (632, 636 + 128 + 2);
    for at in [signature, certification, begin - 4] {
        grown(&mut wrapped, at);
    }
    let collateral = || Collateral::from_json(COLLATERAL.as_bytes()).unwrap();
    for error in [
        informed().verify_quote(&wrapped, VALID).unwrap_err(),
        intel().verify_quote_with(&wrapped, &collateral(), VALID).unwrap_err(),
        intel().verify_collateral(&wrapped, collateral(), VALID).unwrap_err(),
    ] {
        assert_eq!(error.class(), Class::Form);
        assert!(error.to_string().contains("found 4 frames, 3 of them at the start of a line"), "{error}");
    }
}
