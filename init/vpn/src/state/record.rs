//! The record as JSON. Private keys are hex in it, and nowhere else.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Kept, NodeKey, Refused, StateError, compile};
use crate::key::{KEY_LEN, Kind, Machine, Node, Public, Secret};
use crate::netmap::{DerpMap, DnsConfig, NamedFilters, Netmap, RegionId, TailnetNode};
use crate::registration::Login;

/// The version of the record that this program writes.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    machine: Zeroizing<String>,
    generation: u32,
    node: Zeroizing<String>,
    /// Absent in the records of programs that knew none.
    #[serde(default)]
    next: Option<NextRecord>,
    disco: Zeroizing<String>,
    server: Option<Public<Machine>>,
    /// Absent in the records of programs that knew none.
    #[serde(default)]
    login: Option<Login>,
    refused: Vec<RefusedRecord>,
    #[serde(default)]
    stamp: u64,
    home: Option<RegionId>,
    paths: BTreeMap<Public<Node>, SocketAddr>,
    map: Option<MapRecord>,
}

#[derive(Serialize, Deserialize)]
struct NextRecord {
    generation: u32,
    node: Zeroizing<String>,
}

#[derive(Serialize, Deserialize)]
struct RefusedRecord {
    #[serde(with = "hex::serde")]
    digest: [u8; 32],
    text: String,
}

#[derive(Serialize, Deserialize)]
struct MapRecord {
    node: TailnetNode,
    peers: Vec<TailnetNode>,
    derp: DerpMap,
    dns: DnsConfig,
    filters: NamedFilters,
}

pub(super) fn encode(kept: &Kept) -> Result<Zeroizing<Vec<u8>>, StateError> {
    let record = Record {
        version: VERSION,
        machine: secret_text(&kept.machine),
        generation: kept.node.generation,
        node: secret_text(&kept.node.secret),
        next: kept
            .next
            .as_ref()
            .map(|next| NextRecord { generation: next.generation, node: secret_text(&next.secret) }),
        disco: secret_text(&kept.disco),
        server: kept.server,
        login: kept.login.clone(),
        refused: kept
            .refused
            .iter()
            .map(|refused| RefusedRecord { digest: refused.digest, text: refused.text.clone() })
            .collect(),
        stamp: kept.stamp,
        home: kept.home,
        paths: kept.paths.clone(),
        map: kept.map.as_ref().map(|map| MapRecord {
            node: (*map.node).clone(),
            peers: map.peers.values().map(|peer| (**peer).clone()).collect(),
            derp: (*map.derp).clone(),
            dns: (*map.dns).clone(),
            filters: (*map.filters).clone(),
        }),
    };
    Ok(Zeroizing::new(serde_json::to_vec(&record)?))
}

pub(super) fn decode(bytes: &[u8]) -> Result<Kept, StateError> {
    let record: Record = serde_json::from_slice(bytes)?;
    if record.version != VERSION {
        return Err(StateError::Version { found: record.version, expected: VERSION });
    }
    let map = record.map.map(|map| Netmap {
        node: Arc::new(map.node),
        peers: Arc::new(map.peers.into_iter().map(|peer| (peer.id, Arc::new(peer))).collect()),
        derp: Arc::new(map.derp),
        dns: Arc::new(map.dns),
        filter: compile(&map.filters),
        filters: Arc::new(map.filters),
    });
    Ok(Kept {
        machine: secret(&record.machine, "machine key")?,
        node: NodeKey { generation: record.generation, secret: secret(&record.node, "node key")? },
        next: match record.next {
            None => None,
            Some(next) => {
                Some(NodeKey { generation: next.generation, secret: secret(&next.node, "next node key")? })
            }
        },
        disco: secret(&record.disco, "disco key")?,
        server: record.server,
        login: record.login,
        refused: record
            .refused
            .into_iter()
            .map(|refused| Refused { digest: refused.digest, text: refused.text })
            .collect(),
        stamp: record.stamp,
        home: record.home,
        paths: record.paths,
        map,
    })
}

fn secret_text<K: Kind>(secret: &Secret<K>) -> Zeroizing<String> {
    Zeroizing::new(hex::encode(*secret.bytes()))
}

fn secret<K: Kind>(text: &str, name: &'static str) -> Result<Secret<K>, StateError> {
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    hex::decode_to_slice(text, bytes.as_mut()).map_err(|_| StateError::Key(name))?;
    Ok(Secret::new(*bytes))
}
