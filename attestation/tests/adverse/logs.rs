//! Event logs, one bit of every byte: a real dstack machine's answer with its log, and a firmware's log of a simulated
//! machine.

use casemate_measure::log::replay;
use casemate_measure::tdx::Rtmr;
use casemate_verify::collateral::Kept;
use casemate_verify::evidence::{Detected, detect};
use casemate_verify::{AuthenticPeer, Class, Evidence, Presented, Reason, Verifier};

use crate::certificates::DOCUMENT;
use crate::flips::{Judgement, Pass, Region, every_byte};
use crate::layout::{self, Layout};
use crate::machine::{Machine, NOW, image, trusting_verifier};
use crate::real::{ANSWER, OUTDATED, detected, intel};

use Class::{Binding, Form, Log};

/// What the answer was asked for.
fn asked() -> [u8; 64] {
    let mut data = [0; 64];
    data[..2].copy_from_slice(&[0x12, 0x34]);
    data
}

/// Knows the collateral for the answer's platform.
fn verifier(quote: &[u8]) -> Verifier {
    let verifier = intel();
    let verified = verifier.verify_collateral(quote, OUTDATED.collateral(), OUTDATED.valid).unwrap();
    assert_eq!(verifier.store().keep(verified, OUTDATED.valid), Kept::Stored);
    verifier
}

/// The answer's fields. `quote` is hex digits: two for each byte, in either case.
fn regions() -> Vec<Region> {
    let place = |name: &str| layout::find(ANSWER, format!("\"{name}\":").as_bytes()) + name.len() + 4;
    let mut layout = Layout::new(ANSWER);
    let quote = hex::decode(quote_digits()).unwrap();
    // Without its quote it is a log.
    layout.to(place("quote"), "up to the quote", &[Form, Log], Pass::Never);
    for region in layout::quote(&quote) {
        // As quotes, and a chain for which no collateral is there; a digit can become something else.
        let classes = [region.classes.as_slice(), &[Form], more_of(&region.name)].concat();
        // The other case of a digit changes nothing.
        layout.part(&region.name, 2 * region.bytes.len(), &classes, Pass::Unread);
    }
    layout.to(place("event_log"), "up to the log", &[Form, Log], Pass::Never);
    // Not read: RTMR3's digests, what the firmware's digests are of, types of the firmware's events.
    layout.to(place("report_data") - "\",\"report_data\":".len(), "event log", &[Form, Log], Pass::Unread);
    // Without it, it is the quote's own.
    layout.to(place("report_data"), "up to the report data", &[Form], Pass::Unread);
    layout.part("report data", 128, &[Form, Binding], Pass::Unread);
    layout.rest("the machine's configuration", &[Form], Pass::Unread)
}

/// The platform decides which collateral is looked up, before a signature is checked.
fn more_of(region: &str) -> &'static [Class] {
    if region == "PEM" { &[Class::Collateral] } else { &[] }
}

fn quote_digits() -> &'static [u8] {
    let from = layout::find(ANSWER, b"\"quote\":\"") + "\"quote\":\"".len();
    let len = ANSWER[from..].iter().position(|byte| *byte == b'"').unwrap();
    &ANSWER[from..from + len]
}

#[test]
fn of_a_real_answer() {
    let (Evidence::Attestation(genuine), Some(firmware)) = detected(ANSWER) else { panic!("no log") };
    let verifier = verifier(&genuine.quote);
    let present = |evidence: &Evidence, log: Option<&casemate_measure::log::Log>| {
        let presented = Presented { evidence, firmware_log: log, report_data: Some(&asked()) };
        verifier.authenticate(&presented, OUTDATED.valid)
    };
    // What reads as the same is the same evidence: its quote is not verified again.
    let known = present(&Evidence::Attestation(genuine.clone()), Some(&firmware)).unwrap();
    let judge = |answer: &[u8]| -> Judgement<AuthenticPeer> {
        match detect(answer)? {
            Detected::Evidence(Evidence::Attestation(read), Some(log))
                if read == genuine && log == firmware =>
            {
                Ok(known.clone())
            }
            Detected::Evidence(evidence, log) => {
                let peer = present(&evidence, log.as_ref())?;
                // An answer without the firmware's part would be another claim.
                assert!(log.is_some(), "accepted without the firmware's log");
                Ok(peer)
            }
            Detected::Log(_) => {
                let (what, expected, found) = ("evidence".into(), "a quote".into(), "a log".into());
                Err(Reason { class: Log, what, expected, found }.into())
            }
        }
    };
    let tally = every_byte("dstack answer", ANSWER, &regions(), judge, |answer| {
        serde_json::from_slice::<serde_json::Value>(answer).is_ok()
    });
    assert!(tally.refused[&Log] > 900, "{tally:?}");
}

/// A log that real firmware wrote, and a simulated machine with the registers that it leads to.
#[test]
fn of_firmware() {
    const CCEL: &[u8] = include_bytes!("../../../measurements/tests/fixtures/ccel.bin");
    let read = |bytes: &[u8]| casemate_measure::log::read("ccel", bytes);
    let registers = |log: &casemate_measure::log::Log| {
        let replay = replay(log);
        [Rtmr::Rtmr0, Rtmr::Rtmr1, Rtmr::Rtmr2].map(|rtmr| replay.register(rtmr).unwrap().register)
    };
    let genuine = read(CCEL).unwrap();
    let [rtmr0, rtmr1, rtmr2] = registers(&genuine);
    let machine =
        Machine::boot(DOCUMENT, casemate_measure::LaunchRegisters { rtmr0, rtmr1, rtmr2, ..image() });
    let evidence = Evidence::Attestation(machine.attest([5; 64]));
    let verifier = trusting_verifier();
    let judge = |bytes: &[u8]| -> Judgement<AuthenticPeer> {
        let log = match detect(bytes)? {
            Detected::Log(log) => log,
            Detected::Evidence(..) => panic!("evidence"),
        };
        let presented =
            Presented { evidence: &evidence, firmware_log: Some(&log), report_data: Some(&[5; 64]) };
        verifier.authenticate(&presented, NOW)
    };
    let plain = |bytes: &[u8]| read(bytes).is_ok_and(|log| registers(&log) == [rtmr0, rtmr1, rtmr2]);
    // Data of events, and digests of other algorithms, are covered by nothing.
    let region =
        Region { name: "CCEL".into(), bytes: 0..CCEL.len(), classes: vec![Form, Log], pass: Pass::Unread };
    let tally = every_byte("CCEL", CCEL, &[region], judge, plain);
    assert!(tally.refused[&Log] > 200, "{tally:?}");
}
