//! Collateral: given, taken, and fetched before it is needed.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use casemate_measure::AppId;
use casemate_mesh::{
    Attested, Caller, CertificateKey, Collateral, IdentitySource, PeerIdentity, PeerPolicy, SourceError,
    TlsMin,
};
use casemate_verify::{QuoteCollateralV3, VerifyError, ratls};
use hyper::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use hyper::{Method, Request, Response};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::backend::Backend;
use crate::client::{self, full};
use crate::machine::pki;
use crate::pki::{Pki, Variant};
use crate::world::{self, App, Running};

const PATH: &str = "/.well-known/casemate/collateral";

/// A mesh that judges by quotes, and the app that it is.
async fn mesh(backend: &Backend) -> (Running, App) {
    let own = App::new(1);
    let (config, judge) = world::judged_by_quotes(&own, backend.address);
    let mesh = world::start_judged(own.clone(), config, Vec::new(), judge).await;
    (mesh, own)
}

async fn ask(mesh: &Running, own: &App, who: Option<&App>, method: Method, body: String) -> (u16, String) {
    let request = Request::builder().method(method).uri(PATH).header("host", "x").body(full(body)).unwrap();
    let response = client::http1(mesh.inbound, own, who).await.send_request(request).await.unwrap();
    (response.status().as_u16(), client::text(response).await)
}

fn genuine() -> QuoteCollateralV3 {
    pki().collateral.clone()
}

/// As a first-contact client brings it, with the quote of this app's own certificate.
fn offer(app: &App, collateral: &QuoteCollateralV3) -> String {
    let quote = ratls::from_certificate(&app.certificate).unwrap().attestation.quote;
    let json = serde_json::to_string(collateral).unwrap();
    format!("{{\"quote\":\"{}\",\"collateral\":{json}}}", hex::encode(quote))
}

/// Other genuine collateral of the same day: Intel's opinion of the platform has changed.
fn changed() -> QuoteCollateralV3 {
    let variant = Variant { tcb_status: "OutOfDate", ..Variant::default() };
    Pki::generate(&variant).unwrap().collateral
}

#[tokio::test]
async fn it_is_given_to_everybody() {
    let backend = Backend::reflecting().await;
    let (mesh, own) = mesh(&backend).await;
    let caller = App::new(2);
    let mut tag = None;
    for who in [None, Some(&caller)] {
        let request = Request::get(PATH).header("host", "x").body(client::empty()).unwrap();
        let response = client::http1(mesh.inbound, &own, who).await.send_request(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()[CONTENT_TYPE], "application/json");
        tag = Some(response.headers()[ETAG].to_str().unwrap().to_owned());
        let json = client::text(response).await;
        assert_eq!(tag.as_deref(), Some(&*format!("\"{}\"", hex::encode(Sha256::digest(&json)))));
        assert_eq!(json, serde_json::to_string(&genuine()).unwrap());
    }
    let request = Request::get(PATH).header("host", "x").header(IF_NONE_MATCH, tag.unwrap());
    let request = request.body(client::empty()).unwrap();
    let response = client::http1(mesh.inbound, &own, None).await.send_request(request).await.unwrap();
    assert_eq!((response.status().as_u16(), client::text(response).await.as_str()), (304, ""));
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn where_there_is_none_yet_that_is_said() {
    let backend = Backend::reflecting().await;
    let own = App::new(1);
    let mut config = world::config(&own);
    config.backends = vec![world::backend(backend.address, vec![Caller::Any])];
    let judge = Arc::new(Attested::new(&config).unwrap());
    let mesh = world::start_judged(own.clone(), config, Vec::new(), judge).await;
    let (status, why) = ask(&mesh, &own, None, Method::GET, String::new()).await;
    assert_eq!((status, why.as_str()), (404, "there is no collateral of this platform here yet\n"));
    // Intel's root is believed here, and the simulator's is not.
    let (status, why) = ask(&mesh, &own, None, Method::POST, offer(&own, &genuine())).await;
    assert_eq!(status, 422);
    assert!(why.contains("the simulated TEE, which this verifier was not told to trust"), "{why}");
    // Real, and long expired.
    let quote = include_bytes!("../../../../attestation/tests/fixtures/tdx_quote");
    let collateral = include_str!("../../../../attestation/tests/fixtures/tdx_quote_collateral.json");
    let body = format!("{{\"quote\":\"{}\",\"collateral\":{collateral}}}", hex::encode(quote));
    let (status, why) = ask(&mesh, &own, None, Method::POST, body).await;
    assert_eq!(status, 422);
    assert!(why.contains("CrlExpired"), "{why}");
}

#[tokio::test]
async fn what_verifies_is_taken_from_anybody_and_given_from_then_on() {
    let backend = Backend::reflecting().await;
    let (mesh, own) = mesh(&backend).await;
    let other = App::new(2);
    // The same: there is nothing new in it.
    assert_eq!(ask(&mesh, &own, None, Method::POST, offer(&other, &genuine())).await, (204, String::new()));
    assert_eq!(ask(&mesh, &own, Some(&other), Method::POST, offer(&other, &genuine())).await.0, 204);
    let json = async || ask(&mesh, &own, None, Method::GET, String::new()).await.1;
    assert_eq!(json().await, serde_json::to_string(&genuine()).unwrap());
    // Another platform of the same kind brings what is signed, and new here.
    assert_eq!(ask(&mesh, &own, None, Method::POST, offer(&other, &changed())).await.0, 204);
    assert_eq!(json().await, serde_json::to_string(&changed()).unwrap());
    assert_eq!(backend.connections(), 0);
}

#[tokio::test]
async fn what_does_not_verify_is_not_taken() {
    let backend = Backend::reflecting().await;
    let (mesh, own) = mesh(&backend).await;
    let refused = async |body: String| ask(&mesh, &own, None, Method::POST, body).await;
    let mut forged = genuine();
    forged.tcb_info = forged.tcb_info.replace("UpToDate", "OutOfDate");
    let (status, why) = refused(offer(&own, &forged)).await;
    assert_eq!(status, 422, "{why}");
    let strange = Pki::generate(&Variant { seed: "another", ..Variant::default() }).unwrap();
    assert_eq!(refused(offer(&own, &strange.collateral)).await.0, 422);
    let no_quote =
        format!("{{\"quote\":\"\",\"collateral\":{}}}", serde_json::to_string(&genuine()).unwrap());
    assert_eq!(refused(no_quote).await.0, 422);
    assert_eq!(refused("{\"quote\":\"\",\"collateral\":{}}".to_owned()).await.0, 422);
    for bad in ["", "{}", "[]", "{\"quote\":1,\"collateral\":{}}", "{\"quote\":\"0g\",\"collateral\":{}}"] {
        assert_eq!(refused(bad.to_owned()).await.0, 400, "{bad}");
    }
    let (status, why) = refused(" ".repeat(256 * 1024 + 1)).await;
    assert_eq!((status, why.as_str()), (413, "expected at most 262144 bytes\n"));
    assert_eq!(ask(&mesh, &own, None, Method::PUT, String::new()).await.0, 405);
    let json = ask(&mesh, &own, None, Method::GET, String::new()).await.1;
    assert_eq!(json, serde_json::to_string(&genuine()).unwrap());
}

#[tokio::test]
async fn a_body_without_a_length_is_bounded_and_few_are_read_at_a_time() {
    let backend = Backend::reflecting().await;
    let (mesh, own) = mesh(&backend).await;
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    let open = async || {
        let mut stream = client::tls(mesh.inbound, &own, None, b"http/1.1").await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream
    };
    // A stranger that sends nothing holds the one place of its address, until it goes. Whether it has come so far shows in the
    // answer to others.
    let holding = open().await;
    let begin = std::time::Instant::now();
    loop {
        let (status, why) = ask(&mesh, &own, None, Method::POST, offer(&own, &genuine())).await;
        if status == 503 {
            assert_eq!(why, "too much collateral is being brought\n");
            break;
        }
        assert_eq!(status, 204);
        assert!(begin.elapsed() < client::PATIENCE);
    }
    drop(holding);
    while ask(&mesh, &own, None, Method::POST, offer(&own, &genuine())).await.0 != 204 {
        assert!(begin.elapsed() < client::PATIENCE);
    }
    let mut stream = open().await;
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    // It may be refused before the last one is written.
    for _ in 0..5 {
        drop(stream.write_all(chunk.as_bytes()).await);
    }
    let answer = String::from_utf8(client::rest(&mut stream).await.unwrap()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

/// Refuses the target as one of whose platform nothing is known, so many times; then it is the guest's own judge.
#[derive(Debug)]
struct Forgetful {
    inner: Arc<Attested>,
    times: Arc<Mutex<usize>>,
}

#[derive(Debug)]
struct ForgetfulVerifier(Arc<dyn ServerCertVerifier>, Arc<Mutex<usize>>);

impl PeerPolicy for Forgetful {
    fn callers(&self) -> Arc<dyn ClientCertVerifier> {
        self.inner.callers()
    }

    fn target(&self, app: &AppId) -> Option<Arc<dyn ServerCertVerifier>> {
        Some(Arc::new(ForgetfulVerifier(self.inner.target(app)?, Arc::clone(&self.times))))
    }

    fn identify(&self, leaf: &CertificateDer<'_>, target: Option<&AppId>) -> Result<PeerIdentity, String> {
        self.inner.identify(leaf, target)
    }

    fn collateral(&self) -> Option<Arc<Collateral>> {
        self.inner.collateral()
    }
}

impl ServerCertVerifier for ForgetfulVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut times = self.1.lock().unwrap();
        if *times > 0 {
            *times -= 1;
            let quote = ratls::from_certificate(leaf).unwrap().attestation.quote;
            let platform = casemate_verify::PlatformKind::of_quote(&quote).unwrap();
            let why = VerifyError::NoCollateral { anchor: "the simulated TEE", platform };
            return Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why)))));
        }
        self.0.verify_server_cert(leaf, chain, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// What came on one connection: whether a certificate was shown, and the request's first line.
type Seen = (bool, String);

/// A TLS server that writes down every connection, and answers a path with a status, headers and a body.
async fn server(
    own: &App,
    answer: impl Fn(&str) -> (u16, Vec<(&'static str, String)>, Vec<u8>) + Send + Sync + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<Seen>>>) {
    let key = PrivateKeyDer::try_from(own.key.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(Arc::new(Anybody))
        .with_single_cert(vec![own.certificate.clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let (notes, answer) = (Arc::clone(&seen), Arc::new(answer));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // One after the other, so that the notes are in order.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                notes.lock().unwrap().push((false, String::new()));
                continue;
            };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                match tokio::io::AsyncReadExt::read_u8(&mut stream).await {
                    Ok(byte) => head.push(byte),
                    Err(_) => break,
                }
            }
            let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
            let shown = stream.get_ref().1.peer_certificates().is_some();
            let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            notes.lock().unwrap().push((shown, line));
            let (status, headers, body) = answer(&path);
            let mut reply =
                format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n", body.len());
            headers.iter().for_each(|(name, value)| reply += &format!("{name}: {value}\r\n"));
            let reply = [reply.as_bytes(), b"\r\n", &body].concat();
            drop(stream.write_all(&reply).await);
            drop(stream.shutdown().await);
        }
    });
    (address, seen)
}

/// Requests a certificate, and takes what comes.
#[derive(Debug)]
struct Anybody;

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<rustls::server::danger::ClientCertVerified, Error> {
        Ok(rustls::server::danger::ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A mesh that calls `far` and at first knows nothing of its platform, and what a service's request came to.
async fn call(far: &App, address: SocketAddr, misses: usize) -> (u16, String) {
    let own = App::new(1);
    let mut config = world::config(&own);
    config.trust = casemate_mesh::Trust::Simulator;
    config.targets.insert(far.id, address);
    let inner = Arc::new(Attested::new(&config).unwrap());
    let judge = Forgetful { inner, times: Arc::new(Mutex::new(misses)) };
    let mesh = world::start_judged(own, config, Vec::new(), Arc::new(judge)).await;
    let request = Request::get("/page").header("host", "x").header("x-dstack-target-app", far.id.to_string());
    let request = request.body(client::empty()).unwrap();
    let response: Response<_> = client::plain(mesh.outbound).await.send_request(request).await.unwrap();
    (response.status().as_u16(), client::text(response).await)
}

#[tokio::test]
async fn what_is_missed_is_fetched_on_a_connection_of_its_own_and_then_the_peer_is_judged() {
    let far = App::new(2);
    let (address, seen) = server(&far, |path| match path {
        PATH => (200, Vec::new(), serde_json::to_vec(&changed_status("UpToDate")).unwrap()),
        _ => (200, Vec::new(), b"the page".to_vec()),
    })
    .await;
    assert_eq!(call(&far, address, 1).await, (200, "the page".to_owned()));
    let seen = seen.lock().unwrap().clone();
    let line = |text: &str| format!("{text} HTTP/1.1");
    assert_eq!(
        seen,
        [
            // Refused within the handshake: not a byte of the request left.
            (false, String::new()),
            (false, line(&format!("GET {PATH}"))),
            (true, line("GET /page")),
        ]
    );
}

fn changed_status(status: &str) -> QuoteCollateralV3 {
    Pki::generate(&Variant { tcb_status: status, ..Variant::default() }).unwrap().collateral
}

#[tokio::test]
async fn it_is_fetched_once_and_the_reason_is_told() {
    let far = App::new(2);
    let (address, seen) =
        server(&far, |_| (200, Vec::new(), serde_json::to_vec(&changed_status("UpToDate")).unwrap())).await;
    let (status, why) = call(&far, address, 2).await;
    assert_eq!(status, 502);
    assert!(why.contains("no collateral at hand"), "{why}");
    let lines: Vec<_> = seen.lock().unwrap().iter().map(|(_, line)| line.clone()).collect();
    assert_eq!(lines.iter().filter(|line| line.starts_with("GET ")).count(), 1, "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains("/page")), "{lines:?}");
}

#[tokio::test]
async fn what_is_fetched_must_verify_and_be_bounded() {
    let far = App::new(2);
    let mut forged = genuine();
    forged.tcb_info = forged.tcb_info.replace("UpToDate", "OutOfDate");
    let forged = serde_json::to_vec(&forged).unwrap();
    for (status, body, expected) in [
        (404, Vec::new(), "expected status 200 OK, found 404"),
        (200, vec![b' '; 256 * 1024 + 1], "expected at most 262144 bytes, found more"),
        (200, b"{}".to_vec(), "collateral: expected JSON"),
        (200, forged, "and there: quote: expected one that dcap-qvl verifies"),
    ] {
        let (address, seen) = server(&far, move |_| (status, Vec::new(), body.clone())).await;
        let (status, why) = call(&far, address, 1).await;
        assert_eq!(status, 502);
        assert!(why.contains("no collateral at hand") && why.contains(expected), "{why}");
        assert!(seen.lock().unwrap().iter().all(|(_, line)| !line.contains("/page")));
    }
}

/// Records what it is told of the time.
#[derive(Clone)]
struct Told {
    app: App,
    times: Arc<Mutex<Vec<u64>>>,
}

impl IdentitySource for Told {
    async fn certificate(&self) -> Result<CertificateKey, SourceError> {
        self.app.certificate().await
    }

    async fn attest(&self, report_data: [u8; 64]) -> Result<Vec<u8>, SourceError> {
        self.app.attest(report_data).await
    }

    fn it_is_at_least(&self, time: u64) {
        self.times.lock().unwrap().push(time);
    }
}

#[tokio::test]
async fn our_own_comes_from_the_pccs_of_the_document() {
    let parts = changed();
    let encoded = |pem: &str| pem.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let signed = |name: &str, text: &str, signature: &[u8]| {
        format!("{{\"{name}\":{text},\"signature\":\"{}\"}}", hex::encode(signature)).into_bytes()
    };
    let expected = serde_json::to_string(&parts).unwrap();
    let stranger = App::new(9);
    let (address, seen) = server(&stranger, move |path| {
        let (name, chain, body) = match path.strip_prefix("/base") {
            Some("/sgx/certification/v4/pckcrl?ca=platform&encoding=der") => {
                ("sgx-pck-crl-issuer-chain", &parts.pck_crl_issuer_chain, parts.pck_crl.clone())
            }
            Some("/tdx/certification/v4/tcb?fmspc=CA5E3A7E0000") => {
                let body = signed("tcbInfo", &parts.tcb_info, &parts.tcb_info_signature);
                ("tcb-info-issuer-chain", &parts.tcb_info_issuer_chain, body)
            }
            Some("/tdx/certification/v4/qe/identity") => {
                let body = signed("enclaveIdentity", &parts.qe_identity, &parts.qe_identity_signature);
                ("sgx-enclave-identity-issuer-chain", &parts.qe_identity_issuer_chain, body)
            }
            Some("/sgx/certification/v4/rootcacrl") => {
                return (200, Vec::new(), hex::encode(&parts.root_ca_crl).into_bytes());
            }
            _ => return (404, Vec::new(), Vec::new()),
        };
        (200, vec![(name, encoded(chain))], body)
    })
    .await;

    let backend = Backend::reflecting().await;
    let own = App::new(1);
    let (mut config, judge) = world::judged_by_quotes(&own, backend.address);
    config.tls_min = TlsMin::V1_3;
    let url = format!("https://pccs.example:{}/base", address.port());
    config.collateral.pccs = Some(casemate_mesh::Pccs { url, address });
    let source = Told { app: own.clone(), times: Arc::default() };
    let times = Arc::clone(&source.times);
    let mesh = world::start_judged(source, config, Vec::new(), judge).await;
    let fetched = async {
        while ask(&mesh, &own, None, Method::GET, String::new()).await.1 != expected {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(client::PATIENCE, fetched).await.expect("it is fetched");
    assert_eq!(seen.lock().unwrap().len(), 4, "{seen:?}");
    assert!(seen.lock().unwrap().iter().all(|(shown, _)| !shown), "we are nobody there");
    // 2026-01-01T00:00:00Z: what the simulator's collateral, built in, was signed at.
    assert_eq!(*times.lock().unwrap(), [1_767_225_600]);
}
