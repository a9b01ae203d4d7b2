//! Asking for collateral, on connections that carry nothing else. Whoever answers need not be known: what it says is signed.

use std::io;
use std::net::SocketAddr;

use bytes::Bytes;
use casemate_verify::collateral::Collateral;
use casemate_verify::collateral::pccs::{self, Answer, Item, PccsError};
use casemate_verify::{EvidenceError, PlatformKind, ratls};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::http::header::{CONTENT_TYPE, HOST, HeaderMap};
use hyper::http::{StatusCode, request};
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{PATH, Refused};
use crate::config::Pccs;
use crate::failure::Failure;
use crate::{dial, limits, tls};

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("no connection")]
    Connect(#[source] Failure),
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    #[error("TLS cannot be set up")]
    Setup(#[from] rustls::Error),
    #[error("{0}: not an https:// URL")]
    Url(String),
    #[error("the connection broke")]
    Http(#[from] hyper::Error),
    #[error("the answer broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{path}: expected status {expected}, found {found}")]
    Status { path: String, expected: StatusCode, found: StatusCode },
    #[error("{path}: expected at most {limit} bytes, found more")]
    TooLong { path: String, limit: usize },
    #[error("no answer in time")]
    Slow,
    #[error("no certificate was shown")]
    NoCertificate,
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error(transparent)]
    Pccs(#[from] PccsError),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("it is not known which platform is ours")]
    NoPlatform,
    #[error("there is no room for another kind of platform")]
    Full,
}

/// What a peer serves of its own, and the quote in the certificate that it shows.
pub(super) async fn from_peer(address: SocketAddr) -> Result<(Vec<u8>, Collateral), FetchError> {
    let mut peer =
        Asked::open(address, ServerName::IpAddress(address.ip().into()), address.to_string()).await?;
    let quote = ratls::from_certificate(&peer.leaf)?.attestation.quote;
    let (_, json) = peer.get(PATH).await?;
    Ok((quote, Collateral::from_json(&json)?))
}

/// Brings a peer what it may need.
pub(super) async fn bring(address: SocketAddr, offer: String) -> Result<(), FetchError> {
    let mut peer =
        Asked::open(address, ServerName::IpAddress(address.ip().into()), address.to_string()).await?;
    let request = Request::post(PATH).header(CONTENT_TYPE, "application/json");
    peer.ask(PATH, request, offer.into(), StatusCode::NO_CONTENT).await.map(drop)
}

/// What a PCCS has for such a platform: four answers, each in its time.
pub(super) async fn from_pccs(pccs: &Pccs, platform: PlatformKind) -> Result<Collateral, FetchError> {
    let bad = || FetchError::Url(pccs.url.clone());
    let (authority, base) = authority_and_path(&pccs.url).ok_or_else(bad)?;
    let name = ServerName::try_from(host(authority)).map_err(|_| bad())?.to_owned();
    let ask = async |item: Item| -> Result<(Option<String>, Bytes), FetchError> {
        let path = format!("{base}{}", item.path(&platform));
        let ask = async {
            let mut server = Asked::open(pccs.address, name.clone(), authority.to_owned()).await?;
            server.get(&path).await
        };
        let (headers, body) = timeout(limits::COLLATERAL, ask).await.map_err(|_| FetchError::Slow)??;
        let chain = item.chain_headers().iter().find_map(|name| headers.get(*name)?.to_str().ok());
        Ok((chain.map(str::to_owned), body))
    };
    let [first, second, third, fourth] = Item::ALL;
    let answers = [ask(first).await?, ask(second).await?, ask(third).await?, ask(fourth).await?];
    let answers = answers.each_ref().map(|(chain, body)| Answer { chain: chain.as_deref(), body });
    Ok(Collateral::new(pccs::collateral(answers)?)?)
}

/// `HOST[:PORT]` and what follows it in a URL.
fn authority_and_path(url: &str) -> Option<(&str, &str)> {
    let rest = url.strip_prefix("https://")?;
    Some(rest.find('/').map_or((rest, ""), |at| rest.split_at(at)))
}

fn host(authority: &str) -> &str {
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((six, _)) => six,
        None => authority.split(':').next().unwrap_or(authority),
    }
}

/// Somebody who is asked one thing.
struct Asked {
    host: String,
    leaf: CertificateDer<'static>,
    sender: SendRequest<Full<Bytes>>,
    /// Ends with this value.
    _driver: JoinSet<hyper::Result<()>>,
}

impl Asked {
    async fn open(address: SocketAddr, name: ServerName<'static>, host: String) -> Result<Self, FetchError> {
        let stream = dial::connect(address).await.map_err(FetchError::Connect)?;
        let connector = TlsConnector::from(tls::asking()?);
        let mut stream = connector.connect(name, stream).await.map_err(FetchError::Tls)?;
        stream.get_mut().1.set_buffer_limit(Some(limits::WRITE_BUFFER));
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let leaf = leaf.ok_or(FetchError::NoCertificate)?.clone().into_owned();
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(limits::READ_BUFFER)
            .max_header_size(limits::HEADER_BYTES)
            .handshake(TokioIo::new(stream))
            .await?;
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Ok(Self { host, leaf, sender, _driver: driver })
    }

    async fn get(&mut self, path: &str) -> Result<(HeaderMap, Bytes), FetchError> {
        self.ask(path, Request::get(path), Bytes::new(), StatusCode::OK).await
    }

    async fn ask(
        &mut self,
        path: &str,
        request: request::Builder,
        body: Bytes,
        expected: StatusCode,
    ) -> Result<(HeaderMap, Bytes), FetchError> {
        let request = request.header(HOST, self.host.as_str()).body(Full::new(body));
        let request = request.map_err(|_| FetchError::Url(path.to_owned()))?;
        let response = self.sender.send_request(request).await?;
        let found = response.status();
        if found != expected {
            return Err(FetchError::Status { path: path.to_owned(), expected, found });
        }
        let (head, body) = response.into_parts();
        let limit = limits::COLLATERAL_BYTES;
        let body = Limited::new(body, limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                FetchError::TooLong { path: path.to_owned(), limit }
            } else {
                FetchError::Body(error)
            }
        })?;
        Ok((head.headers, body.to_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_its_parts() {
        for (url, authority, path, name) in [
            ("https://a.example", "a.example", "", "a.example"),
            ("https://a.example:8081/x/y", "a.example:8081", "/x/y", "a.example"),
            ("https://[2001:db8::1]:1/z", "[2001:db8::1]:1", "/z", "2001:db8::1"),
            ("https://192.0.2.1", "192.0.2.1", "", "192.0.2.1"),
        ] {
            let (found, rest) = authority_and_path(url).unwrap();
            assert_eq!((found, rest, host(found)), (authority, path, name), "{url}");
        }
        assert_eq!(authority_and_path("http://a.example"), None);
    }
}
