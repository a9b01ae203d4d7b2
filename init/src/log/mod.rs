//! Lines of our processes and of the workload: each process has a ring ([`casemate_mesh::ring`]), PID 1 has one for its own
//! lines. The development image prints them as well; of a production image they leave through the mesh, for `logs.readers`
//! only.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, TryLockError};

use casemate_mesh::ring::Batch;
use nix::time::{ClockId, clock_gettime};

mod budget;
mod lines;
mod output;
mod ring;

pub use budget::Budget;
pub use output::Output;
pub use ring::{Counts, Ring};

/// The name of PID 1's own ring.
pub const OWN: &str = "casemate";

/// PID 1's own ring; the panic hook and the watchdog need it too.
static RING: Mutex<Option<Ring>> = Mutex::new(None);

/// From now on PID 1 keeps its own lines.
///
/// # Errors
/// What the kernel says.
pub fn keep() -> io::Result<()> {
    let ring = Ring::new(OWN)?;
    with_own(|own| *own = Some(ring));
    Ok(())
}

/// A line of PID 1's own. `name` is [`OWN`], or whom it is about.
pub fn print(name: &str, line: &str) {
    let mut batch = Batch::default();
    let about = if name == OWN { String::new() } else { format!("{name}: ") };
    for part in line.lines() {
        batch.push(boottime_ms(), false, format!("{about}{part}").as_bytes());
    }
    // There is nobody to tell that PID 1's own ring is not writable; the ring counts it.
    with_own(|own| own.as_mut().map(|ring| ring.append(batch)));
    show_line(name, line.as_bytes());
}

/// Shows something on the console of a development image that is no line of anybody's log.
pub fn show(name: &str, text: &str) {
    show_line(name, text.as_bytes());
}

/// What PID 1's own ring has counted.
pub fn own_counts() -> Counts {
    with_own(|own| own.as_ref().map(Ring::counts)).flatten().unwrap_or_default()
}

/// PID 1's own ring, to be read only.
///
/// # Errors
/// `NotFound` before [`keep`]; what the kernel says.
pub fn own_reader() -> io::Result<OwnedFd> {
    with_own(|own| own.as_ref().map(Ring::reader)).flatten().ok_or(io::ErrorKind::NotFound)?
}

/// `None` if a thread that panics has it: its line is lost, its end is not held up.
fn with_own<T>(use_it: impl FnOnce(&mut Option<Ring>) -> T) -> Option<T> {
    match RING.try_lock() {
        Ok(mut ring) => Some(use_it(&mut ring)),
        Err(TryLockError::Poisoned(ring)) => Some(use_it(&mut ring.into_inner())),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Shows a line on the console of a development image.
fn show_line(name: &str, line: &[u8]) {
    if cfg!(feature = "dev") {
        // A console that takes nothing must not stop PID 1.
        drop(writeln!(io::stdout(), "{name}: {}", printable(line)));
    }
}

/// Text that cannot move a terminal's cursor or reorder what stands around it.
fn printable(bytes: &[u8]) -> String {
    let safe = |c: char| {
        let bidirectional =
            matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() && c != '\t') || bidirectional { '\u{fffd}' } else { c }
    };
    String::from_utf8_lossy(bytes).chars().map(safe).collect()
}

/// Since the kernel started.
fn boottime_ms() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(std::time::Duration::ZERO, Into::into);
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_on_the_console_moves_no_cursor() {
        assert_eq!(printable(b"a\x1b[2J\r\tb\xff\xe2\x80\xae"), "a\u{fffd}[2J\u{fffd}\tb\u{fffd}\u{fffd}");
    }

    #[test]
    fn own_lines_are_kept_one_by_one() {
        let before = own_counts().lines;
        keep().unwrap();
        print(OWN, "one\ntwo");
        print("agent", "three");
        assert_eq!(own_counts(), Counts { lines: 3, dropped: 0 }, "{before}");
        let reader = casemate_mesh::ring::Reader::new(std::fs::File::from(own_reader().unwrap()));
        let limits = casemate_mesh::ring::Limits { lines: 9, bytes: 999 };
        let lines = reader.read(0, limits).unwrap().lines;
        let texts: Vec<_> = lines.iter().map(|line| String::from_utf8_lossy(&line.bytes)).collect();
        assert_eq!(texts, ["one", "two", "agent: three"]);
    }
}
