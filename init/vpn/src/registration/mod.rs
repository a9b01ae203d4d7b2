//! Registration at a VPC server: it looks at what a machine is, and gives it the key to join the network with.
//!
//! The request is the seed's (`GET /api/register`, dstack-vpc `vpc-api-server/main.go`): `instance_id` and `node_name` in the query,
//! and `node_type`. With the node's app-compose document it is a POST whose body is that document, byte for byte, so that the server can
//! hold its digest against the caller's attested one (design section 10).
//!
//! The answer is hostile input ([`answer`]), and asking is paced whatever it is ([`pace`]). It is asked only where a key is needed: a node
//! that is known joins without.

pub mod answer;
pub mod client;
pub mod pace;

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::key::{Machine, Public};

pub use answer::{Answer, AnswerError, MAX_ANSWER, Rules};
pub use client::{Asker, Registrar, RegistrationError, Trouble};
pub use pace::{Outcome, Pace};

/// Where a machine registers, and what it says of itself there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// The URL of the server's `/api/register`.
    pub url: String,
    /// Whether `http://` may go to another machine: to that URL, and to the login server that it names.
    pub plain_http: bool,
    /// What discovery finds the node by; a DNS label.
    pub node_type: Option<String>,
    /// The node's app-compose document, byte for byte.
    pub document: Option<String>,
}

impl fmt::Debug for Registration {
    /// Without the document, which may have a secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration")
            .field("url", &self.url)
            .field("plain_http", &self.plain_http)
            .field("node_type", &self.node_type)
            .field("document", &self.document.as_ref().map(String::len))
            .finish()
    }
}

/// The login server that a registration named: kept, and believed from then on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Where it was said: another registration's word is another network's.
    pub registered_at: String,
    /// The server's URL.
    pub url: String,
    /// The server's Noise key, pinned.
    pub noise_key: Public<Machine>,
}

/// Why nobody can be asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A URL that is none of a registration.
    #[error("url: expected http:// or https:// with a path and nothing behind it")]
    Url,
    /// TLS cannot be set up.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

#[cfg(test)]
mod tests;
