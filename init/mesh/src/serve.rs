//! hyper's server side with our limits.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use crate::body::ResponseBody;
use crate::limits;

/// Serves requests until the connection ends.
pub(crate) async fn many<S, F, A>(h2: bool, stream: S, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    let service = service_fn(move |request| infallible(answer(request)));
    let stream = TokioIo::new(stream);
    log(if h2 {
        two().serve_connection(stream, service).await
    } else {
        one().serve_connection(stream, service).with_upgrades().await
    });
}

/// Serves one request (over HTTP/2: those that came before the first was answered) and closes.
pub(crate) async fn once<S, F, A>(h2: bool, stream: S, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Request<Incoming>) -> A,
    A: Future<Output = Response<ResponseBody>> + Send + 'static,
{
    let answered = Arc::new(Notify::new());
    let notify = Arc::clone(&answered);
    let service = service_fn(move |request| {
        notify.notify_one();
        infallible(answer(request))
    });
    let stream = TokioIo::new(stream);
    if !h2 {
        return log(one().keep_alive(false).serve_connection(stream, service).await);
    }
    let mut connection = std::pin::pin!(two_for_strangers().serve_connection(stream, service));
    log(tokio::select! {
        ended = &mut connection => ended,
        () = answered.notified() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    });
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

async fn infallible<T>(answer: impl Future<Output = T>) -> Result<T, Infallible> {
    Ok(answer.await)
}

fn one() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HEADER)
        .max_buf_size(limits::READ_BUFFER)
        .max_header_size(limits::HEADER_BYTES);
    builder
}

fn two() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS)
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_send_buf_size(limits::WRITE_BUFFER)
        .max_header_list_size(u32::try_from(limits::HEADER_BYTES).unwrap_or(u32::MAX));
    builder
}

fn two_for_strangers() -> http2::Builder<TokioExecutor> {
    let mut builder = two();
    builder
        .max_concurrent_streams(limits::STRANGER_STREAMS)
        .initial_stream_window_size(limits::STRANGER_WINDOW)
        .initial_connection_window_size((1 << 16) - 1)
        .max_header_list_size(u32::try_from(limits::STRANGER_HEADER_BYTES).unwrap_or(u32::MAX));
    builder
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(error = chain(&error), "a connection ended");
    }
}
