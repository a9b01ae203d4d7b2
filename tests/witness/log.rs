//! The firmware's log in a machine with a TPM: TCG PC Client Platform Firmware Profile, "Crypto Agile Log Entry Format".

use std::collections::BTreeMap;

use casemate_measure::Register;

/// What was extended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) pcr: u32,
    pub(crate) event_type: u32,
    pub(crate) digest: Register,
    pub(crate) data: Vec<u8>,
}

/// EV_NO_ACTION: it is in no PCR.
const NO_ACTION: u32 = 3;
/// TPM_ALG_SHA384 ("TCG Algorithm Registry"), and the lengths of the digests beside it.
const SHA384: u16 = 0x000c;
const LENGTHS: [(u16, usize); 4] = [(0x0004, 20), (0x000b, 32), (SHA384, 48), (0x000d, 64)];

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(length);
        self.0 = rest;
        bytes
    }

    fn half(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes(2).try_into().unwrap())
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes(4).try_into().unwrap())
    }
}

pub(crate) fn parse(log: &[u8]) -> Vec<Entry> {
    let mut reader = Reader(log);
    // The first entry has the old form: PCR, type, a SHA-1, and the specification that the others follow.
    assert_eq!((reader.word(), reader.word()), (0, NO_ACTION));
    reader.bytes(20);
    let length = reader.word();
    assert!(reader.bytes(length as usize).starts_with(b"Spec ID Event03\0"));
    let mut entries = Vec::new();
    while !reader.0.is_empty() {
        let (pcr, event_type, count) = (reader.word(), reader.word(), reader.word());
        let mut digest = None;
        for _ in 0..count {
            let algorithm = reader.half();
            let (_, length) = LENGTHS.iter().find(|(known, _)| *known == algorithm).unwrap();
            let bytes = reader.bytes(*length);
            if algorithm == SHA384 {
                digest = Some(Register(bytes.try_into().unwrap()));
            }
        }
        let length = reader.word();
        let data = reader.bytes(length as usize).to_vec();
        if event_type != NO_ACTION {
            entries.push(Entry { pcr, event_type, digest: digest.unwrap(), data });
        }
    }
    entries
}

/// The PCRs as the log makes them.
pub(crate) fn replay(entries: &[Entry]) -> BTreeMap<u32, Register> {
    let mut pcrs = BTreeMap::new();
    for entry in entries {
        let pcr = pcrs.entry(entry.pcr).or_insert(Register::ZERO);
        *pcr = pcr.extended(&entry.digest);
    }
    pcrs
}
