//! The socket. Its callers are hostile: each connection, request and body has a limit in time and size, and no caller
//! can take the places of another.

mod limits;
mod places;
mod quotes;
#[cfg(test)]
mod slow_tee;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use crate::agent::{Agent, Request as Wanted};
use crate::error::AgentError;
use crate::http::{Call, Form, answer, refusal, request, response};
use limits::{
    ACCEPT_ATTEMPTS, ACCEPT_PAUSE, BODY_MAX, BODY_SMALL, CONNECTIONS_MAX, CONNECTIONS_OF_ONE_UID, HEAD_MAX,
    REFUSAL_TIME, Times,
};
use places::{Most, Place, Places};
use quotes::Quotes;

/// Who may call, by the uid that the kernel says the peer has (`SO_PEERCRED`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Callers {
    /// Whoever can open the socket file.
    Anyone,
    /// These uids, each for what it may ask.
    Uids(BTreeMap<u32, May>),
}

/// What a caller may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum May {
    /// Everything.
    Everything,
    /// Derived keys whose path begins like this, and nothing else: no quote, no certificate, no other's key.
    KeysUnder(&'static str),
}

impl May {
    fn ask(self, request: &Wanted) -> bool {
        match (self, request) {
            (Self::Everything, _) => true,
            (Self::KeysUnder(beginning), Wanted::Key(key)) => key.path.starts_with(beginning),
            (Self::KeysUnder(_), _) => false,
        }
    }
}

/// Serves whoever can open the socket file, for ever.
///
/// # Errors
/// If the listener fails again and again. What callers do is never an error.
pub async fn serve(listener: UnixListener, agent: Agent) -> Result<Infallible, AgentError> {
    serve_to(listener, agent, Callers::Anyone).await
}

/// Serves these callers, for ever. Others are answered 403.
///
/// # Errors
/// As [`serve`].
pub async fn serve_to(
    listener: UnixListener,
    agent: Agent,
    callers: Callers,
) -> Result<Infallible, AgentError> {
    serve_in(listener, agent, callers, Times::REAL).await
}

async fn serve_in(
    listener: UnixListener,
    agent: Agent,
    callers: Callers,
    times: Times,
) -> Result<Infallible, AgentError> {
    let large_body = Semaphore::new(1);
    let places = Places::new(Most { all: CONNECTIONS_MAX, of_one_uid: CONNECTIONS_OF_ONE_UID });
    let (agent, quotes) = (Arc::new(agent), Quotes::new());
    let server = Arc::new(Server { agent, callers, times, large_body, places, quotes });
    let mut failures = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                failures = 0;
                admit(&server, stream);
            }
            Err(error) if failures == ACCEPT_ATTEMPTS => return Err(AgentError::Accept(error)),
            Err(_) => {
                failures += 1;
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[derive(Debug)]
struct Server {
    agent: Arc<Agent>,
    callers: Callers,
    times: Times,
    quotes: Quotes,
    /// Held by the one request whose body is larger than [`BODY_SMALL`].
    large_body: Semaphore,
    places: Places,
}

/// Judges a new connection, and serves or refuses it in a task of its own.
fn admit(server: &Arc<Server>, stream: UnixStream) {
    let Ok(peer) = stream.peer_cred() else { return };
    let uid = peer.uid();
    let allowed = match &server.callers {
        Callers::Anyone => true,
        Callers::Uids(uids) => uids.contains_key(&uid),
    };
    if !allowed {
        tracing::warn!(uid, "refused: not a caller of this socket");
        tokio::spawn(refuse(stream, "403 Forbidden", format!("uid {uid} may not use this socket")));
        return;
    }
    let Some(place) = server.places.take(uid) else {
        tokio::spawn(refuse(stream, "503 Service Unavailable", "too many connections".to_owned()));
        return;
    };
    tokio::spawn(serve_connection(Arc::clone(server), stream, uid, place));
}

/// Best effort: the connection is closed either way.
async fn refuse(mut stream: UnixStream, status: &str, error: String) {
    let body = format!("{:#}", json!({ "error": error }));
    let length = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    if !matches!(timeout(REFUSAL_TIME, stream.write_all(text.as_bytes())).await, Ok(Ok(()))) {
        tracing::debug!("the refused caller was gone");
    }
}

async fn serve_connection(server: Arc<Server>, stream: UnixStream, uid: u32, place: Place) {
    let service = service_fn(|request| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(respond(&server, uid, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(server.times.head)
        .max_buf_size(HEAD_MAX)
        // A caller may close its side once it has asked; it is answered all the same.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = sleep(server.times.connection) => {
            connection.as_mut().graceful_shutdown();
            timeout(server.times.grace, connection).await.ok()
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "connection");
    }
    drop(place);
}

async fn respond(server: &Server, uid: u32, incoming: Request<Incoming>) -> Response<Full<Bytes>> {
    let (head, body) = incoming.into_parts();
    let query = head.uri.query().unwrap_or_default();
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let form = Form::of(&head.method, query, content_type);
    let read = if head.method == Method::POST {
        let time = server.times.body;
        timeout(time, read_body(body, &server.large_body))
            .await
            .unwrap_or(Err(BodyError::TooSlow(time.as_secs())))
    } else {
        Ok((Bytes::new(), None))
    };
    let reply = match &read {
        Ok((body, _permit)) => {
            let call = Call { form, method: &head.method, path: head.uri.path(), query, body };
            answer(form, carry_out(server, uid, &call).await)
        }
        Err(error) => refusal(form, &error.to_string()),
    };
    response(reply, Full::new)
}

async fn carry_out(server: &Server, uid: u32, call: &Call<'_>) -> Result<Bytes, String> {
    let request = request(call)?;
    let may = match &server.callers {
        Callers::Anyone => May::Everything,
        // Whoever is not on the list was not admitted.
        Callers::Uids(uids) => *uids.get(&uid).ok_or("not a caller of this socket")?,
    };
    if !may.ask(&request) {
        tracing::warn!(uid, "refused: this caller may not ask for that");
        return Err(format!("uid {uid} may not ask for that"));
    }
    let needs_quote = request.needs_quote();
    let agent = Arc::clone(&server.agent);
    let work = move || {
        let carried_out = agent.carry_out(&request, OffsetDateTime::now_utc());
        carried_out.map_err(|error| error.to_string())
    };
    if needs_quote {
        server.quotes.in_turn(uid, work).await.unwrap_or_else(|error| Err(error.to_string()))
    } else {
        work()
    }
}

#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("request body: expected at most {BODY_MAX} bytes, found more")]
    TooLarge,
    #[error("request body: not complete after {0} seconds")]
    TooSlow(u64),
    #[error("request body: {0}")]
    Http(#[from] hyper::Error),
}

/// The body, and the permit under which a large one is kept.
async fn read_body(
    body: Incoming,
    large_body: &Semaphore,
) -> Result<(Bytes, Option<SemaphorePermit<'_>>), BodyError> {
    if body.size_hint().lower() > BODY_MAX as u64 {
        return Err(BodyError::TooLarge);
    }
    let (mut body, mut kept, mut permit) = (pin!(body), BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        let length = kept.len().saturating_add(data.len());
        if length > BODY_MAX {
            return Err(BodyError::TooLarge);
        }
        if length > BODY_SMALL && permit.is_none() {
            // The semaphore is never closed; if it were, the body would be refused.
            permit = Some(large_body.acquire().await.map_err(|_| BodyError::TooLarge)?);
        }
        kept.extend_from_slice(&data);
    }
    Ok((kept.freeze(), permit))
}
