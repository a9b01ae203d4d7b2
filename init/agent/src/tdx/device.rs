//! The TDX module as the kernel shows it.

use std::io;
use std::path::Path;
use std::time::Duration;

use casemate_measure::Register;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::boot_log::BOOT_LOG_MAX;
use super::error::TdxError;
use super::paths::Paths;
use super::registers::Registers;
use super::sys::{Kernel, Linux, REPORT_DATA_LEN};

/// The most that is read of a quote, bytes, as verifiers do. Real ones have about 5,000.
const QUOTE_MAX: usize = 64 << 10;
/// The longest attribute of text that is read, bytes: a name, or a 64-bit number.
const WORD_MAX: usize = 64;
/// drivers/virt/coco/tdx-guest/tdx-guest.c, `tdx_tsm_ops`.
const PROVIDER: &str = "tdx_guest";

/// How often something is tried that is busy (a quote is in flight: `EBUSY`) or was interrupted (`EINTR`) …
const TRIES: u32 = 5;
/// … and how long is waited in between: the driver looks for an answer once in a second.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a quote is asked for that somebody else's write overtakes. Nobody else may write there.
const OVERTAKEN_MAX: u32 = 3;

/// The TDX module, through the files of the kernel.
#[derive(Debug)]
pub struct Device {
    paths: Paths,
    kernel: Box<dyn Kernel>,
}

impl Device {
    /// The one we run on.
    pub fn new(paths: Paths) -> Self {
        Self::with(paths, Box::new(Linux))
    }

    /// Another kernel: a test's.
    pub fn with(paths: Paths, kernel: Box<dyn Kernel>) -> Self {
        Self { paths, kernel }
    }

    /// Where it looks.
    pub const fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The registers as a fresh TDREPORT has them.
    ///
    /// # Errors
    /// If there is none, or it is not the one that was asked for.
    pub fn registers(&self) -> Result<Registers, TdxError> {
        let mut asked = [0; REPORT_DATA_LEN];
        SystemRandom::new()
            .fill(&mut asked)
            .map_err(|_| TdxError::unexpected("random report data", "64 bytes", "none"))?;
        let device = self.paths.device();
        let report =
            self.patiently(&device, "TDX_CMD_GET_REPORT0", |path| self.kernel.report(path, &asked))?;
        Registers::of_report(&report, &asked)
    }

    /// RTMR`index` as sysfs has it.
    ///
    /// # Errors
    /// If it cannot be read, or has another length than 48 bytes.
    pub fn rtmr(&self, index: u8) -> Result<Register, TdxError> {
        let path = self.paths.rtmr(index);
        let bytes = self.read(&path, Register::ZERO.0.len())?;
        let found = bytes.len();
        let register = bytes.try_into().map(Register);
        register.map_err(|_| TdxError::unexpected(path.display(), "48 bytes", found))
    }

    /// Extends RTMR3, reads it back, and returns it.
    ///
    /// # Errors
    /// If it cannot be written whole at once, or is then not what extending makes of it.
    pub fn extend_rtmr3(&self, digest: &Register) -> Result<Register, TdxError> {
        let path = self.paths.rtmr(3);
        let expected = self.rtmr(3)?.extended(digest);
        // Tried once: whether an interrupted extend has happened is not known.
        let taken = self.kernel.write(&path, &digest.0).map_err(|e| TdxError::io(&path, "extend", e))?;
        whole(&path, digest.0.len(), taken)?;
        let found = self.rtmr(3)?;
        if found != expected {
            let what = format_args!("{}: after extending it", path.display());
            return Err(TdxError::unexpected(what, expected, found));
        }
        Ok(found)
    }

    /// The firmware's event log; empty if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is longer than [`BOOT_LOG_MAX`].
    pub fn boot_log(&self) -> Result<Vec<u8>, TdxError> {
        match self.read(&self.paths.boot_log(), BOOT_LOG_MAX) {
            Err(TdxError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            read => read,
        }
    }

    /// Checks that it is the TDX driver that answers in the report directory.
    ///
    /// # Errors
    /// If it is another, or there is none.
    pub fn check_provider(&self) -> Result<(), TdxError> {
        let path = self.paths.provider();
        let found = self.word(&path)?;
        if found == PROVIDER { Ok(()) } else { Err(TdxError::unexpected(path.display(), PROVIDER, found)) }
    }

    /// A quote over these 64 bytes, as the quoting enclave made it: what it says is for the caller to judge.
    ///
    /// # Errors
    /// If the kernel or the quoting enclave refuses, or somebody else writes into the report directory.
    pub fn quote(&self, report_data: &[u8; REPORT_DATA_LEN]) -> Result<Vec<u8>, TdxError> {
        self.check_provider()?;
        let (inblob, outblob) = (self.paths.inblob(), self.paths.outblob());
        let mut tries = 1;
        loop {
            let before = self.generation()?;
            let taken = self.patiently(&inblob, "write", |path| self.kernel.write(path, report_data))?;
            whole(&inblob, report_data.len(), taken)?;
            let quote = self.read(&outblob, QUOTE_MAX)?;
            let (expected, found) = (before.wrapping_add(1), self.generation()?);
            if expected == found {
                if quote.is_empty() {
                    return Err(TdxError::unexpected(outblob.display(), "a quote", "nothing"));
                }
                return Ok(quote);
            }
            if tries == OVERTAKEN_MAX {
                let what = format!("{}: after one write", self.paths.generation().display());
                return Err(TdxError::unexpected(what, expected, found));
            }
            tries = tries.saturating_add(1);
        }
    }

    fn generation(&self) -> Result<u64, TdxError> {
        let path = self.paths.generation();
        let word = self.word(&path)?;
        word.parse().map_err(|_| TdxError::unexpected(path.display(), "a number", format_args!("{word:?}")))
    }

    /// One line of text.
    fn word(&self, path: &Path) -> Result<String, TdxError> {
        let bytes = self.read(path, WORD_MAX)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| TdxError::unexpected(path.display(), "text", "bytes that are none"))?;
        Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
    }

    fn read(&self, path: &Path, limit: usize) -> Result<Vec<u8>, TdxError> {
        let bytes = self.patiently(path, "read", |path| self.kernel.read(path, limit))?;
        if bytes.len() > limit {
            return Err(TdxError::unexpected(path.display(), format_args!("at most {limit} bytes"), "more"));
        }
        Ok(bytes)
    }

    /// Tries again, within bounds, what is busy or was interrupted.
    fn patiently<T>(
        &self,
        path: &Path,
        action: &'static str,
        mut act: impl FnMut(&Path) -> io::Result<T>,
    ) -> Result<T, TdxError> {
        let mut tries = 1;
        loop {
            match act(path) {
                Ok(done) => return Ok(done),
                Err(error) if tries < TRIES && is_passing(&error) => {
                    tries = tries.saturating_add(1);
                    self.kernel.pause(PAUSE);
                }
                Err(error) => return Err(TdxError::io(path, action, error)),
            }
        }
    }
}

fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EINTR | libc::EAGAIN))
}

fn whole(path: &Path, expected: usize, taken: usize) -> Result<(), TdxError> {
    if expected == taken {
        return Ok(());
    }
    let what = format_args!("{}: bytes taken of one write", path.display());
    Err(TdxError::unexpected(what, expected, taken))
}
