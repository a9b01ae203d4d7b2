//! The log rings, for the apps that the document names in `logs.readers`. Pure, but for reading the rings.

use std::fs::File;
use std::sync::Arc;

use casemate_measure::AppId;
use hyper::Response;
use hyper::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::http::{Method, StatusCode, Uri};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body::ResponseBody;
use crate::peer::PeerIdentity;
use crate::ring::{self, Reader, RingError};
use crate::{answer, json, limits};

/// Where they are served, on every listener.
const PATH: &str = "/.well-known/casemate/logs";

/// Every ring, and who may read them.
#[derive(Debug)]
pub(crate) struct Logs {
    readers: Vec<AppId>,
    rings: Vec<(String, Reader<File>)>,
    /// Answers that are being sent: each is in memory until its receiver has taken it.
    answers: Arc<Semaphore>,
}

/// A peer that may read them: there is no other way to get one than [`Logs::permit`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permitted(());

impl Logs {
    pub(crate) fn new(readers: Vec<AppId>, rings: impl Iterator<Item = (String, File)>) -> Self {
        let rings = rings.map(|(name, file)| (name, Reader::new(file))).collect();
        Self { readers, rings, answers: Arc::new(Semaphore::new(limits::LOG_ANSWERS)) }
    }

    /// Whether an attested peer is one of the readers.
    pub(crate) fn permit(&self, peer: &PeerIdentity) -> Option<Permitted> {
        self.readers.contains(&peer.app()).then_some(Permitted(()))
    }

    /// Answers a request for the path that [`asked`] found.
    pub(crate) fn answer(
        &self,
        _: Permitted,
        method: &Method,
        asked: &str,
        uri: &Uri,
    ) -> Response<ResponseBody> {
        if method != Method::GET {
            return answer::other_method("GET");
        }
        let Ok(place) = Arc::clone(&self.answers).try_acquire_owned() else {
            return answer::text(StatusCode::SERVICE_UNAVAILABLE, "too many logs are being read");
        };
        if asked.is_empty() {
            return match uri.query() {
                None => document(&self.index(), place),
                Some(_) => answer::text(StatusCode::BAD_REQUEST, "query: expected none"),
            };
        }
        let name = asked.trim_start_matches('/');
        let Some((name, ring)) = self.rings.iter().find(|(ring, _)| ring == name) else {
            return answer::text(StatusCode::NOT_FOUND, "no such log");
        };
        let wanted = match Wanted::parse(uri.query()) {
            Ok(wanted) => wanted,
            Err(why) => return answer::text(StatusCode::BAD_REQUEST, why),
        };
        let limits = ring::Limits { lines: wanted.limit, bytes: limits::LOG_BYTES };
        match ring.read(wanted.after, limits) {
            Ok(page) => document(&Part::of(name, wanted.after, &page), place),
            Err(RingError::Busy) => answer::text(StatusCode::SERVICE_UNAVAILABLE, RingError::Busy),
            Err(error) => {
                tracing::error!(ring = name, %error, "a log is not readable");
                answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the log is not readable")
            }
        }
    }

    fn index(&self) -> Index<'_> {
        let entry = |(name, ring): &'_ (String, Reader<File>)| match ring.summary() {
            Ok(counted) => (Some(counted.lines), Some(counted.dropped)),
            Err(error) => {
                tracing::error!(ring = name, %error, "a log is not readable");
                (None, None)
            }
        };
        let entries = self.rings.iter().map(|ring| {
            let (lines, dropped) = entry(ring);
            Entry { name: &ring.0, lines, dropped }
        });
        Index { version: 1, logs: entries.collect() }
    }
}

/// What is behind the path of the logs, if it is one of theirs: empty, or a slash and a name.
pub(crate) fn asked(uri: &Uri) -> Option<&str> {
    uri.path().strip_prefix(PATH).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    after: u64,
    limit: usize,
}

impl Wanted {
    /// `after=SEQUENCE` and `limit=LINES`, each once at most, in decimal digits.
    fn parse(query: Option<&str>) -> Result<Self, &'static str> {
        let (mut after, mut limit) = (None, None);
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let number = value.parse::<u64>().ok().filter(|_| digits);
            match name {
                "after" if after.is_none() => {
                    after = Some(number.ok_or("after: expected a sequence number")?)
                }
                "limit" if limit.is_none() => {
                    let number = number.and_then(|number| usize::try_from(number).ok());
                    let fits = number.filter(|number| (1..=limits::LOG_LINES).contains(number));
                    limit = Some(fits.ok_or("limit: expected 1 to 1000")?);
                }
                _ => return Err("query: expected after and limit, each once at most"),
            }
        }
        Ok(Self { after: after.unwrap_or(0), limit: limit.unwrap_or(limits::LOG_LINES) })
    }
}

const _: () = assert!(limits::LOG_LINES == 1000, "as the words above say");

/// The answer to [`PATH`].
#[derive(Debug, Serialize)]
struct Index<'a> {
    version: u32,
    logs: Vec<Entry<'a>>,
}

#[derive(Debug, Serialize)]
struct Entry<'a> {
    name: &'a str,
    lines: Option<u64>,
    dropped: Option<u64>,
}

/// The answer to a log's name.
#[derive(Debug, Serialize)]
struct Part<'a> {
    version: u32,
    name: &'a str,
    last: u64,
    more: bool,
    missed: u64,
    dropped: u64,
    lines: Vec<Line>,
}

#[derive(Debug, Serialize)]
struct Line {
    sequence: u64,
    boottime_ms: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
    text: String,
}

impl<'a> Part<'a> {
    fn of(name: &'a str, after: u64, page: &ring::Page) -> Self {
        let line = |line: &ring::Line| Line {
            sequence: line.sequence,
            boottime_ms: line.boottime_ms,
            cut: line.cut,
            text: String::from_utf8_lossy(&line.bytes).into_owned(),
        };
        Self {
            version: 1,
            name,
            last: page.lines.last().map_or(after, |line| line.sequence),
            more: page.more,
            missed: page.missed,
            dropped: page.summary.dropped,
            lines: page.lines.iter().map(line).collect(),
        }
    }
}

fn document(value: &impl Serialize, place: OwnedSemaphorePermit) -> Response<ResponseBody> {
    let Ok(bytes) = json::plain(value) else {
        return answer::text(StatusCode::INTERNAL_SERVER_ERROR, "the log is not readable");
    };
    let mut response = Response::new(ResponseBody::held(bytes, Arc::new(place)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_exact() {
        let parse = |query| Wanted::parse(Some(query));
        assert_eq!(Wanted::parse(None), Ok(Wanted { after: 0, limit: 1000 }));
        assert_eq!(parse("limit=7&after=12"), Ok(Wanted { after: 12, limit: 7 }));
        assert_eq!(parse("after=18446744073709551615").map(|wanted| wanted.after), Ok(u64::MAX));
        for query in
            ["", "after", "after=", "after=+1", "after=18446744073709551616", "limit=0", "limit=1001"]
        {
            assert!(parse(query).is_err(), "{query}");
        }
        for query in ["after=1&after=1", "limit=1&limit=1", "before=1", "after=1&", "AFTER=1", "after=%31"] {
            assert!(parse(query).is_err(), "{query}");
        }
    }

    #[test]
    fn answers_that_nobody_takes_are_bounded() {
        let logs = Logs::new(vec![AppId([1; 20])], std::iter::empty());
        let ask = || logs.answer(Permitted(()), &Method::GET, "", &Uri::from_static(PATH));
        let mut held: Vec<_> = std::iter::repeat_with(ask).take(limits::LOG_ANSWERS).collect();
        assert!(held.iter().all(|answer| answer.status() == StatusCode::OK));
        assert_eq!(ask().status(), StatusCode::SERVICE_UNAVAILABLE);
        held.pop();
        assert_eq!(ask().status(), StatusCode::OK, "one was taken");
    }

    #[test]
    fn only_the_paths_of_the_logs_are_theirs() {
        let of = |uri: &'static str| asked(&Uri::from_static(uri)).map(str::to_owned);
        assert_eq!(of("/.well-known/casemate/logs").as_deref(), Some(""));
        assert_eq!(of("https://x/.well-known/casemate/logs/web?after=1").as_deref(), Some("/web"));
        assert_eq!(of("/.well-known/casemate/logs/").as_deref(), Some("/"));
        for other in [
            "/.well-known/casemate/logsx",
            "/.well-known/casemate/Logs",
            "/logs",
            "/x/.well-known/casemate/logs",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
