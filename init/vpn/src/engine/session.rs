//! A session's two directions (WireGuard paper section 5.4.6). They share nothing: one seals in any number of threads, by a counter
//! alone; the other belongs to who opens.

use std::sync::atomic::{AtomicU64, Ordering};

use casemate_aead::{Key, TAG};

use super::{OVERHEAD, Refused};

/// What is before the sealed part: kind, index, counter.
const HEADER: usize = 16;

/// A session begins to be replaced at so many messages (section 6.1).
pub(super) const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// And carries no more than so many.
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// Nor lives longer, in milliseconds.
pub(super) const REJECT_AFTER_TIME: u64 = 180_000;

/// Seals: shared by all threads that send.
pub struct Sender {
    key: Key,
    /// What the peer calls its end.
    theirs: u32,
    counter: AtomicU64,
    made: u64,
    initiator: bool,
}

impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seals for {:08x}", self.theirs)
    }
}

impl Sender {
    pub(super) fn new(key: &[u8; 32], theirs: u32, made: u64, initiator: bool) -> Option<Self> {
        Some(Self { key: Key::new(key)?, theirs, counter: AtomicU64::new(0), made, initiator })
    }

    /// Seals a packet into a slot that has room for [`OVERHEAD`] more; `None` if it has not, or if the session is used up.
    pub fn seal(&self, packet: &[u8], slot: &mut [u8]) -> Option<usize> {
        let length = packet.len().checked_add(OVERHEAD)?;
        let (header, rest) = slot.get_mut(..length)?.split_first_chunk_mut::<HEADER>()?;
        // Two looks, so that the counter stands still once it is used up.
        if self.counter.load(Ordering::Relaxed) >= REJECT_AFTER_MESSAGES {
            return None;
        }
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        self.key.seal(counter, packet, rest).ok()?;
        let [i0, i1, i2, i3] = self.theirs.to_le_bytes();
        let [a, b, c, d, e, f, g, h] = counter.to_le_bytes();
        *header = [4, 0, 0, 0, i0, i1, i2, i3, a, b, c, d, e, f, g, h];
        Some(length)
    }

    pub(super) fn is_usable(&self, now: u64) -> bool {
        now.saturating_sub(self.made) < REJECT_AFTER_TIME
            && self.counter.load(Ordering::Relaxed) < REJECT_AFTER_MESSAGES
    }

    /// When it was made.
    pub(super) const fn made(&self) -> u64 {
        self.made
    }

    /// Whether the handshake was ours: then it is ours to make the next.
    pub(super) const fn initiator(&self) -> bool {
        self.initiator
    }

    pub(super) fn is_worn(&self) -> bool {
        self.counter.load(Ordering::Relaxed) >= REKEY_AFTER_MESSAGES
    }

    #[cfg(test)]
    pub(super) fn wear(&self, counter: u64) {
        self.counter.store(counter, Ordering::Relaxed);
    }
}

/// Opens: belongs to whoever has it.
pub(super) struct Receiver {
    key: Key,
    /// What we call our end.
    ours: u32,
    made: u64,
    window: Window,
}

impl Receiver {
    pub(super) fn new(key: &[u8; 32], ours: u32, made: u64) -> Option<Self> {
        Some(Self { key: Key::new(key)?, ours, made, window: Window::default() })
    }

    pub(super) const fn ours(&self) -> u32 {
        self.ours
    }

    pub(super) const fn is_usable(&self, now: u64) -> bool {
        now.saturating_sub(self.made) < REJECT_AFTER_TIME
    }

    /// Opens a data message into a slot that is as long as what it carries. A counter counts once the seal is found good.
    pub(super) fn open(&mut self, message: &[u8], slot: &mut [u8]) -> Result<usize, Refused> {
        let (header, sealed) = message.split_first_chunk::<HEADER>().ok_or(Refused::Malformed)?;
        let [.., a, b, c, d, e, f, g, h] = *header;
        let counter = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        if !self.window.takes(counter) {
            return Err(Refused::Replayed);
        }
        let length = sealed.len().checked_sub(TAG).ok_or(Refused::Malformed)?;
        let place = slot.get_mut(..length).ok_or(Refused::Malformed)?;
        self.key.open(counter, sealed, place).map_err(|_| Refused::Forged)?;
        self.window.mark(counter);
        Ok(length)
    }
}

const WORDS: usize = 128;
const BITS: u64 = 64;
/// How late a message may come, in messages: a word less than there is memory for, as in Linux and Go (8,192 bits, RFC 6479).
pub(super) const WINDOW: u64 = (WORDS as u64 - 1) * BITS;

/// Which messages came (RFC 6479).
pub(super) struct Window {
    /// One more than the greatest that came.
    next: u64,
    words: [u64; WORDS],
}

impl Default for Window {
    fn default() -> Self {
        Self { next: 0, words: [0; WORDS] }
    }
}

impl Window {
    /// Whether a counter is neither used nor too old to know.
    pub(super) fn takes(&self, counter: u64) -> bool {
        if counter >= self.next {
            return counter < REJECT_AFTER_MESSAGES;
        }
        self.next - counter <= WINDOW && self.word(counter).is_some_and(|word| word & bit(counter) == 0)
    }

    /// Notes one that [`Window::takes`].
    pub(super) fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            let newest = self.next.saturating_sub(1) / BITS;
            let fresh = (counter / BITS - newest).min(WORDS as u64);
            for step in 1..=fresh {
                if let Some(word) = self.words.get_mut(place((newest + step) * BITS)) {
                    *word = 0;
                }
            }
            self.next = counter + 1;
        }
        if let Some(word) = self.words.get_mut(place(counter)) {
            *word |= bit(counter);
        }
    }

    fn word(&self, counter: u64) -> Option<u64> {
        self.words.get(place(counter)).copied()
    }
}

fn place(counter: u64) -> usize {
    // Below the number of words.
    usize::try_from(counter / BITS % WORDS as u64).unwrap_or(0)
}

const fn bit(counter: u64) -> u64 {
    1 << (counter % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(window: &mut Window, counter: u64) -> bool {
        let takes = window.takes(counter);
        if takes {
            window.mark(counter);
        }
        takes
    }

    #[test]
    fn a_counter_is_taken_once_however_the_messages_come() {
        let mut window = Window::default();
        // The last: in a word that the window has been around to.
        for counter in [5, 0, 1, 63, 64, 65, 62, 10_000, 10_000 - WINDOW + 1, 9_000, 20_000] {
            assert!(taken(&mut window, counter), "{counter}");
            assert!(!taken(&mut window, counter), "{counter} again");
        }
        assert!(!taken(&mut window, 20_000 - WINDOW));
        assert!(taken(&mut window, 20_001 - WINDOW));
        for counter in 20_002 - WINDOW..20_000 {
            assert!(taken(&mut window, counter), "{counter}");
        }
    }

    #[test]
    fn a_path_that_moves_may_hold_back_eight_thousand_messages() {
        let mut window = Window::default();
        for counter in 4000..12_000 {
            assert!(taken(&mut window, counter));
        }
        // Those of the slower path.
        for counter in 3900..4000 {
            assert!(taken(&mut window, counter), "{counter}");
        }
        assert!(!taken(&mut window, 3800));
    }

    #[test]
    fn a_leap_forgets_everything_and_the_end_is_the_end() {
        let mut window = Window::default();
        for counter in 0..200 {
            assert!(taken(&mut window, counter));
        }
        assert!(taken(&mut window, 1 << 40));
        assert!(!taken(&mut window, 199));
        for counter in [(1 << 40) - 1, (1 << 40) - 8000] {
            assert!(taken(&mut window, counter), "{counter}");
        }
        assert!(!window.takes(REJECT_AFTER_MESSAGES) && !window.takes(u64::MAX));
        assert!(window.takes(REJECT_AFTER_MESSAGES - 1));
    }

    #[test]
    #[allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
    fn a_session_that_is_used_up_seals_no_more() {
        let sender = Sender::new(&[7; 32], 1, 0, true).unwrap();
        sender.wear(REJECT_AFTER_MESSAGES - 1);
        assert!(sender.is_usable(0) && sender.is_worn());
        assert_eq!(sender.seal(&[1; 20], &mut [0; 148]), Some(52));
        assert_eq!(sender.seal(&[1; 20], &mut [0; 148]), None);
        assert!(!sender.is_usable(0));
        assert!(!Sender::new(&[7; 32], 1, 1000, true).unwrap().is_usable(181_000));
    }
}
