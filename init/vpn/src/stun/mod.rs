//! STUN binding requests and their answers (RFC 8489), as the relays' STUN servers want them (tailscale `net/stun/stun.go`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use thiserror::Error;

#[cfg(test)]
mod tests;

/// The length of a transaction number (RFC 8489 section 5).
pub const TXID_LEN: usize = 12;
/// The length of the request that [`request`] writes.
pub const REQUEST_LEN: usize = HEADER_LEN + 12 + FINGERPRINT_LEN;

/// The number that an answer carries back.
pub type TxId = [u8; TXID_LEN];

/// What is no answer to a binding request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum StunError {
    /// No header, no cookie, or a length that is not the packet's.
    #[error("not a STUN message")]
    NotStun,
    /// A STUN message of another type.
    #[error("not a success answer to a binding request: type {0:#06x}")]
    NotSuccess(u16),
    /// An attribute reaches beyond the message.
    #[error("an attribute is cut short")]
    Truncated,
    /// No usable address in it.
    #[error("no address in the answer")]
    NoAddress,
    /// The fingerprint does not fit.
    #[error("the fingerprint is wrong")]
    Fingerprint,
    /// A request without the attributes that the relays' servers want.
    #[error("the request lacks SOFTWARE or FINGERPRINT")]
    NotOurs,
}

/// A binding request: SOFTWARE and FINGERPRINT, without which the relays' servers do not answer.
pub fn request(txid: &TxId) -> [u8; REQUEST_LEN] {
    let mut packet = Vec::with_capacity(REQUEST_LEN);
    header(&mut packet, BINDING_REQUEST, txid);
    attribute(&mut packet, ATTR_SOFTWARE, SOFTWARE);
    fingerprint(&mut packet);
    let mut out = [0; REQUEST_LEN];
    for (to, from) in out.iter_mut().zip(packet) {
        *to = from;
    }
    out
}

/// An answer to a request from `from`: for servers, ours are in tests and rigs.
pub fn response(txid: &TxId, from: SocketAddr) -> Vec<u8> {
    let mut packet = Vec::with_capacity(64);
    header(&mut packet, BINDING_SUCCESS, txid);
    let port = from.port() ^ COOKIE_HIGH;
    let mut value = vec![0, if from.is_ipv4() { FAMILY_V4 } else { FAMILY_V6 }];
    value.extend(port.to_be_bytes());
    let mask = mask(txid);
    match from.ip() {
        IpAddr::V4(ip) => value.extend(ip.octets().iter().zip(mask).map(|(a, b)| a ^ b)),
        IpAddr::V6(ip) => value.extend(ip.octets().iter().zip(mask).map(|(a, b)| a ^ b)),
    }
    attribute(&mut packet, ATTR_XOR_MAPPED, &value);
    packet
}

/// Whether a datagram is a STUN binding message: the cookie at its place, the two top bits clear, a binding method.
pub fn looks_like_stun(packet: &[u8]) -> bool {
    packet.len() >= HEADER_LEN
        && packet.first().is_some_and(|byte| byte & 0xc0 == 0)
        && packet.get(1) == Some(&1)
        && packet.get(4..8) == Some(&COOKIE.to_be_bytes())
}

/// The transaction number of a request that has what the relays' servers want of it.
///
/// # Errors
/// If it is none.
pub fn parse_request(packet: &[u8]) -> Result<TxId, StunError> {
    let (kind, txid, attributes) = split(packet)?;
    if kind != BINDING_REQUEST {
        return Err(StunError::NotSuccess(kind));
    }
    let (mut software, mut checked) = (false, false);
    for item in Attributes(attributes) {
        let (number, value) = item?;
        match number {
            ATTR_SOFTWARE => software = value == SOFTWARE,
            ATTR_FINGERPRINT => {
                check_fingerprint(packet, value)?;
                checked = true;
            }
            _ => {}
        }
    }
    if software && checked { Ok(txid) } else { Err(StunError::NotOurs) }
}

/// The transaction number and our address as the server saw it.
///
/// # Errors
/// If it is no success answer, or has no address.
pub fn parse_response(packet: &[u8]) -> Result<(TxId, SocketAddr), StunError> {
    let (kind, txid, attributes) = split(packet)?;
    if kind != BINDING_SUCCESS {
        return Err(StunError::NotSuccess(kind));
    }
    let (mut xored, mut plain) = (None, None);
    for item in Attributes(attributes) {
        let (number, value) = item?;
        match number {
            ATTR_XOR_MAPPED | ATTR_XOR_MAPPED_OLD => {
                xored = xored.or_else(|| address(value, COOKIE_HIGH, &mask(&txid)));
            }
            ATTR_MAPPED => plain = plain.or_else(|| address(value, 0, &[0; 16])),
            ATTR_FINGERPRINT => check_fingerprint(packet, value)?,
            _ => {}
        }
    }
    let address = xored.or(plain).ok_or(StunError::NoAddress)?;
    Ok((txid, address))
}

fn split(packet: &[u8]) -> Result<(u16, TxId, &[u8]), StunError> {
    if !looks_like_stun(packet) {
        return Err(StunError::NotStun);
    }
    let (header, attributes) = packet.split_at_checked(HEADER_LEN).ok_or(StunError::NotStun)?;
    let kind = header.first_chunk::<2>().map_or(0, |bytes| u16::from_be_bytes(*bytes));
    let len = header.get(2..4).and_then(|bytes| bytes.first_chunk()).map_or(0, |b| u16::from_be_bytes(*b));
    let txid = *header.last_chunk::<TXID_LEN>().ok_or(StunError::NotStun)?;
    if usize::from(len) != attributes.len() {
        return Err(StunError::NotStun);
    }
    Ok((kind, txid, attributes))
}

/// Type, length, value padded to four (RFC 8489 section 14).
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), StunError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let item = self.take();
        if item.is_none() {
            self.0 = &[];
        }
        Some(item.ok_or(StunError::Truncated))
    }
}

impl<'a> Attributes<'a> {
    fn take(&mut self) -> Option<(u16, &'a [u8])> {
        let (number, rest) = self.0.split_first_chunk::<2>()?;
        let (len, rest) = rest.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_be_bytes(*len));
        let value = rest.get(..len)?;
        self.0 = rest.get(len.next_multiple_of(4)..)?;
        Some((u16::from_be_bytes(*number), value))
    }
}

fn address(value: &[u8], port_mask: u16, mask: &[u8; 16]) -> Option<SocketAddr> {
    let ([_, family], rest) = value.split_first_chunk::<2>()?;
    let (port, ip) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port) ^ port_mask;
    let ip = match *family {
        FAMILY_V4 => {
            let octets = <[u8; 4]>::try_from(ip).ok()?;
            let mask = *mask.first_chunk::<4>()?;
            IpAddr::V4(Ipv4Addr::from_bits(u32::from_be_bytes(octets) ^ u32::from_be_bytes(mask)))
        }
        FAMILY_V6 => {
            let octets = <[u8; 16]>::try_from(ip).ok()?;
            IpAddr::V6(Ipv6Addr::from_bits(u128::from_be_bytes(octets) ^ u128::from_be_bytes(*mask)))
        }
        _ => return None,
    };
    let ip = ip.to_canonical();
    (port != 0 && !ip.is_unspecified()).then(|| SocketAddr::new(ip, port))
}

/// What addresses are xored with: the cookie, then the transaction number (RFC 8489 section 14.2).
fn mask(txid: &TxId) -> [u8; 16] {
    let mut mask = [0; 16];
    for (to, from) in mask.iter_mut().zip(COOKIE.to_be_bytes().iter().chain(txid)) {
        *to = *from;
    }
    mask
}

fn header(packet: &mut Vec<u8>, kind: u16, txid: &TxId) {
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(COOKIE.to_be_bytes());
    packet.extend(txid);
}

/// `value` must be a multiple of four long: ours are.
fn attribute(packet: &mut Vec<u8>, number: u16, value: &[u8]) {
    let len = u16::try_from(value.len()).unwrap_or(0);
    packet.extend(number.to_be_bytes());
    packet.extend(len.to_be_bytes());
    packet.extend(value);
    set_len(packet, 0);
}

/// The length field counts the fingerprint before it is written (RFC 8489 section 14.7).
fn fingerprint(packet: &mut Vec<u8>) {
    set_len(packet, FINGERPRINT_LEN);
    let sum = crc32(packet) ^ FINGERPRINT_XOR;
    attribute(packet, ATTR_FINGERPRINT, &sum.to_be_bytes());
}

fn set_len(packet: &mut [u8], further: usize) {
    let len = u16::try_from((packet.len() + further).saturating_sub(HEADER_LEN)).unwrap_or(0);
    for (to, from) in packet.iter_mut().skip(2).zip(len.to_be_bytes()) {
        *to = from;
    }
}

/// It is the last attribute, over everything before it.
fn check_fingerprint(packet: &[u8], value: &[u8]) -> Result<(), StunError> {
    let covered = packet.len().checked_sub(FINGERPRINT_LEN).and_then(|end| packet.get(..end));
    let sum = covered.map(|bytes| (crc32(bytes) ^ FINGERPRINT_XOR).to_be_bytes());
    if sum.as_ref().map(<[u8; 4]>::as_slice) == Some(value) { Ok(()) } else { Err(StunError::Fingerprint) }
}

/// CRC-32 of ISO-HDLC. Bit by bit: 40 bytes, a few times a minute.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xedb8_8320 * (sum & 1)))
    })
}

const HEADER_LEN: usize = 20;
/// RFC 8489 section 5.
const COOKIE: u32 = 0x2112_a442;
const COOKIE_HIGH: u16 = 0x2112;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const ATTR_MAPPED: u16 = 0x0001;
const ATTR_XOR_MAPPED: u16 = 0x0020;
/// The number that XOR-MAPPED-ADDRESS had before RFC 5389; some servers still send it.
const ATTR_XOR_MAPPED_OLD: u16 = 0x8020;
const ATTR_SOFTWARE: u16 = 0x8022;
const ATTR_FINGERPRINT: u16 = 0x8028;
const FAMILY_V4: u8 = 1;
const FAMILY_V6: u8 = 2;
/// What the relays' servers want to read there (tailscale `net/stun/stun.go`).
const SOFTWARE: &[u8] = b"tailnode";
const FINGERPRINT_LEN: usize = 8;
/// RFC 8489 section 14.7.
const FINGERPRINT_XOR: u32 = 0x5354_554e;
