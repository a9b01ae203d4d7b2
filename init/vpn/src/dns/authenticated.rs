//! Names asked of authenticated resolvers: DNS over TLS (RFC 7858), each resolver's certificate verified against its name. Nothing
//! is asked in the clear, and nobody is asked instead.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::forward::{answers, random_id};
use super::lookup::OTHER_FAMILY;
use crate::dial::first_of;
use crate::parent::Resolver;

/// How long one resolver may take for everything: TCP, TLS, two questions.
pub(super) const ATTEMPT: Duration = Duration::from_secs(4);
/// More addresses of one host are not believed.
const MAX_ADDRESSES: usize = 8;

/// The resolvers of the document.
#[derive(Clone, Debug)]
pub struct Authenticated {
    pub(super) resolvers: Vec<(SocketAddr, ServerName<'static>)>,
    pub(super) config: Arc<ClientConfig>,
}

impl Authenticated {
    /// In order of preference. `None`: a name that no certificate can carry.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(resolvers: &[Resolver], roots: &Arc<RootCertStore>) -> Result<Option<Self>, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(roots))
            .with_no_client_auth();
        let named =
            |resolver: &Resolver| Some((resolver.address, ServerName::try_from(resolver.name.clone()).ok()?));
        let resolvers: Option<Vec<_>> = resolvers.iter().map(named).collect();
        Ok(resolvers.map(|resolvers| Self { resolvers, config: Arc::new(config) }))
    }

    /// What the first resolver that answers says of a host, IPv4 first; each is asked a little after the one before, or when that one
    /// has failed.
    ///
    /// # Errors
    /// If nobody answers, or the host has no address; the last resolver's words.
    pub async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let name = Name::from_ascii(format!("{}.", host.trim_end_matches('.')))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, format!("{host}: {error}")))?;
        let found = first_of(self.resolvers.clone(), |(address, server)| {
            let name = name.clone();
            async move {
                let asked = timeout(ATTEMPT, self.ask(address, server, &name)).await;
                asked
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                    .map_err(|error| io::Error::new(error.kind(), format!("resolver {address}: {error}")))
            }
        })
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{host}: {error}")))?;
        if found.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{host}: expected an address, found none at the resolver"),
            ));
        }
        Ok(found)
    }

    /// Both questions on one connection. A resolver that says that there is no such name has answered.
    async fn ask(
        &self,
        address: SocketAddr,
        server: ServerName<'static>,
        name: &Name,
    ) -> io::Result<Vec<IpAddr>> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        let mut stream = TlsConnector::from(Arc::clone(&self.config)).connect(server, tcp).await?;
        let mut found = one(&mut stream, name, RecordType::A).await?;
        // Whoever has the one neither fails for the want of the other nor waits for it: some never answer for AAAA.
        let other = one(&mut stream, name, RecordType::AAAA);
        if found.is_empty() {
            found = other.await?;
        } else if let Ok(Ok(more)) = timeout(OTHER_FAMILY, other).await {
            found.extend(more);
        }
        found.truncate(MAX_ADDRESSES);
        Ok(found)
    }
}

/// One question, behind its length (RFC 1035 section 4.2.2).
async fn one(stream: &mut TlsStream<TcpStream>, name: &Name, kind: RecordType) -> io::Result<Vec<IpAddr>> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let id = random_id().ok_or_else(|| io::Error::other("no random number"))?;
    let question = Query::query(name.clone(), kind);
    let mut query = Message::new(id, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(question.clone());
    let query = query.to_vec().map_err(io::Error::other)?;
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes(), &*query].concat()).await?;
    stream.flush().await?;
    let length = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await?;
    if !answers(&reply, id, &question) {
        return Err(invalid("expected the answer to our question, found something else"));
    }
    let reply = Message::from_vec(&reply).map_err(|_| invalid("expected a DNS message"))?;
    match reply.metadata.response_code {
        ResponseCode::NoError => {}
        ResponseCode::NXDomain => return Ok(Vec::new()),
        code => return Err(io::Error::other(format!("expected an answer, found {code}"))),
    }
    // Aliases were followed by the resolver: every address in the answer is one of the host's.
    let address = |data: &RData| match data {
        RData::A(address) if kind == RecordType::A => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) if kind == RecordType::AAAA => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    Ok(reply.answers.iter().filter_map(|record| address(&record.data)).collect())
}
