//! Who we are: what was kept, what the guest agent derives, or new keys.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::NodeError;
use crate::filter::Filter;
use crate::key::{KEY_LEN, Kind, Secret};
use crate::parent::slots::Slots;
use crate::parent::{Config, Keys};
use crate::state::{Kept, NodeKey};

/// An answer of the agent is a short JSON document.
const MAX_ANSWER: usize = 64 << 10;
/// The agent is on this machine; it may be starting.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where an identity comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was kept.
    Kept,
    /// It is new: to be kept before it is used.
    New,
}

/// What was kept, if it reads and is of the same machine; else a new identity.
pub(super) async fn load(config: &Config, slots: &Slots) -> Result<(Kept, Origin), NodeError> {
    if let Some(bytes) = slots.read().map(Zeroizing::new) {
        match Kept::decode(&bytes, &config.prefixes) {
            Ok(kept) => return Ok((judged(kept, config.require_policy), Origin::Kept)),
            Err(error) => warn!(%error, "what was kept is not used"),
        }
    }
    let kept = Kept {
        machine: derive(config, "machine").await?,
        node: node_key(config, 0).await?,
        disco: Secret::generate()?,
        server: None,
        refused: Vec::new(),
        stamp: 0,
        home: None,
        paths: std::collections::BTreeMap::new(),
        map: None,
    };
    info!(node = %kept.node.secret.public(), "a new identity");
    Ok((kept, Origin::New))
}

/// What is required now may not have been when the map was kept.
fn judged(mut kept: Kept, require_policy: bool) -> Kept {
    if let Some(map) = &mut kept.map
        && require_policy
        && map.filter.allow_all()
    {
        warn!("the kept map lets everybody in, which is refused: everybody is");
        map.filter = Arc::new(Filter::deny_all());
        map.filters = Arc::default();
    }
    kept
}

/// The node key of a generation.
pub(super) async fn node_key(config: &Config, generation: u32) -> Result<NodeKey, NodeError> {
    Ok(NodeKey { generation, secret: derive(config, &format!("node/{generation}")).await? })
}

async fn derive<K: Kind>(config: &Config, what: &str) -> Result<Secret<K>, NodeError> {
    match &config.keys {
        Keys::Random => Ok(Secret::generate()?),
        Keys::Agent { socket, instance_id } => {
            let path = format!("casemate/vpn/{instance_id}/{what}");
            let asked = tokio::time::timeout(PATIENCE, get_key(socket, &path)).await;
            let bytes = asked.map_err(|_| NodeError::Agent("no answer".to_owned()))?;
            Ok(Secret::new(*bytes.map_err(|error| NodeError::Agent(error.to_string()))?))
        }
    }
}

/// `GetKey` of the guest agent: 32 bytes that only this path of this app gives.
async fn get_key(
    socket: &Path,
    path: &str,
) -> Result<Zeroizing<[u8; KEY_LEN]>, Box<dyn std::error::Error + Send + Sync>> {
    #[derive(Deserialize)]
    struct Answer {
        key: Zeroizing<String>,
    }
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let question = serde_json::json!({ "path": path, "purpose": "", "algorithm": "" }).to_string();
    let request = Request::post("/GetKey")
        .header(hyper::header::HOST, "dstack")
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(question)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body =
        Zeroizing::new(Limited::new(response.into_body(), MAX_ANSWER).collect().await?.to_bytes().to_vec());
    connection.abort();
    if !status.is_success() {
        return Err(format!("GetKey: status {status}").into());
    }
    let answer: Answer = serde_json::from_slice(&body)?;
    let mut key = Zeroizing::new([0; KEY_LEN]);
    hex::decode_to_slice(&*answer.key, key.as_mut()).map_err(|_| "GetKey: expected 32 bytes in hex")?;
    Ok(key)
}
