//! Somebody's collateral, stored as he gave it.

use casemate_verify::collateral::{Collateral, Kept, Store};

pub fn keep(store: &Store, collateral: Collateral, now: u64) -> Kept {
    store.keep(collateral, now)
}
