//! dstack's event logs in JSON (dstack `cc-eventlog/src/{tdx,runtime_events}.rs`, `guest-agent/src/rpc_service.rs`): a list of
//! events, stripped or not; the answers of `GetQuote` and `Info` that hold one; and the file in the guest.
//!
//! An object is read as serde reads it: a key that we know is refused twice, one that we do not know is nothing to us.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{self, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::Problem;
use super::quote::{Registers, Source};
use super::{Form, Log, Logged, Place};
use crate::event::{DigestVersion, RUNTIME_EVENT_TYPE};
use crate::register::Register;
use crate::tdx::{EventType, Rtmr};

/// The most events that are read. A log has about 30, and what an app of dstack up to 0.5.11 adds with `EmitEvent`.
const MAX_EVENTS: usize = 4096;

/// What an error says that should be there.
const JSON: &str = "one JSON document";

pub(super) fn read(bytes: &[u8]) -> Result<Log, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        Problem::json("JSON", "UTF-8", format_args!("another byte at offset {}", error.valid_up_to()))
    })?;
    if text.trim_start().starts_with('[') {
        let mut log = Log { form: Form::List, events: Vec::new(), left_out: 0, registers: None };
        log.events = events("", text)?;
        return Ok(log);
    }
    if let Some(events) = lines(text) {
        return Ok(Log { form: Form::Lines, events: events?, left_out: 0, registers: None });
    }
    answer(text)
}

/// What of an answer is read: `GetQuote`'s, `Info`'s, or what `Info.tcb_info` holds.
#[derive(Deserialize)]
struct Answer<'a> {
    /// A list, or a string that holds one.
    #[serde(borrow)]
    event_log: Option<&'a RawValue>,
    /// Hex digits.
    quote: Option<String>,
    /// An object, or a string that holds one.
    #[serde(borrow)]
    tcb_info: Option<&'a RawValue>,
    mrtd: Option<String>,
    rtmr0: Option<String>,
    rtmr1: Option<String>,
    rtmr2: Option<String>,
    rtmr3: Option<String>,
}

fn answer(text: &str) -> Result<Log, Problem> {
    let outer: Answer<'_> = serde_json::from_str(text).map_err(|error| Problem::json("JSON", JSON, error))?;
    let held = outer.tcb_info.map(|value| unwrapped("tcb_info", value)).transpose()?;
    let inner = held.as_deref().filter(|text| !text.is_empty()).map(|text| {
        if !text.trim_start().starts_with('{') {
            return Err(Problem::json("tcb_info", "a JSON object", "something else"));
        }
        serde_json::from_str::<Answer<'_>>(text).map_err(|error| Problem::json("tcb_info", JSON, error))
    });
    let inner = inner.transpose()?;

    let outer_log = outer.event_log.map(|value| ("event_log", value));
    let inner_log = inner.as_ref().and_then(|inner| inner.event_log);
    let event_log = match (outer_log, inner_log.map(|value| ("tcb_info.event_log", value))) {
        (Some(_), Some(_)) => {
            return Err(Problem::json("event_log", "one event log", "another in tcb_info"));
        }
        (one, other) => one.or(other),
    };
    let events = match event_log {
        Some((path, value)) => {
            let text = unwrapped(path, value)?;
            // An agent without a log answers an empty string.
            if text.is_empty() { Vec::new() } else { events(path, &text)? }
        }
        None => Vec::new(),
    };
    let stated = match &inner {
        Some(inner) => inner.stated("tcb_info.")?,
        None => outer.stated("")?,
    };
    let quoted = outer.quote.as_deref().map(quoted).transpose()?;
    let registers = quoted.or(stated);
    if event_log.is_none() && registers.is_none() {
        return Err(Problem::json("JSON", "event_log, quote or tcb_info", "an object without them"));
    }
    Ok(Log { form: Form::Answer, events, left_out: 0, registers })
}

/// A value, or the JSON in it if it is a string.
fn unwrapped(path: &str, value: &RawValue) -> Result<String, Problem> {
    let text = value.get();
    if text.starts_with('"') {
        return serde_json::from_str(text).map_err(|error| Problem::json(path, "a string", error));
    }
    Ok(text.to_owned())
}

fn quoted(digits: &str) -> Result<Registers, Problem> {
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    let bytes = hex::decode(digits).map_err(|error| Problem::json("quote", "hex digits", error))?;
    Registers::of_quote(&bytes)
}

impl Answer<'_> {
    /// The registers that the agent states of itself: all, or none.
    fn stated(&self, path: &str) -> Result<Option<Registers>, Problem> {
        let fields = [
            ("mrtd", &self.mrtd),
            ("rtmr0", &self.rtmr0),
            ("rtmr1", &self.rtmr1),
            ("rtmr2", &self.rtmr2),
            ("rtmr3", &self.rtmr3),
        ];
        if fields.iter().all(|(_, field)| field.is_none()) {
            return Ok(None);
        }
        let mut registers = [Register::ZERO; 5];
        for (register, (name, field)) in registers.iter_mut().zip(fields) {
            let found = field.as_deref().unwrap_or("nothing");
            *register = Register::from_hex(found)
                .ok_or_else(|| Problem::json(format!("{path}{name}"), "96 hex digits", quote(found)))?;
        }
        let [mrtd, rtmr @ ..] = registers;
        Ok(Some(Registers { source: Source::Info, mrtd, rtmr, mrconfigid: None }))
    }
}

/// An event as `cc-eventlog` writes it.
#[derive(Deserialize)]
struct ApiEvent {
    imr: u32,
    event_type: u32,
    #[serde(default)]
    digest: String,
    #[serde(default)]
    event: String,
    #[serde(default)]
    event_payload: String,
    version: Option<u32>,
    preimage: Option<String>,
}

fn events(path: &str, text: &str) -> Result<Vec<Logged>, Problem> {
    let what = if path.is_empty() { "event log" } else { path };
    let List(items) =
        serde_json::from_str(text).map_err(|error| Problem::json(what, "a JSON list of events", error))?;
    if items.len() > MAX_EVENTS {
        return Err(Problem::TooManyEvents { what: what.to_owned(), limit: MAX_EVENTS });
    }
    items.into_iter().enumerate().map(|(number, item)| event(path, number, item.get())).collect()
}

/// A list that stops being read one item behind the bound.
struct List<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for List<'a> {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Items;
        impl<'de> Visitor<'de> for Items {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of events")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element()? {
                    if items.len() <= MAX_EVENTS {
                        items.push(item);
                    }
                }
                Ok(items)
            }
        }
        from.deserialize_seq(Items).map(List)
    }
}

fn event(path: &str, number: usize, text: &str) -> Result<Logged, Problem> {
    let field = |name: &str| format!("{path}[{number}]{name}");
    // serde would take a list of values in the order of the fields, too.
    if !text.starts_with('{') {
        return Err(Problem::json(field(""), "an event (a JSON object)", quote(text)));
    }
    let event: ApiEvent =
        serde_json::from_str(text).map_err(|error| Problem::json(field(""), "an event", error))?;
    let rtmr = Rtmr::from_index(event.imr)
        .ok_or_else(|| Problem::json(field(".imr"), "0 to 3 (RTMR0 to RTMR3)", event.imr))?;
    let digest = match event.digest.as_str() {
        "" if event.event_type == RUNTIME_EVENT_TYPE => None,
        digits => Some(Register::from_hex(digits).ok_or_else(|| {
            let expected = "96 hex digits (only a runtime event's can be recomputed)";
            Problem::json(field(".digest"), expected, quote(digits))
        })?),
    };
    let bytes = |name: &str, digits: &str| {
        hex::decode(digits).map_err(|error| Problem::json(field(name), "hex digits", error))
    };
    Ok(Logged {
        place: Place { event: number, byte: None },
        rtmr,
        event_type: EventType(event.event_type),
        digest,
        payload: bytes(".event_payload", &event.event_payload)?,
        name: Some(event.event),
        version: version(&field(".version"), event.version)?,
        preimage: event.preimage.as_deref().map(|digits| bytes(".preimage", digits)).transpose()?,
    })
}

fn version(path: &str, version: Option<u32>) -> Result<DigestVersion, Problem> {
    match version {
        None | Some(1) => Ok(DigestVersion::V1),
        Some(2) => Ok(DigestVersion::V2),
        Some(found) => Err(Problem::json(path, "1 or 2", found)),
    }
}

/// An event as `runtime_events.log` has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    event: String,
    payload: String,
    version: Option<u32>,
}

/// The events of `runtime_events.log`, if the first line is one.
fn lines(text: &str) -> Option<Result<Vec<Logged>, Problem>> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let first = lines.clone().next()?;
    serde_json::from_str::<Line>(first).ok()?;
    let one = |(number, line): (usize, &str)| {
        let path = format!("line {}", number.saturating_add(1));
        let line: Line =
            serde_json::from_str(line).map_err(|error| Problem::json(path.as_str(), "an event", error))?;
        let payload = STANDARD
            .decode(&line.payload)
            .map_err(|error| Problem::json(format!("{path}: payload"), "base64", error))?;
        Ok(Logged {
            place: Place { event: number, byte: None },
            rtmr: Rtmr::Rtmr3,
            event_type: EventType::DSTACK_RUNTIME,
            digest: None,
            name: Some(line.event),
            payload,
            version: version(&format!("{path}: version"), line.version)?,
            preimage: None,
        })
    };
    let events: Vec<_> = lines.by_ref().take(MAX_EVENTS).enumerate().map(one).collect();
    if lines.next().is_some() {
        return Some(Err(Problem::TooManyEvents { what: "lines".to_owned(), limit: MAX_EVENTS }));
    }
    Some(events.into_iter().collect())
}

/// Somebody else's text: in quotes, or that there is none.
fn quote(text: &str) -> String {
    if text.is_empty() { "nothing".to_owned() } else { format!("\"{text}\"") }
}
