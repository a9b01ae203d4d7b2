//! Whole handshakes in memory: attested peers that remember each other, and plain mutual TLS of a CA.

use std::sync::Arc;

use anyhow::{Context as _, ensure};
use casemate_mesh::{CertificateKey, IdentitySource as _};
use casemate_verify::acceptable::Image;
use casemate_verify::tls::{PeerVerifier, Rules};
use casemate_verify::{TrustAnchor, Verifier};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use crate::Work;
use crate::machine::{CALLER, DEMO, Machine, image, now};

const NAME: &str = "localhost";

pub(crate) struct Handshakes {
    ours: Ends,
    plain: Ends,
}

struct Ends {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Handshakes {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self { ours: Ends::attested()?, plain: Ends::of_a_ca()? })
    }
}

impl Ends {
    fn attested() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, server) = runtime.block_on(async {
            let (caller, called) = (Machine::boot(CALLER, image()), Machine::boot(DEMO, image()));
            let certificate = async |machine: &Machine| {
                machine
                    .identity()
                    .certificate()
                    .await
                    .map_err(|error| anyhow::anyhow!("certificate: {error}"))
            };
            anyhow::Ok((certificate(&caller).await?, certificate(&called).await?))
        })?;
        let verifier = || {
            let anchors = Verifier::new([TrustAnchor::Simulator], Default::default());
            let rules = Rules { images: vec![Image::Same(image())], ..Rules::default() };
            Arc::new(PeerVerifier::new(Arc::new(anchors), Arc::new(now), rules, None, true))
        };
        let ends = Self::new(verifier(), client, verifier(), server)?;
        // Both sides know each other from now on.
        ends.shake()?;
        Ok(ends)
    }

    fn of_a_ca() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let ca_key = KeyPair::generate()?;
        let ca = params.self_signed(&ca_key)?;
        let issuer = Issuer::from_params(&params, &ca_key);
        let leaf = || {
            let key = KeyPair::generate()?;
            let certificate = CertificateParams::new(vec![NAME.to_owned()])?.signed_by(&key, &issuer)?;
            let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
            anyhow::Ok(CertificateKey { chain: vec![certificate.der().clone()], key })
        };
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone())?;
        let roots = Arc::new(roots);
        let of_client =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider()).build()?;
        let of_server = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
        Self::new(of_client, leaf()?, of_server, leaf()?)
    }

    fn new(
        of_client: Arc<dyn ServerCertVerifier>,
        client: CertificateKey,
        of_server: Arc<dyn ClientCertVerifier>,
        server: CertificateKey,
    ) -> anyhow::Result<Self> {
        let mut client_config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(of_client)
            .with_client_auth_cert(client.chain, client.key)?;
        // A session that is resumed would be no handshake.
        client_config.resumption = rustls::client::Resumption::disabled();
        let mut server_config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(of_server)
            .with_single_cert(server.chain, server.key)?;
        server_config.send_tls13_tickets = 0;
        Ok(Self { client: Arc::new(client_config), server: Arc::new(server_config) })
    }

    fn shake(&self) -> anyhow::Result<()> {
        let mut client = ClientConnection::new(Arc::clone(&self.client), ServerName::try_from(NAME)?)?;
        let mut server = ServerConnection::new(Arc::clone(&self.server))?;
        let mut bytes = Vec::new();
        for _ in 0..8 {
            bytes.clear();
            while client.wants_write() {
                client.write_tls(&mut bytes)?;
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                server.read_tls(&mut rest)?;
                server.process_new_packets()?;
            }
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes)?;
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                client.read_tls(&mut rest)?;
                client.process_new_packets()?;
            }
            if !client.is_handshaking() && !server.is_handshaking() {
                server.peer_certificates().context("the client showed no certificate")?;
                return Ok(());
            }
        }
        ensure!(false, "the handshake does not end");
        Ok(())
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Work for Handshakes {
    fn name(&self) -> &'static str {
        "handshake"
    }

    fn promised(&self) -> f64 {
        0.9
    }

    fn times(&self) -> usize {
        100
    }

    fn ours(&self) -> anyhow::Result<()> {
        self.ours.shake()
    }

    fn peer(&self) -> anyhow::Result<()> {
        self.plain.shake()
    }
}
