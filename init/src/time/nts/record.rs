//! Records of the key exchange, RFC 8915 section 4.

use crate::time::TimeError;

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Who does not understand it must not go on.
    pub critical: bool,
    /// Its type, 15 bits.
    pub kind: u16,
    /// Its body.
    pub body: &'a [u8],
}

/// The records in these bytes, in order; ends with an error where one is cut short.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Result<Record<'_>, TimeError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = first(rest);
        rest = record.as_ref().map_or(&[], |(_, behind)| *behind);
        Some(
            record
                .map(|(record, _)| record)
                .ok_or_else(|| TimeError::exchange("a whole record", "part of one")),
        )
    })
}

fn first(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let (kind, rest) = bytes.split_first_chunk::<2>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (body, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    let kind = u16::from_be_bytes(*kind);
    Some((Record { critical: kind & 0x8000 != 0, kind: kind & 0x7fff, body }, rest))
}
