//! Authentic, and judged by no policy.

use casemate_verify::{AuthenticPeer, VerifiedPeer, Verifier, VerifyError};

fn authorise(_: &VerifiedPeer) {}

pub fn handshake(verifier: &Verifier, certificate: &[u8], now: u64) -> Result<(), VerifyError> {
    let peer: AuthenticPeer = verifier.verify_certificate(certificate, now)?;
    authorise(&peer);
    Ok(())
}
