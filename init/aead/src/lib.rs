#![doc = include_str!("../README.md")]
#![deny(clippy::indexing_slicing)]

#[cfg(target_arch = "x86_64")]
mod sys;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use thiserror::Error;

/// The length of a key.
pub const KEY: usize = 32;
/// The longest text: the longest IP packet.
pub const MAX_TEXT: usize = 65_535;
/// By how much a sealed text is longer: the tag (RFC 8439 section 2.8).
pub const TAG: usize = 16;

/// Why a text was not sealed, or not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AeadError {
    /// The room for the result is not exactly as long as the result.
    #[error("expected room for {expected} bytes, got {got}")]
    Length {
        /// Bytes of the result.
        expected: usize,
        /// Bytes of the room.
        got: usize,
    },
    /// The text is longer than [`MAX_TEXT`].
    #[error("expected at most {MAX_TEXT} bytes, got {0}")]
    TooLong(usize),
    /// It was not sealed with this key and counter, or was changed since.
    #[error("the seal is wrong")]
    Forged,
}

/// What does the work. The bytes are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Our own code, for processors with AVX-512F and AVX-512 IFMA.
    Wide,
    /// `ring`.
    Ring,
}

/// A key, ready to be used.
pub struct Key(Inner);

enum Inner {
    #[cfg(target_arch = "x86_64")]
    /// In its own place, so that a session that is moved leaves no copy behind.
    Wide(Box<sys::Key>),
    Ring(Box<LessSafeKey>),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a key, by {:?}", self.way())
    }
}

impl Key {
    /// By the fastest way that this processor has.
    pub fn new(key: &[u8; KEY]) -> Option<Self> {
        Self::by(Way::Wide, key).or_else(|| Self::by(Way::Ring, key))
    }

    /// By one way; `None` if this processor has it not.
    pub fn by(way: Way, key: &[u8; KEY]) -> Option<Self> {
        match way {
            #[cfg(target_arch = "x86_64")]
            Way::Wide => sys::Key::new(key).map(|key| Self(Inner::Wide(Box::new(key)))),
            #[cfg(not(target_arch = "x86_64"))]
            Way::Wide => None,
            Way::Ring => {
                let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).ok()?);
                Some(Self(Inner::Ring(Box::new(key))))
            }
        }
    }

    /// What does the work.
    pub const fn way(&self) -> Way {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Inner::Wide(_) => Way::Wide,
            Inner::Ring(_) => Way::Ring,
        }
    }

    /// Seals a text into room that is [`TAG`] longer. A counter is for one text: two of the same are as good as in the clear.
    ///
    /// # Errors
    /// If the room is longer or shorter, or the text too long. Then nothing was written.
    pub fn seal(&self, counter: u64, text: &[u8], sealed: &mut [u8]) -> Result<(), AeadError> {
        if text.len() > MAX_TEXT {
            return Err(AeadError::TooLong(text.len()));
        }
        let wrong = AeadError::Length { expected: text.len() + TAG, got: sealed.len() };
        let (body, room) = sealed.split_at_mut_checked(text.len()).ok_or(wrong)?;
        let room: &mut [u8; TAG] = room.try_into().map_err(|_| wrong)?;
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Inner::Wide(key) => *room = key.seal(counter, text, body),
            Inner::Ring(key) => {
                body.copy_from_slice(text);
                // It fails for a text of 256 GiB.
                let tag =
                    key.seal_in_place_separate_tag(nonce(counter), Aad::empty(), body).map_err(|_| wrong)?;
                room.copy_from_slice(tag.as_ref());
            }
        }
        Ok(())
    }

    /// Opens what was sealed, into room that is [`TAG`] shorter.
    ///
    /// # Errors
    /// If the room is longer or shorter, or the text too long: then nothing was written. If the seal is wrong, or there is none: then the
    /// room is all zeroes.
    pub fn open(&self, counter: u64, sealed: &[u8], text: &mut [u8]) -> Result<(), AeadError> {
        let Some((body, tag)) = sealed.split_last_chunk::<TAG>() else {
            text.fill(0);
            return Err(AeadError::Forged);
        };
        if body.len() > MAX_TEXT {
            return Err(AeadError::TooLong(body.len()));
        }
        if body.len() != text.len() {
            return Err(AeadError::Length { expected: body.len(), got: text.len() });
        }
        let good = match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Inner::Wide(key) => key.open(counter, body, tag, text),
            Inner::Ring(key) => {
                text.copy_from_slice(body);
                key.open_in_place_separate_tag(nonce(counter), Aad::empty(), (*tag).into(), text, 0..).is_ok()
            }
        };
        if good {
            return Ok(());
        }
        text.fill(0);
        Err(AeadError::Forged)
    }
}

/// WireGuard's: four bytes of zero, then the counter, its lowest byte first (paper section 5.4.6).
fn nonce(counter: u64) -> Nonce {
    let [a, b, c, d, e, f, g, h] = counter.to_le_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}
