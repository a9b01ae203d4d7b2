//! HTTP/2 inside the tunnel: register, updates, the map stream, side by side on one connection.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::rt::Executor;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::stream::MapStream;
use super::upgrade::ConnectError;
use super::{MAX_BODY, REQUEST_TIMEOUT, Wire, retry_after};
use crate::control::harmless;
use crate::control::wire::{BadJson, MapRequest, RegisterRequest, RegisterResponse};
use crate::noise::NoiseStream;
use crate::noise::early::{self, Early};

/// What the server may send ahead of us on one stream: memory, not speed.
const STREAM_WINDOW: u32 = 128 * 1024;
/// The same on all streams. h2 derives from it how many tiny frames may wait (a budget of half of it, some 250 bytes each).
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// The longest head of an answer.
const MAX_HEADERS: u32 = 16 * 1024;
/// How much of a refusal's body is kept.
const MAX_REFUSAL: usize = 512;

/// A connection; closed when it is dropped.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    tasks: Tasks,
    authority: String,
    early: Option<Early>,
    local: Option<SocketAddr>,
}

/// The tasks of one connection, which end with it. hyper would let go of them: what drives HTTP/2 then waits until the server has taken
/// what is left to say, and a server that takes nothing would keep one more socket of ours with each connection that we give up.
#[derive(Clone, Debug, Default)]
struct Tasks(Arc<Mutex<JoinSet<()>>>);

impl Tasks {
    fn set(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.set().abort_all();
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        let mut set = self.set();
        // There is one for each request: those that are done are forgotten.
        while set.try_join_next().is_some() {}
        set.spawn(task);
    }
}

/// Why a request has no answer.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// HTTP/2 failed; whether the request arrived is not known.
    #[error("HTTP/2: {0}")]
    Http2(#[from] hyper::Error),
    /// It was answered with another status than 200.
    #[error("status {status}")]
    Status {
        /// The status.
        status: StatusCode,
        /// `Retry-After`, where it is a number of seconds.
        retry_after: Option<Duration>,
        /// The head of the body: for people only.
        text: String,
    },
    /// The answer does not read.
    #[error("the answer does not read: {0}")]
    Json(#[from] BadJson),
    /// The answer is too long.
    #[error("the answer is longer than {MAX_BODY} bytes")]
    TooLong,
    /// The answer broke off.
    #[error("the answer broke off: {0}")]
    Body(String),
    /// It took too long.
    #[error("no answer within {} seconds", REQUEST_TIMEOUT.as_secs())]
    Timeout,
    /// A request that cannot be written; none of ours.
    #[error("the request cannot be written: {0}")]
    Request(#[from] hyper::http::Error),
}

impl Connection {
    pub(super) async fn start(
        mut noise: NoiseStream<Wire>,
        authority: String,
        local: Option<SocketAddr>,
    ) -> Result<Self, ConnectError> {
        let early = early::read(&mut noise).await?;
        let tasks = Tasks::default();
        let (sender, connection) = Builder::new(tasks.clone())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .max_send_buf_size(STREAM_WINDOW as usize)
            .handshake(TokioIo::new(noise))
            .await?;
        tasks.execute(async move {
            if let Err(error) = connection.await {
                let error = harmless(&error.to_string());
                tracing::debug!(error, "the control connection ended");
            }
        });
        Ok(Self { sender, tasks, authority, early, local })
    }

    /// What the server said before HTTP/2.
    pub const fn early(&self) -> Option<&Early> {
        self.early.as_ref()
    }

    /// From which address of ours it was made; `None`: not known.
    pub const fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    /// Whether it can take no more requests.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Asks to join.
    ///
    /// # Errors
    /// If there is no answer of the protocol's.
    pub async fn register(&self, request: &RegisterRequest<'_>) -> Result<RegisterResponse, RequestError> {
        let exchange = async {
            let response = self.post("/machine/register", request).await?;
            let body = read(response.into_body()).await?;
            Ok(serde_json::from_slice(&body).map_err(BadJson::from)?)
        };
        timeout(REQUEST_TIMEOUT, exchange).await.map_err(|_| RequestError::Timeout)?
    }

    /// Tells the server of us.
    ///
    /// # Errors
    /// If it did not take it.
    pub async fn update(&self, request: &MapRequest<'_>) -> Result<(), RequestError> {
        let exchange = async {
            let response = self.post("/machine/map", request).await?;
            read(response.into_body()).await?;
            Ok(())
        };
        timeout(REQUEST_TIMEOUT, exchange).await.map_err(|_| RequestError::Timeout)?
    }

    /// Opens the stream of maps, which fails after so long without a message ([`super::WATCHDOG`]).
    ///
    /// # Errors
    /// If the server gives none.
    pub async fn stream(
        &self,
        request: &MapRequest<'_>,
        watchdog: Duration,
    ) -> Result<MapStream, RequestError> {
        let response = timeout(REQUEST_TIMEOUT, self.post("/machine/map", request))
            .await
            .map_err(|_| RequestError::Timeout)??;
        Ok(MapStream::new(response.into_body(), watchdog))
    }

    /// Sends a request and takes a 200.
    async fn post(&self, path: &str, request: &impl Serialize) -> Result<Response<Incoming>, RequestError> {
        let request = Request::post(format!("https://{}{path}", self.authority))
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(serde_json::to_vec(request).map_err(BadJson::from)?)))?;
        let mut sender = self.sender.clone();
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status == StatusCode::OK {
            return Ok(response);
        }
        let after = response
            .headers()
            .get(hyper::header::RETRY_AFTER)
            .and_then(|value| retry_after(value.as_bytes()));
        let body = read(response.into_body()).await.unwrap_or_default();
        let (head, _) = body.split_at_checked(MAX_REFUSAL).unwrap_or((&body, &[]));
        Err(RequestError::Status {
            status,
            retry_after: after,
            text: String::from_utf8_lossy(head).into_owned(),
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.tasks.end();
    }
}

async fn read(body: Incoming) -> Result<Bytes, RequestError> {
    match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(RequestError::TooLong),
        Err(error) => Err(RequestError::Body(error.to_string())),
    }
}
