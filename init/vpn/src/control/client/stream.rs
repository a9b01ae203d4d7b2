//! The map stream's frames: a little-endian length and so many bytes, over and over (tailscale `control/controlclient/direct.go`;
//! Headscale `hscontrol/poll.go`).

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

/// The longest message. Go sets no bound; one of 3,000 real peers is less than 4 MiB.
pub const MAX_FRAME: u32 = 8 * 1024 * 1024;
/// A stream without a whole message for this long is dead (`direct.go`, `watchdogTimeout`); keep-alives come within the minute.
pub const WATCHDOG: Duration = Duration::from_secs(120);
/// A buffer that grew past this is not kept.
const KEPT_BUFFER: usize = 64 * 1024;

/// Why the stream of maps ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// A message longer than we read.
    #[error("a map message of {0} bytes")]
    TooLong(u32),
    /// It ended inside a message.
    #[error("the map stream ended inside a message")]
    Truncated,
    /// HTTP/2 failed.
    #[error("the map stream: {0}")]
    Http2(#[from] hyper::Error),
    /// Nothing came for too long.
    #[error("no map message for {0:?}")]
    Watchdog(Duration),
}

/// Cuts bytes into messages.
#[derive(Debug, Default)]
pub struct MapFrames {
    buffer: BytesMut,
}

impl MapFrames {
    /// Appends what came.
    pub fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// If it would be too long.
    pub fn take(&mut self) -> Result<Option<Bytes>, StreamError> {
        let Some(len) = self.buffer.first_chunk::<4>().map(|len| u32::from_le_bytes(*len)) else {
            return Ok(None);
        };
        if len > MAX_FRAME {
            return Err(StreamError::TooLong(len));
        }
        let len = len as usize;
        if self.buffer.len() < 4 + len {
            return Ok(None);
        }
        self.buffer.advance(4);
        let frame = self.buffer.split_to(len).freeze();
        if len > KEPT_BUFFER {
            self.buffer = BytesMut::from(self.buffer.as_ref());
        }
        Ok(Some(frame))
    }

    /// Whether there is nothing left over.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }
}

/// The stream. Dropping it closes it at the server.
#[derive(Debug)]
pub struct MapStream {
    body: Incoming,
    frames: MapFrames,
    watchdog: Duration,
    deadline: Instant,
}

impl MapStream {
    pub(super) fn new(body: Incoming, watchdog: Duration) -> Self {
        Self { body, frames: MapFrames::default(), watchdog, deadline: Instant::now() + watchdog }
    }

    /// The next message; `None`: the server ended the stream. May be dropped and called again.
    ///
    /// # Errors
    /// If the stream fails, breaks off, says too much or nothing for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            if let Some(frame) = self.frames.take()? {
                self.deadline = Instant::now() + self.watchdog;
                return Ok(Some(frame));
            }
            match timeout_at(self.deadline, self.body.frame()).await {
                Err(_) => return Err(StreamError::Watchdog(self.watchdog)),
                Ok(None) if self.frames.is_empty() => return Ok(None),
                Ok(None) => return Err(StreamError::Truncated),
                Ok(Some(frame)) => {
                    if let Ok(data) = frame?.into_data() {
                        self.frames.extend(&data);
                    }
                }
            }
        }
    }
}
