//! Keys and cookies of one server, RFC 8915 section 5.7: each cookie is used once, and each answer brings new ones.

use std::collections::VecDeque;

use super::packet::{Nonces, Request};
use super::siv::Keys;
use crate::time::TimeError;

/// How many cookies are kept, RFC 8915 section 5.7.
pub const FULL: usize = 8;
/// Bounds of a cookie's length. Servers in use make some 100 bytes; eight of the longest must fit into a datagram with
/// [`LONGEST_REQUEST`]. An extension field holds a multiple of four (RFC 7822 section 3).
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=512;
/// Bytes of a request that reach every server whole: RFC 8200 section 5, 1280 less the headers of IPv6 and UDP.
const LONGEST_REQUEST: usize = 1232;

/// A server's state, which only it can read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie(Vec<u8>);

impl Cookie {
    /// Takes what a server gave.
    ///
    /// # Errors
    /// A length that cannot be sent back.
    pub fn new(bytes: &[u8]) -> Result<Self, TimeError> {
        if LENGTHS.contains(&bytes.len()) && bytes.len().is_multiple_of(4) {
            return Ok(Self(bytes.to_vec()));
        }
        let found = format!("{} bytes", bytes.len());
        Err(TimeError::exchange("a cookie of 16 to 512 bytes, a multiple of 4", found))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// What a key exchange has given.
#[derive(Clone, Debug)]
pub struct Association {
    keys: Keys,
    cookies: VecDeque<Cookie>,
}

impl Association {
    /// With the keys of the TLS session and the cookies of the answer.
    pub fn new(keys: Keys, cookies: Vec<Cookie>) -> Self {
        Self { keys, cookies: cookies.into() }
    }

    /// Its keys.
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// How many cookies are left.
    pub fn cookies(&self) -> usize {
        self.cookies.len()
    }

    /// The next request, with a cookie that was not used before; `None` when there are none left. It asks for as many new ones
    /// as were lost.
    ///
    /// # Errors
    /// If it cannot be sealed.
    pub fn request(&mut self, nonces: &Nonces) -> Result<Option<Request>, TimeError> {
        let Some(cookie) = self.cookies.pop_front() else { return Ok(None) };
        let missing = (FULL - 1).saturating_sub(self.cookies.len());
        let room = LONGEST_REQUEST.saturating_sub(Request::LENGTH_WITHOUT_COOKIES);
        let fit = room.checked_div(cookie.bytes().len() + 4).unwrap_or(0).saturating_sub(1);
        Request::new(&self.keys, &cookie, missing.min(fit), nonces).map(Some)
    }

    /// Keeps what an answer brought.
    pub fn refill(&mut self, cookies: Vec<Cookie>) {
        self.cookies.extend(cookies);
        self.cookies.truncate(FULL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn association(cookies: usize, length: usize) -> Association {
        let keys = Keys { to_server: [1; 32], to_client: [2; 32] };
        let cookies = (0..cookies).map(|n| Cookie::new(&vec![u8::try_from(n).unwrap(); length]).unwrap());
        Association::new(keys, cookies.collect())
    }

    fn nonces() -> Nonces {
        Nonces { unique_id: [3; 32], origin: [4; 8], aead: [5; 16] }
    }

    #[test]
    fn a_cookie_is_used_once_and_the_lost_ones_are_asked_for() {
        let mut association = association(8, 100);
        let mut lengths = Vec::new();
        for left in (0..8).rev() {
            let request = association.request(&nonces()).unwrap().unwrap();
            assert_eq!(association.cookies(), left);
            lengths.push(request.bytes().len());
            // The first is 0, then 1…
            assert_eq!(request.bytes()[48 + 36 + 4], u8::try_from(7 - left).unwrap());
        }
        let steps: Vec<usize> = lengths.windows(2).map(|two| two[1] - two[0]).collect();
        assert_eq!(steps, [104; 7], "one placeholder more for each cookie that was lost");
        assert!(association.request(&nonces()).unwrap().is_none());

        association.refill(vec![Cookie::new(&[9; 100]).unwrap(); 20]);
        assert_eq!(association.cookies(), FULL);
    }

    #[test]
    fn a_request_fits_into_a_datagram_whatever_the_cookies_are() {
        for length in [16, 100, 248, 508, 512] {
            let mut association = association(1, length);
            let request = association.request(&nonces()).unwrap().unwrap();
            assert!(request.bytes().len() <= LONGEST_REQUEST, "{length}");
            assert!(request.bytes().len() + length + 4 > LONGEST_REQUEST || length < 248);
        }
    }
}
