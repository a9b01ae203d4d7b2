//! The lowest edge: one file opened, read or written once, closed; and the one ioctl.
#![allow(unsafe_code, reason = "this module is the package's one address for it")]

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

/// `TDX_REPORTDATA_LEN`, include/uapi/linux/tdx-guest.h.
pub const REPORT_DATA_LEN: usize = 64;
/// `TDX_REPORT_LEN`, include/uapi/linux/tdx-guest.h.
pub const TDREPORT_LEN: usize = 1024;
/// `TDX_CMD_GET_REPORT0`: `_IOWR('T', 1, struct tdx_report_req)` of the same file.
const TDX_CMD_GET_REPORT0: u32 = 0xc440_5401;

/// What the kernel is asked for. Everything above it is arithmetic on the answers, so that a test can be a kernel whose
/// generation moves, which is busy, or which lies.
pub trait Kernel: fmt::Debug + Send + Sync {
    /// Opens, reads to the end, but at most `limit` bytes and one more, and closes. `EINTR` is handed on.
    ///
    /// # Errors
    /// What the kernel says.
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;

    /// Opens a file that exists, writes once at its start, closes, and returns how many bytes were taken. configfs acts on
    /// what was written when the file is closed (fs/configfs/file.c), and drops the verdict.
    ///
    /// # Errors
    /// What the kernel says.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<usize>;

    /// A TDREPORT.
    ///
    /// # Errors
    /// What the kernel says.
    fn report(&self, device: &Path, report_data: &[u8; REPORT_DATA_LEN]) -> io::Result<[u8; TDREPORT_LEN]>;

    /// Waits.
    fn pause(&self, time: Duration);
}

/// The one we run on.
#[derive(Clone, Copy, Debug)]
pub struct Linux;

impl Kernel for Linux {
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let most = limit.saturating_add(1);
        let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
        // By hand: the library's loop would repeat EINTR for ever.
        while bytes.len() < most {
            let wanted = part.len().min(most.saturating_sub(bytes.len()));
            let Some(room) = part.get_mut(..wanted) else { break };
            match file.read(room)? {
                0 => break,
                length => bytes.extend_from_slice(room.get(..length).unwrap_or_default()),
            }
        }
        Ok(bytes)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<usize> {
        OpenOptions::new().write(true).open(path)?.write(bytes)
    }

    fn report(&self, device: &Path, report_data: &[u8; REPORT_DATA_LEN]) -> io::Result<[u8; TDREPORT_LEN]> {
        /// `struct tdx_report_req`, include/uapi/linux/tdx-guest.h.
        #[repr(C)]
        struct Request {
            report_data: [u8; REPORT_DATA_LEN],
            report: [u8; TDREPORT_LEN],
        }
        let file = OpenOptions::new().read(true).write(true).open(device)?;
        let mut request = Request { report_data: *report_data, report: [0; TDREPORT_LEN] };
        // SAFETY: the descriptor is open for the call's duration; the driver reads and writes within `request`, whose layout
        // and size are those that the command's number states (0x440 bytes), and which outlives the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), TDX_CMD_GET_REPORT0.into(), &raw mut request) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(request.report) }
    }

    fn pause(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number states direction, size, type and number (include/uapi/asm-generic/ioctl.h).
    #[test]
    fn the_command_states_the_size_of_its_argument() {
        let size = u32::try_from(REPORT_DATA_LEN + TDREPORT_LEN).unwrap();
        assert_eq!(TDX_CMD_GET_REPORT0, 3 << 30 | size << 16 | u32::from(b'T') << 8 | 1);
    }

    #[test]
    fn reading_stops_one_byte_behind_the_limit_and_writing_makes_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert_eq!(Linux.write(&path, b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::write(&path, [7; 10_000]).unwrap();
        assert_eq!(Linux.read(&path, 10_000).unwrap().len(), 10_000);
        assert_eq!(Linux.read(&path, 9_000).unwrap().len(), 9_001);
        assert_eq!(Linux.read(&path, 10).unwrap(), [7; 11]);
        // At the start, without cutting off what is there.
        assert_eq!(Linux.write(&path, &[8; 3]).unwrap(), 3);
        assert_eq!(Linux.read(&path, 20_000).unwrap()[..4], [8, 8, 8, 7]);
        assert_eq!(Linux.read(&path, 20_000).unwrap().len(), 10_000);
    }

    #[test]
    fn a_device_that_is_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tdx_guest");
        assert_eq!(Linux.report(&path, &[0; 64]).unwrap_err().raw_os_error(), Some(libc::ENOENT));
        std::fs::write(&path, "").unwrap();
        assert_eq!(Linux.report(&path, &[0; 64]).unwrap_err().raw_os_error(), Some(libc::ENOTTY));
    }
}
