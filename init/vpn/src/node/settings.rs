//! What the parent said, as the rest wants it.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::NodeError;
use super::register::Server;
use crate::control::client::{ClientSettings, ServerUrl};
use crate::control::join::AuthKey;
use crate::control::map::MapSettings;
use crate::control::session::{SessionConfig, Timing};
use crate::derp::Trust;
use crate::dns::{Authenticated, Policy};
use crate::key::{Machine, Public};
use crate::parent::Config;

/// Everything that does not change while we run.
pub(super) struct Settings {
    /// The login server, and its pinned key: as far as the configuration says them.
    pub(super) server: Option<ServerUrl>,
    pub(super) pin: Option<Public<Machine>>,
    plain_http: bool,
    map: MapSettings,
    pub(super) roots: Arc<RootCertStore>,
    pub(super) trust: Trust,
    pub(super) names: Arc<Policy>,
    pub(super) authkey: Option<AuthKey>,
    /// Who says where servers are.
    pub(super) authenticated: Option<Authenticated>,
}

impl Settings {
    /// `registers`: a registration may say what the configuration does not.
    pub(super) fn new(config: &Config, registers: bool) -> Result<Self, NodeError> {
        let bad = |field: &str, expected: &str| NodeError::Config(format!("{field}: expected {expected}"));
        let roots = Arc::new(roots(config.roots.as_deref())?);
        let mut pins = BTreeMap::new();
        for (host, digest) in &config.derp_pins {
            let mut pin = [0; 32];
            hex::decode_to_slice(digest, &mut pin)
                .map_err(|_| bad(&format!("derp_pins.{host}"), "64 hex digits"))?;
            pins.insert(host.to_ascii_lowercase(), pin);
        }
        let authkey =
            match &config.login_server.authkey {
                None => None,
                Some(key) => Some(authkey(key.expose()).ok_or_else(|| {
                    bad("login_server.authkey", "a pre-auth key of visible ASCII characters")
                })?),
            };
        let resolvers = &config.dns.authenticated;
        let authenticated = match resolvers.is_empty() {
            true => None,
            false => Some(
                Authenticated::new(resolvers, &roots)
                    .map_err(|error| NodeError::Config(format!("dns.authenticated: {error}")))?
                    .ok_or_else(|| bad("dns.authenticated", "names that a certificate can carry"))?,
            ),
        };
        Ok(Self {
            authenticated,
            server: match config.login_server.url.as_str() {
                "" if registers => None,
                url => Some(
                    url.parse()
                        .map_err(|_| bad("login_server.url", "an http:// or https:// URL without a path"))?,
                ),
            },
            pin: config.login_server.noise_key,
            plain_http: config.login_server.plain_http,
            map: MapSettings { prefixes: config.prefixes.clone(), require_policy: config.require_policy },
            roots: Arc::clone(&roots),
            trust: Trust { roots, pins, debug_use_derp_http: config.debug_use_derp_http },
            names: Arc::new(Policy {
                internal_only: config.dns.internal_only,
                allowlist: config.dns.allowlist.clone(),
                resolvers: config.dns.resolvers.clone(),
                prefixes: config.prefixes.clone(),
                base_domain: None,
            }),
            authkey,
        })
    }

    /// A session with this server.
    pub(super) fn session(&self, server: Server) -> SessionConfig {
        SessionConfig {
            client: ClientSettings {
                url: server.url,
                pin: server.pin,
                plain_http: self.plain_http,
                roots: Arc::clone(&self.roots),
            },
            map: self.map.clone(),
            timing: Timing::default(),
        }
    }
}

/// The pre-auth key of a text; `None`: it is none, whoever gave it.
pub(super) fn authkey(text: &str) -> Option<AuthKey> {
    AuthKey::new(text).filter(|key| key.expose().bytes().all(|byte| byte.is_ascii_graphic()))
}

/// The roots in PEM, or the built-in ones.
fn roots(pem: Option<&str>) -> Result<RootCertStore, NodeError> {
    let Some(pem) = pem else {
        return Ok(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() });
    };
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate =
            certificate.map_err(|error| NodeError::Config(format!("roots: expected PEM, found {error}")))?;
        store
            .add(certificate)
            .map_err(|error| NodeError::Config(format!("roots: expected certificates, found {error}")))?;
    }
    if store.is_empty() {
        return Err(NodeError::Config("roots: expected at least one certificate".to_owned()));
    }
    Ok(store)
}
