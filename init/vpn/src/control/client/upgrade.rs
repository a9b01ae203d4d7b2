//! From a byte stream to the Noise tunnel: the HTTP/1.1 upgrade that carries the initiation (tailscale
//! `control/controlhttp/client.go`), the response, and what is read ahead.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf as _, BytesMut};
use hyper::StatusCode;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::{OpenError, Wire, retry_after};
use crate::control::CAPABILITY_VERSION;
use crate::key::{Machine, Public, Secret};
use crate::noise::early::EarlyError;
use crate::noise::handshake::{MAX_ERROR_TEXT, TYPE_ERROR};
use crate::noise::{HandshakeError, Initiator, NoiseStream, RESPONSE_LEN};

/// The longest head of an answer that is read.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;
/// `controlhttpcommon`.
const PROTOCOL: &str = "tailscale-control-protocol";

/// Why there is no connection.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// No byte stream.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The stream failed.
    #[error("the upgrade to ts2021: {0}")]
    Io(#[from] io::Error),
    /// What came is no HTTP/1.1 answer.
    #[error("the answer to the upgrade is not HTTP/1.1")]
    NotHttp,
    /// Another answer than 101, or a 101 to something else.
    #[error("the upgrade to ts2021 was answered {0}")]
    Status(StatusCode),
    /// 429, with its `Retry-After`.
    #[error("the upgrade to ts2021 was answered 429")]
    RateLimited(Option<Duration>),
    /// The server upgraded and closed without a byte. It does so when it refuses our version, and when the initiation was for
    /// another key: `/key` tells which.
    #[error("the server closed after the upgrade without a byte")]
    ClosedAfterUpgrade,
    /// The handshake failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// What came before HTTP/2 failed.
    #[error(transparent)]
    Early(#[from] EarlyError),
    /// HTTP/2 did not start.
    #[error("HTTP/2 in the tunnel: {0}")]
    Http2(#[from] hyper::Error),
}

/// Upgrades a stream.
pub(super) async fn upgrade(
    mut wire: Wire,
    authority: &str,
    machine: &Secret<Machine>,
    server: &Public<Machine>,
) -> Result<NoiseStream<Wire>, ConnectError> {
    let (initiator, initiation) = Initiator::start(CAPABILITY_VERSION, machine, server)?;
    let request = format!(
        "POST /ts2021 HTTP/1.1\r\nHost: {authority}\r\nUpgrade: {PROTOCOL}\r\nConnection: upgrade\r\n\
         X-Tailscale-Handshake: {}\r\nContent-Length: 0\r\n\r\n",
        STANDARD.encode(initiation)
    );
    wire.write_all(request.as_bytes()).await?;
    wire.flush().await?;

    let mut received = BytesMut::new();
    match read_head(&mut wire, &mut received).await? {
        (StatusCode::SWITCHING_PROTOCOLS, _) => {}
        (StatusCode::TOO_MANY_REQUESTS, after) => return Err(ConnectError::RateLimited(after)),
        (status, _) => return Err(ConnectError::Status(status)),
    }
    let first = match fill(&mut wire, &mut received, 3).await {
        Err(error) if received.is_empty() && is_close(&error) => {
            return Err(ConnectError::ClosedAfterUpgrade);
        }
        other => other.map(|()| received.first_chunk::<3>().copied())?,
    };
    if let Some([TYPE_ERROR, high, low]) = first {
        let len = usize::from(u16::from_be_bytes([high, low])).min(MAX_ERROR_TEXT);
        fill(&mut wire, &mut received, 3 + len).await?;
        received.advance(3);
        let text = String::from_utf8_lossy(&received.split_to(len)).escape_debug().to_string();
        return Err(HandshakeError::Refused(text).into());
    }
    fill(&mut wire, &mut received, RESPONSE_LEN).await?;
    let response = received.split_to(RESPONSE_LEN);
    let response = response.first_chunk().ok_or(ConnectError::NotHttp)?;
    let tunnel = initiator.finish(response)?;
    Ok(NoiseStream::new(wire, tunnel, received))
}

/// Whether an error is the other side's close.
fn is_close(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Reads until there are so many bytes.
async fn fill<S: AsyncRead + Unpin>(wire: &mut S, received: &mut BytesMut, len: usize) -> io::Result<()> {
    while received.len() < len {
        if wire.read_buf(received).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Reads the head of the answer: its status, and its `Retry-After`. What came behind it stays in `received`.
async fn read_head<S: AsyncRead + Unpin>(
    wire: &mut S,
    received: &mut BytesMut,
) -> Result<(StatusCode, Option<Duration>), ConnectError> {
    loop {
        if wire.read_buf(received).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        match response.parse(received) {
            Ok(httparse::Status::Complete(len)) => {
                let status = response
                    .code
                    .and_then(|code| StatusCode::from_u16(code).ok())
                    .filter(|_| response.version == Some(1))
                    .ok_or(ConnectError::NotHttp)?;
                let ours = response.headers.iter().any(|header| {
                    header.name.eq_ignore_ascii_case("upgrade")
                        && header.value.eq_ignore_ascii_case(PROTOCOL.as_bytes())
                });
                if status == StatusCode::SWITCHING_PROTOCOLS && !ours {
                    return Err(ConnectError::NotHttp);
                }
                let after = response
                    .headers
                    .iter()
                    .find(|header| header.name.eq_ignore_ascii_case("retry-after"))
                    .and_then(|header| retry_after(header.value));
                received.advance(len);
                return Ok((status, after));
            }
            Ok(httparse::Status::Partial) if received.len() < MAX_HEAD => {}
            _ => return Err(ConnectError::NotHttp),
        }
    }
}
