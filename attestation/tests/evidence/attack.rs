//! The attack of the design, section 6: a genuine TD boots somebody's own kernel, which extends the victim's app id and
//! compose hash into RTMR3. Quote, log, identity and key all hold. Only what was launched differs.

use std::sync::Arc;

use casemate_measure::{ComposeHash, LaunchRegisters, Register};
use casemate_verify::acceptable::Image;
use casemate_verify::challenge;
use casemate_verify::tls::{PeerVerifier, Rules};
use casemate_verify::{
    Class, NotTrusted, Policy, PolicyApp, PolicyImage, PolicyParts, Reason, Verdict, VerifyError, ratls,
};
use rcgen::PublicKeyData as _;

use crate::machine::{Machine, NOW, certificate, image, trusting_verifier};

const VICTIM: &[u8] = b"the victim's document";

fn attacker() -> Machine {
    let own_kernel = Register::digest(b"the attacker's command line and initramfs");
    Machine::boot(VICTIM, LaunchRegisters { rtmr2: own_kernel, ..image() })
}

fn policy(challenge: bool) -> Policy {
    let compose_hash = ComposeHash::of(VICTIM);
    let app = PolicyApp {
        name: "victim".into(),
        app_id: compose_hash.app_id(),
        compose_hash: Some(compose_hash),
        tags: Vec::new(),
    };
    let mut parts =
        PolicyParts { images: vec![PolicyImage::from(&image())], apps: vec![app], ..PolicyParts::default() };
    parts.freshness.challenge = challenge;
    Policy::new("test", parts).unwrap()
}

fn assert_named(reasons: &[Reason]) {
    let [reason] = reasons else { panic!("{reasons:?}") };
    assert_eq!((reason.class, reason.what.as_str()), (Class::Image, "images[0].rtmr2"));
    assert!(reason.expected.contains(&image().rtmr2.to_string()));
    assert_eq!(reason.found, attacker().report.rtmr[2].to_string());
}

/// The attacker is who he says in everything but his code; else the tests below would refuse him for something else.
#[test]
fn it_is_authentic() {
    let (_, certificate) = attacker().certificate();
    let peer = trusting_verifier().verify_certificate(&certificate, NOW).unwrap();
    assert_eq!(peer.compose_hash(), ComposeHash::of(VICTIM));
    let victim = Machine::boot(VICTIM, image()).certificate().1;
    policy(false).judge(trusting_verifier().verify_certificate(&victim, NOW).unwrap(), NOW).unwrap();
}

#[test]
fn the_mesh_refuses_it_by_own_image_and_by_registers() {
    let (_, certificate) = attacker().certificate();
    let explicit = Image::Explicit { mrtd: None, rtmr0: None, rtmr1: None, rtmr2: image().rtmr2 };
    for rule in [Image::Same(image()), explicit] {
        let rules = Rules { images: vec![rule], ..Rules::default() };
        let app = Some(ComposeHash::of(VICTIM).app_id());
        let verifier = PeerVerifier::new(Arc::new(trusting_verifier()), Arc::new(|| NOW), rules, app, true);
        let VerifyError::NotTrusted(NotTrusted(reasons)) = verifier.identify(&certificate).unwrap_err()
        else {
            panic!("not for its image")
        };
        assert_named(&reasons);
    }
}

#[test]
fn a_policy_refuses_it_by_certificate_and_by_challenge() {
    let verifier = trusting_verifier();
    let machine = attacker();
    let key = rcgen::KeyPair::generate().unwrap();
    let spki = key.subject_public_key_info();
    let attestation = machine.attest(ratls::report_data_for_key(&spki));
    let leaf = certificate(&key, &[(ratls::ATTESTATION_OID, &attestation.encode_v0())]);

    let by_certificate = policy(false).verdict_on(verifier.verify_certificate(&leaf, NOW), NOW);
    let (nonce, exporter) = ([7; 32], [8; 32]);
    let answer = machine.attest(challenge::report_data(&nonce, &exporter, &spki));
    let challenged = verifier.verify_challenge(&leaf, &answer, &nonce, &exporter, NOW);
    let by_challenge = policy(true).verdict_on(challenged, NOW);
    for verdict in [by_certificate, by_challenge] {
        let Verdict::NotTrusted { peer: Some(_), reasons } = verdict else { panic!("{verdict:?}") };
        assert_named(&reasons);
    }
}
