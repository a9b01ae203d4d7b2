//! The firmware's event log, CCEL (ACPI 6.5; TCG PC Client Platform Firmware Profile 1.05, section 10: crypto-agile format;
//! Guest-Host-Communication Interface for TDX: the numbering of registers). Firmware, boot loader and kernel stub wrote it
//! and anybody could have changed it: it says something only where it replays to the registers.

use casemate_measure::{LaunchRegisters, Register};

use super::error::TdxError;

/// The most that is read of it, bytes. OVMF reserves 64 KiB (`PcdTdxAcpiTableProtocol`'s `PcdTcgLogAreaMinLen`).
pub const BOOT_LOG_MAX: usize = 256 << 10;
/// The most events that are kept. Real logs have about 20.
const EVENTS_MAX: usize = 512;

/// `EV_NO_ACTION`: extends nothing.
const NO_ACTION: u32 = 3;
/// `TPM_ALG_SHA384`.
const SHA384: u16 = 0x000c;
/// An index that no register has: the log's reserved rest.
const NO_MORE: u32 = 0xffff_ffff;
/// `TCG_EfiSpecIDEvent.signature`.
const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";

/// One event of RTMR0 to RTMR2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootEvent {
    /// 0 to 2.
    pub rtmr: u8,
    /// TCG event type.
    pub event_type: u32,
    /// What was extended.
    pub digest: Register,
    /// The event's data; nothing says that the digest is theirs.
    pub payload: Vec<u8>,
}

/// Reads a log and compares its replay with the registers. An empty log is none.
///
/// # Errors
/// Another format, other digests than SHA-384, an event of another register than RTMR0 to RTMR2, a length that leads out of
/// the log, or another replay.
pub(super) fn read(log: &[u8], launch: &LaunchRegisters) -> Result<Vec<BootEvent>, TdxError> {
    if log.is_empty() {
        return Ok(Vec::new());
    }
    let events = boot_events(log)?;
    let replayed = events.iter().fold([Register::ZERO; 3], |mut registers, event| {
        if let Some(register) = registers.get_mut(usize::from(event.rtmr)) {
            *register = register.extended(&event.digest);
        }
        registers
    });
    let found = [("RTMR0", launch.rtmr0), ("RTMR1", launch.rtmr1), ("RTMR2", launch.rtmr2)];
    for (replayed, (name, register)) in replayed.iter().zip(found) {
        if *replayed != register {
            let what = format!("CCEL: {name} by replay");
            return Err(TdxError::unexpected(what, register, replayed));
        }
    }
    Ok(events)
}

/// Reads a log's events, whatever they replay to.
///
/// # Errors
/// Another format, other digests than SHA-384, an event of another register, a length that leads out of the log.
pub fn boot_events(log: &[u8]) -> Result<Vec<BootEvent>, TdxError> {
    if log.len() > BOOT_LOG_MAX {
        return Err(TdxError::unexpected("CCEL", format_args!("at most {BOOT_LOG_MAX} bytes"), log.len()));
    }
    let mut reader = Reader { log, at: 0 };
    header(&mut reader)?;
    let mut events = Vec::new();
    while reader.at < log.len() {
        let index = reader.u32("register")?;
        if index == NO_MORE {
            break;
        }
        if events.len() == EVENTS_MAX {
            return Err(TdxError::unexpected("CCEL", format_args!("at most {EVENTS_MAX} events"), "more"));
        }
        let event_type = reader.u32("event type")?;
        reader.expect("number of digests", 1, Reader::u32)?;
        reader.expect("digest algorithm", SHA384, Reader::u16)?;
        let digest = Register(reader.array("digest")?);
        let payload = reader.part("event data")?.to_vec();
        if event_type == NO_ACTION {
            continue;
        }
        // Register 0 is MRTD, which nothing extends after launch; 4 is RTMR3, which nothing extends before us.
        let rtmr = match index {
            1..=3 => u8::try_from(index.wrapping_sub(1)).unwrap_or_default(),
            _ => return Err(reader.wrong("register", "1 to 3 (RTMR0 to RTMR2)", index)),
        };
        events.push(BootEvent { rtmr, event_type, digest, payload });
    }
    Ok(events)
}

/// The first event, in the older form with a SHA-1 digest: which algorithms the others have.
fn header(reader: &mut Reader<'_>) -> Result<(), TdxError> {
    reader.u32("register of the header")?;
    reader.expect("event type of the header", NO_ACTION, Reader::u32)?;
    reader.take(20, "digest of the header")?;
    let data = reader.part("header")?;
    let mut data = Reader { log: data, at: 0 };
    if data.take(SIGNATURE.len(), "signature")? != SIGNATURE {
        return Err(data.wrong("signature", "\"Spec ID Event03\"", "another"));
    }
    // Platform class, version, errata, size of UINTN.
    data.take(8, "versions")?;
    data.expect("number of algorithms", 1, Reader::u32)?;
    data.expect("algorithm", SHA384, Reader::u16)?;
    data.expect("size of a digest", 48, Reader::u16)
}

struct Reader<'a> {
    log: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, what: &str, expected: &str, found: impl std::fmt::Display) -> TdxError {
        TdxError::unexpected(format_args!("CCEL: {what} before byte {}", self.at), expected, found)
    }

    fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8], TdxError> {
        let rest = self.log.get(self.at..).unwrap_or_default();
        let taken = rest.get(..length).ok_or_else(|| {
            self.wrong(what, &format!("{length} more bytes"), format_args!("{}", rest.len()))
        })?;
        self.at = self.at.saturating_add(length);
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], TdxError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    fn u16(&mut self, what: &str) -> Result<u16, TdxError> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    fn u32(&mut self, what: &str) -> Result<u32, TdxError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// A part whose length stands before it.
    fn part(&mut self, what: &str) -> Result<&'a [u8], TdxError> {
        let length = self.u32(what)?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX), what)
    }

    fn expect<T: Copy + PartialEq + std::fmt::Display>(
        &mut self,
        what: &str,
        expected: T,
        read: impl Fn(&mut Self, &str) -> Result<T, TdxError>,
    ) -> Result<(), TdxError> {
        let found = read(self, what)?;
        if found == expected { Ok(()) } else { Err(self.wrong(what, &expected.to_string(), found)) }
    }
}
