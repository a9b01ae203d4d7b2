//! From bytes to lines. Pure.

use casemate_mesh::ring::MAX_LINE;

/// What has come of a line that is not at its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Lines {
    partial: Vec<u8>,
    cut: bool,
}

impl Lines {
    /// Hands on each line that ends in these bytes, without line feed and the carriage returns before it, and whether it was
    /// longer than what is kept of it.
    pub(super) fn feed(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8], bool)) {
        let mut parts = bytes.split(|byte| *byte == b'\n');
        let last = parts.next_back().unwrap_or_default();
        for part in parts {
            self.add(part);
            self.end(&mut line);
        }
        self.add(last);
    }

    /// Hands on what has no line feed: nothing more comes.
    pub(super) fn finish(&mut self, mut line: impl FnMut(&[u8], bool)) {
        if !self.partial.is_empty() {
            self.end(&mut line);
        }
    }

    fn add(&mut self, part: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.partial.len());
        let kept = part.get(..room).unwrap_or(part);
        self.cut |= kept.len() < part.len();
        self.partial.extend_from_slice(kept);
    }

    fn end(&mut self, line: &mut impl FnMut(&[u8], bool)) {
        line(without_returns(&self.partial), self.cut);
        self.partial.clear();
        self.cut = false;
    }
}

fn without_returns(line: &[u8]) -> &[u8] {
    let kept = line.iter().rposition(|byte| *byte != b'\r').map_or(0, |last| last.saturating_add(1));
    line.get(..kept).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for chunk in chunks {
            lines.feed(chunk, |line, cut| found.push((line.to_vec(), cut)));
        }
        lines.finish(|line, cut| found.push((line.to_vec(), cut)));
        found
    }

    #[test]
    fn lines_are_whole_and_bounded() {
        let long = [vec![b'x'; MAX_LINE], b"y\n".to_vec()].concat();
        let found = split(&[b"one\ntw", b"o\x1b[2J\r\n\n", &long, &long[..MAX_LINE], b"\nlast"]);
        let x = vec![b'x'; MAX_LINE];
        let expected: Vec<(Vec<u8>, bool)> = vec![
            (b"one".to_vec(), false),
            (b"two\x1b[2J".to_vec(), false),
            (Vec::new(), false),
            (x.clone(), true),
            (x, false),
            (b"last".to_vec(), false),
        ];
        assert_eq!(found, expected);
    }

    proptest! {
        /// Where the reads end makes no difference.
        #[test]
        fn chunks_do_not_matter(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..4000), at in prop::collection::vec(0..4000_usize, 0..5)) {
            let mut at: Vec<usize> = at.into_iter().map(|at| at.min(bytes.len())).collect();
            at.sort_unstable();
            let (mut chunks, mut from) = (Vec::new(), 0);
            for to in at {
                chunks.push(&bytes[from..to]);
                from = to;
            }
            chunks.push(&bytes[from..]);
            prop_assert_eq!(split(&chunks), split(&[&bytes]));
        }
    }
}
