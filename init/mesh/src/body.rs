//! Bodies on their way through, frame by frame: nothing is gathered, and the sender goes no faster than the receiver.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::go_ahead::Gate;
use crate::header;
use crate::tunnel::Keep;
use crate::upstream::Lease;

/// How far a request body has come, as seen by whoever waits for the answer.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    frames: AtomicU64,
    ended: AtomicBool,
}

impl Progress {
    /// Frames sent so far.
    pub(crate) fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Whether all of it was sent.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// A request's body, towards a backend or target.
#[derive(Debug)]
pub(crate) struct RequestBody {
    /// `None`: empty, for a second attempt.
    inner: Option<Incoming>,
    gate: Option<Gate>,
    progress: Arc<Progress>,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, gate: Option<Gate>) -> (Self, Arc<Progress>) {
        let progress = Arc::new(Progress::default());
        progress.ended.store(inner.is_end_stream(), Ordering::Relaxed);
        (Self { inner: Some(inner), gate, progress: Arc::clone(&progress) }, progress)
    }

    pub(crate) const fn empty(progress: Arc<Progress>) -> Self {
        Self { inner: None, gate: None, progress }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll_open(cx));
            self.gate = None;
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
        let ended = frame.is_none() || inner.is_end_stream();
        self.progress.frames.fetch_add(1, Ordering::Relaxed);
        self.progress.ended.store(ended, Ordering::Relaxed);
        Poll::Ready(frame.map(|result| result.map(cleaned)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// A response's body, towards whoever asked.
#[derive(Debug)]
pub(crate) enum ResponseBody {
    /// Ours.
    Own(Full<Bytes>),
    /// A backend's or target's. The lease goes back to the pool when the body has ended well.
    Relayed(Incoming, Option<Lease>),
}

impl ResponseBody {
    pub(crate) fn relayed(inner: Incoming, lease: Lease) -> Self {
        if inner.is_end_stream() {
            lease.end();
            Self::Relayed(inner, None)
        } else {
            Self::Relayed(inner, Some(lease))
        }
    }

    /// Ours, and long: its bytes have a place for as long as anybody holds them. HTTP/2 does, long after the body is gone.
    pub(crate) fn held(bytes: Bytes, place: Keep) -> Self {
        Self::Own(Full::new(kept(bytes, Some(place))))
    }

    pub(crate) fn empty() -> Self {
        Self::Own(Full::default())
    }
}

impl From<Bytes> for ResponseBody {
    fn from(bytes: Bytes) -> Self {
        Self::Own(Full::new(bytes))
    }
}

impl From<String> for ResponseBody {
    fn from(text: String) -> Self {
        Self::Own(Full::from(text))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Own(text) => {
                let frame = ready!(Pin::new(text).poll_frame(cx));
                Poll::Ready(frame.map(|result| result.map_err(|never| match never {})))
            }
            Self::Relayed(inner, lease) => {
                let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
                let keep = lease.as_ref().map(Lease::keep);
                let ended = match &frame {
                    None => true,
                    Some(Ok(_)) => inner.is_end_stream(),
                    Some(Err(_)) => {
                        *lease = None;
                        false
                    }
                };
                if ended && let Some(lease) = lease.take() {
                    lease.end();
                }
                Poll::Ready(
                    frame.map(|result| result.map(|frame| cleaned(frame).map_data(|data| kept(data, keep)))),
                )
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(text) => text.is_end_stream(),
            Self::Relayed(inner, _) => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(text) => text.size_hint(),
            Self::Relayed(inner, _) => inner.size_hint(),
        }
    }
}

/// Bytes of an answer with its places: hyper takes an answer's end before a caller that does not read has taken its bytes.
struct Kept {
    bytes: Bytes,
    _keep: Keep,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pub(crate) fn kept(bytes: Bytes, keep: Option<Keep>) -> Bytes {
    match keep {
        Some(keep) => Bytes::from_owner(Kept { bytes, _keep: keep }),
        None => bytes,
    }
}

/// Trailers are fields as well: a backend that merges them must not find ours among them.
fn cleaned(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(mut trailers) => {
            header::remove_hop_by_hop(&mut trailers);
            header::remove_reserved(&mut trailers);
            Frame::trailers(trailers)
        }
        Err(data) => data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answers_places_are_kept_until_its_last_byte_has_left() {
        let place = Arc::new(());
        let keep: Keep = Arc::<()>::clone(&place);
        let mut bytes = kept(Bytes::from_static(b"answer"), Some(keep));
        let rest = bytes.split_off(3);
        drop(bytes);
        assert_eq!((Arc::strong_count(&place), &rest[..]), (2, &b"wer"[..]));
        drop(rest);
        assert_eq!(Arc::strong_count(&place), 1);
    }
}
