//! Header and record as bytes.

/// Bytes of data in a ring of ours (design section 5: 1 MiB each).
pub const CAPACITY: u64 = 1 << 20;

/// Bytes of the header.
pub const HEADER_LEN: u64 = 64;

/// The longest line that is kept, in bytes; the rest of a longer one is not.
pub const MAX_LINE: usize = 1024;

/// Length of the file that holds a ring of [`CAPACITY`].
pub const fn file_len() -> u64 {
    HEADER_LEN.saturating_add(CAPACITY)
}

pub(super) const MAGIC: [u8; 8] = *b"CASELOG\n";
pub(super) const VERSION: u32 = 1;
pub(super) const RECORD_HEAD: usize = 20;
/// The longest record.
pub(super) const MAX_RECORD: usize = RECORD_HEAD + MAX_LINE;
/// The smallest capacity that makes sense: one record of any length fits.
pub(super) const MIN_CAPACITY: u64 = MAX_RECORD as u64;
pub(super) const CUT: u8 = 1;

pub(super) const HEADER_BYTES: usize = 64;
const _: () = assert!(HEADER_BYTES as u64 == HEADER_LEN);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) capacity: u64,
    pub(super) head: u64,
    pub(super) tail: u64,
    pub(super) next: u64,
    pub(super) dropped: u64,
}

/// Why 64 bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoHeader {
    /// The sum is wrong: perhaps it is just being written.
    Torn,
    /// It is whole and makes no sense.
    Wrong(&'static str),
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let words = [self.capacity, self.head, self.tail, self.next, self.dropped];
        let first = u64::from(VERSION) | HEADER_LEN << 32;
        for (to, word) in bytes.chunks_exact_mut(8).skip(1).zip(std::iter::once(first).chain(words)) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        if let Some(to) = bytes.first_chunk_mut() {
            *to = MAGIC;
        }
        let sum = sum(&bytes);
        if let Some(to) = bytes.last_chunk_mut() {
            *to = sum.to_le_bytes();
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, NoHeader> {
        let word = |index: usize| {
            let at = index.saturating_mul(8);
            bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word))
        };
        if word(7) != sum(bytes) {
            return Err(NoHeader::Torn);
        }
        let header =
            Self { capacity: word(2), head: word(3), tail: word(4), next: word(5), dropped: word(6) };
        let wrong = |right: bool, what| if right { Ok(()) } else { Err(NoHeader::Wrong(what)) };
        wrong(word(0) == u64::from_le_bytes(MAGIC), "magic")?;
        wrong(word(1) == u64::from(VERSION) | HEADER_LEN << 32, "version")?;
        wrong((MIN_CAPACITY..=CAPACITY).contains(&header.capacity), "capacity")?;
        let kept = header.head.checked_sub(header.tail);
        wrong(kept.is_some_and(|kept| kept <= header.capacity), "head and tail")?;
        wrong(header.dropped < header.next, "dropped lines")?;
        Ok(header)
    }
}

/// FNV-1a with 64 bits (draft-eastlake-fnv section 2) of a header without its sum. It tells a torn header from a whole one;
/// it is no defence, and none is needed: only PID 1 can write a ring.
fn sum(bytes: &[u8; HEADER_BYTES]) -> u64 {
    let covered = bytes.iter().take(HEADER_BYTES.saturating_sub(8));
    covered.fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub(super) sequence: u64,
    pub(super) boottime_ms: u64,
    pub(super) cut: bool,
    pub(super) length: usize,
}

impl RecordHead {
    pub(super) fn encode(&self) -> [u8; RECORD_HEAD] {
        let [s0, s1, s2, s3, s4, s5, s6, s7] = self.sequence.to_le_bytes();
        let [t0, t1, t2, t3, t4, t5, t6, t7] = self.boottime_ms.to_le_bytes();
        let [l0, l1] = u16::try_from(self.length).unwrap_or(u16::MAX).to_le_bytes();
        let flags = if self.cut { CUT } else { 0 };
        [s0, s1, s2, s3, s4, s5, s6, s7, t0, t1, t2, t3, t4, t5, t6, t7, flags, 0, l0, l1]
    }

    /// `None` if no writer of ours wrote that.
    pub(super) fn decode(bytes: &[u8; RECORD_HEAD]) -> Option<Self> {
        let (sequence, rest) = bytes.split_first_chunk()?;
        let (time, rest) = rest.split_first_chunk()?;
        let [flags, 0, l0, l1] = *rest else { return None };
        let length = usize::from(u16::from_le_bytes([l0, l1]));
        (flags & !CUT == 0 && length <= MAX_LINE).then_some(Self {
            sequence: u64::from_le_bytes(*sequence),
            boottime_ms: u64::from_le_bytes(*time),
            cut: flags == CUT,
            length,
        })
    }

    /// Bytes of the whole record.
    pub(super) const fn whole(&self) -> usize {
        RECORD_HEAD.saturating_add(self.length)
    }
}

/// The pieces of the data area that a run of positions lies in: (offset in the file, length), at most two.
pub(super) fn pieces(capacity: u64, position: u64, length: usize) -> [(u64, usize); 2] {
    let inside = position.checked_rem(capacity).unwrap_or(0);
    let to_end = usize::try_from(capacity.saturating_sub(inside)).unwrap_or(usize::MAX);
    let first = length.min(to_end);
    [(HEADER_LEN.saturating_add(inside), first), (HEADER_LEN, length.saturating_sub(first))]
}
