//! Challenges: whoever holds the key of an accepted machine can show its certificate, and cannot answer for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use casemate_verify::challenge::{EXPORTER_LABEL, Nonce};
use casemate_verify::ratls::Attestation;
use casemate_verify::{AuthenticPeer, Binding, Class, TrustAnchor, Verifier, VerifyError};
use rustls::pki_types::{PrivateKeyDer, ServerName, pem::PemObject as _};
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::callers::demo;
use crate::client::{call, certificate_of, verifier};
use crate::machine::now;

/// What a relying party has after it has asked.
struct Asked {
    leaf: Vec<u8>,
    exporter: [u8; 32],
    answer: String,
}

/// Asks whoever is there, once its certificate has proved to be of the good image.
async fn ask(address: SocketAddr, nonce: &Nonce) -> Asked {
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier(None))
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::IpAddress(address.ip().into());
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let connection = stream.get_ref().1;
    let exporter = connection.export_keying_material([0; 32], EXPORTER_LABEL, Some(&[])).unwrap();
    let leaf = connection.peer_certificates().unwrap()[0].to_vec();
    let request = format!(
        "GET /.well-known/casemate/attestation?nonce={} HTTP/1.1\r\nhost: demo\r\nconnection: close\r\n\r\n",
        hex::encode(nonce)
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A missing TLS close is an end as well.
    drop(stream.read_to_end(&mut answer).await);
    Asked { leaf, exporter, answer: String::from_utf8(answer).unwrap() }
}

impl Asked {
    fn judge(&self, nonce: &Nonce) -> Result<AuthenticPeer, VerifyError> {
        assert!(self.answer.starts_with("HTTP/1.1 200 "), "{}", self.answer);
        let (_, body) = self.answer.split_once("\r\n\r\n").unwrap();
        let json: serde_json::Value = serde_json::from_str(body).unwrap();
        let bytes = hex::decode(json["attestation"].as_str().unwrap()).unwrap();
        let attestation = Attestation::decode(&bytes).unwrap();
        let verifier = Verifier::new([TrustAnchor::Simulator], Arc::default());
        verifier.verify_challenge(&self.leaf, &attestation, nonce, &self.exporter, now())
    }
}

#[tokio::test]
async fn a_machine_answers_for_the_connection_that_it_is_asked_on() {
    let (mesh, _backend, machine) = demo().await;
    let nonce = [0x5a; 32];
    let asked = ask(mesh.inbound, &nonce).await;
    let peer = asked.judge(&nonce).unwrap();
    assert_eq!((peer.app_id(), peer.compose_hash()), (machine.app, machine.compose));
    assert!(matches!(peer.binding(), Binding::Challenge(_, asked) if *asked == nonce));
    let error = asked.judge(&[0xa5; 32]).unwrap_err();
    assert_eq!(error.class(), Class::Binding, "{error}");
}

/// Somebody took the mesh's key out of the machine. It shows the machine's certificate, proves the key, and asks the machine
/// itself for the answer.
#[tokio::test]
async fn who_has_taken_its_key_cannot_relay_its_answer() {
    let (mesh, _backend, machine) = demo().await;
    let victim = mesh.inbound;
    let certificate = certificate_of(victim).await;
    let key = PrivateKeyDer::from_pem_slice(machine.issued()[0].as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let thief = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        let answer = call(victim, None, std::str::from_utf8(&request).unwrap()).await.answer.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        drop(stream.shutdown().await);
    });
    let nonce = [0x5a; 32];
    // `ask` has verified the certificate by then: evidence in it proves the key, not the place.
    let asked = ask(thief, &nonce).await;
    assert_eq!(asked.leaf, certificate.to_vec());
    let error = asked.judge(&nonce).unwrap_err();
    assert_eq!(error.class(), Class::Binding, "{error}");
    assert!(error.to_string().starts_with("report data: expected"), "{error}");
}
