//! Apps with certificates, a judge that knows them, and a mesh in front of a backend.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;

use casemate_measure::{AppId, ComposeHash, InstanceId};
use casemate_mesh::{
    Attested, Backend, Caller, CertificateKey, CollateralRule, Config, IdentitySource, ImageRule, Mesh,
    Outbound, PeerIdentity, PeerPolicy, SourceError, TlsMin, Trust,
};
use casemate_verify::acceptable::Image;
use casemate_verify::tls::{PeerVerifier, Rules};
use casemate_verify::{TrustAnchor, Verifier};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::machine::{IMAGE, Machine};

/// An app with a certificate of its own.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) id: AppId,
    pub(crate) instance: InstanceId,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: Vec<u8>,
    pub(crate) machine: Machine,
}

impl App {
    /// The app whose document's hash is this byte again and again.
    pub(crate) fn new(byte: u8) -> Self {
        let (compose, instance) = (ComposeHash([byte; 32]), InstanceId([byte ^ 0xff; 20]));
        let machine = Machine::boot(compose, instance);
        let (certificate, key) = machine.certificate();
        Self { id: compose.app_id(), instance, certificate: certificate.into(), key, machine }
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

    async fn attest(&self, report_data: [u8; 64]) -> Result<Vec<u8>, SourceError> {
        Ok(self.machine.attest(report_data).encode_v0())
    }
}

/// Knows some apps by their certificates and takes everybody else for nobody.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    peers: Arc<BTreeMap<Vec<u8>, AppId>>,
    verifier: Arc<PeerVerifier>,
    target: Option<AppId>,
}

impl Known {
    pub(crate) fn new(apps: &[&App]) -> Self {
        let peers = apps.iter().map(|app| (app.certificate.to_vec(), app.id)).collect();
        Self { peers: Arc::new(peers), verifier: Arc::new(verifier(None)), target: None }
    }

    fn judge(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let refused = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        let app = self.peers.get(&leaf.to_vec()).ok_or_else(|| refused.clone())?;
        if self.target.is_none_or(|target| target == *app) { Ok(()) } else { Err(refused) }
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
        self.judge(leaf).map_err(|error| error.to_string())?;
        let peer = self.verifier.identify(leaf).map_err(|error| error.to_string())?;
        Ok(PeerIdentity::from(&*peer))
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
        own: IMAGE,
        own_app: own.id,
        own_compose: ComposeHash([own.id.0[0]; 32]),
        trust: Trust::Intel,
        collateral: CollateralRule { pccs: None, max_age_days: 30 },
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
    config: Config,
    logs: Vec<std::fs::File>,
    policy: Known,
) -> Running {
    start_judged(own.clone(), config, logs, Arc::new(policy)).await
}

/// As [`start_with`], with another judge, and another source of our identity.
pub(crate) async fn start_judged(
    own: impl IdentitySource,
    mut config: Config,
    logs: Vec<std::fs::File>,
    policy: Arc<dyn PeerPolicy>,
) -> Running {
    config.outbound = vec![Outbound { service: "web".to_owned(), dstack: None }];
    let listener = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let outbound = listener.local_addr().unwrap();
    let mesh = Mesh::open_with(config, vec![listener], logs, policy).unwrap();
    let port = mesh.listening().unwrap().first().map_or(0, SocketAddr::port);
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let ended = mesh.run(own, || ready.send(()).unwrap()).await;
        panic!("the mesh ended: {ended:?}");
    });
    is_ready.await.unwrap();
    Running { inbound: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), outbound }
}

/// The guest's own judge, and a configuration in front of one backend, for machines whose root is the simulator's.
pub(crate) fn judged_by_quotes(own: &App, to: SocketAddr) -> (Config, Arc<Attested>) {
    let mut config = config(own);
    config.trust = Trust::Simulator;
    config.backends = vec![backend(to, vec![Caller::Any])];
    let attested = Attested::new(&config).unwrap();
    (config, Arc::new(attested))
}

/// What is believed of a simulated machine.
pub(crate) fn verifier(app: Option<AppId>) -> PeerVerifier {
    let verifier = Verifier::new([TrustAnchor::Simulator], Arc::default());
    let rules = Rules { images: vec![Image::Same(IMAGE)], ..Rules::default() };
    PeerVerifier::new(Arc::new(verifier), Arc::new(now), rules, app, false)
}

/// Unix seconds.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// A mesh in front of one backend that any known app may call, and an app that it knows.
pub(crate) async fn in_front_of(to: SocketAddr) -> (Running, App, App) {
    let (own, caller) = (App::new(1), App::new(2));
    let mut config = config(&own);
    config.backends = vec![backend(to, vec![Caller::Any])];
    let running = start(&own, config, Known::new(&[&own, &caller])).await;
    (running, own, caller)
}
