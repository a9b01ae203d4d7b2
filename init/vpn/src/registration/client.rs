//! The I/O of registering: one HTTP/1.1 request on a connection of its own, bounded in size and time. No redirect is followed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::RootCertStore;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{Answer, AnswerError, MAX_ANSWER, Outcome, Pace, Registration, Rules, SetupError};
use crate::control::client::{
    Client, ClientSettings, OpenError, REQUEST_TIMEOUT, ServerUrl, Wire, retry_after,
};
use crate::control::harmless;
use crate::dial::Dial;

/// The longest head of an answer.
const MAX_HEAD: usize = 16 * 1024;
/// Lines of that head.
const MAX_HEADERS: usize = 64;
/// How much of a refusal's body is kept, for people.
const MAX_REFUSAL: usize = 512;

/// What kind of trouble there is with a registration, for status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No answer comes.
    Unreachable,
    /// Too many requests, says the server.
    Limited,
    /// A status that is no answer.
    Refused,
    /// An answer that cannot be used.
    Answer,
    /// The login server has another key than the pinned one.
    Pin,
}

impl Trouble {
    /// Its name in status.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "registration-unreachable",
            Self::Limited => "registration-limited",
            Self::Refused => "registration-refused",
            Self::Answer => "registration-answer",
            Self::Pin => "registration-pin-mismatch",
        }
    }
}

/// Why there is no key.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistrationError {
    /// No connection.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It broke off; whether the request arrived is not known.
    #[error("the exchange broke off: {0}")]
    Http(String),
    /// It took too long.
    #[error("no answer within {} seconds", REQUEST_TIMEOUT.as_secs())]
    Timeout,
    /// Another status than 200: a refusal, where it is one of 401 and 403.
    #[error("status {status}{}{text}", if .text.is_empty() { "" } else { ": " })]
    Status {
        /// The status.
        status: StatusCode,
        /// `Retry-After`, where it is a number of seconds.
        retry_after: Option<Duration>,
        /// The body's head, made harmless.
        text: String,
    },
    /// An answer that is not used.
    #[error("the answer: {0}")]
    Answer(#[from] AnswerError),
}

impl RegistrationError {
    /// What kind of trouble it is.
    pub fn kind(&self) -> Trouble {
        match self {
            Self::Open(_) | Self::Http(_) | Self::Timeout => Trouble::Unreachable,
            Self::Status { status, .. } if *status == StatusCode::TOO_MANY_REQUESTS => Trouble::Limited,
            Self::Status { .. } => Trouble::Refused,
            Self::Answer(AnswerError::NoiseKey { .. }) => Trouble::Pin,
            Self::Answer(_) => Trouble::Answer,
        }
    }

    /// What it means for the next request.
    fn outcome(&self) -> Outcome {
        match self {
            Self::Open(_) => Outcome::Transport { sent: false },
            Self::Http(_) | Self::Timeout => Outcome::Transport { sent: true },
            Self::Answer(_) => Outcome::Refused,
            Self::Status { status, retry_after, .. } => match retry_after {
                Some(after) => Outcome::NotNow(Some(*after)),
                None if *status == StatusCode::TOO_MANY_REQUESTS => Outcome::NotNow(None),
                None if status.is_server_error() => Outcome::Transport { sent: true },
                None => Outcome::Refused,
            },
        }
    }
}

/// Asks the VPC server.
#[derive(Debug)]
pub struct Registrar {
    client: Client,
    method: Method,
    target: String,
    body: Bytes,
    rules: Rules,
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// Which instance: the seed's `instance_id`. Letters and digits.
    pub instance: &'a str,
    /// Its name; a DNS label.
    pub name: &'a str,
}

impl Registrar {
    /// One for this server and this machine.
    ///
    /// # Errors
    /// If the registration's URL is none, or TLS cannot be set up.
    pub fn new(
        registration: &Registration,
        asker: Asker<'_>,
        rules: Rules,
        roots: Arc<RootCertStore>,
        dial: Arc<dyn Dial>,
    ) -> Result<Self, SetupError> {
        let (url, path) = ServerUrl::with_path(&registration.url)
            .filter(|(_, path)| path.len() > 1 && !path.contains('?') && !registration.url.contains('#'))
            .ok_or(SetupError::Url)?;
        let Asker { instance, name } = asker;
        let mut target = format!("{path}?instance_id={instance}&node_name={name}");
        if let Some(kind) = &registration.node_type {
            target = format!("{target}&node_type={kind}");
        }
        let settings = ClientSettings { url, pin: None, plain_http: registration.plain_http, roots };
        Ok(Self {
            client: Client::new(settings, dial)?,
            method: if registration.document.is_some() { Method::POST } else { Method::GET },
            target,
            body: registration.document.clone().map(Bytes::from).unwrap_or_default(),
            rules,
        })
    }

    /// Asks once.
    ///
    /// # Errors
    /// If no key came.
    pub async fn ask(&self) -> Result<Answer, RegistrationError> {
        let wire = self.client.verified().await?;
        timeout(REQUEST_TIMEOUT, self.exchange(wire)).await.map_err(|_| RegistrationError::Timeout)?
    }

    async fn exchange(&self, wire: Wire) -> Result<Answer, RegistrationError> {
        let broke = |error: hyper::Error| RegistrationError::Http(error.to_string());
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .max_headers(MAX_HEADERS)
            .handshake(TokioIo::new(wire))
            .await
            .map_err(broke)?;
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.target)
            .header(hyper::header::HOST, self.client.settings().url.authority())
            .header(hyper::header::ACCEPT, "application/json");
        if self.method == Method::POST {
            request = request.header(hyper::header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(self.body.clone()))
            .map_err(|error| RegistrationError::Http(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(broke)?;
            let status = response.status();
            let after = response
                .headers()
                .get(hyper::header::RETRY_AFTER)
                .and_then(|value| retry_after(value.as_bytes()));
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
            if status != StatusCode::OK {
                let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                let (head, _) = body.split_at_checked(MAX_REFUSAL).unwrap_or((&body, &[]));
                let text = harmless(&String::from_utf8_lossy(head));
                return Err(RegistrationError::Status { status, retry_after: after, text });
            }
            let body = body.map_err(|error| match error.is::<LengthLimitError>() {
                true => AnswerError::TooLong.into(),
                false => RegistrationError::Http(error.to_string()),
            })?;
            let body = Zeroizing::new(body.to_bytes().to_vec());
            Ok(Answer::read(&body, &self.rules)?)
        };
        let mut exchange = std::pin::pin!(exchange);
        tokio::select! {
            biased;
            done = &mut exchange => done,
            // A server may close without a word: what counts is whether the answer is whole.
            _ = connection => exchange.await,
        }
    }

    /// Asks whenever a key is wanted and the pace allows, until nobody wants to know. The first key pins the login server's key.
    pub async fn run(
        mut self,
        seed: u64,
        mut wanted: watch::Receiver<bool>,
        answers: mpsc::Sender<Result<Answer, RegistrationError>>,
    ) {
        let mut pace = Pace::new(seed);
        loop {
            if wanted.wait_for(|wanted| *wanted).await.is_err() {
                return;
            }
            if let Some(due) = pace.due().filter(|due| *due > Instant::now()) {
                tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => {}
                    changed = wanted.changed() => if changed.is_err() { return },
                }
                continue;
            }
            pace.begin(Instant::now());
            let answer = tokio::select! {
                answer = self.ask() => answer,
                () = answers.closed() => return,
            };
            pace.end(
                answer.as_ref().map_or_else(RegistrationError::outcome, |_| Outcome::Key),
                Instant::now(),
            );
            if let Ok(answer) = &answer {
                self.rules.noise_key = Some(answer.noise_key);
            }
            if answers.send(answer).await.is_err() {
                return;
            }
        }
    }
}
