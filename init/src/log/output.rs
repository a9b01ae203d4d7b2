//! The output of one process: a pipe for each run of it, one ring for all of them.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use casemate_mesh::ring::Batch;

use super::budget::{Budget, RATE, SHOWN};
use super::lines::Lines;
use super::ring::{Counts, Ring};
use super::{boottime_ms, show_line};
use crate::sys;

/// How much of one pipe is read before others get their turn.
const MAX_TURN: usize = 16 << 10;
/// What a pipe holds (pipe(7)), so what may be left in it when its process has ended.
const PIPE: usize = 64 << 10;

/// What one process writes to its standard output and error, which are one pipe: their lines keep their order.
#[derive(Debug)]
pub struct Output {
    name: String,
    ring: Ring,
    pipe: Option<File>,
    lines: Lines,
    budget: Budget,
    /// What of it the console of a development image is given.
    shown: Budget,
}

impl Output {
    /// An empty ring, and no pipe yet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(name: &str) -> io::Result<Self> {
        Ok(Self {
            name: name.to_owned(),
            ring: Ring::new(name)?,
            pipe: None,
            lines: Lines::default(),
            budget: Budget::new(RATE),
            shown: Budget::new(SHOWN),
        })
    }

    /// The end of a new pipe, for a new run of the process. What the last run left in its pipe is taken first.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn connect(&mut self) -> io::Result<OwnedFd> {
        self.take(PIPE);
        self.end();
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        sys::non_blocking(&reader)?;
        self.pipe = Some(reader.into());
        Ok(writer)
    }

    /// What to poll: nothing without a pipe, and nothing while the process has used up its share of PID 1's time.
    pub fn watched(&self) -> Option<BorrowedFd<'_>> {
        let left = self.budget.left(boottime_ms());
        self.pipe.as_ref().filter(|_| left > 0).map(File::as_fd)
    }

    /// Reads what is there, and no more than is this process's turn.
    pub fn drain(&mut self) {
        self.take(MAX_TURN.min(self.budget.left(boottime_ms())));
    }

    /// Whose it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its ring has counted.
    pub const fn counts(&self) -> Counts {
        self.ring.counts()
    }

    /// Its ring, to be read only.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reader(&self) -> io::Result<OwnedFd> {
        self.ring.reader()
    }

    /// Reads up to that much; the pipe is closed when all its writers are gone.
    fn take(&mut self, most: usize) {
        let mut buffer = [0_u8; 4096];
        let mut taken = 0_usize;
        while taken < most {
            let Some(pipe) = &mut self.pipe else { return };
            let length = match pipe.read(&mut buffer) {
                Ok(length @ 1..) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) | Err(_) => return self.end(),
            };
            taken = taken.saturating_add(length);
            let now = boottime_ms();
            self.budget.take(length, now);
            let chunk = buffer.get(..length).unwrap_or_default();
            self.keep(now, Some(chunk));
        }
    }

    fn end(&mut self) {
        self.pipe = None;
        self.keep(boottime_ms(), None);
    }

    /// Keeps the lines that end in a chunk, or, at the end of all, the one that has no end.
    fn keep(&mut self, now: u64, chunk: Option<&[u8]>) {
        let (mut batch, name, shown) = (Batch::default(), &self.name, &mut self.shown);
        let line = |line: &[u8], cut: bool| {
            batch.push(now, cut, line);
            let left = shown.left(now);
            shown.take(line.len().saturating_add(1), now);
            if shown.left(now) > 0 {
                show_line(name, line);
            } else if left > 0 {
                show_line(name, b"(more lines than a console takes: the ring has them)");
            }
        };
        match chunk {
            Some(chunk) => self.lines.feed(chunk, line),
            None => self.lines.finish(line),
        }
        if !batch.is_empty() {
            // No memory for them: the ring counts them as dropped.
            drop(self.ring.append(batch));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use casemate_mesh::ring::{Limits, Reader};

    use super::*;

    fn texts(output: &Output) -> Vec<String> {
        let reader = Reader::new(File::from(output.reader().unwrap()));
        let page = reader.read(0, Limits { lines: 99, bytes: usize::MAX }).unwrap();
        page.lines.iter().map(|line| String::from_utf8_lossy(&line.bytes).into_owned()).collect()
    }

    #[test]
    fn one_ring_keeps_the_lines_of_all_runs() {
        let mut output = Output::new("web").unwrap();
        assert!(output.watched().is_none());
        let mut first = File::from(output.connect().unwrap());
        first.write_all(b"one\ntw").unwrap();
        output.drain();
        assert!(output.watched().is_some());
        first.write_all(b"o\nand without an end").unwrap();
        drop(first);
        // Nobody read that before the next run.
        let mut second = File::from(output.connect().unwrap());
        second.write_all(b"three\n").unwrap();
        output.drain();
        assert_eq!(texts(&output), ["one", "two", "and without an end", "three"]);
        drop(second);
        output.drain();
        assert!(output.watched().is_none(), "all writers are gone");
        assert_eq!(output.counts(), Counts { lines: 4, dropped: 0 });
    }

    #[test]
    fn a_flood_waits_for_its_turn() {
        let mut output = Output::new("web").unwrap();
        let mut pipe = File::from(output.connect().unwrap());
        pipe.write_all(&[b"0123456789abcde\n".as_slice(); PIPE / 16].concat()).unwrap();
        output.drain();
        assert_eq!(output.counts().lines, MAX_TURN as u64 / 16, "one turn is bounded");
        output.budget.take(RATE, boottime_ms());
        assert!(output.watched().is_none() && output.pipe.is_some(), "not polled, so that it costs nothing");
        let before = output.counts();
        let second = boottime_ms() / 1000;
        output.drain();
        if boottime_ms() / 1000 == second {
            assert_eq!(output.counts(), before);
        }
        drop(output.connect().unwrap());
        assert_eq!(output.counts().lines, PIPE as u64 / 16, "nothing was lost");
    }
}
