//! Asks a target who it is, and judges the answer.

use std::path::Path;
use std::sync::Arc;

use casemate_verify::collateral::Collateral;
use casemate_verify::{AuthenticPeer, NotTrusted, Policy, TrustAnchor, Verifier, VerifyError};

use super::arguments::Inspect;
use super::exit::Exit;
use super::report::{Report, Verdict};
use super::{Failure, io};

pub(super) fn run(arguments: &Inspect) -> Result<Exit, Failure> {
    let target = arguments.target.as_deref().unwrap_or_default();
    let policy = arguments.policy.as_deref().map(read_policy).transpose()?;
    let verifier = Verifier::new(anchors(arguments), Arc::default());
    let certificate = certificate_of(target)?;
    let now = arguments.at.unwrap_or_else(io::now);
    if let Some(path) = &arguments.collateral {
        let collateral = read_collateral(path)?;
        let quote =
            casemate_verify::ratls::from_certificate(&certificate).map(|evidence| evidence.attestation.quote);
        if let Ok(verified) = quote
            .map_err(VerifyError::from)
            .and_then(|quote| verifier.verify_collateral(&quote, collateral, now))
        {
            verifier.store().keep(verified, now);
        }
    }

    let verdict = judge(verifier.verify_certificate(&certificate, now), policy.as_ref(), now);
    let report = Report { target, verdict: &verdict };
    let text = if arguments.json { report.json() } else { report.text() };
    io::files::write(None, text.as_bytes()).map_err(Failure::usage)?;
    Ok(verdict.exit())
}

fn judge(peer: Result<AuthenticPeer, VerifyError>, policy: Option<&Policy>, now: u64) -> Verdict {
    match (peer, policy) {
        (Ok(peer), Some(policy)) => match policy.judge(peer.clone(), now) {
            Ok(verified) => Verdict::Trusted(verified),
            Err(NotTrusted(reasons)) => Verdict::NotTrusted(peer, reasons),
        },
        (Ok(peer), None) => Verdict::NotJudged(peer),
        (Err(error @ VerifyError::NoCollateral { .. }), _) => Verdict::Undecided(error),
        (Err(error), _) => Verdict::NotAuthentic(error),
    }
}

fn read_policy(path: &Path) -> Result<Policy, Failure> {
    let bytes = io::files::read(path).map_err(Failure::usage)?;
    Policy::from_json(&path.display().to_string(), &bytes, None).map_err(Failure::usage)
}

fn anchors(arguments: &Inspect) -> Vec<TrustAnchor> {
    #[cfg_attr(not(feature = "simulator"), expect(unused_mut, reason = "only the simulator is ever added"))]
    let mut anchors = vec![TrustAnchor::Intel];
    #[cfg(feature = "simulator")]
    if arguments.trust_simulator {
        anchors.push(TrustAnchor::Simulator);
    }
    #[cfg(not(feature = "simulator"))]
    let _ = arguments;
    anchors
}

fn read_collateral(path: &Path) -> Result<Collateral, Failure> {
    let bytes = io::files::read(path).map_err(Failure::usage)?;
    Collateral::from_json(&bytes).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// The target's leaf certificate, DER: from a file if there is one of that name, else from the network.
fn certificate_of(target: &str) -> Result<Vec<u8>, Failure> {
    let path = Path::new(target);
    if path.is_file() {
        let bytes = io::files::read(path).map_err(Failure::undecided)?;
        return Ok(der_of(&bytes));
    }
    let (host, port) = host_and_port(target).ok_or_else(|| {
        Failure::usage(format!("TARGET: expected HOST:PORT or a certificate file, found {:?}", target))
    })?;
    io::tls::fetch_certificate(host, port).map_err(Failure::undecided)
}

/// The first certificate of a PEM file; anything else is taken for DER, and judged as such. DER is told by its first two
/// bytes (a SEQUENCE of 256 to 65,535 bytes): our certificates hold PEM text inside, the quote's own chain.
fn der_of(bytes: &[u8]) -> Vec<u8> {
    if bytes.starts_with(&[0x30, 0x82]) {
        return bytes.to_vec();
    }
    let first = x509_parser::pem::Pem::iter_from_buffer(bytes).find_map(Result::ok);
    match first {
        Some(pem) if pem.label == "CERTIFICATE" => pem.contents,
        _ => bytes.to_vec(),
    }
}

fn host_and_port(target: &str) -> Option<(&str, u16)> {
    let (host, port) = target.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty()).then_some((host, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_split() {
        assert_eq!(host_and_port("localhost:8443"), Some(("localhost", 8443)));
        assert_eq!(host_and_port("[::1]:443"), Some(("::1", 443)));
        for bad in ["localhost", ":443", "host:", "host:70000", "host:-1", ""] {
            assert_eq!(host_and_port(bad), None, "{bad}");
        }
    }
}
