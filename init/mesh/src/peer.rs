//! Who a peer is, and the one seam through which the proxy learns it.

use std::fmt::Debug;
use std::sync::Arc;

use casemate_measure::{AppId, ComposeHash, InstanceId};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;
use rustls::server::danger::ClientCertVerifier;

/// A peer whose evidence was accepted. A value on the connection, decided once, in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its app.
    pub app: AppId,
    /// The hash of its measured document.
    pub compose: ComposeHash,
    /// The one running instance, where the event log names it.
    pub instance: Option<InstanceId>,
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
}
