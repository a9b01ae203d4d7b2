//! A stream that fails when nothing has moved on it for too long.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// Wraps the TCP stream, below TLS, so that one limit covers handshakes, kept-alive connections, stalled bodies and
/// upgraded connections alike.
#[derive(Debug)]
pub(crate) struct Idle<S> {
    inner: S,
    limit: Duration,
    last: Instant,
    /// Not moved with each byte: when it fires it is set anew if something moved meanwhile.
    timer: Pin<Box<Sleep>>,
}

impl<S> Idle<S> {
    pub(crate) fn new(inner: S, limit: Duration) -> Self {
        let last = Instant::now();
        Self { inner, limit, last, timer: Box::pin(tokio::time::sleep_until(last + limit)) }
    }

    /// Judges one operation: notes that something moved, or fails a wait that has become too long.
    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
        moved: impl FnOnce(&T) -> bool,
    ) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Ok(value)) => {
                if moved(&value) {
                    self.last = Instant::now();
                }
                Poll::Ready(Ok(value))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => loop {
                ready!(self.timer.as_mut().poll(cx));
                let due = self.last + self.limit;
                if due <= Instant::now() {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "idle for too long")));
                }
                self.timer.as_mut().reset(due);
            },
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Idle<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        let moved = buf.filled().len() > before;
        self.judge(cx, result, |()| moved)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Idle<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.judge(cx, result, |written| *written > 0)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.judge(cx, result, |written| *written > 0)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.judge(cx, result, |()| false)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.judge(cx, result, |()| false)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_silent_stream_is_cut_and_a_busy_one_is_not() {
        let (mut far, near) = tokio::io::duplex(64);
        let started = Instant::now();
        let task = tokio::spawn(async move {
            let mut near = Idle::new(near, Duration::from_secs(2));
            let mut read = 0;
            loop {
                match near.read_u8().await {
                    Ok(_) => read += 1,
                    Err(error) => return (read, error.kind()),
                }
            }
        });
        // Busy for longer than the limit, with room for a slow machine between two bytes.
        for _ in 0..25 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            far.write_all(b"x").await.unwrap();
        }
        assert_eq!(task.await.unwrap(), (25, io::ErrorKind::TimedOut));
        assert!(started.elapsed() >= Duration::from_millis(4500), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_cut() {
        let (_far, near) = tokio::io::duplex(16);
        let mut near = Idle::new(near, Duration::from_millis(50));
        let error = near.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
