//! Why the mesh cannot start, or ended.

use std::net::SocketAddr;

/// What a caller of this library can do something about. What happens on a connection is an answer with a status code
/// or a log line, not an error of the mesh.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// The measured document asks for something that this version does not do.
    #[error("not implemented in this version: {0}")]
    NotImplemented(String),
    /// A backend of a service that is not there.
    #[error("{0}: no such service")]
    UnknownService(String),
    /// The handover and the listeners do not belong together.
    #[error("outbound listeners: expected one for each of {services} services, found {listeners}")]
    Listeners {
        /// Services in the handover.
        services: usize,
        /// Listeners handed over.
        listeners: usize,
    },
    /// The handover and the log rings do not belong together.
    #[error("log rings: expected one for each of {names} names, found {rings}")]
    Logs {
        /// Names in the handover.
        names: usize,
        /// Rings handed over.
        rings: usize,
    },
    /// A port could not be opened.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A listener that was handed over is not usable.
    #[error("the outbound listener of service {service} is not usable")]
    Handover {
        /// Whose.
        service: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A service may ask the guest agent, and nobody said where that is.
    #[error("service {service} may ask the guest agent, and there is none")]
    NoAgent {
        /// Which.
        service: String,
    },
    /// TLS refuses our settings.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The verifier of peers refuses our settings.
    #[error("peers cannot be verified: {0}")]
    Policy(String),
    /// Something that runs for ever has ended.
    #[error("{0} ended")]
    Ended(String),
}
