//! Whole TLS handshakes in memory, with [`PeerVerifier`] on both sides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use casemate_measure::{AppId, ComposeHash, LaunchRegisters, Register};
use casemate_verify::acceptable::Image;
use casemate_verify::collateral::{Collateral, Store};
use casemate_verify::ratls;
use casemate_verify::tls::{PeerVerifier, Rules};
use casemate_verify::{Class, PlatformKind, TrustAnchor, Verifier, VerifyError};
use rcgen::KeyPair;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, HandshakeKind, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

use crate::machine::{Machine, NOW, certificate, image, trusting_verifier};

const CLIENT: &[u8] = b"the client's document";
const SERVER: &[u8] = b"the server's document";

struct End {
    key: KeyPair,
    certificate: Vec<u8>,
}

impl End {
    fn of(document: &[u8], launch: LaunchRegisters) -> Self {
        let (key, certificate) = Machine::boot(document, launch).certificate();
        Self { key, certificate }
    }

    fn chain(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.key.serialize_der());
        (vec![CertificateDer::from(self.certificate.clone())], key.into())
    }
}

fn rules() -> Rules {
    Rules { images: vec![Image::Same(image())], ..Rules::default() }
}

fn peer_verifier(expected_app: Option<AppId>, client_mandatory: bool) -> Arc<PeerVerifier> {
    let verifier = Arc::new(trusting_verifier());
    Arc::new(PeerVerifier::new(verifier, Arc::new(|| NOW), rules(), expected_app, client_mandatory))
}

fn client(
    verifier: Arc<PeerVerifier>,
    own: Option<&End>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConnection {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match own {
        Some(end) => {
            let (chain, key) = end.chain();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from("anything.invalid").unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

fn server(verifier: Arc<PeerVerifier>, own: &End) -> ServerConnection {
    ServerConnection::new(server_config(verifier, own)).unwrap()
}

fn server_config(verifier: Arc<PeerVerifier>, own: &End) -> Arc<ServerConfig> {
    let (chain, key) = own.chain();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

/// Carries bytes both ways until both are done; the first error, with the side that found it.
fn shake(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> Result<(), (&'static str, rustls::Error)> {
    for _ in 0..16 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().map_err(|error| ("server", error))?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(|error| ("client", error))?;
        }
        if !client.is_handshaking() && !server.is_handshaking() {
            return Ok(());
        }
    }
    panic!("the handshake does not end");
}

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The verifier's own error, from inside rustls'.
fn reason(error: &rustls::Error) -> VerifyError {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.downcast_ref::<VerifyError>().unwrap().clone()
        }
        other => panic!("not a verdict on a certificate: {other}"),
    }
}

#[test]
fn both_ends_know_each_other_after_the_handshake() {
    for version in BOTH {
        let (of_client, of_server) = (peer_verifier(None, true), peer_verifier(None, true));
        let own = End::of(CLIENT, image());
        let mut client = client(Arc::clone(&of_client), Some(&own), &[version]);
        let mut server = server(Arc::clone(&of_server), &End::of(SERVER, image()));
        shake(&mut client, &mut server).unwrap();

        let seen = of_client.identify(&client.peer_certificates().unwrap()[0]).unwrap();
        assert_eq!(seen.compose_hash(), ComposeHash::of(SERVER));
        let leaf = &server.peer_certificates().unwrap()[0];
        let seen = of_server.identify(leaf).unwrap();
        assert_eq!(seen.compose_hash(), ComposeHash::of(CLIENT));
        // The same value, not another verification.
        assert!(Arc::ptr_eq(&seen, &of_server.identify(leaf).unwrap()));
    }
}

#[test]
fn a_client_certificate_is_asked_for_and_only_sometimes_demanded() {
    let own = End::of(SERVER, image());
    let mut anonymous = client(peer_verifier(None, false), None, BOTH);
    let mut optional = server(peer_verifier(None, false), &own);
    shake(&mut anonymous, &mut optional).unwrap();
    assert!(optional.peer_certificates().is_none());

    let mut anonymous = client(peer_verifier(None, false), None, BOTH);
    let (side, error) = shake(&mut anonymous, &mut server(peer_verifier(None, true), &own)).unwrap_err();
    assert_eq!((side, error), ("server", rustls::Error::NoCertificatesPresented));
}

/// One that is sent must verify, also where none is demanded.
#[test]
fn a_client_of_another_image_is_refused() {
    let other = LaunchRegisters { rtmr2: Register::digest(b"other code"), ..LaunchRegisters::ZERO };
    let own = End::of(CLIENT, other);
    let mut client = client(peer_verifier(None, false), Some(&own), BOTH);
    let mut server = server(peer_verifier(None, false), &End::of(SERVER, image()));
    let (side, error) = shake(&mut client, &mut server).unwrap_err();
    assert_eq!(side, "server");
    let VerifyError::NotTrusted(reasons) = reason(&error) else { panic!("{error}") };
    assert_eq!(reasons.0[0].what, "images[0].rtmr2");
}

#[test]
fn a_server_that_is_another_app_is_refused() {
    let expected = ComposeHash::of(SERVER).app_id();
    let talk = |document: &[u8]| {
        let mut client = client(peer_verifier(Some(expected), false), None, BOTH);
        shake(&mut client, &mut server(peer_verifier(None, false), &End::of(document, image())))
    };
    talk(SERVER).unwrap();
    let (side, error) = talk(b"another").unwrap_err();
    assert_eq!(side, "client");
    assert!(reason(&error).to_string().starts_with("not trusted: app_id: expected"), "{error}");
}

/// Evidence copied from another's certificate: the quote speaks for a key that this end does not hold.
#[test]
fn copied_evidence_is_refused() {
    let genuine = End::of(SERVER, image());
    let evidence = ratls::from_certificate(&genuine.certificate).unwrap().attestation;
    let key = KeyPair::generate().unwrap();
    let copied = certificate(&key, &[(ratls::ATTESTATION_OID, &evidence.encode_v0())]);
    let mut client = client(peer_verifier(None, false), None, BOTH);
    let mut server = server(peer_verifier(None, false), &End { key, certificate: copied });
    let (_, error) = shake(&mut client, &mut server).unwrap_err();
    assert_eq!(reason(&error).class(), Class::Binding);
}

/// The genuine certificate itself, replayed by somebody without its key: the handshake's signature does not hold.
#[test]
fn a_copied_certificate_is_refused() {
    let certificate = End::of(SERVER, image()).certificate;
    let key = KeyPair::generate().unwrap();
    let (chain, key) = End { key, certificate }.chain();
    let provider = rustls::crypto::ring::default_provider();
    let signing = provider.key_provider.load_private_key(key).unwrap();
    // `with_single_cert` would notice the mismatch itself; a thief would not ask it.
    let certified = rustls::sign::CertifiedKey::new(chain, signing);
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    let mut server = ServerConnection::new(Arc::new(config)).unwrap();
    let mut client = client(peer_verifier(None, false), None, BOTH);
    let (side, error) = shake(&mut client, &mut server).unwrap_err();
    assert_eq!(side, "client");
    assert_eq!(error, rustls::Error::InvalidCertificate(CertificateError::BadSignature));
}

#[test]
fn no_evidence_and_no_trust_are_refused() {
    let key = KeyPair::generate().unwrap();
    let bare = End { certificate: certificate(&key, &[]), key };
    let mut client_end = client(peer_verifier(None, false), None, BOTH);
    let mut server_end = server(peer_verifier(None, false), &bare);
    let (_, error) = shake(&mut client_end, &mut server_end).unwrap_err();
    assert_eq!(reason(&error).class(), Class::Form);

    let intel_only = Verifier::new([TrustAnchor::Intel], Default::default());
    let production =
        Arc::new(PeerVerifier::new(Arc::new(intel_only), Arc::new(|| NOW), rules(), None, false));
    let mut client_end = client(production, None, BOTH);
    let mut server_end = server(peer_verifier(None, false), &End::of(SERVER, image()));
    let (_, error) = shake(&mut client_end, &mut server_end).unwrap_err();
    assert_eq!(reason(&error).class(), Class::Root);
}

#[test]
fn an_identity_ends_with_its_certificate() {
    let now = Arc::new(AtomicU64::new(NOW));
    let clock = Arc::clone(&now);
    let verifier = PeerVerifier::new(
        Arc::new(trusting_verifier()),
        Arc::new(move || clock.load(Ordering::Relaxed)),
        rules(),
        None,
        true,
    );
    let end = End::of(SERVER, image());
    let peer = verifier.identify(&end.certificate).unwrap();
    now.store(peer.expires() + 1, Ordering::Relaxed);
    assert_eq!(verifier.identify(&end.certificate).unwrap_err().class(), Class::Validity);
}

/// A ticket holds the certificate, and no verdict: whoever resumes is identified again, at that time.
#[test]
fn a_ticket_does_not_outlive_the_identity() {
    let now = Arc::new(AtomicU64::new(NOW));
    let clock = Arc::clone(&now);
    let clock: casemate_verify::tls::Clock = Arc::new(move || clock.load(Ordering::Relaxed));
    let verifier = || {
        Arc::new(PeerVerifier::new(Arc::new(trusting_verifier()), Arc::clone(&clock), rules(), None, true))
    };
    let (of_client, of_server) = (verifier(), verifier());
    let (own, called) = (End::of(CLIENT, image()), End::of(SERVER, image()));
    let (chain, key) = own.chain();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client_config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(of_client)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let client_config = Arc::new(client_config);
    let server_config = server_config(Arc::clone(&of_server), &called);
    let talk = || {
        let name = ServerName::try_from("anything.invalid").unwrap();
        let mut client = ClientConnection::new(Arc::clone(&client_config), name).unwrap();
        let mut server = ServerConnection::new(Arc::clone(&server_config)).unwrap();
        shake(&mut client, &mut server).unwrap();
        // The ticket follows the handshake.
        let mut bytes = Vec::new();
        server.write_tls(&mut bytes).unwrap();
        client.read_tls(&mut bytes.as_slice()).unwrap();
        client.process_new_packets().unwrap();
        (server.handshake_kind(), of_server.identify(&server.peer_certificates().unwrap()[0]))
    };
    let (kind, peer) = talk();
    assert_eq!(kind, Some(HandshakeKind::Full));
    let peer = peer.unwrap();
    let (kind, again) = talk();
    assert_eq!(kind, Some(HandshakeKind::Resumed));
    assert!(Arc::ptr_eq(&peer, &again.unwrap()), "remembered");
    now.store(peer.expires() + 1, Ordering::Relaxed);
    let (kind, late) = talk();
    assert_eq!(kind, Some(HandshakeKind::Resumed), "else the handshake itself would refuse it");
    assert_eq!(late.unwrap_err().class(), Class::Validity);
}

/// A handshake cannot fetch anything: what the store lacks is named, and enough once it is there.
#[test]
fn a_platform_without_collateral_is_named() {
    let quote = include_bytes!("../fixtures/tdx_quote");
    let key = KeyPair::generate().unwrap();
    let report_data = ratls::report_data_for_key(&rcgen::PublicKeyData::subject_public_key_info(&key));
    let attestation = ratls::Attestation {
        quote: quote.to_vec(),
        events: Default::default(),
        report_data,
        config: String::new(),
    };
    let leaf = certificate(&key, &[(ratls::ATTESTATION_OID, &attestation.encode_v0())]);
    let store = Arc::new(Store::new());
    let verifier = Arc::new(Verifier::new([TrustAnchor::Intel], Arc::clone(&store)));
    let peers = PeerVerifier::new(Arc::clone(&verifier), Arc::new(|| NOW), rules(), None, false);
    let VerifyError::NoCollateral { platform, .. } = peers.identify(&leaf).unwrap_err() else {
        panic!("another")
    };
    assert_eq!(platform, PlatformKind::of_quote(quote).unwrap());

    let collateral = include_bytes!("../fixtures/tdx_quote_collateral.json");
    let collateral = Collateral::from_json(collateral).unwrap();
    store.keep(verifier.verify_collateral(quote, collateral, 1_750_329_600).unwrap(), NOW);
    // It is found, and says that it has expired.
    assert_eq!(peers.identify(&leaf).unwrap_err().class(), Class::Collateral);
}
