//! This is what the others are without their one line that must not compile.

use casemate_verify::{AuthenticPeer, Policy, VerifiedPeer, Verifier, VerifyError};

/// Stands for whatever lets a peer in.
fn authorise(_: &VerifiedPeer) {}

/// The way there is.
pub fn handshake(
    verifier: &Verifier,
    policy: &Policy,
    certificate: &[u8],
    now: u64,
) -> Result<(), VerifyError> {
    let peer: AuthenticPeer = verifier.verify_certificate(certificate, now)?;
    let verified: VerifiedPeer = policy.judge(peer, now)?;
    authorise(&verified);
    Ok(())
}
