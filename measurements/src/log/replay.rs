//! Folding a log into its registers, and saying of each event how much of it is proven.
//!
//! A runtime event's digest is always computed from its name and payload, never taken from the log: dstack's agents leave it
//! out so that nobody does. Of all other events the log's digest is folded; what it is of is known for few of them.

use serde::Serialize;
use sha2::{Digest as _, Sha384};

use super::{Form, Log, Logged, Place, Source, as_hex};
use crate::event::DigestVersion;
use crate::register::Register;
use crate::tdx::{EventType, Rtmr};

/// What a log replays to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replay {
    /// What the file is.
    pub form: Form,
    /// Who says what the registers hold; `None`: nobody.
    pub source: Option<Source>,
    /// RTMR0 to RTMR3.
    pub registers: Vec<Replayed>,
    /// The events, in the order of the file.
    pub events: Vec<Judged>,
    /// Events that extend no runtime register.
    pub left_out: usize,
}

/// A register by replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Which.
    pub rtmr: Rtmr,
    /// What its events make.
    pub register: Register,
    /// How many it has.
    pub events: usize,
    /// Against what the register holds.
    pub comparison: Comparison,
}

/// A replayed register against the real one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "result")]
pub enum Comparison {
    /// The file does not say what the register holds.
    Unknown,
    /// The events are the register's.
    Equal,
    /// They are not.
    Differs {
        /// What the register holds.
        register: Register,
        /// What can be said of why.
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
    },
}

/// Why a replay leads elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// The first so many events of the register lead to what it holds: the others are later, or were never extended.
    Prefix(usize),
    /// The log's own digests lead to it: a name or payload of a runtime event is false.
    Payload,
}

/// An event, and what is proven of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judged {
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// Its register.
    pub rtmr: Rtmr,
    /// Its type.
    pub event_type: EventType,
    /// Its name; of an event that has none, what its payload says that it is. Proven only if `payload` is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What was folded.
    pub digest: Register,
    /// Whether the register proves the digest.
    pub standing: Standing,
    /// Whether the digest proves the name and the payload.
    pub payload: Payload,
    /// What is false in it, or open.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<Remark>,
}

/// Whether a register proves that a digest was extended, at this place among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// A quote's register does.
    Quoted,
    /// A register does of which only the machine's agent says what it holds.
    Stated,
    /// The events before it lead to the register: this one came later, or never.
    Beyond,
    /// Nothing does.
    Unproven,
}

/// Whether a digest proves a name and a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Payload {
    /// The digest was computed from them.
    Computed,
    /// The digest is the payload's, or that of the UEFI variable's value in it.
    Bound,
    /// The digest is of something else, which the log does not hold: anybody could have written this payload.
    Unbound,
    /// There is none.
    Empty,
}

/// What is false in an event, or open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum Remark {
    /// The log's digest is not the one that the payload (for a runtime event also the name) makes.
    Digest {
        /// In the log.
        found: Register,
        /// Of the payload.
        computed: Register,
    },
    /// The log's preimage is not the one that name and payload make (version 2).
    Preimage {
        /// In the log.
        #[serde(serialize_with = "as_hex")]
        found: Vec<u8>,
    },
    /// The name has a colon, and version 1 puts nothing but a colon between name and payload: the same digest belongs to a
    /// shorter name and a longer payload, too.
    Colon,
}

impl Remark {
    /// Whether the log contradicts itself.
    pub const fn is_false(&self) -> bool {
        matches!(self, Self::Digest { .. } | Self::Preimage { .. })
    }
}

impl Judged {
    /// A quote proves it and nothing in it is false. What [`Payload::Unbound`] holds is not proven by that.
    pub fn is_ok(&self) -> bool {
        self.standing == Standing::Quoted && self.remarks.is_empty()
    }
}

impl Replay {
    /// Whether nothing in the log is false, and every register that the file shows is what its events make.
    pub fn holds(&self) -> bool {
        let differs = |replayed: &Replayed| matches!(replayed.comparison, Comparison::Differs { .. });
        !self.registers.iter().any(differs) && self.contradictions().next().is_none()
    }

    /// The events that contradict themselves.
    pub fn contradictions(&self) -> impl Iterator<Item = &Judged> {
        self.events.iter().filter(|event| event.remarks.iter().any(Remark::is_false))
    }

    /// A register.
    pub fn register(&self, rtmr: Rtmr) -> Option<&Replayed> {
        self.registers.iter().find(|replayed| replayed.rtmr == rtmr)
    }

    /// The events of a register, in order.
    pub fn of(&self, rtmr: Rtmr) -> impl Iterator<Item = &Judged> {
        self.events.iter().filter(move |event| event.rtmr == rtmr)
    }
}

/// Folds a log, and judges each event.
pub fn replay(log: &Log) -> Replay {
    let mut events: Vec<_> = log.events.iter().map(judge).collect();
    let source = log.registers.as_ref().map(|registers| registers.source);
    let known = log.registers.as_ref().map(|registers| registers.rtmr);
    let registers = Rtmr::ALL.into_iter().map(|rtmr| {
        let held = known.and_then(|known| known.get(usize::from(rtmr.index())).copied());
        let (replayed, proven) = one(rtmr, log, &events, held);
        for (nth, event) in events.iter_mut().filter(|event| event.rtmr == rtmr).enumerate() {
            event.standing = match (source, &replayed.comparison) {
                (Some(Source::Quote), _) if nth < proven => Standing::Quoted,
                (Some(Source::Info), _) if nth < proven => Standing::Stated,
                (Some(_), Comparison::Differs { cause: Some(Cause::Prefix(_)), .. }) => Standing::Beyond,
                _ => Standing::Unproven,
            };
        }
        replayed
    });
    let registers = registers.collect();
    Replay { form: log.form, source, registers, events, left_out: log.left_out }
}

/// A register, and how many of its events it proves.
fn one(rtmr: Rtmr, log: &Log, events: &[Judged], held: Option<Register>) -> (Replayed, usize) {
    let digests: Vec<_> =
        events.iter().filter(|event| event.rtmr == rtmr).map(|event| event.digest).collect();
    let mut register = Register::ZERO;
    // The longest prefix that leads to what the register holds.
    let mut prefix = held.filter(Register::is_zero).map(|_| 0);
    for (nth, digest) in digests.iter().enumerate() {
        register = register.extended(digest);
        if Some(register) == held {
            prefix = Some(nth.saturating_add(1));
        }
    }
    let comparison = match held {
        None => Comparison::Unknown,
        Some(held) if held == register => Comparison::Equal,
        Some(held) => {
            let told = log.events.iter().filter(|event| event.rtmr == rtmr).zip(&digests);
            let by_digests = told.fold(Register::ZERO, |register, (event, computed)| {
                register.extended(event.digest.as_ref().unwrap_or(computed))
            });
            let cause = match prefix {
                Some(events) => Some(Cause::Prefix(events)),
                None => (by_digests == held).then_some(Cause::Payload),
            };
            Comparison::Differs { register: held, cause }
        }
    };
    let proven = prefix.unwrap_or(0);
    (Replayed { rtmr, register, events: digests.len(), comparison }, proven)
}

fn judge(event: &Logged) -> Judged {
    let mut remarks = Vec::new();
    let (digest, payload) = match event.runtime() {
        Some(runtime) => {
            let computed = runtime.digest_of(event.version);
            remarks.extend(contradiction(event, computed));
            if let Some(found) = &event.preimage
                && *found != runtime.preimage_v2().into_bytes()
            {
                remarks.push(Remark::Preimage { found: found.clone() });
            }
            if event.version == DigestVersion::V1 && runtime.event.contains(':') {
                remarks.push(Remark::Colon);
            }
            (computed, Payload::Computed)
        }
        // Readers give every other event a digest.
        None => (event.digest.unwrap_or(Register::ZERO), of_firmware(event, &mut remarks)),
    };
    Judged {
        place: event.place,
        rtmr: event.rtmr,
        event_type: event.event_type,
        name: event.name.clone().filter(|name| !name.is_empty()).or_else(|| title(event)),
        digest,
        standing: Standing::Unproven,
        payload,
        remarks,
    }
}

fn contradiction(event: &Logged, computed: Register) -> Option<Remark> {
    let found = event.digest.filter(|found| *found != computed)?;
    Some(Remark::Digest { found, computed })
}

/// What the payload of an event that is not dstack's is worth.
fn of_firmware(event: &Logged, remarks: &mut Vec<Remark>) -> Payload {
    if event.payload.is_empty() {
        return Payload::Empty;
    }
    let whole = Register::digest(&event.payload);
    let value = variable(&event.payload).map(|(_, value)| Register::digest(value));
    let is_variable = matches!(
        event.event_type,
        EventType::EFI_VARIABLE_DRIVER_CONFIG
            | EventType::EFI_VARIABLE_BOOT
            | EventType::EFI_VARIABLE_AUTHORITY
    );
    if event.digest == Some(whole) || (is_variable && event.digest.is_some() && event.digest == value) {
        return Payload::Bound;
    }
    // What the digest is of is defined, and it is in the log (TCG PC Client Platform Firmware Profile 1.05, table 27). Of a
    // boot variable OVMF measures the value alone (edk2 `OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c`).
    let computed = match event.event_type {
        EventType::SEPARATOR | EventType::EFI_ACTION | EventType::EFI_VARIABLE_DRIVER_CONFIG => Some(whole),
        EventType::EFI_VARIABLE_BOOT => value,
        _ => None,
    };
    remarks.extend(computed.and_then(|computed| contradiction(event, computed)));
    Payload::Unbound
}

/// Name and value in a `UEFI_VARIABLE_DATA`: GUID, length of the name in characters, length of the value, name, value (TCG PC
/// Client Platform Firmware Profile 1.05, section 10.2.6).
fn variable(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, data) = data.split_at_checked(16)?;
    let (name_len, data) = data.split_first_chunk()?;
    let (value_len, data) = data.split_first_chunk()?;
    let name_len = usize::try_from(u64::from_le_bytes(*name_len)).ok()?.checked_mul(2)?;
    let (name, value) = data.split_at_checked(name_len)?;
    (u64::try_from(value.len()) == Ok(u64::from_le_bytes(*value_len))).then_some((name, value))
}

/// The longest title, in bytes of the payload.
const TITLE: usize = 256;

/// What a payload says that it is: a variable's name, a tag (Linux's EFI stub), a table's or volume's description, or a text.
fn title(event: &Logged) -> Option<String> {
    let payload = event.payload.as_slice();
    let text = match event.event_type {
        EventType::EFI_VARIABLE_DRIVER_CONFIG
        | EventType::EFI_VARIABLE_BOOT
        | EventType::EFI_VARIABLE_AUTHORITY => {
            let (pairs, _) = variable(payload)?.0.as_chunks::<2>();
            String::from_utf16(&pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect::<Vec<_>>())
                .ok()?
        }
        // Identifier, length, text.
        EventType::EVENT_TAG => str::from_utf8(payload.get(8..)?).ok()?.to_owned(),
        // Length, text, what the digest is of.
        EventType::EFI_HANDOFF_TABLES2 | EventType::EFI_PLATFORM_FIRMWARE_BLOB2 => {
            let (length, rest) = payload.split_first()?;
            str::from_utf8(rest.get(..usize::from(*length))?).ok()?.to_owned()
        }
        _ => str::from_utf8(payload).ok()?.to_owned(),
    };
    let text = text.trim_end_matches('\0');
    (!text.is_empty() && text.len() <= TITLE && !text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// The text in a payload, if the digest is its: what a boot loader measured as text, in UTF-8 or UTF-16LE, with or without
/// a NUL at its end.
pub(super) fn bound_text(event: &Logged) -> Option<String> {
    let payload = event.payload.as_slice();
    if payload.is_empty() || event.digest != Some(Register(Sha384::digest(payload).into())) {
        return None;
    }
    let (pairs, odd) = payload.as_chunks::<2>();
    let wide = odd.is_empty() && pairs.iter().take(8).all(|[_, high]| *high == 0);
    let text = if wide {
        let units: Vec<_> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
        String::from_utf16(&units).ok()?
    } else {
        std::str::from_utf8(payload).ok()?.to_owned()
    };
    let text = text.strip_suffix('\0').unwrap_or(&text);
    (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
}
