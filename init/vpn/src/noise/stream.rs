//! A byte stream over records. Writes are sealed as they come and sent together at the flush.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::handshake::Tunnel;
use super::record::{Opener, RecordError, Sealer};

/// Sealed bytes that may wait for a flush: past this the writer is held back.
const MAX_UNSENT: usize = 64 * 1024;
/// How much is read at once: four full records.
const READ_LEN: usize = 16 * 1024;

/// The tunnel as a stream.
#[derive(Debug)]
pub struct NoiseStream<S> {
    io: S,
    sealer: Sealer,
    opener: Opener,
    received: BytesMut,
    plain: BytesMut,
    unsent: BytesMut,
    ended: bool,
}

impl<S> NoiseStream<S> {
    /// A tunnel over a stream, of which `received` was read already.
    pub fn new(io: S, tunnel: Tunnel, received: BytesMut) -> Self {
        Self {
            io,
            sealer: tunnel.sealer,
            opener: tunnel.opener,
            received,
            plain: BytesMut::new(),
            unsent: BytesMut::new(),
            ended: false,
        }
    }

    /// The stream below. What was not flushed is lost.
    pub fn into_inner(self) -> S {
        self.io
    }

    /// Puts back plaintext that was read and belongs to the next reader.
    pub fn unread(&mut self, bytes: &[u8]) {
        let mut plain = BytesMut::with_capacity(bytes.len() + self.plain.len());
        plain.extend_from_slice(bytes);
        plain.extend_from_slice(&self.plain);
        self.plain = plain;
    }
}

impl<S: AsyncRead + Unpin> NoiseStream<S> {
    fn poll_plain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.plain.is_empty() && !self.ended {
            match self.opener.open(&mut self.received) {
                Ok(Some(plain)) => self.plain = plain,
                Ok(None) => {
                    let read = ready!(read_more(Pin::new(&mut self.io), cx, &mut self.received))?;
                    if read == 0 {
                        self.ended = true;
                        if !self.received.is_empty() {
                            return Poll::Ready(Err(io::Error::new(
                                io::ErrorKind::UnexpectedEof,
                                RecordError::Truncated,
                            )));
                        }
                    }
                }
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Appends to a buffer what a stream has; 0: its end.
fn read_more<S: AsyncRead>(
    io: Pin<&mut S>,
    cx: &mut Context<'_>,
    buffer: &mut BytesMut,
) -> Poll<io::Result<usize>> {
    let before = buffer.len();
    let mut chunk = [0; READ_LEN];
    let mut read = ReadBuf::new(&mut chunk);
    ready!(io.poll_read(cx, &mut read))?;
    buffer.extend_from_slice(read.filled());
    Poll::Ready(Ok(buffer.len() - before))
}

impl<S: AsyncRead + Unpin> AsyncRead for NoiseStream<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_plain(cx))?;
        let len = this.plain.len().min(buffer.remaining());
        buffer.put_slice(&this.plain.split_to(len));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> NoiseStream<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, &self.unsent))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(written);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for NoiseStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.unsent.len() >= MAX_UNSENT {
            ready!(this.poll_drain(cx))?;
        }
        let mut taken = 0;
        while let Some((_, rest)) = bytes.split_at_checked(taken) {
            if rest.is_empty() || this.unsent.len() >= MAX_UNSENT {
                break;
            }
            taken += this.sealer.seal(rest, &mut this.unsent).map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}
