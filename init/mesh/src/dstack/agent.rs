//! The guest agent's socket, on behalf of services: few calls at a time, each with a deadline.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::http::header::{CONTENT_TYPE, HOST};
use hyper::http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use super::question::Question;
use super::refusal::Refusal;
use crate::body::{ResponseBody, kept};
use crate::limits;
use crate::shares::{Share, Shares};

/// The agent, and the places of all services that ask it.
#[derive(Debug)]
pub(crate) struct Agent {
    socket: PathBuf,
    places: Arc<Shares<String>>,
    /// The one call for evidence that is under way: ours for a certificate waits behind that one at most.
    evidence: Arc<Semaphore>,
}

/// One call's place. It is held until the agent's end of the call is over and the answer is sent.
pub(super) type Place = Arc<Share<String>>;

impl Agent {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, places: Shares::new(limits::AGENT_CALLS), evidence: Arc::new(Semaphore::new(1)) }
    }

    /// A place for one call of that service, if it may have one more now.
    pub(super) fn place(&self, service: &String) -> Option<Place> {
        self.places.try_take(service).map(Arc::new)
    }

    /// Asks. A service that hangs up does not end the call: the agent goes on with a quote that it has begun, or that waits for
    /// its turn, and a place given back before that would let in one call too many.
    pub(super) async fn ask(
        &self,
        question: Question,
        place: Place,
    ) -> Result<(StatusCode, ResponseBody), Refusal> {
        let (socket, evidence) = (self.socket.clone(), Arc::clone(&self.evidence));
        let asking = tokio::spawn(async move {
            let _turn = if question.is_for_evidence() {
                let turn = timeout(limits::AGENT_CALL, evidence.acquire_owned()).await;
                // The semaphore is never closed.
                Some(turn.map_err(|_| Refusal::Slow)?.map_err(|_| Refusal::Slow)?)
            } else {
                None
            };
            call(socket, question, place).await
        });
        // The task does not panic, and nobody aborts it.
        asking.await.map_err(|_| Refusal::Slow)?
    }
}

async fn call(
    socket: PathBuf,
    question: Question,
    place: Place,
) -> Result<(StatusCode, ResponseBody), Refusal> {
    let deadline = Instant::now().checked_add(limits::AGENT_CALL).ok_or(Refusal::Slow)?;
    let tagged = question.tagged;
    let asking = send(socket, question, Arc::clone(&place), deadline);
    let response = timeout_at(deadline, asking).await.map_err(|_| Refusal::Slow)??;
    let status = response.status();
    match (status, tagged) {
        (StatusCode::OK, Some(report_data)) => {
            let saying = say_tagged(response.into_body(), report_data);
            let answer = timeout_at(deadline, saying).await.map_err(|_| Refusal::Slow)??;
            Ok((status, ResponseBody::Own(Full::new(kept(answer, Some(place))))))
        }
        // As the agent says it, byte for byte as it comes: `Info` has the document in it, twice escaped.
        (StatusCode::OK | StatusCode::BAD_REQUEST | StatusCode::SERVICE_UNAVAILABLE, _) => {
            Ok((status, ResponseBody::Relayed(response.into_body(), None)))
        }
        (other, _) => Err(answer("status 200, 400 or 503", other)),
    }
}

async fn send(
    socket: PathBuf,
    question: Question,
    place: Place,
    deadline: Instant,
) -> Result<Response<Incoming>, Refusal> {
    let stream = UnixStream::connect(socket).await.map_err(Refusal::Unreachable)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(limits::READ_BUFFER)
        .max_header_size(limits::HEADER_BYTES)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(Refusal::Broken)?;
    tokio::spawn(async move {
        match timeout_at(deadline, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a connection to the guest agent ended"),
            Err(_) => tracing::warn!("a call to the guest agent was given up"),
        }
        drop(place);
    });
    let request = Request::post(format!("/{}?json", question.method))
        .header(HOST, "localhost")
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(question.body))
        .map_err(|error| answer("a request", error))?;
    sender.send_request(request).await.map_err(Refusal::Broken)
}

/// The agent's answer, and that its report data are a hash under the tag. It must be the one that was asked for.
async fn say_tagged(body: Incoming, report_data: [u8; 64]) -> Result<Bytes, Refusal> {
    let collected = Limited::new(body, limits::AGENT_ANSWER_BYTES).collect().await;
    let collected = collected.map_err(|error| match error.downcast::<hyper::Error>() {
        Ok(error) => Refusal::Broken(*error),
        Err(other) if other.is::<LengthLimitError>() => Refusal::AnswerTooLarge,
        Err(other) => answer("a body", other),
    })?;
    let quote: Map<String, Value> = serde_json::from_reader(collected.aggregate().reader())
        .map_err(|error| answer("a JSON object", error))?;
    say_tag(quote, report_data)
}

/// See [`say_tagged`].
pub(super) fn say_tag(mut quote: Map<String, Value>, report_data: [u8; 64]) -> Result<Bytes, Refusal> {
    let expected = hex::encode(report_data);
    if quote.get("report_data").and_then(Value::as_str) != Some(expected.as_str()) {
        return Err(answer("the report data that were asked for", "others"));
    }
    quote.insert("report_data_tag".to_owned(), "app-data".into());
    serde_json::to_vec(&quote).map(Bytes::from).map_err(|error| answer("JSON", error))
}

fn answer(expected: &'static str, found: impl std::fmt::Display) -> Refusal {
    Refusal::Answer { expected, found: found.to_string() }
}
