//! The client of the status socket: one line out, lines in.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use casemate_vpn::status::Request;
use serde_json::Value;

/// A document about 3,000 peers is some MB.
const MAX_LINE: u64 = 64 << 20;
/// A netcheck or a ping that nobody answers takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    #[error("{path}: no node answers there: {source}")]
    Connect { path: PathBuf, source: io::Error },
    #[error("{path}: {source}")]
    Socket { path: PathBuf, source: io::Error },
    #[error("{path}: expected a JSON object on a line, found {found}")]
    Odd { path: PathBuf, found: String },
    #[error("{path}: the node ended without an answer")]
    Nothing { path: PathBuf },
    #[error("{0}")]
    Refused(String),
}

/// A question that was asked.
#[derive(Debug)]
pub(super) struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
    line: String,
}

impl Client {
    pub(super) fn ask(path: &Path, request: &Request) -> Result<Self, ClientError> {
        let path = path.to_owned();
        let mut stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(source) => return Err(ClientError::Connect { path, source }),
        };
        let asked = serde_json::to_vec(request).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.write_all(&line)
        });
        match asked {
            Ok(()) => Ok(Self { path, stream: BufReader::new(stream), line: String::new() }),
            Err(source) => Err(ClientError::Socket { path, source }),
        }
    }

    /// The next object; none after the last.
    pub(super) fn next(&mut self) -> Result<Option<Value>, ClientError> {
        self.line.clear();
        let read = self.stream.by_ref().take(MAX_LINE).read_line(&mut self.line);
        match read {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(source) => return Err(ClientError::Socket { path: self.path.clone(), source }),
        }
        let odd = |found: String| ClientError::Odd { path: self.path.clone(), found };
        let value: Value = serde_json::from_str(&self.line).map_err(|error| odd(error.to_string()))?;
        match value.get("error") {
            Some(error) => Err(ClientError::Refused(crate::status::command::plain(error))),
            None if value.is_object() => Ok(Some(value)),
            None => Err(odd("another value".to_owned())),
        }
    }

    /// The only object.
    pub(super) fn only(&mut self) -> Result<Value, ClientError> {
        self.next()?.ok_or_else(|| ClientError::Nothing { path: self.path.clone() })
    }

    /// The line that came last.
    pub(super) fn line(&self) -> &str {
        &self.line
    }
}
