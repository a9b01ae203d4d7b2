//! Lines of our processes and of the workload. The development image prints them; nothing of them leaves a
//! production image.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys;

/// The longest line that is kept; the rest of a longer one is cut, not carried over.
const MAX_LINE: usize = 1024;
/// How much of one pipe is read before others get their turn.
const MAX_TURN: usize = 16 << 10;

/// The reading end of a process's output.
#[derive(Debug)]
pub struct LineReader {
    pipe: File,
    partial: Vec<u8>,
    cut: bool,
}

impl LineReader {
    /// A pipe: the reader, and the end to hand to a process.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        sys::non_blocking(&reader)?;
        Ok((Self { pipe: reader.into(), partial: Vec::new(), cut: false }, writer))
    }

    /// Reads what is there and hands each whole line on. False when every writer is gone.
    pub fn drain(&mut self, mut line: impl FnMut(&str)) -> bool {
        let mut buffer = [0_u8; 4096];
        let mut taken = 0_usize;
        while taken < MAX_TURN {
            let chunk = match self.pipe.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => buffer.get(..length).unwrap_or_default(),
                Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
            };
            taken = taken.saturating_add(chunk.len());
            for &byte in chunk {
                match byte {
                    b'\n' => {
                        line(&printable(&self.partial));
                        self.partial.clear();
                        self.cut = false;
                    }
                    _ if self.cut => {}
                    _ => {
                        self.partial.push(byte);
                        self.cut = self.partial.len() >= MAX_LINE;
                    }
                }
            }
        }
        true
    }
}

impl AsFd for LineReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// Text that cannot move a terminal's cursor or reorder what stands around it.
fn printable(bytes: &[u8]) -> String {
    let safe = |c: char| {
        let bidirectional =
            matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() && c != '\t') || bidirectional { '\u{fffd}' } else { c }
    };
    String::from_utf8_lossy(bytes).trim_end_matches('\r').chars().map(safe).collect()
}

/// Prints a line on the console of a development image.
pub fn print(name: &str, line: &str) {
    if cfg!(feature = "dev") {
        // A console that takes nothing must not stop PID 1.
        drop(writeln!(io::stdout(), "{name}: {line}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_printable_and_bounded() {
        let (mut reader, writer) = LineReader::new().unwrap();
        let mut writer = File::from(writer);
        writer.write_all(b"one\ntw").unwrap();
        let mut lines = Vec::new();
        assert!(reader.drain(|line| lines.push(line.to_owned())));
        writer.write_all(b"o\x1b[2J\r\n").unwrap();
        writer.write_all(&vec![b'x'; 3000]).unwrap();
        writer.write_all(b"\nlast\n").unwrap();
        assert!(reader.drain(|line| lines.push(line.to_owned())));
        assert_eq!(lines[..2], ["one", "two\u{fffd}[2J"]);
        assert_eq!((lines[2].len(), lines[3].as_str()), (MAX_LINE, "last"));
        drop(writer);
        assert!(!reader.drain(|_| ()));
    }
}
