//! What the server may say before HTTP/2: five bytes of magic, a length, JSON (tailscale `control/ts2021/conn.go`; Headscale
//! `hscontrol/noise.go`, `earlyNoise`).

use std::io;

use serde::Deserialize;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::stream::NoiseStream;
use crate::key::{Challenge, Public};

/// What the payload begins with; no HTTP/2 frame does.
pub const MAGIC: [u8; 5] = *b"\xff\xff\xffTS";
/// The magic and the length.
pub const HEADER_LEN: usize = 9;
/// The longest payload that we read. Go reads up to 10 MiB; it holds one key.
pub const MAX_PAYLOAD: u32 = 64 * 1024;

/// The payload. Its challenge is for signing node keys, which no Headscale asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Early {
    /// The challenge.
    #[serde(rename = "nodeKeyChallenge", default)]
    pub challenge: Option<Public<Challenge>>,
}

/// What the first nine bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A payload of this length follows.
    Payload(u32),
    /// They are HTTP/2's.
    Absent,
}

/// Why there is no early payload where there should be one.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EarlyError {
    /// A payload longer than we read.
    #[error("an early payload of {0} bytes")]
    Length(u32),
    /// Not JSON, or not of its shape.
    #[error("the early payload does not read: {0}")]
    Json(#[from] serde_json::Error),
    /// The stream failed.
    #[error("reading the early payload: {0}")]
    Io(#[from] io::Error),
}

/// Looks at the first bytes of a tunnel.
///
/// # Errors
/// If the payload would be too long.
pub fn head(bytes: &[u8; HEADER_LEN]) -> Result<Head, EarlyError> {
    let Some((magic, len)) = bytes.split_first_chunk::<5>() else {
        return Ok(Head::Absent);
    };
    if *magic != MAGIC {
        return Ok(Head::Absent);
    }
    let len = u32::from_be_bytes(len.first_chunk().copied().unwrap_or_default());
    if len > MAX_PAYLOAD {
        return Err(EarlyError::Length(len));
    }
    Ok(Head::Payload(len))
}

/// Reads the payload if there is one; else everything is left for HTTP/2. HTTP/2's server speaks first too (its settings frame
/// has nine bytes of header), so the nine bytes come in either case.
///
/// # Errors
/// If the stream ends or what it says is no payload.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut NoiseStream<S>) -> Result<Option<Early>, EarlyError> {
    let mut first = [0; HEADER_LEN];
    stream.read_exact(&mut first).await?;
    match head(&first)? {
        Head::Absent => {
            stream.unread(&first);
            Ok(None)
        }
        Head::Payload(len) => {
            let mut payload = Vec::new();
            stream.take(u64::from(len)).read_to_end(&mut payload).await?;
            if payload.len() < len as usize {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            Ok(Some(serde_json::from_slice(&payload)?))
        }
    }
}
