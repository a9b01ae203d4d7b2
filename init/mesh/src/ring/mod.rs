//! The log ring: lines of one process in a memory file of fixed size, which PID 1 writes and the mesh reads.
//!
//! All numbers are little-endian. The file is a header of [`HEADER_LEN`] bytes and `capacity` bytes of data:
//!
//! | offset | bytes | header field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `CASELOG\n` |
//! | 8 | 4 | version, 1 |
//! | 12 | 4 | length of the header, 64 |
//! | 16 | 8 | capacity of the data in bytes |
//! | 24 | 8 | head: bytes ever written; the next record's position |
//! | 32 | 8 | tail: position of the oldest record that is still whole |
//! | 40 | 8 | sequence number of the next line; the first line ever has 1 |
//! | 48 | 8 | dropped: lines that were there and are not any more |
//! | 56 | 8 | FNV-1a of the 56 bytes before |
//!
//! Position *p* lies at offset 64 + (*p* mod capacity). Records stand end to end between tail and head and may go round the
//! end of the data:
//!
//! | offset | bytes | record field |
//! | --- | --- | --- |
//! | 0 | 8 | sequence number of the line, above the one before |
//! | 8 | 8 | when PID 1 read it: ms of `CLOCK_BOOTTIME` |
//! | 16 | 1 | flags: 1 = the line was longer than [`MAX_LINE`] and is cut |
//! | 17 | 1 | 0 |
//! | 18 | 2 | length of the line |
//! | 20 | | the line, as the process wrote it |
//!
//! The writer moves the tail past what it is going to overwrite, then writes the records, then moves the head. A reader
//! that reads some data and then the header therefore knows which of it was whole: what lies at or behind the tail
//! that it finds then. This needs stores and loads to be seen in order, as x86-64 has them.

mod layout;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

pub use layout::{CAPACITY, HEADER_LEN, MAX_LINE, file_len};
pub use reader::{Limits, Line, Page, Reader, RingError, Summary};
pub use writer::{Batch, Writer};

/// Bytes at offsets, which somebody else may be changing.
pub trait Store {
    /// Fills the buffer from there.
    ///
    /// # Errors
    /// What the kernel says; also if there are fewer bytes.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;
}

/// A [`Store`] that may be written.
pub trait StoreMut: Store {
    /// Writes all of it there.
    ///
    /// # Errors
    /// What the kernel says; some of it may have been written.
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;
}

/// pread(2): the file is never mapped.
impl Store for File {
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_exact_at(buffer, offset)
    }
}

/// pwrite(2): the file is never mapped, so that its pages are not the writer's resident memory.
impl StoreMut for File {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }
}
