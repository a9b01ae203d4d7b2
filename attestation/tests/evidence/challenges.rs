//! Answers to challenges, and what they must not be.

use casemate_verify::{Binding, Class, VerifyError, challenge, ratls};
use rcgen::{KeyPair, PublicKeyData as _};

use crate::machine::{Machine, NOW, certificate, image, trusting_verifier};

const DOCUMENT: &[u8] = b"a document";
const NONCE: [u8; 32] = [7; 32];
const EXPORTER: [u8; 32] = [8; 32];

struct Peer {
    machine: Machine,
    leaf: Vec<u8>,
    spki: Vec<u8>,
}

impl Peer {
    fn new() -> Self {
        let machine = Machine::boot(DOCUMENT, image());
        let key = KeyPair::generate().unwrap();
        let spki = key.subject_public_key_info();
        let attestation = machine.attest(ratls::report_data_for_key(&spki));
        let leaf = certificate(&key, &[(ratls::ATTESTATION_OID, &attestation.encode_v0())]);
        Self { machine, leaf, spki }
    }

    /// Judges an answer with these report data as one to [`NONCE`] in the connection of [`EXPORTER`].
    fn answers(&self, report_data: [u8; 64]) -> Result<Binding, VerifyError> {
        let answer = self.machine.attest(report_data);
        let peer = trusting_verifier().verify_challenge(&self.leaf, &answer, &NONCE, &EXPORTER, NOW)?;
        Ok(*peer.binding())
    }
}

#[test]
fn an_answer_speaks_for_nonce_connection_and_key() {
    let peer = Peer::new();
    let answer = challenge::report_data(&NONCE, &EXPORTER, &peer.spki);
    let Binding::Challenge(_, nonce) = peer.answers(answer).unwrap() else { panic!("no challenge") };
    assert_eq!(nonce, NONCE);
}

#[test]
fn what_was_made_for_something_else_is_refused() {
    let peer = Peer::new();
    let another = KeyPair::generate().unwrap().subject_public_key_info();
    let wrong = [
        ("another nonce: replayed", challenge::report_data(&[0; 32], &EXPORTER, &peer.spki)),
        ("another connection: relayed", challenge::report_data(&NONCE, &[0; 32], &peer.spki)),
        ("another key: reflected", challenge::report_data(&NONCE, &EXPORTER, &another)),
        ("the certificate's own evidence", ratls::report_data_for_key(&peer.spki)),
        (
            "what a service may have quoted",
            ratls::report_data_for_app(&[NONCE.as_slice(), &EXPORTER, &peer.spki].concat()),
        ),
    ];
    for (what, report_data) in wrong {
        assert_eq!(peer.answers(report_data).unwrap_err().class(), Class::Binding, "{what}");
    }
}

/// The attestation says the right report data, and the quote carries others.
#[test]
fn an_answer_that_lies_about_its_quote_is_refused() {
    let peer = Peer::new();
    let mut answer = peer.machine.attest([0; 64]);
    answer.report_data = challenge::report_data(&NONCE, &EXPORTER, &peer.spki);
    let refused =
        trusting_verifier().verify_challenge(&peer.leaf, &answer, &NONCE, &EXPORTER, NOW).unwrap_err();
    assert_eq!(refused.class(), Class::Binding);
}
