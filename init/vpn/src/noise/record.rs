//! Records: `0x04`, a big-endian length, the sealed bytes (tailscale `control/controlbase/conn.go`). The nonce is four zero
//! bytes and a *big-endian* counter, other than Noise's own transport.

use bytes::{Buf as _, BytesMut};
use ring::aead::{Aad, LessSafeKey, Nonce};
use thiserror::Error;

use super::handshake::{HandshakeError, aead};

/// The header of a record.
pub const HEADER_LEN: usize = 3;
/// The longest sealed part (`conn.go`, `maxCiphertextSize`).
pub const MAX_CIPHERTEXT: usize = 4093;
/// The longest plaintext of one record (`conn.go`, `maxPlaintextSize`).
pub const MAX_PLAINTEXT: usize = 4077;

const TYPE_RECORD: u8 = 4;
const TAG_LEN: usize = 16;
/// The counter at which a direction ends (`conn.go`, `invalidNonce`).
const LAST_COUNTER: u64 = u64::MAX;

/// Why a record stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Something else than a record.
    #[error("expected a record, not a frame of type {0}")]
    Type(u8),
    /// A record longer than any may be, or shorter than its tag.
    #[error("a record of {0} sealed bytes")]
    Length(usize),
    /// A record that does not open.
    #[error("a record that does not open")]
    Sealed,
    /// The direction's counter is used up.
    #[error("the tunnel has carried all the records that it can")]
    Exhausted,
    /// The stream ended inside a record.
    #[error("the stream ended inside a record")]
    Truncated,
}

/// One direction, sending.
#[derive(Debug)]
pub struct Sealer {
    key: LessSafeKey,
    counter: u64,
}

impl Sealer {
    pub(super) fn new(key: &[u8; 32]) -> Result<Self, HandshakeError> {
        Ok(Self { key: aead(key)?, counter: 0 })
    }

    /// Appends one record with the head of `plain`; returns how many bytes of it that took (at most [`MAX_PLAINTEXT`]).
    ///
    /// # Errors
    /// If the counter is used up.
    pub fn seal(&mut self, plain: &[u8], out: &mut BytesMut) -> Result<usize, RecordError> {
        let (now, _) = plain.split_at_checked(MAX_PLAINTEXT).unwrap_or((plain, &[]));
        let nonce = take_nonce(&mut self.counter)?;
        let sealed_len = u16::try_from(now.len() + TAG_LEN).map_err(|_| RecordError::Length(now.len()))?;
        out.reserve(HEADER_LEN + now.len() + TAG_LEN);
        out.extend_from_slice(&[TYPE_RECORD]);
        out.extend_from_slice(&sealed_len.to_be_bytes());
        let mut body = out.split_off(out.len());
        body.extend_from_slice(now);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut body)
            .map_err(|_| RecordError::Sealed)?;
        body.extend_from_slice(tag.as_ref());
        out.unsplit(body);
        Ok(now.len())
    }
}

/// One direction, receiving.
#[derive(Debug)]
pub struct Opener {
    key: LessSafeKey,
    counter: u64,
}

impl Opener {
    pub(super) fn new(key: &[u8; 32]) -> Result<Self, HandshakeError> {
        Ok(Self { key: aead(key)?, counter: 0 })
    }

    /// Takes one record off the head of what was received and gives its plaintext, which may be empty; `None`: there is no whole
    /// record yet.
    ///
    /// # Errors
    /// If what was received is no record of this tunnel. The tunnel is over then.
    pub fn open(&mut self, received: &mut BytesMut) -> Result<Option<BytesMut>, RecordError> {
        let Some(&[kind, high, low]) = received.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        if kind != TYPE_RECORD {
            return Err(RecordError::Type(kind));
        }
        let len = usize::from(u16::from_be_bytes([high, low]));
        if !(TAG_LEN..=MAX_CIPHERTEXT).contains(&len) {
            return Err(RecordError::Length(len));
        }
        if received.len() < HEADER_LEN + len {
            return Ok(None);
        }
        received.advance(HEADER_LEN);
        let mut body = received.split_to(len);
        let nonce = take_nonce(&mut self.counter)?;
        let plain =
            self.key.open_in_place(nonce, Aad::empty(), &mut body).map_err(|_| RecordError::Sealed)?.len();
        body.truncate(plain);
        Ok(Some(body))
    }
}

fn take_nonce(counter: &mut u64) -> Result<Nonce, RecordError> {
    if *counter == LAST_COUNTER {
        return Err(RecordError::Exhausted);
    }
    let mut nonce = [0; 12];
    if let Some(low) = nonce.last_chunk_mut::<8>() {
        *low = counter.to_be_bytes();
    }
    *counter += 1;
    Ok(Nonce::assume_unique_for_key(nonce))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_at_its_end_seals_and_opens_nothing() {
        let mut sealer = Sealer { key: aead(&[7; 32]).unwrap(), counter: u64::MAX - 1 };
        let mut opener = Opener { key: aead(&[7; 32]).unwrap(), counter: u64::MAX - 1 };
        let mut wire = BytesMut::new();
        assert_eq!(sealer.seal(b"last", &mut wire), Ok(4));
        assert_eq!(opener.open(&mut wire).unwrap().unwrap(), &b"last"[..]);
        assert_eq!(sealer.seal(b"x", &mut wire), Err(RecordError::Exhausted));
    }
}
