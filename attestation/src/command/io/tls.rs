//! Connections: to a peer, whose certificate is judged afterwards, and to a PCCS, whose certificate a public authority signed.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use casemate_verify::challenge::{EXPORTER_LABEL, EXPORTER_LEN};
use casemate_verify::tls::AnyCertificate;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::http::{self, Response};
use super::url::{Url, authority};

/// From the first SYN to the end of the handshake, or of an answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A TLS connection to a server that has proven the key of its leaf certificate.
pub(crate) struct Peer {
    connection: ClientConnection,
    stream: Bounded,
    authority: String,
    /// As the server showed it, DER, leaf first; not empty.
    pub(crate) chain: Vec<Vec<u8>>,
}

impl Peer {
    /// Connects for the certificate alone.
    pub(crate) fn look_at(host: &str, port: u16) -> io::Result<Self> {
        Self::open(host, port, rustls::ALL_VERSIONS, &[])
    }

    /// Connects for a request.
    pub(crate) fn connect(host: &str, port: u16) -> io::Result<Self> {
        // TLS 1.3 alone: the exporter of RFC 9266 is unique to a connection only there.
        Self::open(host, port, &[&rustls::version::TLS13], &[b"http/1.1"])
    }

    fn open(
        host: &str,
        port: u16,
        versions: &[&'static rustls::SupportedProtocolVersion],
        alpn: &[&[u8]],
    ) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate::default()))
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let mut stream = Bounded::connect(host, port, false)?;
        let connection = handshake(config, host, &mut stream)?;
        let chain: Vec<_> =
            connection.peer_certificates().unwrap_or_default().iter().map(|der| der.to_vec()).collect();
        if chain.is_empty() {
            return Err(io::Error::other("the server showed no certificate"));
        }
        Ok(Self { connection, stream, authority: authority(host, port), chain })
    }

    /// What only the two ends of this connection know (RFC 9266).
    pub(crate) fn exporter(&self) -> io::Result<[u8; EXPORTER_LEN]> {
        self.connection
            .export_keying_material([0; EXPORTER_LEN], EXPORTER_LABEL, Some(&[]))
            .map_err(io::Error::other)
    }

    /// Asks on this connection, which ends with the answer.
    pub(crate) fn get(mut self, path: &str, limit: usize, timeout: Duration) -> io::Result<Response> {
        self.stream.restart(timeout);
        let mut stream = rustls::Stream::new(&mut self.connection, &mut self.stream);
        http::get(&mut stream, &self.authority, path, limit)
    }
}

/// Asks a server that a public authority vouches for; without TLS one of this machine only.
pub(crate) fn get(url: &Url, limit: usize) -> io::Result<Response> {
    let mut stream = Bounded::connect(&url.host, url.port, !url.tls)?;
    if !url.tls {
        return http::get(&mut stream, &url.authority(), &url.path, limit);
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut connection = handshake(config, &url.host, &mut stream)?;
    stream.restart(TIMEOUT);
    http::get(&mut rustls::Stream::new(&mut connection, &mut stream), &url.authority(), &url.path, limit)
}

fn handshake(config: ClientConfig, host: &str, stream: &mut Bounded) -> io::Result<ClientConnection> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(stream)?;
    }
    Ok(connection)
}

/// A stream that ends at a deadline, however slowly the other side drips.
struct Bounded {
    stream: TcpStream,
    timeout: Duration,
    deadline: Instant,
}

impl Bounded {
    /// To the first of the name's addresses that answers; `loopback`: which must be of this machine.
    fn connect(host: &str, port: u16, loopback: bool) -> io::Result<Self> {
        let deadline = Instant::now() + TIMEOUT;
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in (host, port).to_socket_addrs()? {
            if loopback && !address.ip().is_loopback() {
                last = io::Error::other("expected https:// (http:// is for loopback addresses)");
                continue;
            }
            match TcpStream::connect_timeout(&address, remaining(deadline, TIMEOUT)?) {
                Ok(stream) => return Ok(Self { stream, timeout: TIMEOUT, deadline }),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn restart(&mut self, timeout: Duration) {
        (self.timeout, self.deadline) = (timeout, Instant::now() + timeout);
    }

    /// A socket's timeout shows as `WouldBlock`, which says nothing to a person.
    fn named(&self, error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::WouldBlock => no_answer(self.timeout),
            _ => error,
        }
    }
}

fn remaining(deadline: Instant, timeout: Duration) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(no_answer(timeout)) } else { Ok(left) }
}

fn no_answer(timeout: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", timeout.as_secs()))
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(remaining(self.deadline, self.timeout)?))?;
        self.stream.read(buffer).map_err(|error| self.named(error))
    }
}

impl Write for Bounded {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(remaining(self.deadline, self.timeout)?))?;
        self.stream.write(buffer).map_err(|error| self.named(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
