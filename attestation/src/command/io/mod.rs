//! What touches files, the clock, chance and the network.

pub(super) mod files;
pub(super) mod http;
pub(super) mod tls;
pub(super) mod url;

use std::time::{SystemTime, UNIX_EPOCH};

use ring::rand::{SecureRandom as _, SystemRandom};

/// The host's clock, Unix seconds; 0 before 1970, when no evidence is valid.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Bytes that nobody can foresee.
pub(super) fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| "the system gave no random bytes".to_owned())?;
    Ok(bytes)
}
