//! What peers say of themselves. The verifier trusts the simulator's root here, because its evidence can be made without
//! hardware; reading is the same for every root.

use std::sync::OnceLock;

use casemate_agent::tdx;
use casemate_verify::collateral::Collateral;
use casemate_verify::collateral::pccs::{self, Answer};
use casemate_verify::quote::{HEADER_LEN, TD_REPORT_LEN, TdReport};
use casemate_verify::ratls::{self, Attestation};
use casemate_verify::{TrustAnchor, Verifier, simulator};

use crate::measured::check_printable;
use crate::{Verdict, detected};

/// A quote of the simulated TEE that verifies.
const GENUINE: &[u8] = include_bytes!("../seeds/quote/simulated");
/// A second at which everything of the simulator is valid: 2026-11-23, noon (UTC), while the seed of a certificate is.
const NOW: u64 = 1_795_435_200;

fn verifier() -> &'static Verifier {
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    VERIFIER.get_or_init(|| Verifier::new([TrustAnchor::Simulator], Default::default()))
}

/// The report is the quote's bytes, and nobody but the signer makes one that verifies.
pub(crate) fn quote(bytes: &[u8]) -> Verdict {
    let verified = verifier().verify_quote(bytes, NOW);
    let Ok(report) = TdReport::of_quote(bytes) else {
        assert!(verified.is_err(), "verified, but not readable");
        return Verdict::Refused;
    };
    if bytes.starts_with(&[4, 0]) {
        assert_eq!(bytes.get(HEADER_LEN..HEADER_LEN + TD_REPORT_LEN), Some(report.encode().as_slice()));
    }
    if let Ok(verified) = verified {
        assert_eq!(*verified.report(), report, "verified one report, read another");
        assert_eq!(TdReport::of_quote(GENUINE).as_ref(), Ok(&report), "a forged quote was believed");
    }
    Verdict::Accepted
}

/// What is read has an encoding that is read as the same, and no forged quote verifies.
pub(crate) fn attestation(bytes: &[u8]) -> Verdict {
    let Ok(attestation) = Attestation::decode(bytes) else { return Verdict::Refused };
    check_attestation(&attestation);
    if verifier().verify_attestation(&attestation, NOW).is_ok() {
        let report = TdReport::of_quote(&attestation.quote);
        assert_eq!(report, TdReport::of_quote(GENUINE), "a forged quote was believed");
    }
    Verdict::Accepted
}

fn check_attestation(attestation: &Attestation) {
    let written = detected::encoding(attestation);
    if written.len() <= ratls::MAX_ATTESTATION {
        assert_eq!(Attestation::decode(&written).as_ref(), Ok(attestation));
    }
}

/// The firmware's log, before anybody asks what it replays to: no more than it holds.
pub(crate) fn boot_log(log: &[u8]) -> Verdict {
    let Ok(events) = tdx::boot_events(log) else { return Verdict::Refused };
    let payload: usize = events.iter().map(|event| event.payload.len()).sum();
    assert!(payload + events.len() * 66 <= log.len(), "{} events of {} bytes", events.len(), log.len());
    assert!(events.iter().all(|event| event.rtmr <= 2));
    Verdict::accepted(!events.is_empty())
}

/// The evidence in it holds together as read; nothing here has a key that could make it verify, but the seed itself.
pub(crate) fn certificate(der: &[u8]) -> Verdict {
    let verified = verifier().verify_certificate(der, NOW);
    let Ok(evidence) = ratls::from_certificate(der) else {
        assert!(verified.is_err(), "verified, but not readable");
        return Verdict::Refused;
    };
    assert!(!evidence.spki_der.is_empty());
    check_attestation(&evidence.attestation);
    if verified.is_ok() {
        assert_eq!(evidence.attestation.report_data, ratls::report_data_for_key(&evidence.spki_der));
    }
    Verdict::Accepted
}

/// Collateral is signed: what makes the genuine quote verify says what the genuine collateral says.
pub(crate) fn collateral(json: &[u8]) -> Verdict {
    let Ok(collateral) = Collateral::from_json(json) else { return Verdict::Refused };
    let believed = verifier().verify_quote_with(GENUINE, &collateral, NOW).is_ok();
    assert_eq!(Collateral::from_json(collateral.to_json().as_bytes()).as_ref(), Ok(&collateral));
    let times = collateral.times();
    assert!(times.oldest_issue <= times.newest_issue, "{times:?}");
    if believed {
        assert!(times.oldest_issue <= NOW && NOW <= times.next_update, "{times:?}");
        let genuine = simulator::collateral().map(|genuine| *genuine.times());
        assert_eq!(Some(*times), genuine, "forged collateral was believed");
    }
    Verdict::Accepted
}

/// The four answers of a PCCS, each as its chain and its body, all parted by a byte that is in none of them (record separator).
/// What is signed is in the answers as it is.
pub(crate) fn pccs(bytes: &[u8]) -> Verdict {
    let parts: Vec<&[u8]> = bytes.split(|byte| *byte == 0x1e).collect();
    let Ok::<[&[u8]; 8], _>([a, b, c, d, e, f, g, h]) = parts.try_into() else { return Verdict::Refused };
    let answers = [(a, b), (c, d), (e, f), (g, h)];
    let answers = answers.map(|(chain, body)| Answer { chain: std::str::from_utf8(chain).ok(), body });
    match pccs::collateral(answers) {
        Ok(parts) => {
            let holds = |body: &[u8], part: &str| body.windows(part.len()).any(|at| at == part.as_bytes());
            assert!(holds(d, &parts.tcb_info) && holds(f, &parts.qe_identity), "written anew");
            Verdict::Accepted
        }
        Err(error) => {
            check_printable(&error.to_string());
            Verdict::Refused
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise every check of what verifies would be idle.
    #[test]
    fn the_seeds_verify() {
        verifier().verify_quote(GENUINE, NOW).unwrap();
        let attestation = Attestation::decode(include_bytes!("../seeds/attestation/simulated")).unwrap();
        assert_eq!(attestation.quote, GENUINE);
        verifier().verify_attestation(&attestation, NOW).unwrap();
        verifier().verify_certificate(include_bytes!("../seeds/certificate/simulated.der"), NOW).unwrap();
        let collateral = simulator::collateral();
        verifier().verify_quote_with(GENUINE, &collateral.unwrap(), NOW).unwrap();
        assert_eq!(pccs(include_bytes!("../seeds/pccs/simulated")), Verdict::Accepted);
    }
}
