#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(clippy::indexing_slicing)]

mod answer;
mod attested;
mod body;
mod challenge;
mod collateral;
mod config;
mod dial;
mod dstack;
mod error;
mod exchange;
mod failure;
mod go_ahead;
mod header;
mod identity;
mod inbound;
mod io;
mod json;
pub mod limits;
mod logs;
mod mesh;
mod message;
mod outbound;
mod own_paths;
mod patience;
mod peer;
pub mod ring;
mod serve;
mod shares;
mod standing;
mod target;
mod tls;
mod tunnel;
mod upstream;

pub use attested::Attested;
pub use collateral::Collateral;
pub use config::{
    Backend, Caller, CollateralRule, Config, ImageRegisters, ImageRule, Outbound, Pccs, TlsMin, Trust,
};
pub use dstack::{ServiceDstack, ServiceQuote};
pub use error::MeshError;
pub use header::{APP_ID, COMPOSE_HASH};
pub use identity::{CertificateKey, IdentitySource, SourceError};
pub use mesh::{Mesh, run};
pub use peer::{PeerIdentity, PeerPolicy};

/// The port on 127.0.0.1, inside each service's network namespace, of the outbound proxy. PID 1 opens it.
pub use casemate_measure::section::OUTBOUND_PORT;
