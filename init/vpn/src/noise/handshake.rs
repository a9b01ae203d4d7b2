//! The handshake: one message each way (Noise revision 34, sections 5, 7.5 and 9; tailscale `control/controlbase/handshake.go`).

use blake2::{Blake2s256, Digest as _};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use thiserror::Error;
use zeroize::Zeroizing;

use super::record::{Opener, Sealer};
use crate::key::{KEY_LEN, Machine, Public, Secret};

/// The length of the initiation (`controlbase/messages.go`): version, type, length, and 96 bytes of Noise.
pub const INITIATION_LEN: usize = 101;
/// The length of the response: type, length, and 48 bytes of Noise.
pub const RESPONSE_LEN: usize = 51;
/// A frame of the server's that says in clear text, unauthenticated, why it will not talk.
pub const TYPE_ERROR: u8 = 3;
/// The longest text of an error frame that we keep.
pub const MAX_ERROR_TEXT: usize = 1024;

const TYPE_INITIATION: u8 = 1;
const TYPE_RESPONSE: u8 = 2;
const INITIATION_BODY: u16 = 96;
const RESPONSE_BODY: u16 = 48;
const TAG_LEN: usize = 16;
const PROTOCOL: &[u8] = b"Noise_IK_25519_ChaChaPoly_BLAKE2s";
/// `controlbase/handshake.go`, `protocolVersionPrefix`.
const PROLOGUE: &str = "Tailscale Control Protocol v";
/// BLAKE2s's block (RFC 7693 section 2.1), for HMAC (RFC 2104).
const BLOCK_LEN: usize = 64;

/// Why a handshake did not come about.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The system has no random bytes.
    #[error(transparent)]
    NoRandom(#[from] crate::key::NoRandom),
    /// The other side's key gives a secret that everybody knows.
    #[error("the other side's key is of low order")]
    WeakKey,
    /// A message whose header is not what it must be.
    #[error("expected a handshake message of type {expected}, not of type {found} and {len} bytes")]
    Header {
        /// The type expected.
        expected: u8,
        /// The type found.
        found: u8,
        /// The length that its header says.
        len: u16,
    },
    /// A message that does not open: another key, or another version in the prologue.
    #[error("the handshake message does not open")]
    Sealed,
    /// The server's error frame. Unauthenticated: to be shown, never acted on.
    #[error("the server says: {0}")]
    Refused(String),
}

/// The keys of an established tunnel.
#[derive(Debug)]
pub struct Tunnel {
    /// Seals what we send.
    pub sealer: Sealer,
    /// Opens what we receive.
    pub opener: Opener,
}

/// Our side, waiting for the response.
#[derive(Debug)]
pub struct Initiator {
    symmetric: Symmetric,
    ephemeral: Secret<Machine>,
    machine: Secret<Machine>,
}

impl Initiator {
    /// The first message, and what waits for the second. The version is in its header and in the prologue.
    ///
    /// # Errors
    /// If there is no randomness or the server's key is weak.
    pub fn start(
        version: u16,
        machine: &Secret<Machine>,
        server: &Public<Machine>,
    ) -> Result<(Self, [u8; INITIATION_LEN]), HandshakeError> {
        Self::start_with(version, machine, server, Secret::generate()?)
    }

    /// As [`Self::start`], with an ephemeral key of the caller's: for tests.
    pub(super) fn start_with(
        version: u16,
        machine: &Secret<Machine>,
        server: &Public<Machine>,
        ephemeral: Secret<Machine>,
    ) -> Result<(Self, [u8; INITIATION_LEN]), HandshakeError> {
        let mut symmetric = Symmetric::new(version, server);
        symmetric.mix_hash(ephemeral.public().bytes());
        let key = symmetric.mix_key(&ephemeral, server)?;
        let identity = symmetric.seal(&key, machine.public().bytes())?;
        let key = symmetric.mix_key(machine, server)?;
        let end = symmetric.seal(&key, &[])?;

        let mut message = Vec::with_capacity(INITIATION_LEN);
        message.extend_from_slice(&version.to_be_bytes());
        message.push(TYPE_INITIATION);
        message.extend_from_slice(&INITIATION_BODY.to_be_bytes());
        message.extend_from_slice(ephemeral.public().bytes());
        message.extend_from_slice(&identity);
        message.extend_from_slice(&end);
        let message = message.try_into().map_err(|_| HandshakeError::Sealed)?;
        Ok((Self { symmetric, ephemeral, machine: machine.clone() }, message))
    }

    /// The tunnel, if the response is the server's.
    ///
    /// # Errors
    /// If it is not.
    pub fn finish(mut self, response: &[u8; RESPONSE_LEN]) -> Result<Tunnel, HandshakeError> {
        let (header, body) = response.split_first_chunk::<3>().ok_or(HandshakeError::Sealed)?;
        let [kind, high, low] = *header;
        let len = u16::from_be_bytes([high, low]);
        if kind != TYPE_RESPONSE || len != RESPONSE_BODY {
            return Err(HandshakeError::Header { expected: TYPE_RESPONSE, found: kind, len });
        }
        let (theirs, end) = body.split_first_chunk::<KEY_LEN>().ok_or(HandshakeError::Sealed)?;
        let theirs = Public::<Machine>::new(*theirs);
        self.symmetric.mix_hash(theirs.bytes());
        self.symmetric.mix_key(&self.ephemeral, &theirs)?;
        let key = self.symmetric.mix_key(&self.machine, &theirs)?;
        self.symmetric.open(&key, end)?;
        let (ours, theirs) = self.symmetric.split();
        Ok(Tunnel { sealer: Sealer::new(&ours)?, opener: Opener::new(&theirs)? })
    }
}

/// What a responder learns of the initiator.
#[derive(Debug)]
pub struct Accepted {
    /// The version that the initiator speaks.
    pub version: u16,
    /// Who it is.
    pub machine: Public<Machine>,
    /// What to answer.
    pub response: [u8; RESPONSE_LEN],
    /// The tunnel from then on.
    pub tunnel: Tunnel,
}

/// The server's side: answers an initiation.
///
/// # Errors
/// If the initiation is not one, or is meant for another key.
pub fn respond(
    server: &Secret<Machine>,
    initiation: &[u8; INITIATION_LEN],
) -> Result<Accepted, HandshakeError> {
    let (header, body) = initiation.split_first_chunk::<5>().ok_or(HandshakeError::Sealed)?;
    let [v1, v0, kind, high, low] = *header;
    let len = u16::from_be_bytes([high, low]);
    if kind != TYPE_INITIATION || len != INITIATION_BODY {
        return Err(HandshakeError::Header { expected: TYPE_INITIATION, found: kind, len });
    }
    let version = u16::from_be_bytes([v1, v0]);
    let (ephemeral, rest) = body.split_first_chunk::<KEY_LEN>().ok_or(HandshakeError::Sealed)?;
    let (identity, end) = rest.split_first_chunk::<{ KEY_LEN + TAG_LEN }>().ok_or(HandshakeError::Sealed)?;

    let mut symmetric = Symmetric::new(version, &server.public());
    let theirs = Public::<Machine>::new(*ephemeral);
    symmetric.mix_hash(theirs.bytes());
    let key = symmetric.mix_key(server, &theirs)?;
    let machine = symmetric.open(&key, identity)?;
    let machine = Public::new(machine.try_into().map_err(|_| HandshakeError::Sealed)?);
    let key = symmetric.mix_key(server, &machine)?;
    symmetric.open(&key, end)?;

    let ours = Secret::<Machine>::generate()?;
    symmetric.mix_hash(ours.public().bytes());
    symmetric.mix_key(&ours, &theirs)?;
    let key = symmetric.mix_key(&ours, &machine)?;
    let tag = symmetric.seal(&key, &[])?;
    let mut response = Vec::with_capacity(RESPONSE_LEN);
    response.push(TYPE_RESPONSE);
    response.extend_from_slice(&RESPONSE_BODY.to_be_bytes());
    response.extend_from_slice(ours.public().bytes());
    response.extend_from_slice(&tag);
    let response = response.try_into().map_err(|_| HandshakeError::Sealed)?;

    let (theirs, ours) = symmetric.split();
    Ok(Accepted {
        version,
        machine,
        response,
        tunnel: Tunnel { sealer: Sealer::new(&ours)?, opener: Opener::new(&theirs)? },
    })
}

type Hash = [u8; 32];
type Key = Zeroizing<[u8; 32]>;

/// Noise's symmetric state (section 5.2).
struct Symmetric {
    hash: Hash,
    chaining: Key,
}

impl std::fmt::Debug for Symmetric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Symmetric")
    }
}

impl Symmetric {
    fn new(version: u16, server: &Public<Machine>) -> Self {
        let hash: Hash = Blake2s256::digest(PROTOCOL).into();
        let mut state = Self { hash, chaining: Zeroizing::new(hash) };
        state.mix_hash(format!("{PROLOGUE}{version}").as_bytes());
        state.mix_hash(server.bytes());
        state
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = Blake2s256::new().chain_update(self.hash).chain_update(data).finalize().into();
    }

    fn mix_key<P>(&mut self, ours: &Secret<Machine>, theirs: &Public<P>) -> Result<Key, HandshakeError> {
        let shared = ours.agree(theirs).ok_or(HandshakeError::WeakKey)?;
        let (chaining, key) = hkdf(&self.chaining, shared.as_ref());
        self.chaining = chaining;
        Ok(key)
    }

    fn seal(&mut self, key: &Key, plain: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let mut sealed = plain.to_vec();
        aead(key)?
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key([0; 12]),
                Aad::from(self.hash),
                &mut sealed,
            )
            .map_err(|_| HandshakeError::Sealed)?;
        self.mix_hash(&sealed);
        Ok(sealed)
    }

    fn open(&mut self, key: &Key, sealed: &[u8]) -> Result<Vec<u8>, HandshakeError> {
        let mut plain = sealed.to_vec();
        let len = aead(key)?
            .open_in_place(Nonce::assume_unique_for_key([0; 12]), Aad::from(self.hash), &mut plain)
            .map_err(|_| HandshakeError::Sealed)?
            .len();
        plain.truncate(len);
        self.mix_hash(sealed);
        Ok(plain)
    }

    /// The initiator's key and the responder's.
    fn split(&self) -> (Key, Key) {
        hkdf(&self.chaining, &[])
    }
}

pub(super) fn aead(key: &[u8; 32]) -> Result<LessSafeKey, HandshakeError> {
    Ok(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).map_err(|_| HandshakeError::Sealed)?))
}

/// Two outputs of Noise's HKDF (section 4.3).
pub(crate) fn hkdf(chaining: &[u8; 32], input: &[u8]) -> (Key, Key) {
    let pseudorandom = hmac(chaining, &[input]);
    let first = hmac(&pseudorandom, &[&[1]]);
    let second = hmac(&pseudorandom, &[first.as_ref(), &[2]]);
    (first, second)
}

/// HMAC over BLAKE2s (RFC 2104); every key here is shorter than a block.
pub(crate) fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Key {
    let pad = |with: u8| {
        let mut block = Zeroizing::new([with; BLOCK_LEN]);
        for (byte, key) in block.iter_mut().zip(key) {
            *byte ^= key;
        }
        block
    };
    let mut inner = Blake2s256::new().chain_update(pad(0x36).as_ref());
    for part in parts {
        inner.update(part);
    }
    let inner = inner.finalize();
    Zeroizing::new(Blake2s256::new().chain_update(pad(0x5c).as_ref()).chain_update(inner).finalize().into())
}
