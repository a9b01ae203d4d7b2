//! Why the guest agent was not asked, or did not answer, and with which status code that is said.

use std::io;

use hyper::http::StatusCode;

use super::permission::ServiceQuote;
use crate::limits;

/// The text goes to the service. Of its own words, only a few come back.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "{0}: expected Version, Info, GetKey, GetQuote or GetTlsKey, which is what a service may ask of the guest agent; \
         or a target, in the header x-dstack-target-app"
    )]
    Method(String),
    #[error("GetQuote: this service's dstack.quote is \"none\" in the measured document")]
    NoQuote,
    #[error(
        "GetTlsKey: this service's dstack.quote is \"{}\" in the measured document, expected \"raw\": who has a certificate of \
         the appliance's CA speaks as the appliance",
        .0.word()
    )]
    NoTlsKey(ServiceQuote),
    #[error("GetKey: path {0}: not in this service's dstack.get_key in the measured document")]
    NoKey(String),
    #[error("expected GET or POST, found {0}")]
    HttpMethod(String),
    #[error("the protobuf form is not offered: use JSON (`?json`, or content type application/json)")]
    Protobuf,
    #[error("request body: {0}")]
    Body(String),
    #[error("request body: expected at most {} bytes, found more", limits::AGENT_REQUEST_BYTES)]
    BodyTooLarge,
    #[error("request body: not complete after {} seconds", limits::AGENT_REQUEST.as_secs())]
    BodyTooSlow,
    #[error("query: {0}")]
    Query(String),
    #[error("field `{field}`: expected {expected}, found {found}")]
    Field { field: &'static str, expected: &'static str, found: String },
    #[error("too many calls of services to the guest agent are under way")]
    Busy,
    #[error("the guest agent cannot be reached")]
    Unreachable(#[source] io::Error),
    #[error("the connection to the guest agent broke before the answer")]
    Broken(#[source] hyper::Error),
    #[error("the guest agent did not answer in time")]
    Slow,
    #[error("the guest agent's answer: expected at most {} bytes, found more", limits::AGENT_ANSWER_BYTES)]
    AnswerTooLarge,
    #[error("the guest agent's answer: expected {expected}, found {found}")]
    Answer { expected: &'static str, found: String },
}

impl Refusal {
    /// 403 is the document's no; 400 is what the agent says to the same mistake.
    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::Method(_) | Self::NoQuote | Self::NoTlsKey(_) | Self::NoKey(_) => StatusCode::FORBIDDEN,
            Self::HttpMethod(_)
            | Self::Protobuf
            | Self::Body(_)
            | Self::BodyTooLarge
            | Self::BodyTooSlow
            | Self::Query(_)
            | Self::Field { .. } => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable(_) | Self::Broken(_) | Self::AnswerTooLarge | Self::Answer { .. } => {
                StatusCode::BAD_GATEWAY
            }
            Self::Slow => StatusCode::GATEWAY_TIMEOUT,
        }
    }
}

/// A service's text in our answer and in the log: escaped, and not longer than a person reads.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 40;
    let mut rest = text.chars();
    let head: String = rest.by_ref().take(SHOWN).collect();
    if rest.next().is_none() { format!("{head:?}") } else { format!("{head:?}… ({} bytes)", text.len()) }
}
