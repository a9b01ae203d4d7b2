//! What an issuer says about a certificate's holder: extensions .3, .4 and .9. Nothing in a quote covers them; they count
//! only where the chain to that issuer was verified.

use casemate_measure::tdx::aggregated::Hash256;
use casemate_measure::{AppId, ComposeHash};
use serde::Deserialize;

use crate::error::EvidenceError;

/// The issuer's claims, as far as the certificate has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IssuerClaims {
    /// `.3`.
    pub app_id: Option<AppId>,
    /// `.4`: `app:custom` for apps, `app:ca`, `kms:rpc`.
    pub usage: Option<String>,
    /// `.9`.
    pub app_info: Option<AppInfo>,
}

/// `.9`, MessagePack, positional (dstack `ra-tls/src/cert.rs`, `dstack-types/src/lib.rs`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppInfo {
    /// The app.
    pub app_id: AppId,
    /// Its document.
    pub compose_hash: ComposeHash,
    /// The instance; empty without one.
    pub instance_id: Vec<u8>,
    /// The platform, as dstack names it.
    pub device_id: Vec<u8>,
    /// Over the registers of the launch and the key provider.
    pub mr_system: Hash256,
    /// Over all registers.
    pub mr_aggregated: Hash256,
    /// The image; empty where nobody said.
    pub os_image_hash: Vec<u8>,
    /// The payload of the `key-provider` event.
    pub key_provider_info: Vec<u8>,
}

/// Positional: 8 elements, and since August 2026 a ninth, which says nothing that the log does not.
#[derive(Deserialize)]
struct Positional(
    Bytes,
    Bytes,
    Bytes,
    Bytes,
    Bytes,
    Bytes,
    Bytes,
    Bytes,
    #[serde(default)]
    #[expect(dead_code, reason = "read so that it may be there")]
    Option<serde::de::IgnoredAny>,
);

type Bytes = super::msgpack::Bin;

impl AppInfo {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, EvidenceError> {
        const WHAT: &str = "certificate: app info (.9)";
        let read: Positional = super::msgpack::read(WHAT, bytes)?;
        let Positional(app_id, compose_hash, instance, device, system, aggregated, image, provider, _) = read;
        Ok(Self {
            app_id: AppId(sized("certificate: app info: app_id", app_id)?),
            compose_hash: ComposeHash(sized("certificate: app info: compose_hash", compose_hash)?),
            instance_id: instance.0,
            device_id: device.0,
            mr_system: Hash256(sized("certificate: app info: mr_system", system)?),
            mr_aggregated: Hash256(sized("certificate: app info: mr_aggregated", aggregated)?),
            os_image_hash: image.0,
            key_provider_info: provider.0,
        })
    }
}

fn sized<const N: usize>(what: &str, bytes: Bytes) -> Result<[u8; N], EvidenceError> {
    let found = bytes.0.len();
    bytes
        .0
        .try_into()
        .map_err(|_| EvidenceError::malformed(what, format!("{N} bytes"), format_args!("{found} bytes")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As `rmp_serde::to_vec` writes a struct whose fields are `bin`: an array of 8.
    fn sample(ninth: &[u8]) -> Vec<u8> {
        let bin = |byte: u8, len: u8| [vec![0xc4, len], vec![byte; usize::from(len)]].concat();
        let head = if ninth.is_empty() { 0x98 } else { 0x99 };
        let fields = [(1, 20), (2, 32), (3, 20), (4, 32), (5, 32), (6, 32), (7, 32), (8, 26)];
        let fields: Vec<u8> = fields.into_iter().flat_map(|(byte, len)| bin(byte, len)).collect();
        [&[head], fields.as_slice(), ninth].concat()
    }

    #[test]
    fn both_lengths_are_read() {
        for ninth in [&[][..], &[0xc0], &[0x91, 0xc4, 1, 7]] {
            let info = AppInfo::decode(&sample(ninth)).unwrap();
            assert_eq!(info.app_id, AppId([1; 20]));
            assert_eq!(info.mr_aggregated, Hash256([6; 32]));
            assert_eq!(info.key_provider_info, [8; 26]);
        }
    }

    #[test]
    fn other_forms_are_refused() {
        let error = |bytes: &[u8]| AppInfo::decode(bytes).unwrap_err().to_string();
        assert!(error(&[0x97]).starts_with("certificate: app info (.9): expected MessagePack"));
        let long = [sample(&[]), vec![0]].concat();
        assert_eq!(
            error(&long),
            "certificate: app info (.9): expected nothing after it, found 1 trailing bytes"
        );
        let mut short = sample(&[]);
        short.remove(3);
        short[2] = 19;
        assert_eq!(error(&short), "certificate: app info: app_id: expected 20 bytes, found 19 bytes");
    }
}
