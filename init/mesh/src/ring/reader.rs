//! The side of the mesh. What a ring holds was written by a workload, and perhaps while it is read: every byte is judged.

use std::io;

use super::Store;
use super::layout::{HEADER_BYTES, Header, MAX_RECORD, NoHeader, RECORD_HEAD, RecordHead, pieces};

/// How much is read at once.
const WINDOW: usize = 64 << 10;
/// A header that is being written is whole again after two system calls of the writer.
const HEADER_TRIES: u32 = 64;
/// Windows of one read: those of the whole ring, and as many again for a writer that overtakes. Then the caller has to
/// ask again.
const WINDOWS: u32 = 40;

/// A line of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number; the first line ever has 1.
    pub sequence: u64,
    /// When PID 1 read it, in ms since the kernel started.
    pub boottime_ms: u64,
    /// Whether it was longer than [`super::MAX_LINE`].
    pub cut: bool,
    /// What the process wrote, without the line feed.
    pub bytes: Vec<u8>,
}

/// What a ring has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Lines ever, so also the number of the newest.
    pub lines: u64,
    /// How many of them are not there any more.
    pub dropped: u64,
}

/// How much of a ring is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Lines, at most.
    pub lines: usize,
    /// Bytes of lines, at most; each line counts [`Limits::OVERHEAD`] more. At least one line is given.
    pub bytes: usize,
}

impl Limits {
    /// What a line counts beside its own bytes.
    pub const OVERHEAD: usize = 64;
}

/// A part of a ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In order.
    pub lines: Vec<Line>,
    /// Lines between the number that was asked for and the last one here that are not there any more.
    pub missed: u64,
    /// Whether there is more behind the last one.
    pub more: bool,
    /// Of the whole ring, when the read began.
    pub summary: Summary,
}

/// Why a ring cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The kernel's word.
    #[error("log ring: not readable")]
    Read(#[from] io::Error),
    /// Each time the header was half written.
    #[error("log ring: the writer is too fast")]
    Busy,
    /// It is no ring of ours, or one that nobody of ours wrote.
    #[error("log ring: {0} is not what a writer of ours leaves")]
    Damaged(&'static str),
}

/// Reads one ring.
#[derive(Debug)]
pub struct Reader<S> {
    store: S,
}

impl<S: Store> Reader<S> {
    /// Nothing is read yet.
    pub const fn new(store: S) -> Self {
        Self { store }
    }

    /// What it has counted.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn summary(&self) -> Result<Summary, RingError> {
        Ok(summary(&self.header()?))
    }

    /// The oldest lines after the one with that number, up to the limits. Costs at most one pass over the ring.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn read(&self, after: u64, limits: Limits) -> Result<Page, RingError> {
        let begin = self.header()?;
        let newest = begin.next.saturating_sub(1);
        let mut page = Page { lines: Vec::new(), missed: 0, more: false, summary: summary(&begin) };
        let (mut last, mut position, mut bytes) = (after, begin.tail, 0_usize);
        let mut window = Window::default();
        while position < begin.head && after < newest {
            let Some((record, line)) = window.record(position) else {
                if window.begins_at(position) {
                    return Err(RingError::Damaged("a record that ends behind the newest"));
                }
                if window.fetched >= WINDOWS {
                    page.more = true;
                    break;
                }
                position = self.fetch(&mut window, position, &begin)?;
                continue;
            };
            let record = record.ok_or(RingError::Damaged("a record"))?;
            position = position.saturating_add(record.whole() as u64);
            if (1..=after).contains(&record.sequence) {
                continue;
            }
            if record.sequence <= last || record.sequence > newest {
                return Err(RingError::Damaged("a sequence number"));
            }
            let more = bytes.saturating_add(line.len()).saturating_add(Limits::OVERHEAD);
            if page.lines.len() >= limits.lines.max(1) || (more > limits.bytes && !page.lines.is_empty()) {
                page.more = true;
                break;
            }
            bytes = more;
            page.missed = page.missed.saturating_add(record.sequence.saturating_sub(last).saturating_sub(1));
            last = record.sequence;
            page.lines.push(Line {
                sequence: record.sequence,
                boottime_ms: record.boottime_ms,
                cut: record.cut,
                bytes: line.to_vec(),
            });
        }
        // Overtaken: what has come meanwhile is for the next read.
        page.more |= position > begin.head;
        Ok(page)
    }

    /// Reads on from a position, or, where the writer has overtaken it, from the oldest record that is whole.
    fn fetch(&self, window: &mut Window, position: u64, begin: &Header) -> Result<u64, RingError> {
        window.fetched = window.fetched.saturating_add(1);
        let length = usize::try_from(begin.head.saturating_sub(position)).unwrap_or(WINDOW).min(WINDOW);
        window.position = position;
        window.bytes.resize(length, 0);
        let [first, second] = pieces(begin.capacity, position, length);
        let (one, other) = window.bytes.split_at_mut_checked(first.1).unwrap_or_default();
        self.store.read(one, first.0)?;
        if !other.is_empty() {
            self.store.read(other, second.0)?;
        }
        // Only now it is known which of that was whole: what lies behind the tail.
        let now = self.header()?;
        if now.capacity != begin.capacity || now.head < begin.head || now.tail < begin.tail {
            return Err(RingError::Damaged("a header that went back"));
        }
        if now.tail > position {
            window.bytes.clear();
            return Ok(now.tail);
        }
        Ok(position)
    }

    fn header(&self) -> Result<Header, RingError> {
        let mut bytes = [0; HEADER_BYTES];
        for _ in 0..HEADER_TRIES {
            self.store.read(&mut bytes, 0)?;
            match Header::decode(&bytes) {
                Ok(header) => return Ok(header),
                Err(NoHeader::Torn) => std::hint::spin_loop(),
                Err(NoHeader::Wrong(what)) => return Err(RingError::Damaged(what)),
            }
        }
        Err(RingError::Busy)
    }
}

const fn summary(header: &Header) -> Summary {
    Summary { lines: header.next.saturating_sub(1), dropped: header.dropped }
}

/// Bytes that were whole when they were read.
#[derive(Debug, Default)]
struct Window {
    position: u64,
    bytes: Vec<u8>,
    fetched: u32,
}

impl Window {
    /// Whether it was read from there: then the record there is in it, if it is one.
    const fn begins_at(&self, position: u64) -> bool {
        self.position == position && !self.bytes.is_empty()
    }

    /// The record at a position: `None` if not all of it is here; `Some((None, _))` if that is no record.
    fn record(&self, position: u64) -> Option<(Option<RecordHead>, &[u8])> {
        let inside = usize::try_from(position.checked_sub(self.position)?).ok()?;
        let rest = self.bytes.get(inside..)?;
        let (head, rest) = rest.split_first_chunk::<RECORD_HEAD>()?;
        match RecordHead::decode(head) {
            Some(record) => rest.get(..record.length).map(|line| (Some(record), line)),
            None => Some((None, &[])),
        }
    }
}

const _: () = assert!(WINDOW >= MAX_RECORD);
