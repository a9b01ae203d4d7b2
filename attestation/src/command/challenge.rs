//! The challenge: a fresh nonce, asked on the very connection whose exporter goes into the answer.

use std::io;
use std::time::Duration;

use casemate_verify::challenge::{EXPORTER_LEN, Nonce};
use casemate_verify::ratls::Attestation;
use casemate_verify::{EvidenceError, Reason};
use serde::Deserialize;

use super::Stop;
use super::io::{random, tls};
use super::verdict::Verdict;

/// Where an appliance answers.
const PATH: &str = "/.well-known/casemate/attestation?nonce=";
/// The longest answer, bytes of JSON.
const MAX_ANSWER: usize = 1 << 20;
/// A quote takes seconds on a busy platform.
const TIMEOUT: Duration = Duration::from_secs(40);
/// The only version of the answer.
const VERSION: u32 = 1;

/// A challenge and its answer.
pub(super) struct Exchange {
    /// As the server showed it, DER, leaf first.
    pub(super) chain: Vec<Vec<u8>>,
    pub(super) nonce: Nonce,
    pub(super) exporter: [u8; EXPORTER_LEN],
    pub(super) answer: Attestation,
}

#[derive(Deserialize)]
struct Answer {
    version: u32,
    attestation: String,
}

/// Challenges a server.
pub(super) fn ask(host: &str, port: u16) -> Result<Exchange, Stop> {
    let nonce: Nonce = random().map_err(|error| Verdict::Undecided(error, Vec::new()))?;
    let no_answer = |error: io::Error| {
        Stop::from(Verdict::Undecided(format!("{host}:{port}: challenge: {error}"), Vec::new()))
    };
    let peer = tls::Peer::connect(host, port).map_err(no_answer)?;
    let exporter = peer.exporter().map_err(no_answer)?;
    let chain = peer.chain.clone();
    let path = format!("{PATH}{}", hex::encode(nonce));
    let response =
        peer.get(&path, MAX_ANSWER, TIMEOUT).and_then(super::io::http::Response::ok).map_err(no_answer)?;
    let answer = read(&response.body).map_err(|error| Verdict::NotAuthentic(vec![Reason::from(error)]))?;
    Ok(Exchange { chain, nonce, exporter, answer })
}

fn read(body: &[u8]) -> Result<Attestation, EvidenceError> {
    let malformed = |what: &str, expected: &str, found: String| EvidenceError::Malformed {
        what: what.to_owned(),
        expected: expected.to_owned(),
        found,
    };
    let answer: Answer = serde_json::from_slice(body).map_err(|error| {
        malformed("challenge", "an object with version and attestation", error.to_string())
    })?;
    if answer.version != VERSION {
        return Err(malformed("challenge: version", "1", answer.version.to_string()));
    }
    let bytes = hex::decode(&answer.attestation)
        .map_err(|error| malformed("challenge: attestation", "hex digits", error.to_string()))?;
    Attestation::decode(&bytes)
}
