//! Status frames out of a byte stream that a guest wrote. Nothing in it is trusted: what is no frame is skipped and
//! counted, and the next frame is found by its magic. A frame cut short takes its missing bytes from the next one, since
//! frames carry no checksum; the one after is found again. PID 1 writes whole frames or none.

use std::collections::VecDeque;

use casemate_measure::status::{FRAME_LEN, Frame};

/// What came out of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A frame.
    Frame(Frame),
    /// So many bytes that belong to no frame of this version.
    Skipped(usize),
}

/// Holds at most one frame less a byte between two calls.
#[derive(Debug, Default)]
pub struct StatusStream {
    pending: VecDeque<u8>,
}

impl StatusStream {
    /// Takes the next bytes, in pieces of any size.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Item> {
        self.pending.extend(bytes);
        let mut items = Vec::new();
        let mut skipped = 0;
        while let Some((head, _)) = self.pending.make_contiguous().split_first_chunk::<FRAME_LEN>() {
            if let Some(frame) = Frame::decode(head) {
                self.pending.drain(..FRAME_LEN);
                flush(&mut items, &mut skipped);
                items.push(Item::Frame(frame));
            } else {
                self.pending.pop_front();
                skipped += 1;
            }
        }
        flush(&mut items, &mut skipped);
        items
    }

    /// How many bytes wait for the rest of their frame.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }
}

fn flush(items: &mut Vec<Item>, skipped: &mut usize) {
    match std::mem::take(skipped) {
        0 => {}
        count => items.push(Item::Skipped(count)),
    }
}

#[cfg(test)]
mod tests {
    use casemate_measure::status::{Flavour, Reason, Stage};

    use super::*;

    fn frame(sequence: u32) -> Frame {
        Frame {
            flavour: Flavour::Dev,
            stage: Stage::Lock,
            reason: Reason::Entered,
            sequence,
            dropped: 0,
            uptime_ms: 7,
            detail: 0,
            digest: [9; 32],
        }
    }

    #[test]
    fn pieces_of_every_size_give_the_same_frames() {
        let bytes: Vec<u8> = (0..5).flat_map(|n| frame(n).encode()).collect();
        for size in 1..200 {
            let mut stream = StatusStream::default();
            let items: Vec<_> = bytes.chunks(size).flat_map(|piece| stream.push(piece)).collect();
            assert_eq!(items, (0..5).map(|n| Item::Frame(frame(n))).collect::<Vec<_>>(), "pieces of {size}");
            assert_eq!(stream.pending(), 0);
        }
    }

    #[test]
    fn garbage_is_counted_and_the_next_frame_found() {
        let mut bad_reason = frame(1).encode();
        bad_reason[7] = 0xff;
        let mut bad_version = frame(2).encode();
        bad_version[4] = 2;
        let bytes = [
            b"CMSF garbage CMS".as_slice(),
            &frame(0).encode(),
            &bad_reason,
            &bad_version,
            &frame(3).encode(),
        ]
        .concat();
        for size in [1, 3, 64, 65, 1000] {
            let mut stream = StatusStream::default();
            let items: Vec<_> = bytes.chunks(size).flat_map(|piece| stream.push(piece)).collect();
            let skipped: usize = items.iter().map(|i| if let Item::Skipped(n) = i { *n } else { 0 }).sum();
            let frames: Vec<_> = items.iter().filter(|i| matches!(i, Item::Frame(_))).copied().collect();
            assert_eq!(frames, [Item::Frame(frame(0)), Item::Frame(frame(3))], "pieces of {size}");
            assert_eq!(skipped, 16 + 64 + 64, "pieces of {size}");
        }
    }

    #[test]
    fn a_frame_cut_short_costs_the_next_one_and_no_more() {
        let bytes = [&frame(0).encode()[..40], &frame(1).encode(), &frame(2).encode()].concat();
        let mut stream = StatusStream::default();
        let items = stream.push(&bytes);
        assert_eq!(items[1..], [Item::Skipped(40), Item::Frame(frame(2))]);
    }

    #[test]
    fn memory_stays_bounded() {
        let mut stream = StatusStream::default();
        for _ in 0..1000 {
            stream.push(&[b'C'; 1000]);
            assert!(stream.pending() < FRAME_LEN);
        }
    }
}
