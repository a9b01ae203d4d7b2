//! Why the agent cannot start or go on.

use std::io;
use std::path::PathBuf;

use crate::tee::TeeError;

/// Why the agent cannot start or go on. What a caller did wrong is never one of these: it is answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// The parts of the handover disagree.
    #[error("handover: {field}: expected {expected}, found {found}")]
    Handover {
        /// Which part.
        field: &'static str,
        /// What the other parts say, in hex.
        expected: String,
        /// What it says, in hex.
        found: String,
    },
    /// The key provider is another than `none`.
    #[error("handover: key_provider: expected `none`, found {found}: not implemented in this version")]
    KeyProvider {
        /// The payload of its event.
        found: String,
    },
    /// The TEE failed.
    #[error(transparent)]
    Tee(#[from] TeeError),
    /// The evidence could not be encoded.
    #[error("evidence could not be encoded: {0}")]
    Evidence(String),
    /// A certificate could not be made.
    #[error("a certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The random number generator failed.
    #[error("the random number generator failed")]
    Random,
    /// The socket could not be made.
    #[error("{path}: {action}: {source}", path = path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Something that is not a socket lies where the socket should be.
    #[error("{path}: expected a socket or nothing, found another kind of file", path = path.display())]
    NotASocket {
        /// Where.
        path: PathBuf,
    },
    /// The listener fails again and again.
    #[error("connections cannot be accepted: {0}")]
    Accept(io::Error),
    /// The runtime could not be made.
    #[error("the runtime could not be made: {0}")]
    Runtime(io::Error),
}
