//! What processes have in memory together: a page that two of them have is one page.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

const PAGE: u64 = 4096;
/// Linux `Documentation/admin-guide/mm/pagemap.rst`: one 64-bit word for each page, its frame in the lower 55 bits, and whether it is
/// present in the topmost.
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// MB of 2^20 that these have resident. Which frame a page is in is told to root alone.
pub(crate) fn resident_once(pids: &[u32]) -> f64 {
    let frames: BTreeSet<u64> = pids.iter().flat_map(|pid| frames(*pid)).collect();
    frames.len() as f64 * PAGE as f64 / f64::from(1 << 20)
}

fn frames(pid: u32) -> Vec<u64> {
    let map = File::open(format!("/proc/{pid}/pagemap")).unwrap();
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut frames = Vec::new();
    let mut range = None;
    for line in smaps.lines() {
        let (first, rest) = line.split_once(' ').unwrap();
        match (first.split_once('-'), first) {
            (Some((from, to)), _) => {
                let address = |text| u64::from_str_radix(text, 16).unwrap();
                range = Some((address(from), address(to)));
            }
            // Of what is only reserved, gigabytes with Go, nothing is read.
            (None, "Rss:") if rest.trim() != "0 kB" => {
                let (from, to) = range.unwrap();
                let mut words = vec![0; usize::try_from((to - from) / PAGE * 8).unwrap()];
                map.read_exact_at(&mut words, from / PAGE * 8).unwrap();
                let (words, _) = words.as_chunks();
                let present =
                    words.iter().map(|word| u64::from_le_bytes(*word)).filter(|word| word & PRESENT != 0);
                frames.extend(present.map(|word| word & FRAME));
            }
            _ => {}
        }
    }
    assert!(frames.iter().any(|frame| *frame != 0), "the frames of {pid} are not told");
    frames
}
