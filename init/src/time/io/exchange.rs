//! The key exchange: one TLS 1.3 connection to one measured address, one message each way, within bounds.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Error, Stream};

use crate::time::TimeError;
use crate::time::certificate::Certificates;
use crate::time::nts::key_exchange::{ALPN, EXPORTER, LONGEST, REQUEST, context, is_complete, judge};
use crate::time::nts::{Association, Keys};

/// For the whole of it, however slowly the server speaks.
const DEADLINE: Duration = Duration::from_secs(10);

/// What it has given.
pub(in crate::time) struct Exchanged {
    pub(in crate::time) association: Association,
    /// The server's certificates, to be judged again once it has said what time it is.
    pub(in crate::time) chain: Vec<CertificateDer<'static>>,
}

/// Exchanges keys with the server at this address, which must have a certificate for this name.
pub(in crate::time) fn exchange(
    address: SocketAddr,
    name: &ServerName<'static>,
    certificates: &Certificates,
    provider: &Arc<CryptoProvider>,
    known: Option<Duration>,
) -> Result<Exchanged, TimeError> {
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(certificates.verifier(known))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    let mut tls = ClientConnection::new(Arc::new(config), name.clone())?;

    let socket = TcpStream::connect_timeout(&address, DEADLINE).map_err(TimeError::io("connect by TCP"))?;
    let mut socket = Bounded { socket, until: Instant::now() + DEADLINE };
    let answer = talk(&mut Stream::new(&mut tls, &mut socket))?;
    if tls.alpn_protocol() != Some(ALPN) {
        return Err(TimeError::exchange("the protocol ntske/1", format!("{:02x?}", tls.alpn_protocol())));
    }
    let cookies = judge(&answer, address.ip(), &name.to_str())?;
    let chain = tls.peer_certificates().unwrap_or_default();
    let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
    let key = |to_client| tls.export_keying_material([0; 32], EXPORTER, Some(&context(to_client)));
    let keys = Keys { to_server: key(false)?, to_client: key(true)? };
    Ok(Exchanged { association: Association::new(keys, cookies), chain })
}

fn talk(stream: &mut (impl Read + Write)) -> Result<Vec<u8>, TimeError> {
    let failed = |error: io::Error| match error.downcast::<Error>() {
        Ok(tls) => TimeError::Tls(tls),
        Err(other) => TimeError::io("exchange keys")(other),
    };
    stream.write_all(&REQUEST).map_err(failed)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 2048];
    while !is_complete(&answer) {
        let length = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length.min(LONGEST.saturating_add(1).saturating_sub(answer.len())),
            // Some servers just hang up; whether the message is whole is seen below.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
            Err(error) => return Err(failed(error)),
        };
        answer.extend_from_slice(buffer.get(..length).unwrap_or_default());
    }
    Ok(answer)
}

/// A socket of which all reads and writes together end in time.
struct Bounded {
    socket: TcpStream,
    until: Instant,
}

impl Bounded {
    fn left(&self) -> io::Result<Duration> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(buffer)
    }
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}
