//! Captures ACPI tables: starts the machine, waits until its firmware is done and its guest has powered it off, and reads
//! what QEMU served to the firmware, from outside. Every wait has an end.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use crate::acpi::{self, Blobs, Item, Machine, Sockets};
use crate::error::Error;
use crate::qmp::{self, Message, MessageStream};
use crate::text::printable;

/// How often a machine is started before it is given up. Under TCG one now and then goes astray.
const TRIES: u32 = 3;
/// Where in the machine's memory fw_cfg finds the request, and where it puts the bytes: nobody needs it any more.
const REQUEST_AT: u32 = 1 << 20;
const BYTES_AT: u32 = 2 << 20;
/// The longest line of the monitor that is read.
const MONITOR_LINE: usize = 1 << 16;
/// How much of what QEMU printed is repeated, in bytes from the end.
const LOG_TAIL: usize = 400;

/// What is to be captured.
#[derive(Clone, Debug)]
pub struct Request {
    /// QEMU's program.
    pub program: String,
    /// The machine.
    pub machine: Machine,
    /// Its firmware.
    pub firmware: PathBuf,
    /// How long one try may take.
    pub limit: Duration,
}

/// What was captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// QEMU's version, by its own word: `11.1.3`.
    pub qemu: String,
    /// The files.
    pub blobs: Blobs,
}

/// Captures the tables of a machine. `note` gets a line for each try that failed and is repeated.
///
/// # Errors
/// If QEMU cannot be started or refuses its arguments; [`Error::Capture`] if the machine went astray in every try, or what
/// was read cannot be what the firmware saw.
pub fn capture(request: &Request, note: &mut dyn FnMut(&str)) -> Result<Captured, Error> {
    let dir = tempfile::Builder::new().prefix("casemate-acpi.").tempdir();
    let dir = dir.map_err(Error::system("a temporary folder"))?;
    let program = dir.path().join("off.efi");
    std::fs::write(&program, acpi::power_off()).map_err(Error::file(&program))?;
    let log = dir.path().join("qemu.log");
    let mut tries = 1;
    loop {
        match once(request, &program, &log) {
            Ok(captured) => return Ok(captured),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Astray(why)) if tries == TRIES => {
                return Err(Error::Capture(format!(
                    "the machine went astray {TRIES} times, the last time: {why}"
                )));
            }
            Err(Failure::Astray(why)) => note(&format!("try {tries} of {TRIES}: {why}; once more")),
        }
        tries += 1;
    }
}

/// Why a try gave nothing.
enum Failure {
    /// Another try would end the same way.
    Final(Error),
    /// The machine did not come to its end.
    Astray(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

fn once(request: &Request, program: &Path, log: &Path) -> Result<Captured, Failure> {
    let deadline = Instant::now() + request.limit;
    let pair = || UnixStream::pair().map_err(Error::system("socketpair"));
    let (monitor, qemu_monitor) = pair()?;
    let (qtest, qemu_qtest) = pair()?;
    let (qemu_monitor, qemu_qtest) = (OwnedFd::from(qemu_monitor), OwnedFd::from(qemu_qtest));
    let sockets =
        Sockets { monitor: super::spawn::number(&qemu_monitor), qtest: super::spawn::number(&qemu_qtest) };
    let args = acpi::argv(&request.machine, &request.firmware, program, sockets);
    let output = File::create(log).map_err(Error::file(log))?;
    let child = super::spawn::spawn(&request.program, &args, &output, vec![qemu_monitor, qemu_qtest])?;
    let mut qemu = Qemu { child, log };
    let qemu_version = match powered_off(Lines::new(monitor, deadline)) {
        Ok(version) => version,
        Err(Stop::Closed) => return Err(qemu.ended()),
        Err(Stop::Late) => {
            let limit = request.limit.as_secs();
            return Err(Failure::Astray(format!("the firmware had not started its guest within {limit} s")));
        }
        Err(Stop::Ended(reason)) => {
            return Err(Failure::Astray(format!("the machine ended by itself, before its guest: {reason}")));
        }
        Err(Stop::Error(error)) => return Err(error.into()),
    };
    let blobs = match FwCfg(Lines::new(qtest, deadline)).blobs() {
        Ok(blobs) => blobs,
        Err(Stop::Closed) => return Err(qemu.ended()),
        Err(Stop::Late) => return Err(Failure::Astray("qtest: no answer in time".into())),
        Err(Stop::Ended(reason)) => return Err(Failure::Astray(reason)),
        Err(Stop::Error(error)) => return Err(error.into()),
    };
    blobs.check().map_err(|error| Error::Capture(error.to_string()))?;
    Ok(Captured { qemu: qemu_version, blobs })
}

/// Ends with whoever holds it.
struct Qemu<'a> {
    child: Child,
    log: &'a Path,
}

impl Qemu<'_> {
    /// It closed its sockets: how did it end, and what did it say?
    fn ended(&mut self) -> Failure {
        let status = match self.child.wait() {
            Ok(status) => status,
            Err(error) => return Failure::Final(Error::system("waiting for QEMU")(error)),
        };
        let log = std::fs::read(self.log).unwrap_or_default();
        let tail = log.get(log.len().saturating_sub(LOG_TAIL)..).unwrap_or_default();
        let said = printable(String::from_utf8_lossy(tail).trim().replace('\n', "; ").as_str());
        let how = format!("QEMU ended: {status}: {said}");
        // A status of its own is an opinion on its arguments.
        if status.code().is_some() { Failure::Final(Error::Capture(how)) } else { Failure::Astray(how) }
    }
}

impl Drop for Qemu<'_> {
    fn drop(&mut self) {
        // It may have ended already, and then there is nothing to end.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Why a conversation with QEMU ended.
enum Stop {
    Closed,
    Late,
    Ended(String),
    Error(Error),
}

/// Waits until the guest has powered the machine off and it stands still. QEMU's version.
fn powered_off(mut monitor: Lines) -> Result<String, Stop> {
    monitor.send(qmp::CAPABILITIES)?;
    let mut version = None;
    let mut off = false;
    let mut messages = MessageStream::default();
    loop {
        let line = monitor.next(MONITOR_LINE)?;
        version = version.or_else(|| qmp::version(&line));
        for message in messages.push(&line) {
            match message {
                Message::Shutdown(reason) if reason == "guest-shutdown" => off = true,
                Message::Shutdown(reason) => return Err(Stop::Ended(reason)),
                Message::Stop if off => {
                    return version.ok_or_else(|| {
                        Stop::Error(Error::Qmp("expected a greeting with QEMU's version, found none".into()))
                    });
                }
                Message::Refused(why) => return Err(Stop::Error(Error::Qmp(why))),
                Message::NotQmp(line) => return Err(Stop::Error(Error::Qmp(format!("not QMP: {line}")))),
                _ => {}
            }
        }
    }
}

/// The fw_cfg device of a machine that stands still.
struct FwCfg(Lines);

impl FwCfg {
    fn blobs(&mut self) -> Result<Blobs, Stop> {
        let count = self.file(Item { selector: acpi::DIRECTORY, length: 4 })?;
        let length = acpi::directory_length(&count).map_err(refused)?;
        let directory = self.file(Item { selector: acpi::DIRECTORY, length })?;
        let [loader, rsdp, tables] =
            Blobs::NAMES.map(|name| self.file(acpi::find(&directory, name).map_err(refused)?));
        Ok(Blobs { loader: loader?, rsdp: rsdp?, tables: tables? })
    }

    fn file(&mut self, item: Item) -> Result<Vec<u8>, Stop> {
        self.ask(&acpi::write(REQUEST_AT, &acpi::request(item, BYTES_AT)), 0)?;
        let (port, value) = acpi::trigger(REQUEST_AT);
        self.ask(&acpi::outl(port, value), 0)?;
        let control = self.ask(&acpi::read(REQUEST_AT, 4), 4)?;
        // All of it is cleared by a transfer that went well.
        if control != [0; 4] {
            let why =
                format!("selector {:#x}: expected 00000000, found {}", item.selector, hex::encode(control));
            return Err(refused(format!("fw_cfg: {why}")));
        }
        self.ask(&acpi::read(BYTES_AT, item.length), item.length)
    }

    /// One command and the bytes of its answer.
    fn ask(&mut self, command: &str, length: u32) -> Result<Vec<u8>, Stop> {
        self.0.send(command)?;
        let digits = usize::try_from(length).unwrap_or(usize::MAX).saturating_mul(2);
        let line = self.0.next(digits.saturating_add(256))?;
        acpi::read_answer(&line, length).map_err(refused)
    }
}

fn refused(why: impl ToString) -> Stop {
    Stop::Error(Error::Capture(why.to_string()))
}

/// Lines of a socket, until a point in time.
struct Lines {
    socket: UnixStream,
    deadline: Instant,
    pending: Vec<u8>,
}

impl Lines {
    const fn new(socket: UnixStream, deadline: Instant) -> Self {
        Self { socket, deadline, pending: Vec::new() }
    }

    fn left(&self) -> Result<Duration, Stop> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Stop::Late) } else { Ok(left) }
    }

    fn send(&mut self, line: &str) -> Result<(), Stop> {
        let left = self.left()?;
        self.socket.set_write_timeout(Some(left)).map_err(stop)?;
        self.socket.write_all(line.as_bytes()).map_err(stop)
    }

    /// The next line of at most so many bytes, with its end.
    fn next(&mut self, most: usize) -> Result<Vec<u8>, Stop> {
        let mut chunk = vec![0; 1 << 16];
        let mut seen = 0;
        loop {
            let fresh = self.pending.get(seen..).unwrap_or_default();
            if let Some(end) = fresh.iter().position(|byte| *byte == b'\n') {
                let rest = self.pending.split_off(seen + end + 1);
                return Ok(std::mem::replace(&mut self.pending, rest));
            }
            seen = self.pending.len();
            if seen > most {
                return Err(refused(format!(
                    "QEMU: expected a line of at most {most} bytes, found a longer one"
                )));
            }
            let left = self.left()?;
            self.socket.set_read_timeout(Some(left)).map_err(stop)?;
            match self.socket.read(&mut chunk).map_err(stop)? {
                0 => return Err(Stop::Closed),
                length => self.pending.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            }
        }
    }
}

fn stop(error: std::io::Error) -> Stop {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Stop::Late,
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Stop::Closed,
        _ => Stop::Error(Error::system("speaking with QEMU")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(limit: Duration) -> (Lines, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Lines::new(ours, Instant::now() + limit), theirs)
    }

    #[test]
    fn lines_come_one_at_a_time_whatever_the_pieces() {
        let (mut lines, mut other) = lines(Duration::from_secs(60));
        other.write_all(b"one\ntwo\nthr").unwrap();
        assert_eq!(lines.next(10).ok().unwrap(), b"one\n");
        assert_eq!(lines.next(10).ok().unwrap(), b"two\n");
        other.write_all(b"ee\n").unwrap();
        assert_eq!(lines.next(10).ok().unwrap(), b"three\n");
        drop(other);
        assert!(matches!(lines.next(10), Err(Stop::Closed)));
    }

    #[test]
    fn an_endless_line_and_silence_have_an_end() {
        let (mut flooded, mut other) = lines(Duration::from_secs(60));
        other.write_all(&[b'x'; 11]).unwrap();
        assert!(matches!(flooded.next(10), Err(Stop::Error(Error::Capture(_)))));
        let (mut silent, _other) = lines(Duration::from_millis(30));
        assert!(matches!(silent.next(10), Err(Stop::Late)));
        assert!(matches!(silent.send("x"), Err(Stop::Late)));
    }

    #[test]
    fn a_reset_is_no_power_off() {
        let greeting = "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 3, \"minor\": 1, \"major\": 11}}}}\n";
        let event = |reason| format!("{{\"event\": \"SHUTDOWN\", \"data\": {{\"reason\": \"{reason}\"}}}}\n");
        for (said, expected) in [
            (format!("{greeting}{}{{\"event\": \"STOP\"}}\n", event("guest-shutdown")), Ok("11.1.3")),
            (format!("{greeting}{}", event("guest-reset")), Err("ended: guest-reset")),
            (format!("{greeting}{}", event("guest-shutdown")), Err("closed")),
            (
                format!("{}{{\"event\": \"STOP\"}}\n", event("guest-shutdown")),
                Err("QMP: expected a greeting"),
            ),
            (format!("{greeting}{{\"error\": {{\"desc\": \"no\"}}}}\n"), Err("QMP: no")),
            ("hello\n".into(), Err("QMP: not QMP: hello")),
        ] {
            let (lines, mut other) = lines(Duration::from_secs(60));
            other.write_all(said.as_bytes()).unwrap();
            // Only its half that we read from: what we send must still find somebody.
            other.shutdown(std::net::Shutdown::Write).unwrap();
            let found = powered_off(lines).map_err(|stop| match stop {
                Stop::Closed => "closed".into(),
                Stop::Late => "late".into(),
                Stop::Ended(reason) => format!("ended: {reason}"),
                Stop::Error(error) => error.to_string(),
            });
            match (found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(found), Err(expected)) => assert!(found.starts_with(expected), "{found}"),
                (found, expected) => panic!("{said}: expected {expected:?}, found {found:?}"),
            }
        }
    }

    #[test]
    fn a_program_that_is_no_qemu_is_named_and_tried_once() {
        let machine = Machine {
            cpus: std::num::NonZeroU16::MIN,
            memory_mib: 128,
            flavor: casemate_measure::image::Flavor::Prod,
        };
        let request = |program: &str, limit| Request {
            program: program.into(),
            machine,
            firmware: "/nonexistent".into(),
            limit,
        };
        let mut notes = 0;
        let mut try_one =
            |program: &str, limit| capture(&request(program, limit), &mut |_| notes += 1).unwrap_err();
        assert!(matches!(try_one("/nonexistent/qemu", Duration::from_secs(60)), Error::Start { .. }));
        let error = try_one("false", Duration::from_secs(60)).to_string();
        assert!(error.contains("QEMU ended: exit status: 1"), "{error}");
        assert_eq!(notes, 0);
    }
}
