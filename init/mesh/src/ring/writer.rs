//! The side of PID 1, which is the only one that can write.

use std::io;

use super::layout::{Header, MAX_LINE, MAX_RECORD, MIN_CAPACITY, RECORD_HEAD, RecordHead, pieces};
use super::{CAPACITY, StoreMut};

/// How much of the oldest records is looked at in one read, to find how many must go.
const LOOK: usize = 4096;

/// Lines that are written together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Records, end to end, with sequence number 0.
    records: Vec<u8>,
    lines: u64,
}

impl Batch {
    /// Adds a line without its line feed; what is longer than [`MAX_LINE`] is cut and marked, as is one that was `cut` already.
    pub fn push(&mut self, boottime_ms: u64, cut: bool, line: &[u8]) {
        let kept = line.get(..MAX_LINE).unwrap_or(line);
        let cut = cut || kept.len() < line.len();
        let head = RecordHead { sequence: 0, boottime_ms, cut, length: kept.len() };
        self.records.extend_from_slice(&head.encode());
        self.records.extend_from_slice(kept);
        self.lines = self.lines.saturating_add(1);
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }
}

/// Writes one ring. It keeps five numbers in memory, and no line.
#[derive(Debug)]
pub struct Writer<S> {
    store: S,
    header: Header,
}

impl<S: StoreMut> Writer<S> {
    /// Makes an empty ring of a store of `HEADER_LEN + capacity` bytes.
    ///
    /// # Errors
    /// `InvalidInput` for a capacity that is smaller than the longest record or larger than [`CAPACITY`]; what the store says.
    pub fn new(store: S, capacity: u64) -> io::Result<Self> {
        if !(MIN_CAPACITY..=CAPACITY).contains(&capacity) {
            let words = format!("log ring: expected {MIN_CAPACITY} to {CAPACITY} bytes, found {capacity}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
        }
        let header = Header { capacity, head: 0, tail: 0, next: 1, dropped: 0 };
        let mut writer = Self { store, header };
        writer.store_header()?;
        Ok(writer)
    }

    /// Lines that were ever written, or were dropped before that.
    pub const fn lines(&self) -> u64 {
        self.header.next.saturating_sub(1)
    }

    /// Lines that are no longer there, or never were because the store refused them.
    pub const fn dropped(&self) -> u64 {
        self.header.dropped
    }

    /// What holds it.
    pub const fn store(&self) -> &S {
        &self.store
    }

    /// Writes lines in place of the oldest ones. A store that refuses costs these lines: they are counted as dropped, and their
    /// sequence numbers are missing.
    ///
    /// # Errors
    /// What the store says.
    pub fn append(&mut self, batch: Batch) -> io::Result<()> {
        let mut rest = batch.records;
        let mut result = Ok(());
        while !rest.is_empty() {
            let (length, lines) = self.number(&mut rest);
            if length == 0 {
                break;
            }
            let next = rest.split_off(length);
            if let Err(error) = self.write_records(&rest) {
                self.header.dropped = self.header.dropped.saturating_add(lines);
                result = Err(error);
            }
            rest = next;
        }
        // Also after a failure: a store that refuses the records may still take the header, which tells what was dropped.
        let told = self.store_header();
        result.and(told)
    }

    /// Gives sequence numbers to as many records as fit into the ring at once; their bytes, and how many.
    fn number(&mut self, records: &mut [u8]) -> (usize, u64) {
        let most = usize::try_from(self.header.capacity).unwrap_or(usize::MAX);
        let (mut done, mut lines) = (0_usize, 0_u64);
        while let Some(head) = records.get_mut(done..).and_then(<[u8]>::first_chunk_mut::<RECORD_HEAD>) {
            let Some(mut record) = RecordHead::decode(head) else { break };
            if done.saturating_add(record.whole()) > most {
                break;
            }
            record.sequence = self.header.next;
            *head = record.encode();
            self.header.next = self.header.next.saturating_add(1);
            done = done.saturating_add(record.whole());
            lines = lines.saturating_add(1);
        }
        (done, lines)
    }

    fn write_records(&mut self, records: &[u8]) -> io::Result<()> {
        self.make_room(records.len() as u64)?;
        // First the tail, so that no reader takes what is being overwritten for a line.
        self.store_header()?;
        let (mut from, head) = (records, self.header.head);
        for (offset, length) in pieces(self.header.capacity, head, records.len()) {
            let (piece, rest) = from.split_at_checked(length).unwrap_or((from, &[]));
            if !piece.is_empty() {
                self.store.write(piece, offset)?;
            }
            from = rest;
        }
        self.header.head = head.saturating_add(records.len() as u64);
        Ok(())
    }

    /// Moves the tail so far that `length` more bytes fit.
    fn make_room(&mut self, length: u64) -> io::Result<()> {
        let Header { capacity, head, .. } = self.header;
        let mut look = [0; LOOK];
        let (mut start, mut filled) = (0_u64, 0_usize);
        while head.saturating_add(length).saturating_sub(self.header.tail) > capacity {
            let tail = self.header.tail;
            let inside = usize::try_from(tail.saturating_sub(start)).unwrap_or(usize::MAX);
            let found = look.get(..filled).and_then(|seen| seen.get(inside..)?.first_chunk());
            let Some(found) = found else {
                let kept = usize::try_from(head.saturating_sub(tail)).unwrap_or(usize::MAX);
                (start, filled) = (tail, kept.min(LOOK));
                self.load(look.get_mut(..filled).unwrap_or_default(), tail)?;
                if filled < RECORD_HEAD {
                    return self.forget_all();
                }
                continue;
            };
            let Some(record) = RecordHead::decode(found) else { return self.forget_all() };
            self.header.tail = tail.saturating_add(record.whole() as u64);
            self.header.dropped = self.header.dropped.saturating_add(1);
            if self.header.tail > head {
                return self.forget_all();
            }
        }
        Ok(())
    }

    /// What lies there is nothing that we wrote: it cannot be walked, so the ring starts anew.
    fn forget_all(&mut self) -> io::Result<()> {
        self.header.tail = self.header.head;
        Err(io::Error::new(io::ErrorKind::InvalidData, "log ring: the oldest record is not one"))
    }

    fn load(&self, buffer: &mut [u8], position: u64) -> io::Result<()> {
        let [first, second] = pieces(self.header.capacity, position, buffer.len());
        let (one, other) = buffer.split_at_mut_checked(first.1).unwrap_or_default();
        self.store.read(one, first.0)?;
        if other.is_empty() { Ok(()) } else { self.store.read(other, second.0) }
    }

    fn store_header(&mut self) -> io::Result<()> {
        let bytes = self.header.encode();
        self.store.write(&bytes, 0)
    }
}

const _: () = assert!(LOOK >= MAX_RECORD);
