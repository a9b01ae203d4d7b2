//! What the client tells PID 1: one message of one size.

use std::time::Duration;

use super::{Sample, TimeError};

/// Its length in bytes.
pub const REPORT_LEN: usize = 32;
/// "CMT" and the format's version. No message of another kind on the report channel has this length.
const MAGIC: [u8; 4] = *b"CMT1";

/// An authenticated time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The time.
    pub sample: Sample,
    /// The server, by its place in the document.
    pub server: u8,
    /// How many servers agree.
    pub votes: u8,
}

impl Report {
    /// The bytes: magic, server, votes, two zeroes, then moment, time and error in nanoseconds, little-endian.
    pub fn encode(&self) -> [u8; REPORT_LEN] {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX).to_le_bytes();
        let Sample { at, time, error } = self.sample;
        let parts = MAGIC.into_iter().chain([self.server, self.votes, 0, 0]);
        let parts = parts.chain(nanos(at)).chain(nanos(time)).chain(nanos(error));
        let mut bytes = [0; REPORT_LEN];
        bytes.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        bytes
    }

    /// From what the client sent, which PID 1 does not trust: `servers` is how many the document names.
    ///
    /// # Errors
    /// Another length, form or version; a server that is not named; fewer votes than a majority.
    pub fn decode(bytes: &[u8], servers: usize) -> Result<Self, TimeError> {
        let bytes: &[u8; REPORT_LEN] = bytes.try_into().map_err(|_| TimeError::Report("not 32 bytes"))?;
        let (magic, rest) = bytes.split_first_chunk::<4>().ok_or(TimeError::Report("no magic"))?;
        let ([server, votes, a, b], rest) =
            rest.split_first_chunk::<4>().ok_or(TimeError::Report("no server"))?;
        let (at, rest) = rest.split_first_chunk::<8>().ok_or(TimeError::Report("no moment"))?;
        let (time, rest) = rest.split_first_chunk::<8>().ok_or(TimeError::Report("no time"))?;
        let error = rest.first_chunk::<8>().ok_or(TimeError::Report("no error"))?;
        if *magic != MAGIC || (*a, *b) != (0, 0) {
            return Err(TimeError::Report("not of this version"));
        }
        if usize::from(*server) >= servers {
            return Err(TimeError::Report("of a server that the document does not name"));
        }
        if usize::from(*votes).saturating_mul(2) <= servers || usize::from(*votes) > servers {
            return Err(TimeError::Report("not of a majority"));
        }
        let nanos = |bytes: &[u8; 8]| Duration::from_nanos(u64::from_le_bytes(*bytes));
        let sample = Sample { at: nanos(at), time: nanos(time), error: nanos(error) };
        Ok(Self { sample, server: *server, votes: *votes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let sample = Sample {
            at: Duration::from_nanos(1),
            time: Duration::from_secs(1_800_000_000),
            error: Duration::from_millis(3),
        };
        Report { sample, server: 2, votes: 2 }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        assert_eq!(Report::decode(&report().encode(), 3).unwrap(), report());
    }

    #[test]
    fn anything_else_is_refused() {
        let good = report().encode();
        let bent = |at: usize, to: u8| {
            let mut bytes = good;
            bytes[at] = to;
            bytes
        };
        for (bytes, servers, why) in [
            (&good[..31], 3, "32 bytes"),
            (&[good.as_slice(), &[0]].concat(), 3, "32 bytes"),
            (b"R", 3, "32 bytes"),
            (&bent(0, b'D'), 3, "version"),
            (&bent(3, b'2'), 3, "version"),
            (&bent(7, 1), 3, "version"),
            (&bent(4, 3), 3, "not name"),
            (&bent(5, 1), 3, "majority"),
            (&bent(5, 4), 3, "majority"),
            (&bent(5, 0), 3, "majority"),
            (&good, 0, "not name"),
            (&good, 4, "majority"),
        ] {
            let error = Report::decode(bytes, servers).unwrap_err().to_string();
            assert!(error.contains(why), "{error} and not {why}");
        }
    }
}
