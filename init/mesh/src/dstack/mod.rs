//! What a service may ask of the guest agent: the outbound proxy's answer to a request without a target, for services whose
//! measured `dstack` says so.
//!
//! Nothing that a service sends reaches the agent as it came. A request is read, judged, and a new one is built of what was
//! read ([`question`]); so there is one place where report data come from, and with `app-data` it is a hash under dstack's tag.

mod agent;
mod fields;
mod permission;
mod question;
mod refusal;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::http::{Method, StatusCode};
use hyper::{Request, Response};
use serde_json::json;
use tokio::time::timeout;

pub(crate) use agent::Agent;
pub use permission::{ServiceDstack, ServiceQuote};

use crate::body::ResponseBody;
use crate::limits;
use fields::Fields;
use question::{Asked, Question};
use refusal::Refusal;

/// One service's way to the guest agent.
#[derive(Debug)]
pub(crate) struct Dstack {
    pub(crate) service: String,
    pub(crate) permission: ServiceDstack,
    pub(crate) agent: Arc<Agent>,
}

impl Dstack {
    /// Answers one request, in the agent's form: JSON, and an error is `{"error": …}`.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        match self.carry_out(request).await {
            Ok(response) => response,
            Err(why) => {
                let (status, error) = (why.status(), crate::serve::chain(&why));
                tracing::info!(
                    service = self.service,
                    status = status.as_u16(),
                    error,
                    "not asked of the guest agent"
                );
                json_answer(status, ResponseBody::from(format!("{:#}", json!({ "error": error }))))
            }
        }
    }

    async fn carry_out(&self, request: Request<Incoming>) -> Result<Response<ResponseBody>, Refusal> {
        let (head, body) = request.into_parts();
        let asked = Asked::by(head.uri.path(), &self.permission)?;
        let query = head.uri.query().unwrap_or_default();
        let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        question::check_form(&head.method, query, content_type)?;
        // Before the body: what callers make us hold is bounded by these places.
        let place = self.agent.place(&self.service).ok_or(Refusal::Busy)?;
        let fields = match head.method {
            Method::POST => Fields::from_json(&read(body).await?)?,
            _ => Fields::from_query(query)?,
        };
        let question = Question::new(asked, fields, &self.permission)?;
        let (status, body) = self.agent.ask(question, place).await?;
        Ok(json_answer(status, body))
    }
}

async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    let collecting = Limited::new(body, limits::AGENT_REQUEST_BYTES).collect();
    let collected = timeout(limits::AGENT_REQUEST, collecting).await.map_err(|_| Refusal::BodyTooSlow)?;
    collected.map(http_body_util::Collected::to_bytes).map_err(|error| match error {
        error if error.is::<LengthLimitError>() => Refusal::BodyTooLarge,
        error => Refusal::Body(error.to_string()),
    })
}

fn json_answer(status: StatusCode, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
