//! What the process that reads the share tells PID 1: one message, read back as hostile input.
//!
//! ```text
//!  0  magic "CMSH"    4  version u16 = 1    6  u16: which fields are there
//!  8  length of the document, u32          12  length of mr_config, u32
//! 16  instance_id_seed, 20 bytes           36  app_id, 20 bytes
//! 56  the document ‖ mr_config             all integers little endian
//! ```
//!
//! Bits: 1 mr_config, 2 instance_id_seed, 4 app_id. What is not there is zero; nothing follows.

use casemate_measure::AppId;

use super::files::InstanceInfo;
use super::{DOCUMENT_MAX, SYS_CONFIG_MAX};

const MAGIC: &[u8; 4] = b"CMSH";
const VERSION: u16 = 1;
const HEADER: usize = 56;
const MR_CONFIG: u16 = 1;
const SEED: u16 = 2;
const APP_ID: u16 = 4;

/// The longest answer in bytes.
pub const MAX_LEN: u64 = HEADER as u64 + DOCUMENT_MAX as u64 + SYS_CONFIG_MAX as u64;

/// What the share says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `app-compose.json`, byte for byte; at most [`DOCUMENT_MAX`] bytes.
    pub document: Vec<u8>,
    /// `.sys-config.json`'s `mr_config`, byte for byte; at most [`SYS_CONFIG_MAX`] bytes.
    pub mr_config: Option<Vec<u8>>,
    /// `.instance_info`; nothing if there is none.
    pub instance: InstanceInfo,
}

/// Why bytes are no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not the header of this version.
    #[error("expected the header of an answer of version 1, found something else")]
    Header,
    /// A length beyond its bound.
    #[error("{part}: expected at most {limit} bytes, found {found}")]
    TooLong {
        /// Of what.
        part: &'static str,
        /// The limit in bytes.
        limit: u32,
        /// The length in bytes.
        found: u32,
    },
    /// The message is not as long as its parts.
    #[error("expected {expected} bytes, found {found}")]
    Length {
        /// As the header says.
        expected: u64,
        /// As it is.
        found: u64,
    },
    /// Bytes of a field that is said not to be there.
    #[error("{0}: expected nothing, as its bit says, found bytes")]
    Absent(&'static str),
}

impl Answer {
    /// The message.
    pub fn encode(&self) -> Vec<u8> {
        let mr_config = self.mr_config.as_deref().unwrap_or_default();
        let bit = |there: bool, bit: u16| if there { bit } else { 0 };
        let fields = bit(self.mr_config.is_some(), MR_CONFIG)
            | bit(self.instance.seed.is_some(), SEED)
            | bit(self.instance.app_id.is_some(), APP_ID);
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
        let mut message =
            Vec::with_capacity(HEADER.saturating_add(self.document.len()).saturating_add(mr_config.len()));
        message.extend(MAGIC);
        message.extend(VERSION.to_le_bytes());
        message.extend(fields.to_le_bytes());
        message.extend(length(&self.document));
        message.extend(length(mr_config));
        message.extend(self.instance.seed.unwrap_or_default());
        message.extend(self.instance.app_id.map_or([0; 20], |id| id.0));
        message.extend(&self.document);
        message.extend(mr_config);
        message
    }

    /// From bytes that a process wrote which has read what the host wrote.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn decode(message: &[u8]) -> Result<Self, AnswerError> {
        let (fields, lengths, seed, app_id, body) = header(message).ok_or(AnswerError::Header)?;
        let [document_length, mr_config_length] = lengths;
        for (part, found, limit) in
            [("document", document_length, DOCUMENT_MAX), ("mr_config", mr_config_length, SYS_CONFIG_MAX)]
        {
            if found > limit {
                return Err(AnswerError::TooLong { part, limit, found });
            }
        }
        let expected = u64::from(document_length).saturating_add(mr_config_length.into());
        if body.len() as u64 != expected {
            return Err(AnswerError::Length { expected, found: body.len() as u64 });
        }
        let at = usize::try_from(document_length).unwrap_or(usize::MAX);
        let (document, mr_config) = body.split_at_checked(at).ok_or(AnswerError::Header)?;
        let absent = [
            (MR_CONFIG, mr_config.is_empty(), "mr_config"),
            (SEED, seed == [0; 20], "instance_id_seed"),
            (APP_ID, app_id == [0; 20], "app_id"),
        ];
        for (bit, empty, name) in absent {
            if fields & bit == 0 && !empty {
                return Err(AnswerError::Absent(name));
            }
        }
        let there = |bit: u16| fields & bit != 0;
        Ok(Self {
            document: document.to_vec(),
            mr_config: there(MR_CONFIG).then(|| mr_config.to_vec()),
            instance: InstanceInfo {
                seed: there(SEED).then_some(seed),
                app_id: there(APP_ID).then_some(AppId(app_id)),
            },
        })
    }
}

type Header<'a> = (u16, [u32; 2], [u8; 20], [u8; 20], &'a [u8]);

fn header(message: &[u8]) -> Option<Header<'_>> {
    let (magic, rest) = message.split_first_chunk::<4>()?;
    let (version, rest) = rest.split_first_chunk::<2>()?;
    let (fields, rest) = rest.split_first_chunk::<2>()?;
    let (document, rest) = rest.split_first_chunk::<4>()?;
    let (mr_config, rest) = rest.split_first_chunk::<4>()?;
    let (seed, rest) = rest.split_first_chunk::<20>()?;
    let (app_id, body) = rest.split_first_chunk::<20>()?;
    let fields = u16::from_le_bytes(*fields);
    let known = fields & !(MR_CONFIG | SEED | APP_ID) == 0;
    if magic != MAGIC || u16::from_le_bytes(*version) != VERSION || !known {
        return None;
    }
    Some((fields, [u32::from_le_bytes(*document), u32::from_le_bytes(*mr_config)], *seed, *app_id, body))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn answers() -> impl Strategy<Value = Answer> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..64);
        (bytes(), proptest::option::of(bytes()), any::<Option<[u8; 20]>>(), any::<Option<[u8; 20]>>())
            .prop_map(|(document, mr_config, seed, app_id)| Answer {
                document,
                mr_config,
                instance: InstanceInfo { seed, app_id: app_id.map(AppId) },
            })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(answer in answers()) {
            prop_assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }

        /// One byte more, less or changed: refused, or a well-formed answer whose own bytes these are.
        #[test]
        fn there_is_one_spelling(answer in answers(), at in any::<prop::sample::Index>(), with in any::<u8>()) {
            let message = answer.encode();
            let mut longer = message.clone();
            longer.push(with);
            prop_assert!(Answer::decode(&longer).is_err());
            prop_assert!(Answer::decode(&message[..at.index(message.len())]).is_err());
            let mut changed = message;
            let at = at.index(changed.len());
            changed[at] = with;
            if let Ok(read) = Answer::decode(&changed) {
                prop_assert_eq!(read.encode(), changed);
            }
        }
    }

    #[test]
    fn bounds_are_exact() {
        let answer = |length: u32| Answer {
            document: vec![b'x'; length as usize],
            mr_config: None,
            instance: InstanceInfo::default(),
        };
        assert!(Answer::decode(&answer(DOCUMENT_MAX).encode()).is_ok());
        let (limit, found) = (DOCUMENT_MAX, DOCUMENT_MAX + 1);
        let error = Answer::decode(&answer(found).encode());
        assert_eq!(error, Err(AnswerError::TooLong { part: "document", limit, found }));
    }

    #[test]
    fn a_field_that_is_not_there_is_zero() {
        let answer = Answer { document: vec![], mr_config: None, instance: InstanceInfo::default() };
        for (at, name) in [(16, "instance_id_seed"), (36, "app_id")] {
            let mut message = answer.encode();
            message[at] = 1;
            assert_eq!(Answer::decode(&message), Err(AnswerError::Absent(name)));
        }
        let mut message = answer.encode();
        message[6] = 8;
        assert_eq!(Answer::decode(&message), Err(AnswerError::Header), "an unknown bit");
    }
}
