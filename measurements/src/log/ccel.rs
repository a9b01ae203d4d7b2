//! The firmware's event log, CCEL (ACPI 6.5, section 5.2.34; TCG PC Client Platform Firmware Profile 1.05, section 10:
//! crypto-agile format; UEFI 2.10, section 38.4.1: the numbering of registers). Firmware, boot loader and kernel stub wrote it
//! and anybody could have changed it: it says something only where it replays to the registers.

use super::bytes::Reader;
use super::error::Problem;
use super::{Form, Log, Logged, Place};
use crate::event::DigestVersion;
use crate::register::Register;
use crate::tdx::{EventType, Rtmr};

/// The most that is read of it, bytes. OVMF reserves 64 KiB (`PcdTcgLogAreaMinLen`), Google's firmware 256 KiB.
pub const MAX_BYTES: usize = 256 << 10;
/// The most events that are kept. Real logs have 20 to 50.
pub const MAX_EVENTS: usize = 512;

/// `TPM_ALG_SHA384` (TCG Algorithm Registry).
const SHA384: u16 = 0x000c;
/// Bytes of a SHA-384 digest.
const SHA384_LEN: u16 = 48;
/// The longest digest of any algorithm in the registry, bytes.
const LONGEST_DIGEST: u16 = 64;
/// The most algorithms that a log may have: a TPM has at most five banks or so.
const MAX_ALGORITHMS: u32 = 8;
/// An index that no register has: the log's reserved rest (OVMF fills it with 0xff).
const NO_MORE: u32 = 0xffff_ffff;
/// `TCG_EfiSpecIDEvent.signature`.
const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";
/// Bytes of a `TCG_PCClientPCREvent` before its data: register, type, a SHA-1 digest, length.
const HEADER_LEN: usize = 32;

/// One record, whichever register it is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Where it is.
    pub place: Place,
    /// Measurement register: 0 is MRTD, 1 to 4 are RTMR0 to RTMR3.
    pub index: u32,
    /// TCG event type.
    pub event_type: u32,
    /// What was extended.
    pub digest: Register,
    /// The event's data; nothing says that the digest is theirs.
    pub data: &'a [u8],
}

/// Whether it begins as one.
pub(super) fn is_one(bytes: &[u8]) -> bool {
    bytes.get(HEADER_LEN..).is_some_and(|data| data.starts_with(SIGNATURE))
}

/// The events of RTMR0 to RTMR3.
pub(super) fn read(bytes: &[u8]) -> Result<Log, Problem> {
    let mut log = Log { form: Form::Ccel, events: Vec::new(), left_out: 0, registers: None };
    for record in records(bytes)? {
        if !record.extends() || record.index == 0 {
            log.left_out = log.left_out.saturating_add(1);
            continue;
        }
        let rtmr = record.index.checked_sub(1).and_then(Rtmr::from_index);
        let Some(rtmr) = rtmr else { return Err(record.wrong_index("0 to 4 (MRTD, RTMR0 to RTMR3)")) };
        log.events.push(Logged {
            place: record.place,
            rtmr,
            event_type: EventType(record.event_type),
            digest: Some(record.digest),
            name: None,
            payload: record.data.to_vec(),
            version: DigestVersion::V1,
            preimage: None,
        });
    }
    Ok(log)
}

impl Record<'_> {
    /// Whether it extends the register that it names.
    pub const fn extends(&self) -> bool {
        self.event_type != EventType::NO_ACTION.0
    }

    /// That this register may have no event here.
    pub fn wrong_index(&self, expected: impl Into<String>) -> Problem {
        Problem::Binary {
            form: Form::Ccel,
            field: "register",
            byte: self.place.byte.unwrap_or_default().saturating_add(4),
            event: Some(self.place.event),
            expected: expected.into(),
            found: self.index.to_string(),
        }
    }
}

/// Reads every record up to the reserved rest, which is filled with 0xff or with zeros. Nothing behind it is read.
///
/// # Errors
/// Another format, no SHA-384 digests, a length that leads out of the log, or more than [`MAX_EVENTS`] records.
pub fn records(log: &[u8]) -> Result<Vec<Record<'_>>, Problem> {
    if log.len() > MAX_BYTES {
        return Err(Problem::TooLong { what: "CCEL", limit: MAX_BYTES, found: log.len() });
    }
    let mut reader = Reader::new(Form::Ccel, log);
    let algorithms = header(&mut reader)?;
    let mut records = Vec::new();
    // A record never begins with twelve zeros: each has a digest at least.
    while reader.rest().iter().any(|byte| *byte != 0) {
        let place = Place { event: records.len(), byte: Some(reader.at()) };
        reader.event = Some(place.event);
        let index = reader.u32("register")?;
        if index == NO_MORE {
            break;
        }
        if records.len() == MAX_EVENTS {
            return Err(Problem::TooManyEvents { what: Form::Ccel.to_string(), limit: MAX_EVENTS });
        }
        let event_type = reader.u32("event type")?;
        let digest = digest(&mut reader, &algorithms)?;
        let data = reader.part("event data")?;
        records.push(Record { place, index, event_type, digest, data });
    }
    Ok(records)
}

/// An algorithm and the length of its digests.
type Algorithm = (u16, u16);

/// The first event, in the older form with a SHA-1 digest: which algorithms the others have.
fn header(reader: &mut Reader<'_>) -> Result<Vec<Algorithm>, Problem> {
    reader.u32("register of the header")?;
    let event_type = reader.u32("event type of the header")?;
    if event_type != EventType::NO_ACTION.0 {
        return Err(reader.wrong("event type of the header", EventType::NO_ACTION.0.to_string(), event_type));
    }
    reader.take(20, "digest of the header")?;
    let mut data = Reader::new(Form::Ccel, reader.part("header")?);
    if data.take(SIGNATURE.len(), "signature")? != SIGNATURE {
        return Err(data.wrong("signature", "\"Spec ID Event03\"", "another"));
    }
    // Platform class, version, errata, size of UINTN.
    data.take(8, "versions")?;
    let count = data.u32("number of algorithms")?;
    if !(1..=MAX_ALGORITHMS).contains(&count) {
        return Err(data.wrong("number of algorithms", format!("1 to {MAX_ALGORITHMS}"), count));
    }
    let mut algorithms: Vec<Algorithm> = Vec::new();
    for _ in 0..count {
        let id = data.u16("algorithm")?;
        if algorithms.iter().any(|(known, _)| *known == id) {
            return Err(data.wrong("algorithm", "each once", format_args!("{id} again")));
        }
        let length = data.u16("size of a digest")?;
        let right = if id == SHA384 { SHA384_LEN..=SHA384_LEN } else { 1..=LONGEST_DIGEST };
        if !right.contains(&length) {
            let expected = if id == SHA384 { "48".to_owned() } else { format!("1 to {LONGEST_DIGEST}") };
            return Err(data.wrong("size of a digest", expected, length));
        }
        algorithms.push((id, length));
    }
    // What follows is the vendor's.
    if algorithms.iter().any(|(id, _)| *id == SHA384) {
        return Ok(algorithms);
    }
    Err(data.wrong("algorithms", format!("{SHA384} (SHA-384)"), ids(&algorithms)))
}

/// A digest of each algorithm, of which the SHA-384 one counts.
fn digest(reader: &mut Reader<'_>, algorithms: &[Algorithm]) -> Result<Register, Problem> {
    let count = reader.u32("number of digests")?;
    if usize::try_from(count) != Ok(algorithms.len()) {
        return Err(reader.wrong("number of digests", algorithms.len().to_string(), count));
    }
    let mut left = algorithms.to_vec();
    let mut sha384 = None;
    while !left.is_empty() {
        let id = reader.u16("digest algorithm")?;
        let Some(found) = left.iter().position(|(known, _)| *known == id) else {
            return Err(reader.wrong("digest algorithm", ids(&left), id));
        };
        let (_, length) = left.swap_remove(found);
        if id == SHA384 {
            sha384 = Some(Register(reader.array("digest")?));
        } else {
            reader.take(usize::from(length), "digest")?;
        }
    }
    sha384.ok_or_else(|| reader.wrong("digest", format!("{SHA384} (SHA-384)"), "none"))
}

fn ids(algorithms: &[Algorithm]) -> String {
    algorithms.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>().join(" or ")
}
