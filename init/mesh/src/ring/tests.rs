use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use proptest::prelude::*;

use super::layout::{Header, MIN_CAPACITY, RECORD_HEAD, RecordHead};
use super::*;

const ALL: Limits = Limits { lines: usize::MAX, bytes: usize::MAX };

/// Bytes in memory that writer and reader share.
#[derive(Clone, Debug)]
struct Memory(Rc<RefCell<Vec<u8>>>);

impl Memory {
    fn new(capacity: u64) -> Self {
        Self(Rc::new(RefCell::new(vec![0; usize::try_from(HEADER_LEN + capacity).unwrap()])))
    }
}

impl Store for Memory {
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let (from, bytes) = (usize::try_from(offset).unwrap(), self.0.borrow());
        buffer.copy_from_slice(bytes.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

impl StoreMut for Memory {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        self.0.borrow_mut()[from..from + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

fn line(sequence: u64, length: usize) -> Line {
    let byte = |i: usize| u8::try_from((i * 7 + usize::try_from(sequence).unwrap() * 13) % 251).unwrap();
    let bytes: Vec<u8> = (0..length).map(byte).collect();
    Line {
        sequence,
        boottime_ms: sequence * 10,
        cut: length > MAX_LINE,
        bytes: bytes.into_iter().take(MAX_LINE).collect(),
    }
}

/// What is written to the ring, batch by batch, with the lengths of its lines.
fn batches() -> impl Strategy<Value = Vec<Vec<usize>>> {
    let length = prop_oneof![4 => 0..40_usize, 2 => 0..1000_usize, 1 => 1000..2000_usize];
    prop::collection::vec(prop::collection::vec(length, 0..12), 0..40)
}

fn write<S: StoreMut>(writer: &mut Writer<S>, batches: &[Vec<usize>]) -> Vec<Line> {
    let mut all = Vec::new();
    for lengths in batches {
        let mut batch = Batch::default();
        for length in lengths {
            let made = line(all.len() as u64 + 1, *length);
            let longer =
                if made.cut { [made.bytes.as_slice(), b"more"].concat() } else { made.bytes.clone() };
            batch.push(made.boottime_ms, false, &longer);
            all.push(made);
        }
        writer.append(batch).unwrap();
    }
    all
}

/// How many of the last lines fit.
fn fit(all: &[Line], capacity: u64) -> usize {
    let mut room = capacity;
    all.iter()
        .rev()
        .take_while(|line| {
            let record = (RECORD_HEAD + line.bytes.len()) as u64;
            let fits = record <= room;
            room = room.saturating_sub(record);
            fits
        })
        .count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// Exactly the last lines that fit are there, in order; what is gone is counted.
    #[test]
    fn a_reader_gets_the_last_lines_that_fit(capacity in MIN_CAPACITY..6000, batches in batches()) {
        let memory = Memory::new(capacity);
        let mut writer = Writer::new(memory.clone(), capacity).unwrap();
        let all = write(&mut writer, &batches);
        let kept = fit(&all, capacity);
        let gone = all.len() - kept;
        let page = Reader::new(memory.clone()).read(0, ALL).unwrap();
        prop_assert_eq!(&page.lines[..], &all[gone..]);
        let counted = Summary { lines: all.len() as u64, dropped: gone as u64 };
        prop_assert_eq!(page.summary, counted);
        prop_assert_eq!((writer.lines(), writer.dropped()), (counted.lines, counted.dropped));
        prop_assert_eq!((page.missed, page.more), (if kept == 0 { 0 } else { counted.dropped }, false));
    }

    /// Read in parts, the parts make the whole.
    #[test]
    fn parts_make_the_whole(batches in batches(), after in 0..200_u64, lines in 1..20_usize, bytes in 0..3000_usize) {
        let memory = Memory::new(4000);
        let all = write(&mut Writer::new(memory.clone(), 4000).unwrap(), &batches);
        let expected: Vec<_> = all[all.len() - fit(&all, 4000)..].iter().filter(|l| l.sequence > after).cloned().collect();
        let (reader, mut got, mut last) = (Reader::new(memory), Vec::new(), after);
        loop {
            let page = reader.read(last, Limits { lines, bytes }).unwrap();
            prop_assert!(page.lines.len() <= lines);
            let size: usize = page.lines.iter().map(|l| l.bytes.len() + Limits::OVERHEAD).sum();
            prop_assert!(size <= bytes || page.lines.len() == 1);
            prop_assert!(!page.more || !page.lines.is_empty());
            last = page.lines.last().map_or(last, |line| line.sequence);
            got.extend(page.lines);
            if !page.more {
                break;
            }
        }
        prop_assert_eq!(got, expected);
    }

    /// However the writer and the reader are interleaved, down to single bytes of one write, a line that the reader gives is
    /// one that was written, in order, and the gaps are exact.
    #[test]
    fn torn_lines_are_never_given(
        capacity in MIN_CAPACITY..4000, before in batches(), during in batches(),
        steps in prop::collection::vec((0..6_usize, 0..1500_usize), 1..60), after in 0..60_u64,
    ) {
        let log = Rc::new(RefCell::new(VecDeque::new()));
        let recorder = Recorder { memory: Memory::new(capacity), log: Rc::clone(&log) };
        let mut writer = Writer::new(recorder, capacity).unwrap();
        write(&mut writer, &before);
        let mark = log.borrow().len();
        let batches: Vec<_> = before.into_iter().chain(during).collect();
        // The same writer's work once more, of which the rest is done between the reader's reads.
        let recorder = Recorder { memory: Memory::new(capacity), log: Rc::default() };
        let log = Rc::clone(&recorder.log);
        let all = write(&mut Writer::new(recorder, capacity).unwrap(), &batches);
        let mut memory = Memory::new(capacity);
        for (offset, bytes) in log.borrow_mut().drain(..mark) {
            memory.write(&bytes, offset).unwrap();
        }
        let reader = Reader::new(Interleaved { memory, log, step: Cell::new(0), plan: steps });
        let mut last = after;
        for _ in 0..4 {
            let page = match reader.read(last, Limits { lines: 8, bytes: 2000 }) {
                Ok(page) => page,
                Err(RingError::Busy) => continue,
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            };
            let mut seen = last;
            for line in &page.lines {
                prop_assert!(line.sequence > seen);
                seen = line.sequence;
                prop_assert_eq!(line, &all[usize::try_from(line.sequence).unwrap() - 1]);
            }
            prop_assert_eq!(page.missed + page.lines.len() as u64, seen - last);
            last = seen;
        }
    }

    /// Whatever lies in the file: no panic, and no more reads than a pass or two over it takes.
    #[test]
    fn hostile_bytes_are_refused_in_bounded_work(
        data in prop::collection::vec(any::<u8>(), 2000..2100), sensible in any::<bool>(),
        capacity in prop_oneof![Just(2000_u64), any::<u64>()], head in any::<u64>(), kept in 0..2100_u64,
        next in any::<u64>(), after in prop_oneof![Just(0_u64), any::<u64>()], small in any::<bool>(),
    ) {
        let memory = Memory::new(2000);
        {
            let mut bytes = memory.0.borrow_mut();
            let length = bytes.len();
            bytes[64..].copy_from_slice(&data[..length - 64]);
            if sensible {
                // Many records that look right.
                for at in (64..length - 24).step_by(24) {
                    let record = RecordHead { sequence: (at as u64) << u32::from(small), boottime_ms: 0, cut: false, length: 4 };
                    bytes[at..at + 20].copy_from_slice(&record.encode());
                }
            }
            let head = if small { head % 5000 } else { head };
            let header = Header { capacity, head, tail: head.saturating_sub(kept), next, dropped: 0 };
            bytes[..64].copy_from_slice(&header.encode());
        }
        let counted = Counted { memory, reads: Cell::new(0) };
        let reader = Reader::new(&counted);
        drop(reader.summary());
        drop(reader.read(after, ALL));
        prop_assert!(counted.reads.get() < 130, "{} reads", counted.reads.get());
    }

    #[test]
    fn a_header_survives_and_a_changed_one_does_not(
        capacity in MIN_CAPACITY..=CAPACITY, head in any::<u64>(), kept in any::<u64>(), next in 1..u64::MAX, dropped in any::<u64>(),
        at in 0..64_usize, change in 1..=255_u8,
    ) {
        let tail = head.saturating_sub(kept % (capacity + 1));
        let header = Header { capacity, head, tail, next, dropped: dropped % next };
        let mut bytes = header.encode();
        prop_assert_eq!(Header::decode(&bytes), Ok(header));
        bytes[at] ^= change;
        prop_assert!(Header::decode(&bytes).is_err());
    }
}

type Log = Rc<RefCell<VecDeque<(u64, Vec<u8>)>>>;

/// Writes to memory and notes what.
#[derive(Debug)]
struct Recorder {
    memory: Memory,
    log: Log,
}

impl Store for Recorder {
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.memory.read(buffer, offset)
    }
}

impl StoreMut for Recorder {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.log.borrow_mut().push_back((offset, bytes.to_vec()));
        self.memory.write(bytes, offset)
    }
}

/// Does a part of the writer's work before each read and in the middle of it.
#[derive(Debug)]
struct Interleaved {
    memory: Memory,
    log: Log,
    step: Cell<usize>,
    plan: Vec<(usize, usize)>,
}

impl Interleaved {
    fn advance(&self) {
        let (whole, bytes) = self.plan[self.step.get() % self.plan.len()];
        self.step.set(self.step.get() + 1);
        let mut memory = self.memory.clone();
        let mut log = self.log.borrow_mut();
        for _ in 0..whole {
            let Some((offset, bytes)) = log.pop_front() else { return };
            memory.write(&bytes, offset).unwrap();
        }
        // And a part of the next write.
        if let Some((offset, rest)) = log.front_mut() {
            let now: Vec<u8> = rest.drain(..bytes.min(rest.len())).collect();
            memory.write(&now, *offset).unwrap();
            *offset += now.len() as u64;
        }
    }
}

impl Store for Interleaved {
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.advance();
        let middle = buffer.len() / 2;
        let (first, second) = buffer.split_at_mut(middle);
        self.memory.read(first, offset)?;
        self.advance();
        self.memory.read(second, offset + middle as u64)
    }
}

#[derive(Debug)]
struct Counted {
    memory: Memory,
    reads: Cell<u32>,
}

impl Store for &Counted {
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.set(self.reads.get() + 1);
        self.memory.read(buffer, offset)
    }
}

/// Refuses every write of lines while it is full.
#[derive(Debug)]
struct Full {
    memory: Memory,
    full: Rc<Cell<bool>>,
}

impl Store for Full {
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.memory.read(buffer, offset)
    }
}

impl StoreMut for Full {
    fn write(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.full.get() && offset >= HEADER_LEN {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.memory.write(bytes, offset)
    }
}

#[test]
fn lines_that_the_store_refuses_are_counted_and_their_numbers_are_missing() {
    let (memory, full) = (Memory::new(4000), Rc::new(Cell::new(false)));
    let mut writer = Writer::new(Full { memory: memory.clone(), full: Rc::clone(&full) }, 4000).unwrap();
    let mut say = |text: &str| {
        let mut batch = Batch::default();
        batch.push(1, false, text.as_bytes());
        writer.append(batch)
    };
    say("one").unwrap();
    full.set(true);
    assert_eq!(say("two").unwrap_err().kind(), io::ErrorKind::StorageFull);
    say("three").unwrap_err();
    full.set(false);
    say("four").unwrap();
    let page = Reader::new(memory).read(0, ALL).unwrap();
    let got: Vec<_> = page.lines.iter().map(|l| (l.sequence, l.bytes.as_slice())).collect();
    assert_eq!(got, [(1, b"one".as_slice()), (4, b"four")]);
    assert_eq!((page.missed, page.summary), (2, Summary { lines: 4, dropped: 2 }));
}

/// Documented: the bytes of one ring.
#[test]
fn the_layout_is_the_documented_one() {
    let memory = Memory::new(2000);
    let mut writer = Writer::new(memory.clone(), 2000).unwrap();
    let mut batch = Batch::default();
    batch.push(0x0102, true, b"hi");
    writer.append(batch).unwrap();
    let bytes = memory.0.borrow();
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    assert_eq!(&bytes[..8], b"CASELOG\n");
    assert_eq!((&bytes[8..12], &bytes[12..16]), ([1, 0, 0, 0].as_slice(), [64, 0, 0, 0].as_slice()));
    assert_eq!([16, 24, 32, 40, 48].map(word), [2000, 22, 0, 2, 0]);
    assert_eq!([64, 72].map(word), [1, 0x0102]);
    assert_eq!(&bytes[80..86], [1, 0, 2, 0, b'h', b'i']);
}

#[test]
fn a_capacity_in_which_a_line_may_not_fit_is_refused() {
    for capacity in [0, MIN_CAPACITY - 1, CAPACITY + 1] {
        let error = Writer::new(Memory::new(capacity), capacity).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{capacity}");
    }
}

#[test]
fn what_is_no_ring_is_refused() {
    let memory = Memory::new(2000);
    assert!(matches!(Reader::new(memory.clone()).summary(), Err(RingError::Busy)), "zeroes");
    Writer::new(memory.clone(), 2000).unwrap();
    let header = Header { capacity: 2000, head: 30, tail: 0, next: 2, dropped: 0 };
    memory.0.borrow_mut()[..64].copy_from_slice(&header.encode());
    let error = Reader::new(memory.clone()).read(0, ALL).unwrap_err();
    assert!(error.to_string().contains("a sequence number"), "{error}");
    // A record that says it is longer than what was written.
    let record = RecordHead { sequence: 1, boottime_ms: 0, cut: false, length: 500 };
    memory.0.borrow_mut()[64..84].copy_from_slice(&record.encode());
    let error = Reader::new(memory).read(0, ALL).unwrap_err();
    assert!(error.to_string().contains("ends behind the newest"), "{error}");
    drop(Memory::new(0).read(&mut [0; 65], 0).unwrap_err());
}
