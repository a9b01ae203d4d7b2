//! `Expect: 100-continue`, end to end: the body waits for the backend's `100 Continue`. hyper sends ours to the caller
//! when the body is first asked for, so a backend that refuses by the head alone never costs the caller its body.

use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper::http::StatusCode;
use hyper::{Request, ext};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::limits;

/// Holds a body back until it opens.
#[derive(Debug)]
pub(crate) struct Gate {
    opened: oneshot::Receiver<()>,
    unwanted: bool,
    /// Made when first waited for.
    patience: Option<Pin<Box<Sleep>>>,
}

/// Opens the gate when the answer to this request is preceded by a `100 Continue`.
#[derive(Debug)]
pub(crate) struct Opener(oneshot::Sender<()>);

pub(crate) fn gate() -> (Gate, Opener) {
    let (open, opened) = oneshot::channel();
    (Gate { opened, unwanted: false, patience: None }, Opener(open))
}

impl Gate {
    /// Ready when `100 Continue` has come, or when patience has ended before any answer. Never once the final answer
    /// has come without it: the body is not wanted then.
    pub(crate) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.unwanted {
            return Poll::Pending;
        }
        match Pin::new(&mut self.opened).poll(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(()),
            Poll::Ready(Err(_)) => {
                self.unwanted = true;
                return Poll::Pending;
            }
            Poll::Pending => {}
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(limits::CONTINUE)));
        patience.as_mut().poll(cx)
    }
}

impl Opener {
    pub(crate) fn watch<B>(self, request: &mut Request<B>) {
        let open = Mutex::new(Some(self.0));
        ext::on_informational(request, move |answer| {
            if answer.status() == StatusCode::CONTINUE
                && let Some(open) = open.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                // The body may be gone already.
                let _ = open.send(());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_go_ahead_keeps_the_body_back_for_good() {
        let (mut gate, opener) = gate();
        drop(opener);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        for _ in 0..2 {
            assert!(gate.poll_open(&mut cx).is_pending());
        }
    }
}
