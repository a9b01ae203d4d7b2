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
use crate::control::map::PolicyState;
use crate::control::wire::BadJson;
use crate::filter::Filter;
use crate::key::{KEY_LEN, Kind, Secret};
use crate::parent::slots::Slots;
use crate::parent::{Config, Keys};
use crate::state::{Kept, NodeKey};

/// An answer of the agent is a short JSON document.
const MAX_ANSWER: usize = 64 << 10;
/// The agent is on this machine; it may be starting.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many generations of derived node keys are asked for after a new deployment: a rotation is rare, and each is a question.
const GENERATIONS: u32 = 4;

/// Where an identity comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was kept.
    Kept,
    /// It is new: to be kept before it is used.
    New,
}

/// The node keys that a server may know us by beside the one that is kept. Derived keys outlive what was kept: a new deployment
/// does not know which generation its predecessor had come to, until a server has admitted it.
pub(super) async fn others(config: &Config, kept: &Kept) -> Result<Vec<NodeKey>, NodeError> {
    let mut others: Vec<NodeKey> = kept.next.iter().cloned().collect();
    if kept.server.is_none() && matches!(config.keys, Keys::Agent { .. }) {
        for generation in 0..GENERATIONS {
            let known = std::iter::once(&kept.node).chain(&others).any(|key| key.generation == generation);
            if !known {
                others.push(node_key(config, generation).await?);
            }
        }
    }
    Ok(others)
}

/// Whether a server may know us: then we ask before a pre-auth key is used.
pub(super) const fn may_be_known(config: &Config, kept: &Kept) -> bool {
    kept.server.is_some() || matches!(config.keys, Keys::Agent { .. })
}

/// What was kept, if it reads and is of the same machine, with what its map's filter is; else a new identity.
pub(super) async fn load(config: &Config, slots: &Slots) -> Result<(Kept, PolicyState, Origin), NodeError> {
    if let Some(bytes) = slots.read().map(Zeroizing::new) {
        match Kept::decode(&bytes, &config.prefixes) {
            Ok(kept) => {
                let (kept, policy) = judged(kept, config.require_policy);
                return Ok((kept, policy, Origin::Kept));
            }
            Err(error) => warn!(%error, "what was kept is not used"),
        }
    }
    let kept = Kept {
        machine: derive(config, "machine").await?,
        node: node_key(config, 0).await?,
        next: None,
        disco: Secret::generate()?,
        server: None,
        login: None,
        refused: Vec::new(),
        stamp: 0,
        home: None,
        paths: std::collections::BTreeMap::new(),
        map: None,
    };
    info!(node = %kept.node.secret.public(), "a new identity");
    Ok((kept, PolicyState::default(), Origin::New))
}

/// What is required now may not have been when the map was kept.
fn judged(mut kept: Kept, require_policy: bool) -> (Kept, PolicyState) {
    let policy = match &mut kept.map {
        Some(map) if map.filter.allow_all() && require_policy => {
            map.filter = Arc::new(Filter::deny_all());
            map.filters = Arc::default();
            PolicyState::AllowAllRefused
        }
        Some(map) if map.filter.allow_all() => PolicyState::AllowAll,
        _ => PolicyState::Policy,
    };
    (kept, policy)
}

/// The node key that follows another one. If it was made before and no server has taken it, it will do: it is the one that a later
/// life looks for, too.
pub(super) async fn following(
    config: &Config,
    before: &NodeKey,
    next: Option<NodeKey>,
) -> Result<NodeKey, NodeError> {
    let generation = before.generation.wrapping_add(1);
    match next.filter(|next| next.generation == generation) {
        Some(next) => Ok(next),
        None => node_key(config, generation).await,
    }
}

/// The node key of a generation.
async fn node_key(config: &Config, generation: u32) -> Result<NodeKey, NodeError> {
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
    // Without serde's words, which quote what stands there.
    let answer: Answer = serde_json::from_slice(&body).map_err(BadJson::from)?;
    let mut key = Zeroizing::new([0; KEY_LEN]);
    hex::decode_to_slice(&*answer.key, key.as_mut()).map_err(|_| "GetKey: expected 32 bytes in hex")?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

    use serde_json::json;
    use sha2::{Digest as _, Sha256};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::super::tests;
    use super::*;
    use crate::parent::slots;

    fn config(keys: &Keys) -> Config {
        Config { keys: keys.clone(), ..tests::config() }
    }

    /// An agent that gives each path a key of its own, said so, until it is aborted.
    fn agent(socket: &Path, say: fn(String) -> serde_json::Value) -> tokio::task::JoinHandle<()> {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut question = Vec::new();
                while !question.ends_with(b"}") {
                    stream.read_buf(&mut question).await.unwrap();
                }
                let question = String::from_utf8(question).unwrap();
                let (_, path) = question.split_once(r#""path":""#).unwrap();
                let (path, _) = path.split_once('"').unwrap();
                let body = say(hex::encode(Sha256::digest(path))).to_string();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        })
    }

    #[tokio::test]
    async fn a_new_deployment_is_looked_for_under_the_derived_keys_of_the_former_one() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let agent = agent(&socket, |key| json!({ "key": key }));
        let config = config(&Keys::Agent { socket, instance_id: "i".to_owned() });
        let load = async || {
            let (kept, ..) = load(&config, &Slots::new(slots::create().unwrap()).unwrap()).await.unwrap();
            let others = others(&config, &kept).await.unwrap();
            (kept, others)
        };
        let others_of = async |kept: &Kept| others(&config, kept).await.unwrap();
        let (mut former, _) = load().await;
        assert!(may_be_known(&config, &former));
        for _ in 0..2 {
            let next = following(&config, &former.node, None).await.unwrap();
            former.promote(next);
        }
        let (kept, mut others) = load().await;
        assert_eq!(kept.machine.public(), former.machine.public());
        assert_eq!((kept.node.generation, others.len()), (0, 3));
        let found = others.iter().find(|other| other.secret.public() == former.node.secret.public());
        assert_eq!(found.unwrap().generation, 2);
        // Once a server has admitted it, it knows.
        former.server = Some(former.machine.public());
        assert!(others_of(&former).await.is_empty());

        // An agent that is gone gives no key, and one that was made is still there.
        agent.abort();
        drop(agent.await);
        assert!(matches!(following(&config, &kept.node, None).await, Err(NodeError::Agent(_))));
        let made = others.remove(0);
        let again = following(&config, &kept.node, Some(made.clone())).await.unwrap();
        assert_eq!((again.generation, again.secret.public()), (1, made.secret.public()));
        // One that is no successor is not taken for it.
        following(&config, &made, Some(made.clone())).await.unwrap_err();
    }

    #[tokio::test]
    async fn an_agent_that_answers_amiss_has_its_key_in_no_error() {
        let says: [fn(String) -> serde_json::Value; 3] =
            [|key| json!(key), |key| json!({ "key": [key] }), |key| json!({ "key": format!("{key}00") })];
        for say in says {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("agent.sock");
            let agent = agent(&socket, say);
            let config = config(&Keys::Agent { socket, instance_id: "i".to_owned() });
            let error = node_key(&config, 0).await.unwrap_err().to_string();
            let key = hex::encode(Sha256::digest("casemate/vpn/i/node/0"));
            assert!(error.starts_with("the guest agent: ") && !error.contains(&key), "{error}");
            agent.abort();
        }
    }

    #[tokio::test]
    async fn random_keys_are_looked_for_only_where_one_was_made_and_not_admitted() {
        let config = config(&Keys::Random);
        let slots = Slots::new(slots::create().unwrap()).unwrap();
        let (mut kept, _, origin) = load(&config, &slots).await.unwrap();
        assert_eq!(origin, Origin::New);
        assert!(!may_be_known(&config, &kept) && others(&config, &kept).await.unwrap().is_empty());
        kept.next = Some(following(&config, &kept.node, None).await.unwrap());
        slots.write(&kept.encode().unwrap()).unwrap();
        let (kept, _, origin) = load(&config, &slots).await.unwrap();
        let others = others(&config, &kept).await.unwrap();
        assert_eq!((origin, others.len(), others.first().unwrap().generation), (Origin::Kept, 1, 1));
    }
}
