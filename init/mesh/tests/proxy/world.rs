//! Apps with certificates, a judge that knows them, and a mesh in front of a backend.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;

use casemate_measure::{AppId, ComposeHash, InstanceId, LaunchRegisters, Register};
use casemate_mesh::{
    Backend, Caller, CertificateKey, Config, IdentitySource, ImageRule, Mesh, Outbound, PeerIdentity,
    PeerPolicy, SourceError, TlsMin, Trust,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

/// An app with a certificate of its own.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) id: AppId,
    pub(crate) instance: InstanceId,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: Vec<u8>,
}

impl App {
    pub(crate) fn new(byte: u8) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["app".to_owned()]).unwrap();
        Self {
            id: AppId([byte; 20]),
            instance: InstanceId([byte ^ 0xff; 20]),
            certificate: made.cert.der().clone(),
            key: made.signing_key.serialize_der(),
        }
    }

    pub(crate) fn certificate_key(&self) -> CertificateKey {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        CertificateKey { chain: vec![self.certificate.clone()], key }
    }
}

impl IdentitySource for App {
    async fn certificate(&self) -> Result<CertificateKey, SourceError> {
        Ok(self.certificate_key())
    }
}

/// Knows some apps by their certificates and takes everybody else for nobody.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    peers: Arc<BTreeMap<Vec<u8>, PeerIdentity>>,
    target: Option<AppId>,
}

impl Known {
    pub(crate) fn new(apps: &[&App]) -> Self {
        let identity = |app: &App| PeerIdentity {
            app: app.id,
            compose: ComposeHash([9; 32]),
            instance: Some(app.instance),
        };
        let peers = apps.iter().map(|app| (app.certificate.to_vec(), identity(app))).collect();
        Self { peers: Arc::new(peers), target: None }
    }

    fn judge(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let refused = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let peer = self.peers.get(&leaf.to_vec()).ok_or_else(|| refused.clone())?;
        if self.target.is_none_or(|target| target == peer.app) { Ok(()) } else { Err(refused) }
    }

    fn algorithms() -> WebPkiSupportedAlgorithms {
        rustls::crypto::ring::default_provider().signature_verification_algorithms
    }
}

impl PeerPolicy for Known {
    fn callers(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::new(self.clone())
    }

    fn target(&self, app: &AppId) -> Option<Arc<dyn ServerCertVerifier>> {
        Some(Arc::new(Self { target: Some(*app), ..self.clone() }))
    }

    fn identify(&self, leaf: &CertificateDer<'_>, _target: Option<&AppId>) -> Result<PeerIdentity, String> {
        self.peers.get(&leaf.to_vec()).cloned().ok_or_else(|| "unknown".to_owned())
    }
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &Self::algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &Self::algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::algorithms().supported_schemes()
    }
}

impl ClientCertVerifier for Known {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(leaf).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &Self::algorithms())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &Self::algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        Self::algorithms().supported_schemes()
    }
}

pub(crate) fn config(own: &App) -> Config {
    Config {
        own: LaunchRegisters { rtmr2: Register([2; 48]), ..LaunchRegisters::ZERO },
        own_app: own.id,
        own_compose: ComposeHash([9; 32]),
        trust: Trust::Intel,
        images: vec![ImageRule::Same],
        tls_min: TlsMin::V1_3,
        backends: Vec::new(),
        targets: BTreeMap::new(),
        outbound: Vec::new(),
        log_readers: Vec::new(),
        logs: Vec::new(),
    }
}

pub(crate) fn backend(to: SocketAddr, allow: Vec<Caller>) -> Backend {
    Backend { listen: 0, to, service: "web".to_owned(), allow }
}

/// A running mesh; it ends with the test's runtime.
pub(crate) struct Running {
    /// Where its first backend is served.
    pub(crate) inbound: SocketAddr,
    /// Where its first service's outbound proxy listens.
    pub(crate) outbound: SocketAddr,
}

/// Starts the mesh of `own` and waits until it says that it is ready.
pub(crate) async fn start(own: &App, config: Config, policy: Known) -> Running {
    start_with(own, config, Vec::new(), policy).await
}

/// As [`start`], with log rings.
pub(crate) async fn start_with(
    own: &App,
    mut config: Config,
    logs: Vec<std::fs::File>,
    policy: Known,
) -> Running {
    config.outbound = vec![Outbound { service: "web".to_owned(), dstack: None }];
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let outbound = listener.local_addr().unwrap();
    let mesh = Mesh::open_with(config, vec![listener], logs, Arc::new(policy)).unwrap();
    let port = mesh.listening().unwrap().first().map_or(0, SocketAddr::port);
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let own = own.clone();
    tokio::spawn(async move {
        let ended = mesh.run(own, || ready.send(()).unwrap()).await;
        panic!("the mesh ended: {ended:?}");
    });
    is_ready.await.unwrap();
    Running { inbound: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), outbound }
}

/// A mesh in front of one backend that any known app may call, and an app that it knows.
pub(crate) async fn in_front_of(to: SocketAddr) -> (Running, App, App) {
    let (own, caller) = (App::new(1), App::new(2));
    let mut config = config(&own);
    config.backends = vec![backend(to, vec![Caller::Any])];
    let running = start(&own, config, Known::new(&[&own, &caller])).await;
    (running, own, caller)
}
