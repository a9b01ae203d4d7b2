//! The simulated TEE: its committed files, its quotes, and every way in which they must not pass.

use std::path::Path;

use casemate_measure::Register;
use casemate_verify::collateral::Collateral;
use casemate_verify::quote::{TdReport, offset};
use casemate_verify::{Class, TcbStatus, Tee, TrustAnchor, Verifier};

use crate::files;
use crate::machine::{Machine, NOW, image, quote, trusting_verifier};
use crate::pki::{Pki, Variant};

#[test]
fn committed_files_are_what_the_seed_gives() {
    let pki = Pki::generate(&Variant::default()).unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = [
        (here.join("src/simulator"), files::of_verifier(&pki).unwrap()),
        (here.join("../init/agent/src/simulator/pki"), files::of_agent(&pki)),
    ];
    for (folder, files) in folders {
        for (name, bytes) in files {
            let path = folder.join(name);
            let committed = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            assert!(committed == bytes, "{}: run the example simulator_pki again", path.display());
        }
    }
    assert_eq!(casemate_verify::simulator::ROOT_DER, pki.root_der);
    assert_eq!(casemate_verify::simulator::collateral().unwrap(), Collateral::new(pki.collateral).unwrap());
}

#[test]
fn a_simulated_quote_verifies() {
    let machine = Machine::boot(b"{}", image());
    let evidence = trusting_verifier().verify_attestation(&machine.attest([5; 64]), NOW).unwrap();
    assert_eq!(evidence.tee(), Tee::Simulator);
    assert_eq!(evidence.launch(), image());
    assert_eq!(evidence.rtmr3(), machine.log.replay());
    assert_eq!(evidence.report_data(), &[5; 64]);
    assert_eq!(evidence.tcb_status(), TcbStatus::UpToDate);
    assert!(evidence.advisory_ids().is_empty());
    // 2049-12-31T23:59:59Z
    assert_eq!(evidence.collateral_expires(), 2_524_607_999);
}

#[test]
fn nobody_trusts_it_by_default() {
    let attestation = Machine::boot(b"{}", image()).attest([0; 64]);
    let refused =
        Verifier::new([TrustAnchor::Intel], Default::default()).verify_attestation(&attestation, NOW);
    assert_eq!(refused.unwrap_err().class(), Class::Root);
}

#[test]
fn another_seed_is_another_root() {
    let mut machine = Machine::boot(b"{}", image());
    machine.pki = Pki::generate(&Variant { seed: "somebody else's", ..Variant::default() }).unwrap();
    let refused = trusting_verifier().verify_attestation(&machine.attest([0; 64]), NOW).unwrap_err();
    assert_eq!(refused.class(), Class::Root, "{refused}");
}

/// The chain names our root, and somebody else's key signed the platform certificate.
#[test]
fn the_right_root_beside_a_foreign_leaf_is_refused() {
    let mut machine = Machine::boot(b"{}", image());
    let foreign = Pki::generate(&Variant { seed: "somebody else's", ..Variant::default() }).unwrap();
    let root = machine.pki.pck_chain_pem.rsplit_once("-----BEGIN").unwrap().1.to_owned();
    let (leaf_and_intermediate, _) = foreign.pck_chain_pem.rsplit_once("-----BEGIN").unwrap();
    machine.pki.pck_chain_pem = format!("{leaf_and_intermediate}-----BEGIN{root}");
    machine.pki.pck_key = foreign.pck_key;
    let refused = trusting_verifier().verify_attestation(&machine.attest([0; 64]), NOW).unwrap_err();
    assert_eq!(refused.class(), Class::Signature, "{refused}");
}

#[test]
fn collateral_has_its_time() {
    let attestation = Machine::boot(b"{}", image()).attest([0; 64]);
    for now in [1_767_225_599, 2_524_608_000] {
        let refused = trusting_verifier().verify_attestation(&attestation, now).unwrap_err();
        assert_eq!(refused.class(), Class::Collateral, "{refused}");
    }
}

#[test]
fn tcb_status_is_a_value_and_revocation_a_refusal() {
    let attestation = Machine::boot(b"{}", image()).attest([0; 64]);
    let judged = |variant: Variant<'_>| {
        let collateral = Collateral::new(Pki::generate(&variant).unwrap().collateral).unwrap();
        trusting_verifier().verify_quote_with(&attestation.quote, &collateral, NOW)
    };
    let out_of_date = judged(Variant { tcb_status: "OutOfDate", ..Variant::default() }).unwrap();
    assert_eq!(out_of_date.tcb_status(), TcbStatus::OutOfDate);

    let revoked = judged(Variant { tcb_status: "Revoked", ..Variant::default() }).unwrap_err();
    assert_eq!(revoked.class(), Class::Revocation, "{revoked}");
    let revoked = judged(Variant { pck_revoked: true, ..Variant::default() }).unwrap_err();
    assert_eq!(revoked.class(), Class::Revocation, "{revoked}");
    assert!(revoked.to_string().contains("CertRevoked"), "{revoked}");
}

#[test]
fn debug_and_foreign_modules_are_refused() {
    let refusal = |change: fn(&mut TdReport)| {
        let mut machine = Machine::boot(b"{}", image());
        change(&mut machine.report);
        trusting_verifier().verify_attestation(&machine.attest([0; 64]), NOW).unwrap_err().to_string()
    };
    assert!(refusal(|report| report.td_attributes[0] |= 1).contains("Debug mode is enabled"));
    assert!(refusal(|report| report.td_attributes[3] = 0).contains("SEPT_VE_DISABLE"));
    assert!(refusal(|report| report.mr_signer_seam = Register([1; 48])).contains("MRSIGNER"));
}

/// Every byte of a quote is covered: by a signature, by a length, or by the certificate's own encoding.
#[test]
fn a_quote_with_any_byte_changed_is_refused() {
    let machine = Machine::boot(b"{}", image());
    let attestation = machine.attest([5; 64]);
    let verifier = trusting_verifier();
    let genuine = verifier.verify_attestation(&attestation, NOW).unwrap();
    let chain = attestation.quote.len() - machine.pki.pck_chain_pem.len();

    // Parsing PEM forgives line breaks; a change there changes no certificate. Everything else must be refused.
    // In the chain every seventh byte stands for the rest, to keep the test short.
    let bytes = (0..chain).chain((chain..attestation.quote.len()).step_by(7));
    for index in bytes {
        let mut changed = attestation.clone();
        changed.quote[index] ^= 1;
        if let Ok(evidence) = verifier.verify_attestation(&changed, NOW) {
            let original = attestation.quote[index];
            assert!(index >= chain && original == b'\n', "byte {index} ({original:#04x}) is not covered");
            assert_eq!(evidence, genuine);
        }
    }
}

#[test]
fn truncated_and_lengthened_quotes_are_refused() {
    let attestation = Machine::boot(b"{}", image()).attest([5; 64]);
    let verifier = trusting_verifier();
    for length in (0..attestation.quote.len()).step_by(11) {
        let mut changed = attestation.clone();
        changed.quote.truncate(length);
        verifier.verify_attestation(&changed, NOW).unwrap_err();
    }
    let mut padded = attestation.clone();
    padded.quote.extend([0; 70]);
    verifier.verify_attestation(&padded, NOW).unwrap();
    let mut lengthened = attestation;
    lengthened.quote.extend([0, 1]);
    let refused = verifier.verify_attestation(&lengthened, NOW).unwrap_err();
    assert_eq!(refused.to_string(), "quote: expected nothing but zero bytes after it, found other bytes");
}

#[test]
fn a_report_reads_as_it_was_written() {
    let machine = Machine::boot(b"{}", image());
    let report = TdReport { report_data: [9; 64], mrtd: Register([3; 48]), ..machine.report };
    let bytes = quote(&machine.pki, &report);
    assert_eq!(TdReport::of_quote(&bytes).unwrap(), report);
    assert_eq!(bytes[offset::REPORT_DATA..offset::SIGNATURE_LEN], [9; 64]);
    assert_eq!(bytes[offset::MRTD..offset::MR_CONFIG_ID], [3; 48]);
}
