//! Who a peer is, and the one seam through which the proxy learns it.

use std::fmt::Debug;
use std::sync::Arc;

use casemate_measure::{AppId, ComposeHash, InstanceId};
use casemate_verify::VerifiedPeer;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;

use crate::collateral::Collateral;

/// A peer whose evidence was accepted: there is no way to one but a [`VerifiedPeer`]. A value on the connection, decided once, in
/// the handshake.
///
/// ```
/// fn authorise(peer: &casemate_verify::VerifiedPeer) -> casemate_mesh::PeerIdentity {
///     peer.into()
/// }
/// ```
///
/// The same with a peer that is authentic, and that nobody judged:
///
/// ```compile_fail,E0277
/// fn authorise(peer: &casemate_verify::AuthenticPeer) -> casemate_mesh::PeerIdentity {
///     peer.into()
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    app: AppId,
    compose: ComposeHash,
    instance: Option<InstanceId>,
}

impl PeerIdentity {
    /// Its app.
    pub const fn app(&self) -> AppId {
        self.app
    }

    /// The hash of its measured document.
    pub const fn compose(&self) -> ComposeHash {
        self.compose
    }

    /// The one running instance, where the event log names it.
    pub const fn instance(&self) -> Option<InstanceId> {
        self.instance
    }

    /// For the tests of what is decided by it.
    #[cfg(test)]
    pub(crate) const fn of_test(app: AppId, compose: ComposeHash) -> Self {
        Self { app, compose, instance: None }
    }
}

impl From<&VerifiedPeer> for PeerIdentity {
    fn from(peer: &VerifiedPeer) -> Self {
        Self { app: peer.app_id(), compose: peer.compose_hash(), instance: peer.instance_id() }
    }
}

/// Judges peers' certificates. The proxy knows nothing of quotes: the guest gives it [`crate::Attested`].
pub trait PeerPolicy: Debug + Send + Sync + 'static {
    /// Verifies the certificate of whoever calls us, inside the handshake. It requests one and does not demand it; one
    /// that is sent and not accepted must fail the handshake.
    fn callers(&self) -> Arc<dyn ClientCertVerifier>;

    /// Verifies, inside the handshake, that whoever we call is that app. `None` if it is not one that may be called.
    fn target(&self, app: &AppId) -> Option<Arc<dyn ServerCertVerifier>>;

    /// Who the bearer of a certificate is that a verifier accepted: that of [`Self::callers`], or that of a target.
    ///
    /// # Errors
    /// Why it is nobody after all; the connection is dropped then.
    fn identify(&self, leaf: &CertificateDer<'_>, target: Option<&AppId>) -> Result<PeerIdentity, String>;

    /// The collateral that its verifiers judge by; `None`: they need none.
    fn collateral(&self) -> Option<Arc<Collateral>> {
        None
    }
}
