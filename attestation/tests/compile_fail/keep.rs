//! The way into the store, beside the one that must not compile.

use casemate_verify::collateral::{Collateral, Kept, Store};
use casemate_verify::{Verifier, VerifyError};

pub fn keep(
    store: &Store,
    verifier: &Verifier,
    quote: &[u8],
    collateral: Collateral,
    now: u64,
) -> Result<Kept, VerifyError> {
    Ok(store.keep(verifier.verify_collateral(quote, collateral, now)?, now))
}
