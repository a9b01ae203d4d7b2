//! What dstack's policies and contracts know a machine by: SHA-256 over its registers (dstack
//! `dstack-attest/src/attestation.rs`).

use sha2::{Digest as _, Sha256};

use crate::identity::{MrConfigId, hex_newtype};
use crate::register::{LaunchRegisters, Register};

hex_newtype!(
    /// A SHA-256: 32 bytes.
    Hash256, 32
);

impl Hash256 {
    /// Of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// `sha256(payload)` of the `key-provider` event; zero if there is none (a log that ends at `boot-mr-done`).
pub fn mr_key_provider(payload: Option<&[u8]>) -> Hash256 {
    payload.map_or(Hash256([0; 32]), Hash256::of)
}

/// `sha256(MRTD ‖ RTMR0 ‖ RTMR1 ‖ RTMR2 ‖ mr_key_provider)`.
pub fn mr_system(launch: &LaunchRegisters, key_provider: &Hash256) -> Hash256 {
    let hash = of_launch(launch).chain_update(key_provider.0);
    Hash256(hash.finalize().into())
}

/// `sha256(MRTD ‖ RTMR0 ‖ RTMR1 ‖ RTMR2 ‖ RTMR3 [‖ MRCONFIGID ‖ MROWNER ‖ MROWNERCONFIG])`, the tail only if one of the
/// three is not zero. `rtmr3` is the register, or what the events up to `boot-mr-done` make of it.
pub fn mr_aggregated(
    launch: &LaunchRegisters,
    rtmr3: &Register,
    owner: &Register,
    owner_config: &Register,
) -> Hash256 {
    let mut hash = of_launch(launch).chain_update(rtmr3.0);
    if launch.mrconfigid != MrConfigId::ZERO || !owner.is_zero() || !owner_config.is_zero() {
        hash.update(launch.mrconfigid.0);
        hash.update(owner.0);
        hash.update(owner_config.0);
    }
    Hash256(hash.finalize().into())
}

fn of_launch(launch: &LaunchRegisters) -> Sha256 {
    let registers = [launch.mrtd, launch.rtmr0, launch.rtmr1, launch.rtmr2];
    registers.iter().fold(Sha256::new(), |hash, register| hash.chain_update(register.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by Python's hashlib over the bytes of the same values.
    #[test]
    fn over_the_registers_in_their_order() {
        let launch = LaunchRegisters {
            mrtd: Register([1; 48]),
            rtmr0: Register([2; 48]),
            rtmr1: Register([3; 48]),
            rtmr2: Register([4; 48]),
            mrconfigid: MrConfigId::ZERO,
        };
        let provider = mr_key_provider(Some(br#"{"name":"none","id":""}"#));
        assert_eq!(provider.to_string(), "3369c4d32b9f1320ebba5ce9892a283127b7e96e1d511d7f292e5d9ed2c10b8c");
        assert_eq!(mr_key_provider(None), Hash256([0; 32]));
        assert_eq!(
            mr_system(&launch, &provider).to_string(),
            "36e28a0caac6ea28ab21a5d978168f10a8443e48cb11b5b1c08726132a002cf9"
        );
        let (rtmr3, zero) = (Register([5; 48]), Register::ZERO);
        assert_eq!(
            mr_aggregated(&launch, &rtmr3, &zero, &zero).to_string(),
            "f19f6a13a1f3a6bf9607fa8435673eb843a03be87c19eb8bb0b8f585921851bd"
        );
        let bound = LaunchRegisters { mrconfigid: MrConfigId([6; 48]), ..launch };
        assert_eq!(
            mr_aggregated(&bound, &rtmr3, &zero, &zero).to_string(),
            "a4b7a0da6dcdea7af50dafb3804913a06e3c1a22166b23cc0faf665a96c73de9"
        );
        assert_eq!(
            mr_aggregated(&launch, &rtmr3, &zero, &Register([7; 48])).to_string(),
            "7d95acfa6a372c38aa01cf19b78c9089c88035ab8516a38c0b1f3671786e5cce"
        );
    }
}
