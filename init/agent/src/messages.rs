//! Requests and answers of the API, in dstack's names (`guest-agent/rpc/proto/agent_rpc.proto`, 0.5.x). Byte fields
//! are lowercase hex in JSON. The server writes them, the client reads them; fields that a newer agent adds are ignored.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What `GetTlsKey` is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TlsKeyRequest {
    /// The common name; empty: none.
    pub subject: String,
    /// IP addresses and DNS names.
    pub alt_names: Vec<String>,
    /// Whether the certificate carries evidence.
    pub usage_ra_tls: bool,
    /// Extended key usage serverAuth.
    pub usage_server_auth: bool,
    /// Extended key usage clientAuth.
    pub usage_client_auth: bool,
    /// Seconds since 1970; by default one hour ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<u64>,
    /// Seconds since 1970; by default in 3650 days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<u64>,
}

/// A fresh key and its certificate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsKey {
    /// P-256, PKCS#8, PEM. Secret.
    #[serde(rename = "key")]
    pub key_pem: String,
    /// PEM, leaf first.
    pub certificate_chain: Vec<String>,
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsKey").field("certificate_chain", &self.certificate_chain).finish_non_exhaustive()
    }
}

/// What `GetKey` is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KeyRequest {
    /// Which key.
    pub path: String,
    /// What the signature says the key is for; the key does not depend on it.
    pub purpose: String,
    /// `secp256k1` (also `k256` or empty) or `ed25519`.
    pub algorithm: String,
}

/// A derived key.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// 32 bytes. Secret.
    #[serde(with = "hex::serde")]
    pub key: [u8; 32],
    /// 65 bytes `r ‖ s ‖ recovery id` by the app's key, then the key provider's signature over the app's key (empty if
    /// there is none).
    #[serde(with = "hex_list")]
    pub signature_chain: Vec<Vec<u8>>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("signature_chain", &self.signature_chain).finish_non_exhaustive()
    }
}

/// What `GetQuote` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// A TDX quote.
    #[serde(with = "hex::serde")]
    pub quote: Vec<u8>,
    /// JSON: the event log; digests of runtime events are empty.
    pub event_log: String,
    /// 64 bytes, as quoted.
    #[serde(with = "hex::serde")]
    pub report_data: Vec<u8>,
    /// JSON: what the host said about the VM.
    pub vm_config: String,
}

/// What `Info` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// 20 bytes.
    #[serde(with = "hex::serde")]
    pub app_id: Vec<u8>,
    /// 20 bytes, or none.
    #[serde(with = "hex::serde")]
    pub instance_id: Vec<u8>,
    /// PEM; empty here.
    pub app_cert: String,
    /// JSON: registers, event log and the document.
    pub tcb_info: String,
    /// dstack's `name`.
    pub app_name: String,
    /// 32 bytes.
    #[serde(with = "hex::serde")]
    pub device_id: Vec<u8>,
    /// 32 bytes.
    #[serde(with = "hex::serde")]
    pub mr_aggregated: Vec<u8>,
    /// 32 bytes; empty while unknown.
    #[serde(with = "hex::serde", default)]
    pub os_image_hash: Vec<u8>,
    /// JSON: the payload of the `key-provider` event.
    pub key_provider_info: String,
    /// 32 bytes.
    #[serde(with = "hex::serde")]
    pub compose_hash: Vec<u8>,
    /// JSON: what the host said about the VM.
    #[serde(default)]
    pub vm_config: String,
    /// Empty here: only the host knows.
    #[serde(default)]
    pub cloud_vendor: String,
    /// Empty here: only the host knows.
    #[serde(default)]
    pub cloud_product: String,
}

/// What `Version` answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The agent's version.
    pub version: String,
    /// Source revision; empty here.
    #[serde(default)]
    pub rev: String,
}

/// `repeated bytes`: an array of hex strings.
mod hex_list {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(list: &[Vec<u8>], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(hex::encode))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        texts.iter().map(|text| hex::decode(text).map_err(D::Error::custom)).collect()
    }
}
