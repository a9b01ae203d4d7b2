//! Pre-auth keys, and refusals.

use std::fmt;

use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::control::harmless;

/// A pre-auth key. It is wiped when dropped, and says nothing of itself.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthKey(Zeroizing<String>);

impl AuthKey {
    /// The key of a text, as a file or a document has it; `None`: there is nothing in it.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(Zeroizing::new(text.to_owned())))
    }

    /// The text, for the one request that it is for.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// SHA-256, by which a refused key is known again.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }
}

impl fmt::Debug for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a pre-auth key")
    }
}

/// What kind of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The server said `Error`.
    Refused,
    /// The server does not know us.
    NotKnown,
    /// Our node key has ended.
    NodeKeyExpired,
    /// A person has yet to let us in.
    NotAuthorized,
    /// An HTTP status that is no answer.
    Status(u16),
    /// The server refuses the capability version that we speak.
    Version,
    /// The server has another key than the pinned one.
    Pin,
}

impl RefusalKind {
    /// Its name in status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::NotKnown => "not-known",
            Self::NodeKeyExpired => "node-key-expired",
            Self::NotAuthorized => "not-authorized",
            Self::Status(_) => "http-status",
            Self::Version => "version",
            Self::Pin => "pin-mismatch",
        }
    }
}

/// A refusal, with the server's text where it gave one: made harmless, for people only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its kind.
    pub kind: RefusalKind,
    /// The server's words; may be empty.
    pub text: String,
}

impl Refusal {
    /// A refusal with the server's words.
    pub fn new(kind: RefusalKind, text: &str) -> Self {
        Self { kind, text: harmless(text) }
    }
}
