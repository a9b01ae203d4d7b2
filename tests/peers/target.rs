//! Whoever a mesh calls, with whatever certificate: it notes how the handshakes ended and what it could read.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use casemate_mesh::CertificateKey;
use rustls::ServerConfig;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

/// What came to a target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) connections: usize,
    /// Handshakes that the caller completed.
    pub(crate) completed: usize,
    /// How the others ended.
    pub(crate) refusals: Vec<String>,
    /// Bytes of requests.
    pub(crate) bytes: usize,
}

pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
}

impl Target {
    /// Answers every request that it can read with "hello".
    pub(crate) async fn with(own: CertificateKey) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = provider.key_provider.load_private_key(own.key).unwrap();
        // Whoever has stolen a certificate shows it with the key that he has.
        let own = SingleCertAndKey::from(CertifiedKey::new(own.chain, key));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(own));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::<Mutex<Heard>>::default();
        let shared = Arc::clone(&heard);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                shared.lock().unwrap().connections += 1;
                tokio::spawn(talk(stream, acceptor.clone(), Arc::clone(&shared)));
            }
        });
        Self { address, heard }
    }

    pub(crate) fn heard(&self) -> Heard {
        self.heard.lock().unwrap().clone()
    }
}

async fn talk(stream: TcpStream, acceptor: TlsAcceptor, heard: Arc<Mutex<Heard>>) {
    let mut stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return heard.lock().unwrap().refusals.push(error.to_string()),
    };
    heard.lock().unwrap().completed += 1;
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut chunk).await {
        heard.lock().unwrap().bytes += length;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        if chunk[..length].ends_with(b"\r\n\r\n") && stream.write_all(answer).await.is_err() {
            return;
        }
    }
}
