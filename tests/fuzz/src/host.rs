//! What `casemate-qemu` reads from QEMU and from the guest. In each the first byte says into pieces of which size the rest
//! is cut: a stream must mean the same however it arrives.

use std::path::Path;

use casemate_measure::status::FRAME_LEN;
use casemate_qemu::qmp::{Message, MessageStream};
use casemate_qemu::status_stream::{Item, StatusStream};

use crate::Verdict;

/// The size of pieces, and the stream.
fn pieces(input: &[u8]) -> (usize, &[u8]) {
    match input.split_first() {
        Some((size, rest)) => (usize::from(*size).max(1), rest),
        None => (1, input),
    }
}

/// Every byte belongs to a frame, is counted as skipped, or waits; less than a frame ever waits.
pub(crate) fn status_stream(input: &[u8]) -> Verdict {
    let (size, bytes) = pieces(input);
    let mut whole = StatusStream::default();
    let at_once = whole.push(bytes);
    let mut cut = StatusStream::default();
    let mut in_pieces = Vec::new();
    for piece in bytes.chunks(size) {
        in_pieces.extend(cut.push(piece));
        assert!(cut.pending() < FRAME_LEN, "{} bytes wait", cut.pending());
    }
    assert_eq!(frames(&at_once), frames(&in_pieces), "pieces of {size}");
    for (items, pending) in [(&at_once, whole.pending()), (&in_pieces, cut.pending())] {
        let counted = frames(items).len() * FRAME_LEN + skipped(items) + pending;
        assert_eq!(counted, bytes.len(), "bytes that are accounted for");
    }
    Verdict::accepted(!frames(&at_once).is_empty())
}

fn frames(items: &[Item]) -> Vec<Item> {
    items.iter().copied().filter(|item| matches!(item, Item::Frame(_))).collect()
}

fn skipped(items: &[Item]) -> usize {
    items.iter().map(|item| if let Item::Skipped(count) = item { *count } else { 0 }).sum()
}

/// One message a line at most; what is no message is shown shortened.
pub(crate) fn qmp(input: &[u8]) -> Verdict {
    let (size, bytes) = pieces(input);
    let at_once = MessageStream::default().push(bytes);
    let mut cut = MessageStream::default();
    let in_pieces: Vec<_> = bytes.chunks(size).flat_map(|piece| cut.push(piece)).collect();
    assert_eq!(at_once, in_pieces, "pieces of {size}");
    assert!(at_once.len() <= bytes.iter().filter(|byte| **byte == b'\n').count());
    for message in &at_once {
        if let Message::NotQmp(shown) = message {
            assert!(shown.chars().count() <= 200, "{} characters are shown", shown.chars().count());
        }
    }
    Verdict::accepted(at_once.iter().any(|message| !matches!(message, Message::NotQmp(_))))
}

/// A frame costs at least its record header; what is cut off at the end changes nothing before it.
pub(crate) fn pcap(dump: &[u8]) -> Verdict {
    let path = Path::new("dump");
    let Ok(frames) = casemate_qemu::pcap::read(path, dump) else { return Verdict::Refused };
    assert!(frames.len() * 16 + 24 <= dump.len(), "{} frames of {} bytes", frames.len(), dump.len());
    let shorter = dump.len().checked_sub(1).and_then(|end| dump.get(..end));
    if let Some(Ok(fewer)) = shorter.map(|dump| casemate_qemu::pcap::read(path, dump)) {
        assert!(frames.starts_with(&fewer) && fewer.len() + 1 >= frames.len());
    }
    Verdict::accepted(frames.iter().any(|frame| frame.packet.is_some()))
}
