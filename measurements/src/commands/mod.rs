//! One module a command: files in, text and exit status out.

pub(crate) mod compose;
pub(crate) mod diff;
pub(crate) mod image;
pub(crate) mod replay;
mod text;

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use casemate_measure::document::reference;
use casemate_measure::log::{self, Log};
use casemate_measure::tdx::region;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: it is so.
    Yes,
    /// 1: it is not: registers differ, a log contradicts itself, or something that was to be equal is not pinned.
    No,
    /// 64: a wrong command line, and a file that cannot be read or was refused (sysexits.h `EX_USAGE`).
    Usage,
}

impl Exit {
    /// 0 or 1.
    const fn of(so: bool) -> Self {
        if so { Self::Yes } else { Self::No }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Yes => 0,
            Exit::No => 1,
            Exit::Usage => 64,
        })
    }
}

/// The tables of README.md.
pub(crate) fn reference() -> String {
    format!("{}\n{}\n{}", reference::keys(), reference::dstack_fields(), region::table())
}

/// Writes all of it to stdout.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A file of at most so many bytes.
fn read(path: &Path, most: usize) -> anyhow::Result<(String, Vec<u8>)> {
    let file = path.display().to_string();
    let opened = File::open(path).with_context(|| file.clone())?;
    let about = opened.metadata().with_context(|| file.clone())?;
    let length = if about.is_file() { about.len() } else { 0 };
    // What is no file does not say how long it is: it is read, one byte further than may be there.
    anyhow::ensure!(length <= most as u64, "{file}: expected at most {most} bytes, found {length}");
    let mut bytes = Vec::new();
    opened.take((most as u64).saturating_add(1)).read_to_end(&mut bytes).with_context(|| file.clone())?;
    anyhow::ensure!(bytes.len() <= most, "{file}: expected at most {most} bytes, found more");
    Ok((file, bytes))
}

/// A log, with the registers of another file if one is given.
fn read_log(path: &Path, quote: Option<&Path>) -> anyhow::Result<Log> {
    let (file, bytes) = read(path, log::MAX_BYTES)?;
    let mut log = log::read(&file, &bytes)?;
    if let Some(path) = quote {
        let (file, bytes) = read(path, log::MAX_BYTES)?;
        let registers = log::read(&file, &bytes)?.registers;
        log.registers = Some(registers.with_context(|| format!("{file}: expected a quote, found none"))?);
    }
    Ok(log)
}

fn as_json(report: &impl serde::Serialize) -> anyhow::Result<String> {
    Ok(format!("{}\n", serde_json::to_string_pretty(report)?))
}
