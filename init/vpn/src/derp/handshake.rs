//! The greeting on a DERP connection: the server's key, the client's info, the server's info, the last two in NaCl boxes between
//! the client's node key and the server's key (tailscale `derp/derp_client.go`).

use bytes::Bytes;
use crypto_box::aead::{Aead as _, Nonce};
use crypto_box::{PublicKey, SalsaBox, SecretKey};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::frame::Frame;
use crate::key::{NoRandom, Node, Public, Secret, fill_random};

/// The version that both sides speak (`ProtocolVersion`).
pub const PROTOCOL_VERSION: u32 = 2;

/// What a client says about itself. Mesh keys are for relays among themselves: we have none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    /// The version that it speaks.
    #[serde(default)]
    pub version: u32,
    /// Whether it answers pings.
    #[serde(default, rename = "CanAckPings")]
    pub can_ack_pings: bool,
}

/// What a server says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// The version that it speaks.
    #[serde(default)]
    pub version: u32,
    /// How fast a client may send; 0: as it likes.
    #[serde(default, rename = "TokenBucketBytesPerSecond")]
    pub bytes_per_second: u64,
    /// How much it may send at once.
    #[serde(default, rename = "TokenBucketBytesBurst")]
    pub bytes_burst: u64,
}

/// A greeting that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// The other's key gives a secret that everybody knows.
    #[error("the other side's key is weak")]
    WeakKey,
    /// A box that does not open.
    #[error("the info does not open with these keys")]
    Seal,
    /// A box with something else in it.
    #[error("the info is not what the protocol says")]
    Content,
    /// No random bytes.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
}

/// Our client's answer to the server's key.
///
/// # Errors
/// If the server's key is weak, or the system has no random bytes.
pub fn client_info(ours: &Secret<Node>, server: &Public<Node>) -> Result<Frame, HandshakeError> {
    let info = ClientInfo { version: PROTOCOL_VERSION, can_ack_pings: true };
    Ok(Frame::ClientInfo { key: ours.public(), sealed: seal(&info, ours, server)? })
}

/// Reads a client's info, as a server.
///
/// # Errors
/// If it is not sealed by the holder of the key that it names.
pub fn read_client_info(
    server: &Secret<Node>,
    key: &Public<Node>,
    sealed: &[u8],
) -> Result<ClientInfo, HandshakeError> {
    open(sealed, server, key)
}

/// A server's info for a client.
///
/// # Errors
/// If the client's key is weak, or the system has no random bytes.
pub fn server_info(
    server: &Secret<Node>,
    client: &Public<Node>,
    info: &ServerInfo,
) -> Result<Frame, HandshakeError> {
    Ok(Frame::ServerInfo(seal(info, server, client)?))
}

/// Reads the server's info, as a client.
///
/// # Errors
/// If it is not sealed by the holder of the server's key.
pub fn read_server_info(
    ours: &Secret<Node>,
    server: &Public<Node>,
    sealed: &[u8],
) -> Result<ServerInfo, HandshakeError> {
    open(sealed, ours, server)
}

fn shared(ours: &Secret<Node>, theirs: &Public<Node>) -> Result<SalsaBox, HandshakeError> {
    ours.agree(theirs).ok_or(HandshakeError::WeakKey)?;
    Ok(SalsaBox::new(&PublicKey::from(*theirs.bytes()), &SecretKey::from(*ours.bytes())))
}

fn seal<T: Serialize>(info: &T, ours: &Secret<Node>, theirs: &Public<Node>) -> Result<Bytes, HandshakeError> {
    let shared = shared(ours, theirs)?;
    let json = serde_json::to_vec(info).map_err(|_| HandshakeError::Content)?;
    let mut nonce = [0; NONCE_LEN];
    fill_random(&mut nonce)?;
    let sealed = shared.encrypt(&Nonce::<SalsaBox>::from(nonce), json.as_slice());
    let mut out = nonce.to_vec();
    out.extend(sealed.map_err(|_| HandshakeError::Seal)?);
    Ok(out.into())
}

fn open<T: for<'de> Deserialize<'de>>(
    sealed: &[u8],
    ours: &Secret<Node>,
    theirs: &Public<Node>,
) -> Result<T, HandshakeError> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(HandshakeError::Seal)?;
    let shared = shared(ours, theirs)?;
    let json = shared.decrypt(&Nonce::<SalsaBox>::from(*nonce), sealed).map_err(|_| HandshakeError::Seal)?;
    serde_json::from_slice(&json).map_err(|_| HandshakeError::Content)
}

const NONCE_LEN: usize = 24;
