//! Why a time, or who says it, is not believed.

use std::time::Duration;

/// What time, servers and what they send are refused for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TimeError {
    /// Earlier than what is certain.
    #[error("time: expected at least {floor} s, found {time} s")]
    BelowFloor {
        /// Seconds since 1970.
        time: u64,
        /// Seconds since 1970.
        floor: u64,
    },
    /// Later than anything that this image should see.
    #[error("time: expected at most {horizon} s, found {time} s")]
    BeyondHorizon {
        /// Seconds since 1970.
        time: u64,
        /// Seconds since 1970.
        horizon: u64,
    },
    /// The error bound is too wide.
    #[error("time: expected an error of at most 1 s, found {0:?}")]
    TooVague(Duration),
    /// A report about a moment in the future, or long past.
    #[error("time: expected a sample of the last minute")]
    Stale,
    /// A report of another form.
    #[error("report: {0}")]
    Report(&'static str),
    /// The key exchange's answer.
    #[error("NTS key exchange: expected {expected}, found {found}")]
    KeyExchange {
        /// What RFC 8915 or our lock wants.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// The server sends us elsewhere.
    #[error("NTS key exchange: the server names another host, {0:?}")]
    OtherHost(String),
    /// The answer to a request.
    #[error("NTP answer: expected {expected}, found {found}")]
    Answer {
        /// What RFC 5905 or 8915 wants.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// A kiss-o'-death (RFC 5905 section 7.4).
    #[error("NTP answer: kiss-o'-death {:?}", String::from_utf8_lossy(.code))]
    Kiss {
        /// Which.
        code: [u8; 4],
        /// Whether the server said it, or anybody on the way may have.
        authentic: bool,
    },
    /// TLS, certificates included.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// Sockets and their timeouts.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the kernel says.
        source: std::io::Error,
    },
}

impl TimeError {
    pub(super) fn io(action: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| Self::Io { action, source }
    }

    pub(super) fn exchange(expected: &'static str, found: impl Into<String>) -> Self {
        Self::KeyExchange { expected, found: found.into() }
    }

    pub(super) fn answer(expected: &'static str, found: impl Into<String>) -> Self {
        Self::Answer { expected, found: found.into() }
    }
}
