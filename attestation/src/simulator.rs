//! The simulated TEE's root and its fixed collateral. Both are made by `examples/simulator_pki`, whose seed, and so every
//! key, is public: this root proves nothing, and is trusted only where somebody says so.

use crate::collateral::Collateral;

/// The root certificate, DER.
pub const ROOT_DER: &[u8] = crate::anchor::SIMULATOR_ROOT_DER;

/// The collateral, in the JSON form of [`QuoteCollateralV3`](crate::QuoteCollateralV3).
pub const COLLATERAL_JSON: &str = include_str!("simulator/collateral.json");

/// The collateral; `None` never happens with the committed file, which a test reads.
pub fn collateral() -> Option<Collateral> {
    Collateral::from_json(COLLATERAL_JSON.as_bytes()).ok()
}
