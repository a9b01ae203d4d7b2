//! The record as JSON. Private keys are hex in it, and nowhere else. Nodes, of which there may be thousands, are written shortly.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::node::NodeRecord;
use super::{Kept, NodeKey, Refused, StateError, compile};
use crate::key::{KEY_LEN, Kind, Machine, Node, Public, Secret};
use crate::netmap::{DerpMap, DnsConfig, NamedFilters, Netmap, RegionId};
use crate::registration::Login;

/// The version of the record that this program writes.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Record<Paths, Map> {
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
    paths: Paths,
    map: Option<Map>,
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

type PathRecords = BTreeMap<Public<Node>, SocketAddr>;

#[derive(Deserialize)]
struct MapRecord {
    node: NodeRecord,
    peers: Vec<NodeRecord>,
    derp: DerpMap,
    dns: DnsConfig,
    filters: NamedFilters,
}

/// The same, written from where it lies.
#[derive(Serialize)]
struct WrittenMap<'a> {
    node: NodeRecord,
    #[serde(serialize_with = "peers")]
    peers: &'a Netmap,
    derp: &'a DerpMap,
    dns: &'a DnsConfig,
    filters: &'a NamedFilters,
}

fn peers<S: serde::Serializer>(map: &&Netmap, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(map.peers.values().map(|peer| NodeRecord::of(peer)))
}

/// Which part of it is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All.
    Whole,
    /// All but the map, and what is of use only with it.
    WithoutMap,
}

/// The bytes, if they are at most so many.
pub(super) fn encode(kept: &Kept, part: Part, most: usize) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    let none = PathRecords::new();
    let whole = part == Part::Whole;
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
        paths: if whole { &kept.paths } else { &none },
        map: kept.map.as_ref().filter(|_| whole).map(|map| WrittenMap {
            node: NodeRecord::of(&map.node),
            peers: map,
            derp: &map.derp,
            dns: &map.dns,
            filters: &map.filters,
        }),
    };
    // Counted first: a map that has no room costs none, and a buffer that grew would leave its keys in the memory that it left.
    let mut length = Counter { bytes: 0, most };
    match serde_json::to_writer(&mut length, &record) {
        Ok(()) => {}
        Err(_) if length.bytes > most => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(length.bytes));
    serde_json::to_writer(&mut *bytes, &record)?;
    Ok(Some(bytes))
}

/// Counts up to a bound.
struct Counter {
    bytes: usize,
    most: usize,
}

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.bytes > self.most { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn decode(bytes: &[u8]) -> Result<Kept, StateError> {
    let record: Record<PathRecords, Box<RawValue>> = serde_json::from_slice(bytes)?;
    if record.version != VERSION {
        return Err(StateError::Version { found: record.version, expected: VERSION });
    }
    let map = record.map.and_then(|raw| match serde_json::from_str::<MapRecord>(raw.get()) {
        Ok(map) => Some(map),
        Err(error) => {
            // Another program's, perhaps. The identity is worth more.
            tracing::warn!(%error, "the kept map does not read");
            None
        }
    });
    let map = map.map(|map| Netmap {
        node: Arc::new(map.node.into()),
        peers: Arc::new(map.peers.into_iter().map(|peer| (peer.id, Arc::new(peer.into()))).collect()),
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
