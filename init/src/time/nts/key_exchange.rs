//! The key exchange's messages, RFC 8915 section 4: what we send, and whether what comes back is an offer that we take.

use std::net::IpAddr;

use super::association::{Cookie, FULL};
use super::record::{Record, records};
use crate::time::TimeError;

/// The port of the key exchange's ALPN name, RFC 8915 section 4.
pub const ALPN: &[u8] = b"ntske/1";
/// The exporter's label, RFC 8915 section 5.1.
pub const EXPORTER: &[u8] = b"EXPORTER-network-time-security";
/// The longest answer that is read: 8 cookies and what goes with them take a tenth of it.
pub const LONGEST: usize = 16 << 10;
/// The port that NTP answers on. The egress lock is set before a server can be asked, so a server cannot choose another.
pub const NTP_PORT: u16 = 123;

/// Record types, RFC 8915 section 7.6.
mod kind {
    pub(super) const END: u16 = 0;
    pub(super) const PROTOCOL: u16 = 1;
    pub(super) const ERROR: u16 = 2;
    pub(super) const WARNING: u16 = 3;
    pub(super) const AEAD: u16 = 4;
    pub(super) const COOKIE: u16 = 5;
    pub(super) const SERVER: u16 = 6;
    pub(super) const PORT: u16 = 7;
}

/// NTPv4, RFC 8915 section 7.7.
const NTPV4: u16 = 0;
/// AEAD_AES_SIV_CMAC_256, which every server has (RFC 8915 section 5.1; the number is IANA's, RFC 5297).
const AES_SIV_CMAC_256: u16 = 15;

/// What we ask for: NTPv4 with AEAD_AES_SIV_CMAC_256.
pub const REQUEST: [u8; 16] = [0x80, 1, 0, 2, 0, 0, 0x80, 4, 0, 2, 0, 15, 0x80, 0, 0, 0];

/// The exporter's context for one direction, RFC 8915 section 5.1.
pub const fn context(to_client: bool) -> [u8; 5] {
    [0, 0, 0, 15, to_client as u8]
}

/// Whether the message has come to its end, or to something that makes reading on pointless.
pub fn is_complete(bytes: &[u8]) -> bool {
    bytes.len() >= LONGEST || records(bytes).any(|one| one.is_ok_and(|record| record.kind == kind::END))
}

/// Judges a whole answer of the server that the document names by address and name: the cookies that it offers.
///
/// # Errors
/// Anything but an offer of NTPv4 with AEAD_AES_SIV_CMAC_256 on the same host's port 123.
pub fn judge(bytes: &[u8], address: IpAddr, name: &str) -> Result<Vec<Cookie>, TimeError> {
    if bytes.len() > LONGEST {
        return Err(TimeError::exchange("at most 16 KiB", "more"));
    }
    let mut offer = Offer::default();
    for record in records(bytes) {
        let record = record?;
        if record.kind == kind::END {
            return if record.critical && record.body.is_empty() {
                offer.cookies()
            } else {
                Err(TimeError::exchange("an empty, critical end of message", "another"))
            };
        }
        offer.take(&record, address, name)?;
    }
    Err(TimeError::exchange("an end of message", "none"))
}

#[derive(Default)]
struct Offer {
    protocol: bool,
    aead: bool,
    cookies: Vec<Cookie>,
}

impl Offer {
    fn take(&mut self, record: &Record<'_>, address: IpAddr, name: &str) -> Result<(), TimeError> {
        match record.kind {
            kind::PROTOCOL => once(&mut self.protocol, record, NTPV4, "next protocol NTPv4, once"),
            kind::AEAD => once(&mut self.aead, record, AES_SIV_CMAC_256, "AEAD_AES_SIV_CMAC_256, once"),
            kind::ERROR => Err(TimeError::exchange("an offer", format!("error {:02x?}", record.body))),
            // RFC 8915 section 4.1.4: a warning that is not understood is an error, and none is defined.
            kind::WARNING => Err(TimeError::exchange("an offer", format!("warning {:02x?}", record.body))),
            kind::COOKIE => {
                if self.cookies.len() < FULL {
                    self.cookies.push(Cookie::new(record.body)?);
                }
                Ok(())
            }
            kind::SERVER => same_host(record.body, address, name),
            kind::PORT if record.body == NTP_PORT.to_be_bytes() => Ok(()),
            kind::PORT => {
                Err(TimeError::exchange("NTP port 123", format!("port record {:02x?}", record.body)))
            }
            other if record.critical => {
                Err(TimeError::exchange("records that we know", format!("critical record {other}")))
            }
            _ => Ok(()),
        }
    }

    fn cookies(self) -> Result<Vec<Cookie>, TimeError> {
        if !self.protocol {
            return Err(TimeError::exchange("next protocol NTPv4", "none"));
        }
        if !self.aead {
            return Err(TimeError::exchange("AEAD_AES_SIV_CMAC_256", "none"));
        }
        if self.cookies.is_empty() {
            return Err(TimeError::exchange("a cookie", "none"));
        }
        Ok(self.cookies)
    }
}

fn once(seen: &mut bool, record: &Record<'_>, value: u16, expected: &'static str) -> Result<(), TimeError> {
    if std::mem::replace(seen, true) || record.body != value.to_be_bytes() {
        return Err(TimeError::exchange(expected, format!("record {} {:02x?}", record.kind, record.body)));
    }
    Ok(())
}

/// RFC 8915 section 4.1.7: an address, or a name, in ASCII. Ours are the measured ones.
fn same_host(body: &[u8], address: IpAddr, name: &str) -> Result<(), TimeError> {
    let text = std::str::from_utf8(body).unwrap_or_default();
    let is_address = text.parse::<IpAddr>().is_ok_and(|other| other.to_canonical() == address.to_canonical());
    let is_name = text.strip_suffix('.').unwrap_or(text).eq_ignore_ascii_case(name);
    if is_address || is_name {
        return Ok(());
    }
    // Bounded: a log line, not a place for whatever a server wants to say.
    let shown = String::from_utf8_lossy(body.get(..body.len().min(253)).unwrap_or_default()).into_owned();
    Err(TimeError::OtherHost(shown))
}

#[cfg(test)]
mod tests;
