//! The client for dstack.sock: ours, or that of a stock dstack guest. Every call has a deadline and a bound on its
//! answer.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::messages::{Info, Key, KeyRequest, Quote, TlsKey, TlsKeyRequest, Version};

/// For a whole call: a quote of a busy TDX host takes seconds.
const CALL_TIME: Duration = Duration::from_secs(30);
/// The largest answer, bytes. `Info` holds the document (4 MiB) as a string in a string, where a control character
/// takes seven bytes; the others stay far below one MiB.
const ANSWER_MAX: usize = 32 << 20;

/// Calls the agent, one connection for each call. Needs a tokio runtime with I/O and time.
#[derive(Clone, Debug)]
pub struct AgentClient {
    path: PathBuf,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens, or the caller may not connect.
    #[error("{path}: {source}", path = path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{method}: no answer after {} seconds", CALL_TIME.as_secs())]
    TimedOut {
        /// The method.
        method: &'static str,
    },
    /// The agent refused.
    #[error("{method}: refused with status {status}: {error}")]
    Refused {
        /// The method.
        method: &'static str,
        /// HTTP status.
        status: u16,
        /// The agent's words.
        error: String,
    },
    /// The answer is too large.
    #[error("{method}: expected an answer of at most {ANSWER_MAX} bytes, found more")]
    TooLarge {
        /// The method.
        method: &'static str,
    },
    /// The connection broke, or what came is not HTTP.
    #[error("{method}: {source}")]
    Http {
        /// The method.
        method: &'static str,
        /// Why.
        source: hyper::Error,
    },
    /// The answer is not what the API says.
    #[error("{method}: answer: {problem}")]
    Answer {
        /// The method.
        method: &'static str,
        /// Expectation and finding.
        problem: String,
    },
}

impl AgentClient {
    /// A client for the socket at this path. Connects with each call.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The socket.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A fresh key with a certificate.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get_tls_key(&self, request: TlsKeyRequest) -> Result<TlsKey, ClientError> {
        let method = "GetTlsKey";
        let key: TlsKey = self.call(method, &request).await?;
        if key.certificate_chain.is_empty() {
            let problem = "certificate_chain: expected at least one certificate, found none".to_owned();
            return Err(ClientError::Answer { method, problem });
        }
        Ok(key)
    }

    /// The key for a path.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get_key(&self, path: &str, purpose: &str, algorithm: &str) -> Result<Key, ClientError> {
        let request = KeyRequest {
            path: path.to_owned(),
            purpose: purpose.to_owned(),
            algorithm: algorithm.to_owned(),
        };
        self.call("GetKey", &request).await
    }

    /// A quote over at most 64 bytes, padded with zeros on the right.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get_quote(&self, report_data: &[u8]) -> Result<Quote, ClientError> {
        self.call("GetQuote", &json!({ "report_data": hex::encode(report_data) })).await
    }

    /// Who the app is, its registers, its event log and its document.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn info(&self) -> Result<Info, ClientError> {
        self.call("Info", &json!({})).await
    }

    /// The agent's version.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn version(&self) -> Result<Version, ClientError> {
        self.call("Version", &json!({})).await
    }

    async fn call<A: DeserializeOwned>(
        &self,
        method: &'static str,
        request: &impl Serialize,
    ) -> Result<A, ClientError> {
        let answer = |problem: String| ClientError::Answer { method, problem };
        let body = serde_json::to_vec(request).map_err(|error| answer(error.to_string()))?;
        let (status, body) = timeout(CALL_TIME, self.exchange(method, body.into()))
            .await
            .map_err(|_| ClientError::TimedOut { method })??;
        if status != StatusCode::OK {
            let error = error_text(&body);
            return Err(ClientError::Refused { method, status: status.as_u16(), error });
        }
        // serde_json names the field or the place; it does not repeat a secret.
        serde_json::from_slice(&body).map_err(|error| answer(error.to_string()))
    }

    async fn exchange(&self, method: &'static str, body: Bytes) -> Result<(StatusCode, Bytes), ClientError> {
        let http = |source| ClientError::Http { method, source };
        let stream = UnixStream::connect(&self.path)
            .await
            .map_err(|source| ClientError::Connect { path: self.path.clone(), source })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        // Aborted when this call ends, also when it ends by its deadline.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let request = Request::post(format!("/{method}?json"))
            .header(HOST, "localhost")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Answer { method, problem: error.to_string() })?;
        let response = sender.send_request(request).await.map_err(http)?;
        let status = response.status();
        let collected = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = collected.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(source) => http(*source),
            Err(other) if other.is::<LengthLimitError>() => ClientError::TooLarge { method },
            Err(other) => ClientError::Answer { method, problem: other.to_string() },
        })?;
        Ok((status, body.to_bytes()))
    }
}

/// The agent's words, or what came instead of them, shortened.
fn error_text(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        error: String,
    }
    const SHOWN: usize = 500;
    let text = match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.error,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    text.chars().take(SHOWN).collect()
}
