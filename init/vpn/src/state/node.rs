//! A node of the kept map, in half of the bytes that its fields in full would take.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;

use crate::key::{Disco, KEY_LEN, Kind, Node, Public};
use crate::netmap::{NodeId, RegionId, TailnetNode};

/// Public keys in base64, 43 bytes each; what is as in most nodes is left out.
#[derive(Serialize, Deserialize)]
pub(super) struct NodeRecord {
    #[serde(rename = "i")]
    pub(super) id: NodeId,
    #[serde(rename = "k")]
    key: Short<Node>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    disco: Option<Short<Disco>>,
    #[serde(rename = "n", default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<IpNet>,
    /// Left out: the addresses.
    #[serde(rename = "w", default, skip_serializing_if = "Option::is_none")]
    allowed: Option<Vec<IpNet>>,
    #[serde(rename = "e", default, skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<SocketAddr>,
    #[serde(rename = "h", default, skip_serializing_if = "Option::is_none")]
    home: Option<RegionId>,
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    online: Option<bool>,
    #[serde(rename = "t", default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    #[serde(
        rename = "x",
        default,
        skip_serializing_if = "Option::is_none",
        with = "time::serde::timestamp::option"
    )]
    key_expiry: Option<OffsetDateTime>,
    #[serde(rename = "z", default, skip_serializing_if = "std::ops::Not::not")]
    expired: bool,
}

impl NodeRecord {
    pub(super) fn of(node: &TailnetNode) -> Self {
        Self {
            id: node.id,
            key: Short(node.key),
            disco: node.disco.map(Short),
            name: node.name.clone(),
            addresses: node.addresses.clone(),
            allowed: Some(&node.allowed).filter(|allowed| **allowed != node.addresses).cloned(),
            endpoints: node.endpoints.clone(),
            home: node.home,
            online: node.online,
            tags: node.tags.clone(),
            key_expiry: node.key_expiry,
            expired: node.expired,
        }
    }
}

impl From<NodeRecord> for TailnetNode {
    fn from(record: NodeRecord) -> Self {
        Self {
            id: record.id,
            key: record.key.0,
            disco: record.disco.map(|disco| disco.0),
            name: record.name,
            allowed: record.allowed.unwrap_or_else(|| record.addresses.clone()),
            addresses: record.addresses,
            endpoints: record.endpoints,
            home: record.home,
            online: record.online,
            tags: record.tags,
            key_expiry: record.key_expiry,
            expired: record.expired,
        }
    }
}

struct Short<K: Kind>(Public<K>);

impl<K: Kind> Serialize for Short<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut text = [0; KEY_LEN.div_ceil(3) * 4];
        let length = STANDARD_NO_PAD.encode_slice(self.0.bytes(), &mut text);
        let text = length.ok().and_then(|length| std::str::from_utf8(text.get(..length)?).ok());
        serializer.serialize_str(text.ok_or_else(|| serde::ser::Error::custom("a key has no room"))?)
    }
}

impl<'de, K: Kind> Deserialize<'de> for Short<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = STANDARD_NO_PAD.decode(text.as_bytes()).ok();
        let bytes: Option<[u8; KEY_LEN]> = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map(|bytes| Self(Public::new(bytes))).ok_or_else(|| de::Error::custom("not a key in base64"))
    }
}
