//! Version 1 of dstack's versioned attestation, MessagePack with named fields (dstack `dstack-attest/src/v1.rs`).
//!
//! `Vec<u8>` fields are arrays of integers there and others are `bin`, by the Rust types of that file; both are read for
//! each, and written as dstack writes them.

use std::fmt;
use std::io::Cursor;
use std::marker::PhantomData;

use casemate_measure::event::{DigestVersion, RUNTIME_EVENT_TYPE};
use casemate_measure::{EventLog, RuntimeEvent};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Attestation, MAX_EVENTS, report_data_for_app};
use crate::error::EvidenceError;

const WHAT: &str = "attestation";

/// What is read first: the platform's `data` only if it is TDX's.
#[derive(Deserialize)]
struct Kind {
    version: u64,
    platform: Tagged<de::IgnoredAny>,
    stack: Tagged<de::IgnoredAny>,
}

#[derive(Serialize, Deserialize)]
struct V1 {
    version: u64,
    platform: Tagged<Tdx>,
    stack: Tagged<Stack>,
}

#[derive(Serialize, Deserialize)]
struct Tagged<T> {
    kind: String,
    data: T,
}

#[derive(Serialize, Deserialize)]
struct Tdx {
    quote: Array,
    #[serde(deserialize_with = "events")]
    event_log: Vec<TdxEvent>,
}

#[derive(Serialize, Deserialize)]
struct TdxEvent {
    imr: u32,
    event_type: u32,
    digest: Bin,
    event: String,
    event_payload: Bin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
}

#[derive(Serialize, Deserialize)]
struct Stack {
    report_data: Array,
    #[serde(deserialize_with = "events")]
    runtime_events: Vec<Runtime>,
    config: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    report_data_payload: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Runtime {
    event: String,
    payload: Bin,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
}

pub(super) fn encode(attestation: &Attestation) -> Result<Vec<u8>, EvidenceError> {
    let events = attestation.events.events();
    let written = V1 {
        version: 1,
        platform: Tagged {
            kind: "tdx".into(),
            data: Tdx {
                quote: Array(attestation.quote.clone()),
                event_log: events
                    .iter()
                    .map(|event| TdxEvent {
                        imr: 3,
                        event_type: RUNTIME_EVENT_TYPE,
                        digest: Bin(Vec::new()),
                        event: event.event.clone(),
                        event_payload: Bin(event.payload.clone()),
                        version: number(event.version),
                    })
                    .collect(),
            },
        },
        stack: Tagged {
            kind: "dstack".into(),
            data: Stack {
                report_data: Array(attestation.report_data.to_vec()),
                runtime_events: events
                    .iter()
                    .map(|event| Runtime {
                        event: event.event.clone(),
                        payload: Bin(event.payload.clone()),
                        version: number(event.version),
                    })
                    .collect(),
                config: attestation.config.clone(),
                report_data_payload: None,
            },
        },
    };
    rmp_serde::to_vec_named(&written)
        .map_err(|error| EvidenceError::malformed(WHAT, "one that can be written", error))
}

pub(super) fn decode(bytes: &[u8]) -> Result<Attestation, EvidenceError> {
    let kind: Kind = read(WHAT, bytes)?;
    if kind.version != 1 {
        return Err(EvidenceError::malformed("attestation: version", "1", kind.version));
    }
    if kind.platform.kind != "tdx" {
        return Err(EvidenceError::NotImplemented {
            what: format!("attestation of platform {}", crate::error::printable(&kind.platform.kind)),
        });
    }
    let is_pod = match kind.stack.kind.as_str() {
        "dstack" => false,
        "dstack-pod" => true,
        other => {
            return Err(EvidenceError::malformed("attestation: stack.kind", "dstack or dstack-pod", other));
        }
    };
    let V1 { platform: Tagged { data: tdx, .. }, stack: Tagged { data: stack, .. }, .. } = read(WHAT, bytes)?;
    let found = stack.report_data.0.len();
    let report_data: [u8; 64] =
        stack.report_data.0.try_into().map_err(|_| {
            EvidenceError::malformed("attestation: stack.data.report_data", "64 bytes", found)
        })?;
    if is_pod {
        check_pod(&report_data, stack.report_data_payload.as_deref())?;
    }
    let events = stack.runtime_events.into_iter().enumerate().map(|(index, event)| {
        let version = match event.version {
            None | Some(1) => DigestVersion::V1,
            Some(2) => DigestVersion::V2,
            Some(other) => {
                let place = format!("attestation: stack.data.runtime_events[{index}].version");
                return Err(EvidenceError::malformed(place, "1 or 2", other));
            }
        };
        Ok(RuntimeEvent { event: event.event, payload: event.payload.0, version })
    });
    Ok(Attestation {
        quote: tdx.quote.0,
        events: EventLog::new(events.collect::<Result<_, _>>()?),
        report_data,
        config: stack.config,
    })
}

/// A pod's report data are of its payload and nothing else.
fn check_pod(report_data: &[u8; 64], payload: Option<&str>) -> Result<(), EvidenceError> {
    const PLACE: &str = "attestation: stack.data.report_data_payload";
    let payload = payload.ok_or_else(|| EvidenceError::malformed(PLACE, "the pod's payload", "none"))?;
    if report_data_for_app(payload.as_bytes()) != *report_data {
        return Err(EvidenceError::malformed(PLACE, "what report_data is the SHA-512 of", "another payload"));
    }
    Ok(())
}

/// One value, with nothing behind it.
pub(super) fn read<T: for<'de> Deserialize<'de>>(what: &str, bytes: &[u8]) -> Result<T, EvidenceError> {
    let mut cursor = Cursor::new(bytes);
    let value = T::deserialize(&mut rmp_serde::Deserializer::new(&mut cursor))
        .map_err(|error| EvidenceError::malformed(what, "MessagePack, version 1", error))?;
    let rest = (bytes.len() as u64).saturating_sub(cursor.position());
    if rest != 0 {
        return Err(EvidenceError::malformed(
            what,
            "nothing after it",
            format_args!("{rest} trailing bytes"),
        ));
    }
    Ok(value)
}

/// A list that is read as far as it may be long.
fn events<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct Events<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Events<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX_EVENTS} events")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut events = Vec::new();
            while let Some(event) = list.next_element()? {
                if events.len() == MAX_EVENTS {
                    return Err(de::Error::invalid_length(MAX_EVENTS.saturating_add(1), &self));
                }
                events.push(event);
            }
            Ok(events)
        }
    }
    from.deserialize_seq(Events(PhantomData))
}

const fn number(version: DigestVersion) -> Option<u32> {
    match version {
        DigestVersion::V1 => None,
        DigestVersion::V2 => Some(2),
    }
}

/// Bytes that are written as an array of integers.
struct Array(Vec<u8>);

/// Bytes that are written as `bin`.
pub(super) struct Bin(pub(super) Vec<u8>);

impl Serialize for Array {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(to)
    }
}

impl Serialize for Bin {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Array {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyBytes).map(Self)
    }
}

impl<'de> Deserialize<'de> for Bin {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AnyBytes).map(Self)
    }
}

struct AnyBytes;

impl<'de> Visitor<'de> for AnyBytes {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes, or an array of integers below 256")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    /// Grows with what is there: what the array's head promises is nobody's memory.
    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Vec<u8>, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = array.next_element()? {
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Attestation {
        Attestation {
            quote: vec![9, 200],
            events: EventLog::new(vec![
                RuntimeEvent::new("app-id", [7; 20]),
                RuntimeEvent { version: DigestVersion::V2, ..RuntimeEvent::new("compose-hash", [8; 32]) },
            ]),
            report_data: [3; 64],
            config: "{}".into(),
        }
    }

    #[test]
    fn it_survives_writing_and_reading() {
        let bytes = sample().encode_v1().unwrap();
        // A map of three, as the dispatch expects, beginning with its version.
        assert_eq!(bytes[..10], *b"\x83\xa7version\x01");
        // Quote: an array of two integers, the second above 127. Payload: bin.
        assert!(bytes.windows(10).any(|w| w == b"\xa5quote\x92\x09\xcc\xc8"));
        assert!(bytes.windows(10).any(|w| w == b"\xa7payload\xc4\x14"));
        assert_eq!(Attestation::decode(&bytes).unwrap(), sample());
    }

    #[test]
    fn every_truncation_and_any_trailing_byte_is_refused() {
        let bytes = sample().encode_v1().unwrap();
        for length in 0..bytes.len() {
            assert!(Attestation::decode(&bytes[..length]).is_err(), "{length}");
        }
        let long = [bytes.as_slice(), &[0]].concat();
        let error = Attestation::decode(&long).unwrap_err().to_string();
        assert_eq!(error, "attestation: expected nothing after it, found 1 trailing bytes");
    }

    /// Lengths that promise gigabytes, and nesting without end, cost nothing.
    #[test]
    fn bombs_are_refused() {
        let promise = b"\x83\xa7version\xdd\xff\xff\xff\xff".as_slice();
        let nested = [b"\x81\xa7version".as_slice(), &[0x91; 1 << 20]].concat();
        let quote = b"\x83\xa7version\x01\xa8platform\x82\xa4kind\xa3tdx\xa4data\x82\xa5quote\xdd\xff\xff\xff\xff\x01";
        for bomb in [promise, nested.as_slice(), quote.as_slice()] {
            let error = Attestation::decode(bomb).unwrap_err().to_string();
            assert!(error.starts_with("attestation: expected MessagePack, version 1, found"), "{error}");
        }
    }

    #[test]
    fn more_events_than_any_boot_has_are_refused() {
        let with = |events: usize| {
            let event = RuntimeEvent::new("", []);
            Attestation { events: EventLog::new(vec![event; events]), ..sample() }.encode_v1().unwrap()
        };
        assert!(Attestation::decode(&with(MAX_EVENTS)).is_ok());
        let error = Attestation::decode(&with(MAX_EVENTS + 1)).unwrap_err().to_string();
        assert!(error.contains("expected at most 4096 events"), "{error}");
    }

    #[test]
    fn other_versions_platforms_and_stacks_are_named() {
        let with = |from: &[u8], to: &[u8]| {
            let bytes = sample().encode_v1().unwrap();
            // The last one: version 2 is in both logs, and only the runtime events are read.
            let at = bytes.windows(from.len()).rposition(|window| window == from).unwrap();
            let changed = [&bytes[..at], to, &bytes[at + from.len()..]].concat();
            Attestation::decode(&changed).unwrap_err().to_string()
        };
        assert_eq!(with(b"version\x01", b"version\x02"), "attestation: version: expected 1, found 2");
        assert_eq!(
            with(b"\xa3tdx", b"\xa7sev-snp"),
            "not implemented in this version: attestation of platform sev-snp"
        );
        assert_eq!(
            with(b"\xa6dstack", b"\xa5other"),
            "attestation: stack.kind: expected dstack or dstack-pod, found other"
        );
        assert_eq!(
            with(b"\xa6dstack", b"\xaadstack-pod"),
            "attestation: stack.data.report_data_payload: expected the pod's payload, found none"
        );
        assert_eq!(
            with(b"version\x02", b"version\x03"),
            "attestation: stack.data.runtime_events[1].version: expected 1 or 2, found 3"
        );
    }
}
