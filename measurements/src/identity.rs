//! Who an app is: compose hash, app id, instance id and MRCONFIGID, exactly as dstack computes them
//! (dstack `dstack-types/src/mr_config.rs`, `dstack-util/src/system_setup.rs`).

use sha2::{Digest as _, Sha256};
use sha3::Keccak256;

macro_rules! hex_newtype {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// From exactly as many lowercase or uppercase hex digits as it has; `None` otherwise.
            pub fn from_hex(text: &str) -> Option<Self> {
                let mut bytes = [0_u8; $len];
                hex::decode_to_slice(text, &mut bytes).ok()?;
                Some(Self(bytes))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                Self::from_hex(&text).ok_or_else(|| {
                    serde::de::Error::custom(format_args!(
                        "expected {} hex digits, found {text:?}", 2_usize.saturating_mul($len)
                    ))
                })
            }
        }
    };
}
pub(crate) use hex_newtype;

hex_newtype!(
    /// SHA-256 of the raw bytes of `app-compose.json`; no canonicalisation.
    ComposeHash, 32
);
hex_newtype!(
    /// The app's identity: 20 bytes.
    AppId, 20
);
hex_newtype!(
    /// One running instance of an app: 20 bytes.
    InstanceId, 20
);
hex_newtype!(
    /// TDX MRCONFIGID: 48 bytes, of which the first says the version.
    MrConfigId, 48
);

impl ComposeHash {
    /// Hashes the document as it was supplied.
    pub fn of(document: &[u8]) -> Self {
        Self(Sha256::digest(document).into())
    }

    /// The app id of an app without a KMS: the first 20 bytes.
    pub fn app_id(&self) -> AppId {
        let mut id = [0; 20];
        id.iter_mut().zip(self.0).for_each(|(to, from)| *to = from);
        AppId(id)
    }
}

impl InstanceId {
    /// `sha256(seed ‖ app_id)[..20]`.
    pub fn derive(seed: &[u8; 20], app: &AppId) -> Self {
        let digest: [u8; 32] = Sha256::new().chain_update(seed).chain_update(app.0).finalize().into();
        let mut id = [0; 20];
        id.iter_mut().zip(digest).for_each(|(to, from)| *to = from);
        Self(id)
    }
}

/// Where an app's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyProvider {
    /// Nowhere: keys are made at each boot.
    None,
    /// A local SGX key provider; its MRENCLAVE.
    Local(Vec<u8>),
    /// A dstack KMS; the SPKI DER of its root CA.
    Kms(Vec<u8>),
    /// A vTPM.
    Tpm,
}

impl KeyProvider {
    /// The payload of the `key-provider` event: field order name, id; no spaces (dstack reference 3.1).
    pub fn event_payload(&self) -> String {
        let (name, id) = match self {
            Self::None => ("none", String::new()),
            Self::Local(id) => ("local-sgx", hex::encode(id)),
            Self::Kms(id) => ("kms", hex::encode(id)),
            Self::Tpm => ("tpm", String::new()),
        };
        format!(r#"{{"name":"{name}","id":"{id}"}}"#)
    }

    /// The word that dstack's documents use (dstack `dstack-types/src/lib.rs`, `KeyProviderKind`).
    pub const fn word(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Local(_) => "local",
            Self::Kms(_) => "kms",
            Self::Tpm => "tpm",
        }
    }

    const fn code(&self) -> u8 {
        match self {
            Self::None => 0,
            Self::Local(_) => 1,
            Self::Kms(_) => 2,
            Self::Tpm => 3,
        }
    }

    /// What the provider is known by; empty where it has nothing of the kind.
    pub fn id(&self) -> &[u8] {
        match self {
            Self::None | Self::Tpm => &[],
            Self::Local(id) | Self::Kms(id) => id,
        }
    }
}

impl MrConfigId {
    /// All zero: nothing was bound at launch.
    pub const ZERO: Self = Self([0; 48]);

    /// Version 1: `01 ‖ compose_hash ‖ 0^15`.
    pub fn v1(compose: &ComposeHash) -> Self {
        Self::versioned(1, compose.0)
    }

    /// Version 2: `02 ‖ keccak256(compose_hash ‖ app_id ‖ kind ‖ key_provider_id) ‖ 0^15`.
    pub fn v2(compose: &ComposeHash, app: &AppId, provider: &KeyProvider) -> Self {
        let digest = Keccak256::new()
            .chain_update(compose.0)
            .chain_update(app.0)
            .chain_update([provider.code()])
            .chain_update(provider.id())
            .finalize();
        Self::versioned(2, digest.into())
    }

    /// Version 3: `03 ‖ sha256("dstack-mr-config-v3:" ‖ 00 ‖ document) ‖ 0^15`, the `MrConfigV3` JSON hashed as supplied.
    pub fn v3(document: &[u8]) -> Self {
        let digest = Sha256::new().chain_update(b"dstack-mr-config-v3:\0").chain_update(document).finalize();
        Self::versioned(3, digest.into())
    }

    fn versioned(version: u8, digest: [u8; 32]) -> Self {
        let mut id = [0; 48];
        let bytes = std::iter::once(version).chain(digest);
        id.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Self(id)
    }
}
