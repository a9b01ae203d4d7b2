//! Event logs, in whatever form they come: one reader ([`read`]), one type ([`Log`]), their replay ([`replay()`]) and their
//! comparison with what was expected ([`diff()`]).
//!
//! A log is a claim. What an event says counts only as far as its digest leads to a register that a quote shows, and even
//! then only the digest: [`replay()`] says of each event how much of it is proven.

mod bytes;
pub mod ccel;
pub mod diff;
mod dstack;
mod error;
pub mod quote;
pub mod replay;

use std::fmt;

use serde::{Serialize, Serializer};

use crate::event::{DigestVersion, RuntimeEvent};
use crate::register::Register;
use crate::tdx::{EventType, Rtmr};

pub use diff::{Diff, diff};
pub use error::{LogError, Problem};
pub use quote::{Registers, Source};
pub use replay::{Replay, replay};

/// The longest file that is read: 8 MiB. `Info` of a dstack agent holds the whole document, twice escaped.
pub const MAX_BYTES: usize = 8 << 20;

/// An event log, and the registers that came with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// What the file is.
    pub form: Form,
    /// The events of RTMR0 to RTMR3, in the order of the file.
    pub events: Vec<Logged>,
    /// Events that are in the file but extend no runtime register: `EV_NO_ACTION`, and those of MRTD (index 0).
    pub left_out: usize,
    /// The registers, if the file shows any.
    pub registers: Option<Registers>,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The firmware's log, as the kernel shows it.
    Ccel,
    /// A JSON list of events.
    List,
    /// A JSON object: an answer of dstack's agent (`GetQuote`, `Info`), or what `tcb_info` holds.
    Answer,
    /// dstack's own file in the guest, `runtime_events.log`: one event a line.
    Lines,
    /// A quote alone.
    Quote,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ccel => "CCEL",
            Self::List => "JSON list of events",
            Self::Answer => "answer of a dstack agent",
            Self::Lines => "runtime_events.log",
            Self::Quote => "TDX quote",
        })
    }
}

/// Where in the file an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Its number, counted from 0 as in a JSON list, those included that extend nothing.
    pub event: usize,
    /// The byte at which it begins, in a binary log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub byte: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "event {}", self.event)?;
        self.byte.map_or(Ok(()), |byte| write!(f, " (byte {byte})"))
    }
}

/// One event, as a log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Where it is told.
    pub place: Place,
    /// Which register it extended.
    pub rtmr: Rtmr,
    /// Its type.
    pub event_type: EventType,
    /// What it extended the register with; `None` if the log leaves that to whoever reads the payload.
    pub digest: Option<Register>,
    /// Its name; `None` in a form that has none.
    pub name: Option<String>,
    /// Its data. Empty may mean that they were left out.
    pub payload: Vec<u8>,
    /// How the digest of a runtime event is made.
    pub version: DigestVersion,
    /// What the digest is said to be of (dstack's version 2).
    pub preimage: Option<Vec<u8>>,
}

impl Logged {
    /// The runtime event in it, if it is one: then its name and payload make its digest.
    pub fn runtime(&self) -> Option<RuntimeEvent> {
        let name = self.name.as_deref().filter(|_| self.event_type == EventType::DSTACK_RUNTIME)?;
        Some(RuntimeEvent { version: self.version, ..RuntimeEvent::new(name, self.payload.as_slice()) })
    }
}

/// Reads a log in whatever form it comes. `file` is what errors call it.
///
/// # Errors
/// If it is too long, in none of the forms, or wrong in one of them: with the event and the byte or path.
pub fn read(file: &str, bytes: &[u8]) -> Result<Log, LogError> {
    detect(bytes).map_err(|problem| LogError { file: file.to_owned(), problem })
}

fn detect(bytes: &[u8]) -> Result<Log, Problem> {
    if bytes.len() > MAX_BYTES {
        return Err(Problem::TooLong { what: "event log", limit: MAX_BYTES, found: bytes.len() });
    }
    if ccel::is_one(bytes) {
        return ccel::read(bytes);
    }
    if let Some(registers) = quote::detect(bytes) {
        let (form, events) = (Form::Quote, Vec::new());
        return Ok(Log { form, events, left_out: 0, registers: Some(registers?) });
    }
    match bytes.trim_ascii_start() {
        [b'{' | b'[', ..] => dstack::read(bytes),
        [] => Err(Problem::Unknown { found: "nothing" }),
        _ => Err(Problem::Unknown { found: "something else" }),
    }
}

/// Bytes as hex digits.
fn as_hex<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&hex::encode(bytes))
}
