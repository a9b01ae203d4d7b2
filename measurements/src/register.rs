//! SHA-384 measurement registers.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha384};

use crate::identity::{MrConfigId, hex_newtype};

hex_newtype!(
    /// A TDX measurement register, or a digest that extends one: 48 bytes. All zero is "not measured".
    Register, 48
);

impl Register {
    /// Nothing measured.
    pub const ZERO: Self = Self([0; 48]);

    /// SHA-384 of some bytes.
    pub fn digest(bytes: &[u8]) -> Self {
        Self(Sha384::digest(bytes).into())
    }

    /// `SHA384(old ‖ digest)`: what TDG.MR.RTMR.EXTEND does.
    #[must_use]
    pub fn extended(&self, digest: &Self) -> Self {
        Self(Sha384::new().chain_update(self.0).chain_update(digest.0).finalize().into())
    }

    /// Whether nothing was measured into it.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 48]
    }
}

/// What a VM shows at launch: `registers.json` of an image directory, the SMBIOS strings of the simulated TEE, and the
/// registers a policy accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchRegisters {
    /// Firmware.
    pub mrtd: Register,
    /// Firmware configuration and ACPI.
    pub rtmr0: Register,
    /// Kernel.
    pub rtmr1: Register,
    /// Command line and initramfs.
    pub rtmr2: Register,
    /// What the host bound at launch.
    #[serde(default = "zero_config_id", skip_serializing_if = "is_zero_config_id")]
    pub mrconfigid: MrConfigId,
}

impl LaunchRegisters {
    /// Nothing measured at all.
    pub const ZERO: Self = Self {
        mrtd: Register::ZERO,
        rtmr0: Register::ZERO,
        rtmr1: Register::ZERO,
        rtmr2: Register::ZERO,
        mrconfigid: MrConfigId::ZERO,
    };
}

const fn zero_config_id() -> MrConfigId {
    MrConfigId::ZERO
}

fn is_zero_config_id(id: &MrConfigId) -> bool {
    *id == MrConfigId::ZERO
}
