//! A genuine quote says nothing about the code.

use casemate_verify::{AuthenticQuote, VerifiedPeer, Verifier, VerifyError};

fn authorise(_: &VerifiedPeer) {}

pub fn handshake(verifier: &Verifier, raw: &[u8], now: u64) -> Result<(), VerifyError> {
    let quote: AuthenticQuote = verifier.verify_quote(raw, now)?;
    authorise(&quote);
    Ok(())
}
