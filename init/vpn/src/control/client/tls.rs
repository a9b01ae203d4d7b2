//! TLS to the server.

use std::sync::Arc;

use rustls::{ClientConfig, Error, RootCertStore};

use crate::tls::{self, Certificate};

pub(super) struct Tls {
    /// Certificates must be believed.
    pub(super) verified: Arc<ClientConfig>,
    /// Certificates are logged: Noise inside authenticates the server by its pinned key.
    pub(super) logged: Arc<ClientConfig>,
}

impl Tls {
    pub(super) fn new(roots: &Arc<RootCertStore>) -> Result<Self, Error> {
        // No roots at all are no reason to fail: then nothing is believed.
        let logged = Certificate::Logged(tls::authorities(roots).ok());
        Ok(Self { verified: tls::to_named(roots)?, logged: tls::to(logged)? })
    }
}
