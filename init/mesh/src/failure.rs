//! Why one request was not answered by the backend or target, and with which status code that is said.

use std::io;

use hyper::http::StatusCode;

/// The text of each is for logs and for the service that called; an outside caller gets [`Failure::outside`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("bad request: {0}")]
    Bad(&'static str),
    #[error("CONNECT is not offered")]
    Connect,
    #[error("too many requests are under way")]
    Busy,
    #[error("no connection")]
    Unreachable(#[source] io::Error),
    #[error("no connection in time")]
    ConnectTimeout,
    #[error("the TLS handshake failed: {0}")]
    Handshake(String),
    /// It may be a good peer: the reason says what is missing.
    #[error("the TLS handshake failed: {0}")]
    NoCollateral(String),
    #[error("the peer has another instance id")]
    OtherInstance,
    #[error("the connection broke before the answer")]
    Broken(#[source] hyper::Error),
    #[error("no answer in time")]
    Slow,
    #[error("it switched protocols without having been asked to")]
    Switched,
}

impl Failure {
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::Connect => StatusCode::NOT_IMPLEMENTED,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable(_)
            | Self::Handshake(_)
            | Self::NoCollateral(_)
            | Self::OtherInstance
            | Self::Broken(_)
            | Self::Switched => StatusCode::BAD_GATEWAY,
            Self::ConnectTimeout | Self::Slow => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// What an outside caller is told: nothing of the inside.
    pub(crate) const fn outside(&self) -> &'static str {
        match self {
            Self::Bad(why) => why,
            Self::Connect => "CONNECT is not offered",
            Self::Busy => "too many requests of this app are under way",
            Self::ConnectTimeout | Self::Slow => "the backend did not answer in time",
            _ => "the backend did not answer",
        }
    }
}
