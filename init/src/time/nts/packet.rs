//! NTPv4 packets (RFC 5905 section 7.3) with the extension fields of RFC 8915 section 5.

use std::time::Duration;

use super::association::{Cookie, FULL};
use super::siv::{self, Keys};
use crate::time::{Sample, TimeError};

/// Bytes of the header.
const HEADER: usize = 48;
/// The longest answer that is read. A request of 1232 bytes is answered with as many at most (RFC 8915 section 5.7).
pub(in crate::time) const LONGEST: usize = 2048;
/// Seconds from 1900, where NTP counts from, to 1970 (RFC 5905 section 6).
const FROM_1900_TO_1970: u64 = 2_208_988_800;
/// From here on a server is not synchronised: RFC 5905 appendix A.1.1, `MAXSTRAT`.
const STRATA: std::ops::Range<u8> = 1..16;

/// Extension field types, RFC 8915 section 7.5.
mod field {
    pub(super) const UNIQUE_ID: u16 = 0x0104;
    pub(super) const COOKIE: u16 = 0x0204;
    pub(super) const PLACEHOLDER: u16 = 0x0304;
    pub(super) const AUTHENTICATOR: u16 = 0x0404;
}

/// Random bytes, fresh for each request.
#[derive(Clone, Debug)]
pub struct Nonces {
    /// By which the answer is known, RFC 8915 section 5.3.
    pub unique_id: [u8; 32],
    /// In the place of our time, which is nobody's business (draft-ietf-ntp-data-minimization); comes back as the origin.
    pub origin: [u8; 8],
    /// The AEAD's.
    pub aead: [u8; 16],
}

/// A request, and what its answer must repeat.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Vec<u8>,
    unique_id: [u8; 32],
    origin: [u8; 8],
}

impl Request {
    /// Header, unique identifier, and authenticator with a nonce of 16 bytes and a tag of 16.
    pub(super) const LENGTH_WITHOUT_COOKIES: usize = HEADER + (4 + 32) + (4 + 4 + 16 + 16);

    pub(super) fn new(
        keys: &Keys,
        cookie: &Cookie,
        placeholders: usize,
        nonces: &Nonces,
    ) -> Result<Self, TimeError> {
        let mut bytes = vec![0; HEADER - 8];
        if let Some(first) = bytes.first_mut() {
            // No leap warning, version 4, mode 3 (client).
            *first = 0x23;
        }
        bytes.extend_from_slice(&nonces.origin);
        put(&mut bytes, field::UNIQUE_ID, &nonces.unique_id);
        put(&mut bytes, field::COOKIE, cookie.bytes());
        for _ in 0..placeholders {
            put(&mut bytes, field::PLACEHOLDER, &vec![0; cookie.bytes().len()]);
        }
        let sealed = siv::seal(&keys.to_server, &bytes, &nonces.aead, &[])?;
        let mut body = Vec::with_capacity(36);
        for part in [&nonces.aead[..], &sealed] {
            body.extend_from_slice(&u16::try_from(part.len()).unwrap_or(0).to_be_bytes());
        }
        body.extend_from_slice(&nonces.aead);
        body.extend_from_slice(&sealed);
        put(&mut bytes, field::AUTHENTICATOR, &body);
        Ok(Self { bytes, unique_id: nonces.unique_id, origin: nonces.origin })
    }

    /// What is sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

fn put(bytes: &mut Vec<u8>, kind: u16, body: &[u8]) {
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&u16::try_from(body.len() + 4).unwrap_or(0).to_be_bytes());
    bytes.extend_from_slice(body);
}

/// An authentic answer to our request, of a server that is synchronised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// When the server received the request and when it answered, in NTP's format.
    receive: u64,
    transmit: u64,
    /// The server's own distance from the truth: half its delay and its dispersion.
    distance: Duration,
    /// New cookies.
    pub cookies: Vec<Cookie>,
}

impl Answer {
    /// Reads whatever came as the answer to a request.
    ///
    /// # Errors
    /// What is no answer to this request; a kiss-o'-death, authentic or not; what is not authentic; a server that is not
    /// synchronised.
    pub fn open(bytes: &[u8], request: &Request, keys: &Keys) -> Result<Self, TimeError> {
        if bytes.len() > LONGEST {
            return Err(TimeError::answer("at most 2048 bytes", "more"));
        }
        let header = Header::read(bytes)?;
        if header.mode_and_version != 0x24 {
            return Err(TimeError::answer("version 4, mode 4", format!("{:#04x}", header.mode_and_version)));
        }
        if header.origin != request.origin {
            return Err(TimeError::answer("our origin time stamp", "another"));
        }
        let fields = Fields::read(bytes)?;
        if fields.unique_id != request.unique_id {
            return Err(TimeError::answer("our unique identifier", "another"));
        }
        let Some(authenticator) = fields.authenticator else {
            // Before anything else is known of the server there can be no key: NTSN is never authentic (RFC 8915 section 5.7).
            return Err(if header.stratum == 0 {
                TimeError::Kiss { code: header.reference, authentic: false }
            } else {
                TimeError::answer("an authenticator", "none")
            });
        };
        let plain = authenticator.open(&keys.to_client)?;
        if header.stratum == 0 {
            return Err(TimeError::Kiss { code: header.reference, authentic: true });
        }
        if header.leap == 3 || !STRATA.contains(&header.stratum) {
            let found = format!("leap {}, stratum {}", header.leap, header.stratum);
            return Err(TimeError::answer("a synchronised server", found));
        }
        if header.transmit == 0 || header.transmit.wrapping_sub(header.receive) > u64::MAX / 2 {
            return Err(TimeError::answer("a transmit time after the receive time", "one before"));
        }
        let cookies = cookies(&plain)?;
        let distance = short(header.root_delay) / 2 + short(header.root_dispersion);
        Ok(Self { receive: header.receive, transmit: header.transmit, distance, cookies })
    }

    /// The time, if the request left at `sent` and this came at `received` (both since the kernel started). NTP's time stamps
    /// have no era: it is the time nearest to `pivot`.
    ///
    /// # Errors
    /// If the server took longer than the answer was away, or the time is before 1970.
    pub fn sample(&self, sent: Duration, received: Duration, pivot: Duration) -> Result<Sample, TimeError> {
        let before_1970 = || TimeError::answer("a time after 1970", "one before");
        let (receive, transmit) = (unix(self.receive, pivot), unix(self.transmit, pivot));
        let (receive, transmit) = (receive.ok_or_else(before_1970)?, transmit.ok_or_else(before_1970)?);
        let away = received.saturating_sub(sent);
        let delay = away.checked_sub(transmit.saturating_sub(receive)).ok_or_else(|| {
            TimeError::answer("an answer that took no longer on the server than altogether", "another")
        })?;
        let half = delay / 2;
        Ok(Sample { at: received, time: transmit.saturating_add(half), error: half + self.distance })
    }
}

/// NTP's 64-bit format (RFC 5905 section 6) as a time since 1970: the one nearest to `pivot`, less than 68 years away from it.
/// `None` before 1970.
pub fn unix(timestamp: u64, pivot: Duration) -> Option<Duration> {
    let [a, b, c, d, e, f, g, h] = timestamp.to_be_bytes();
    let (seconds, fraction) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    let pivot_in_era = u32::try_from((pivot.as_secs() + FROM_1900_TO_1970) & 0xffff_ffff).ok()?;
    let away = i64::from(seconds.wrapping_sub(pivot_in_era).cast_signed());
    let seconds = pivot.as_secs().checked_add_signed(away)?;
    let nanos = (u64::from(fraction) * 1_000_000_000) >> 32;
    Some(Duration::new(seconds, u32::try_from(nanos).ok()?))
}

/// NTP's 32-bit format: seconds in 16.16 bits (RFC 5905 section 6).
fn short(value: u32) -> Duration {
    Duration::from_nanos((u64::from(value) * 1_000_000_000) >> 16)
}

struct Header {
    leap: u8,
    mode_and_version: u8,
    stratum: u8,
    root_delay: u32,
    root_dispersion: u32,
    reference: [u8; 4],
    origin: [u8; 8],
    receive: u64,
    transmit: u64,
}

impl Header {
    fn read(bytes: &[u8]) -> Result<Self, TimeError> {
        let short = || TimeError::answer("a header of 48 bytes", format!("{} bytes", bytes.len()));
        let (&[first, stratum, _, _], rest) = bytes.split_first_chunk::<4>().ok_or_else(short)?;
        let (root_delay, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let (root_dispersion, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let (reference, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
        let (_, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let (origin, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let (receive, rest) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let transmit = rest.first_chunk::<8>().ok_or_else(short)?;
        Ok(Self {
            leap: first >> 6,
            mode_and_version: first & 0x3f,
            stratum,
            root_delay: u32::from_be_bytes(*root_delay),
            root_dispersion: u32::from_be_bytes(*root_dispersion),
            reference: *reference,
            origin: *origin,
            receive: u64::from_be_bytes(*receive),
            transmit: u64::from_be_bytes(*transmit),
        })
    }
}

/// The extension fields up to the authenticator; what follows it is not protected and not read.
struct Fields<'a> {
    unique_id: &'a [u8],
    authenticator: Option<Authenticator<'a>>,
}

impl<'a> Fields<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, TimeError> {
        let mut unique_id: Option<&[u8]> = None;
        let mut authenticator = None;
        let mut at = HEADER;
        while let Some((kind, body, next)) = extension(bytes, at)? {
            match kind {
                field::UNIQUE_ID if unique_id.replace(body).is_some() => {
                    return Err(TimeError::answer("one unique identifier", "two"));
                }
                field::AUTHENTICATOR => {
                    let data = bytes.get(..at).unwrap_or_default();
                    authenticator = Some(Authenticator::read(data, body)?);
                    break;
                }
                _ => {}
            }
            at = next;
        }
        let unique_id = unique_id.ok_or_else(|| TimeError::answer("a unique identifier", "none"))?;
        Ok(Self { unique_id, authenticator })
    }
}

/// Type and body of an extension field, and where the next begins.
type Extension<'a> = (u16, &'a [u8], usize);

/// The extension field at `at`; none at the end. RFC 7822 section 3: at least 16 bytes, a
/// multiple of 4, all within the packet.
fn extension(bytes: &[u8], at: usize) -> Result<Option<Extension<'_>>, TimeError> {
    let rest = bytes.get(at..).unwrap_or_default();
    if rest.is_empty() {
        return Ok(None);
    }
    let whole = || {
        let ([a, b, c, d], _) = rest.split_first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([*c, *d]));
        let body = rest.get(4..length)?;
        let good = length >= 16 && length.is_multiple_of(4);
        good.then_some((u16::from_be_bytes([*a, *b]), body, at.checked_add(length)?))
    };
    whole().map(Some).ok_or_else(|| TimeError::answer("whole extension fields", "part of one"))
}

/// RFC 8915 section 5.6.
struct Authenticator<'a> {
    data: &'a [u8],
    nonce: &'a [u8],
    sealed: &'a [u8],
}

impl<'a> Authenticator<'a> {
    fn read(data: &'a [u8], body: &'a [u8]) -> Result<Self, TimeError> {
        let parts = || {
            let ([a, b, c, d], rest) = body.split_first_chunk::<4>()?;
            let nonce = usize::from(u16::from_be_bytes([*a, *b]));
            let sealed = usize::from(u16::from_be_bytes([*c, *d]));
            let behind_nonce = rest.get(nonce.next_multiple_of(4)..)?;
            Some(Self { data, nonce: rest.get(..nonce)?, sealed: behind_nonce.get(..sealed)? })
        };
        parts().ok_or_else(|| TimeError::answer("a whole authenticator", "part of one"))
    }

    fn open(&self, key: &[u8; 32]) -> Result<Vec<u8>, TimeError> {
        siv::open(key, self.data, self.nonce, self.sealed)
    }
}

/// What was sealed: extension fields again, of which we know the cookies.
fn cookies(plain: &[u8]) -> Result<Vec<Cookie>, TimeError> {
    let mut cookies = Vec::new();
    let mut at = 0;
    while let Some((kind, body, next)) = extension(plain, at)? {
        if kind == field::COOKIE && cookies.len() < FULL {
            cookies.push(Cookie::new(body)?);
        }
        at = next;
    }
    Ok(cookies)
}

#[cfg(test)]
mod tests;
