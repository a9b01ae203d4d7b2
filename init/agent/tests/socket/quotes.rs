//! The simulated TEE's quotes: every field in its place, and authentic under the published root alone.

use casemate_agent::{SimulatedTee, Tee as _, TeeKind, boot_events};
use casemate_measure::{EventLog, LaunchRegisters, MrConfigId, Register};
use casemate_verify::ratls::Attestation;
use casemate_verify::{Class, TrustAnchor, Verifier};
use serde_json::Value;
use sha2::{Digest as _, Sha384};

use crate::host::{Served, handover, launch};

/// 2027-01-15, inside the validity of the published certificates.
const NOW: u64 = 1_800_000_000;

fn verifier() -> Verifier {
    Verifier::new([TrustAnchor::Simulator], Default::default())
}

#[test]
fn registers_lie_where_dstack_reads_them() {
    let config_id = MrConfigId::v1(&handover().compose_hash);
    let mut tee = SimulatedTee::new(LaunchRegisters { mrconfigid: config_id, ..launch() }).unwrap();
    tee.extend(&Register([0x55; 48]));
    let report_data: [u8; 64] = std::array::from_fn(|n| u8::try_from(n).unwrap());
    let quote = tee.quote(&report_data).unwrap();
    // Offsets: dstack reference 4.4.
    assert_eq!(quote[..8], [4, 0, 2, 0, 0x81, 0, 0, 0]);
    assert_eq!(quote[168..176], [0, 0, 0, 0x10, 0, 0, 0, 0], "not debug, SEPT_VE_DISABLE");
    assert_eq!(quote[184..232], [0x11; 48]);
    assert_eq!(quote[232..280], config_id.0);
    assert_eq!(quote[280..376], [0; 96]);
    assert_eq!(quote[376..424], [0x22; 48]);
    assert_eq!(quote[424..472], [0x33; 48]);
    assert_eq!(quote[472..520], [0x44; 48]);
    let extended: [u8; 48] = Sha384::digest([[0; 48], [0x55; 48]].concat()).into();
    assert_eq!(quote[520..568], extended);
    assert_eq!(quote[568..632], report_data);
    assert_eq!(tee.rtmr3().0, extended);
    assert_eq!(tee.kind(), TeeKind::Simulator);
    let length = u32::from_le_bytes(quote[632..636].try_into().unwrap());
    assert_eq!(quote.len(), 636 + usize::try_from(length).unwrap(), "nothing behind the signature data");
}

#[test]
fn quotes_are_authentic_and_no_bit_of_the_signed_part_can_change() {
    let given = handover();
    let mut tee = SimulatedTee::new(launch()).unwrap();
    let events = boot_events(&given.compose_hash, &given.app_id, given.instance_id.as_ref());
    events.iter().for_each(|event| tee.extend(&event.digest()));
    assert_eq!(tee.rtmr3(), given.events.replay());
    let report_data = [7; 64];
    let quote = tee.quote(&report_data).unwrap();
    let attestation = |quote: Vec<u8>| Attestation {
        quote,
        events: EventLog::new(events.clone()),
        report_data,
        config: "{}".into(),
    };
    let evidence = verifier().verify_attestation(&attestation(quote.clone()), NOW).unwrap();
    assert_eq!(evidence.app_id(), given.app_id);
    assert_eq!(evidence.report_data(), &report_data);

    for offset in (48..632).step_by(37).chain([631, 640, 700]) {
        let mut forged = quote.clone();
        forged[offset] ^= 1;
        let error = verifier().verify_attestation(&attestation(forged), NOW).unwrap_err();
        assert_eq!(error.class(), Class::Signature, "{offset}: {error}");
    }
}

#[tokio::test]
async fn get_quote_answers_with_evidence_that_holds() {
    let served = Served::start();
    let answer = served.client().get_quote(b"nonce").await.unwrap();
    let report_data: [u8; 64] = answer.report_data.as_slice().try_into().unwrap();
    assert_eq!(report_data[..5], *b"nonce");
    assert_eq!(report_data[5..], [0; 59]);
    assert_eq!(answer.vm_config, "{}");

    // A verifier that has only the answer: digests are empty, so it recomputes them from names and payloads.
    let log: Vec<Value> = serde_json::from_str(&answer.event_log).unwrap();
    let events = log
        .iter()
        .map(|event| {
            assert_eq!(event["digest"], "");
            assert_eq!((&event["imr"], &event["event_type"]), (&3.into(), &0x0800_0001.into()));
            let payload = hex::decode(event["event_payload"].as_str().unwrap()).unwrap();
            casemate_measure::RuntimeEvent::new(event["event"].as_str().unwrap(), payload)
        })
        .collect();
    let attestation = Attestation {
        quote: answer.quote,
        events: EventLog::new(events),
        report_data,
        config: answer.vm_config,
    };
    let evidence = verifier().verify_attestation(&attestation, NOW).unwrap();
    assert_eq!(evidence.compose_hash(), handover().compose_hash);
}
