//! One bit of every byte, and the judgement of what becomes of it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;

use casemate_verify::{Class, VerifyError};

/// A part of an item, and what a flipped bit in it may lead to.
#[derive(Clone, Debug)]
pub(crate) struct Region {
    pub(crate) name: String,
    pub(crate) bytes: Range<usize>,
    /// The classes of a right refusal.
    pub(crate) classes: Vec<Class>,
    pub(crate) pass: Pass,
}

/// Whether a flipped bit may go unnoticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Every bit counts.
    Never,
    /// What nothing covers, and nothing relies on: the verdict is then the very same.
    Unread,
}

/// What was accepted: it must be equal for equal meaning.
pub(crate) type Judgement<T> = Result<T, VerifyError>;

/// What became of an item's flips.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) flips: usize,
    pub(crate) accepted: usize,
    pub(crate) refused: BTreeMap<Class, usize>,
}

/// Flips one bit in every byte of the item in turn and judges each. `bare`: whether somebody else, who knows only the
/// item's signatures, accepts it; asked about what was accepted.
///
/// # Panics
/// On the first flip whose outcome is not among those of its region.
pub(crate) fn every_byte<T: PartialEq + Debug>(
    item: &str,
    genuine: &[u8],
    regions: &[Region],
    judge: impl Fn(&[u8]) -> Judgement<T>,
    bare: impl Fn(&[u8]) -> bool,
) -> Tally {
    let begin = std::time::Instant::now();
    check_cover(item, genuine.len(), regions);
    let expected =
        judge(genuine).unwrap_or_else(|error| panic!("{item}: the genuine one is refused: {error}"));
    assert!(bare(genuine), "{item}: the genuine one is refused by the plain verifier");
    let mut tally = Tally::default();
    let mut changed = genuine.to_vec();
    for region in regions {
        for index in region.bytes.clone() {
            let bit = bit_of(item, index);
            changed[index] ^= 1 << bit;
            let place = || format!("{item}: byte {index} ({}), bit {bit}", region.name);
            tally.flips += 1;
            match judge(&changed) {
                Ok(found) => {
                    assert_eq!(region.pass, Pass::Unread, "{}: accepted", place());
                    assert_eq!(found, expected, "{}: accepted with another meaning", place());
                    assert!(bare(&changed), "{}: accepted, and the plain verifier refuses it", place());
                    tally.accepted += 1;
                }
                Err(error) => {
                    let class = error.class();
                    let right = region.classes.contains(&class);
                    assert!(right, "{}: {class:?} is not of {:?}: {error}", place(), region.classes);
                    *tally.refused.entry(class).or_default() += 1;
                }
            }
            changed[index] ^= 1 << bit;
        }
    }
    println!(
        "{item}: {} flips, {} accepted, {:?}, {:.1?}",
        tally.flips,
        tally.accepted,
        tally.refused,
        begin.elapsed()
    );
    tally
}

/// The regions are the item, each byte once, in order.
fn check_cover(item: &str, len: usize, regions: &[Region]) {
    let mut end = 0;
    for region in regions {
        assert_eq!(
            region.bytes.start, end,
            "{item}: {} does not begin where the region before it ends",
            region.name
        );
        assert!(region.bytes.end >= end, "{item}: {}", region.name);
        end = region.bytes.end;
    }
    assert_eq!(end, len, "{item}: the regions end before the item does");
}

/// Which bit: a pseudo-random choice that is the same in every run (splitmix64 of seed, item and index).
fn bit_of(item: &str, index: usize) -> u32 {
    let item = item.bytes().fold(SEED, |hash, byte| mix(hash ^ u64::from(byte)));
    u32::try_from(mix(item ^ index as u64) & 7).unwrap()
}

/// Sebastiano Vigna's splitmix64, one step.
const fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const SEED: u64 = 0xca5e_3a7e;

/// A harness that cannot fail would prove nothing.
#[test]
fn the_judgement_can_fail() {
    let region = |pass| [Region { name: "all".into(), bytes: 0..4, classes: vec![Class::Form], pass }];
    let outcome = |pass, judge: fn(&[u8]) -> Judgement<u8>, bare: fn(&[u8]) -> bool| {
        std::panic::catch_unwind(|| every_byte("four bytes", &[1, 2, 3, 4], &region(pass), judge, bare)).ok()
    };
    let strict = |bytes: &[u8]| match bytes {
        [1, 2, 3, 4] => Ok(1),
        _ => Err(casemate_verify::EvidenceError::Unknown.into()),
    };
    let tally = outcome(Pass::Never, strict, |_| true).unwrap();
    assert_eq!((tally.flips, tally.accepted, tally.refused[&Class::Form]), (4, 0, 4));
    assert_eq!(outcome(Pass::Never, |_| Ok(1), |_| true), None, "accepted");
    assert_eq!(outcome(Pass::Unread, |bytes| Ok(bytes[2]), |_| true), None, "another meaning");
    assert_eq!(outcome(Pass::Unread, |_| Ok(1), |bytes| bytes[2] == 3), None, "more lenient than the other");
    assert_eq!(outcome(Pass::Unread, |_| Ok(1), |_| true).unwrap().accepted, 4);
    let wrong_class = |bytes: &[u8]| match bytes {
        [1, 2, 3, 4] => Ok(1),
        _ => Err(casemate_verify::EvidenceError::NotImplemented { what: String::new() }.into()),
    };
    assert_eq!(outcome(Pass::Never, wrong_class, |_| true), None, "wrong class");
}

#[test]
fn the_same_bits_are_flipped_in_every_run() {
    let bits: Vec<_> = (0..16).map(|index| bit_of("tdx_quote", index)).collect();
    let again: Vec<_> = (0..16).map(|index| bit_of("tdx_quote", index)).collect();
    assert_eq!(bits, again);
    let all: std::collections::BTreeSet<_> = (0..200).map(|index| bit_of("tdx_quote", index)).collect();
    assert_eq!(all.len(), 8);
}
