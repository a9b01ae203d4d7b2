//! How a relay's server proves that it is the one of the map.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use thiserror::Error;

use crate::netmap::DerpNode;
use crate::tls::{self, Certificate};

/// What we know of relays beforehand.
#[derive(Clone, Debug)]
pub struct Trust {
    /// The authorities for servers without a pin.
    pub roots: Arc<RootCertStore>,
    /// SHA-256 of certificates by host name, from our own configuration. They win over what the map says.
    pub pins: BTreeMap<String, [u8; 32]>,
    /// Tests only: plain HTTP to servers without a pin, and `InsecureForTests` is honoured.
    pub debug_use_derp_http: bool,
}

/// What a server must prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: plain HTTP, in tests.
    Plain,
    /// Nothing, but by TLS, in tests.
    Insecure,
    /// That it holds the key of the certificate with this digest.
    Pin([u8; 32]),
    /// That an authority says that it has this name.
    Name(String),
}

/// A server that must not be talked to.
#[derive(Debug, Error)]
pub enum TrustError {
    /// The map's pin is not the configuration's.
    #[error("the map's pin for {0} contradicts the configured one")]
    PinContradicts(String),
    /// A name that no certificate can have.
    #[error("{0} is no name of a server")]
    Name(String),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

impl Trust {
    /// With the authorities that browsers know, and nothing else.
    pub fn web() -> Self {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        Self { roots: Arc::new(roots), pins: BTreeMap::new(), debug_use_derp_http: false }
    }

    /// What a server of the map must prove.
    ///
    /// # Errors
    /// If the map contradicts the configuration.
    pub fn proof(&self, node: &DerpNode) -> Result<Proof, TrustError> {
        let configured = self.pins.get(&node.host).copied();
        match (configured, node.pin) {
            (Some(ours), Some(theirs)) if ours != theirs => {
                Err(TrustError::PinContradicts(node.host.clone()))
            }
            (Some(pin), _) | (None, Some(pin)) => Ok(Proof::Pin(pin)),
            (None, None) if self.debug_use_derp_http && node.insecure_for_tests => Ok(Proof::Insecure),
            (None, None) if self.debug_use_derp_http => Ok(Proof::Plain),
            (None, None) => Ok(Proof::Name(node.cert_name.clone().unwrap_or_else(|| node.host.clone()))),
        }
    }

    /// TLS that asks for the proof; the caller takes care of [`Proof::Plain`].
    ///
    /// # Errors
    /// If TLS cannot be set up with it.
    pub(super) fn tls(&self, proof: &Proof) -> Result<Arc<ClientConfig>, TrustError> {
        let setup = |error: &dyn std::error::Error| TrustError::Setup(error.to_string());
        let certificate = match proof {
            Proof::Name(name) => {
                let name = ServerName::try_from(name.clone()).map_err(|_| TrustError::Name(name.clone()))?;
                let authorities = tls::authorities(&self.roots).map_err(|error| setup(&error))?;
                Certificate::Named(authorities, name)
            }
            Proof::Pin(pin) => Certificate::Pinned(*pin),
            Proof::Insecure | Proof::Plain => Certificate::Any,
        };
        tls::to(certificate).map_err(|error| setup(&error))
    }
}
