//! Both ways do the same, and what was touched does not open.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that cannot go on may panic")]

use casemate_aead::{AeadError, KEY, Key, MAX_TEXT, TAG, Way};
use proptest::prelude::*;

/// Our own way and ring's, if this processor has both.
fn both(key: &[u8; KEY]) -> Option<[Key; 2]> {
    let Some(wide) = Key::by(Way::Wide, key) else {
        println!("SKIPPED: this processor has no AVX-512 IFMA");
        return None;
    };
    Some([wide, Key::by(Way::Ring, key).unwrap()])
}

/// Each way that this processor has: everywhere at least ring's.
fn each(key: &[u8; KEY]) -> Vec<Key> {
    let ways: Vec<_> = [Way::Wide, Way::Ring].into_iter().filter_map(|way| Key::by(way, key)).collect();
    assert!(ways.iter().any(|key| key.way() == Way::Ring));
    ways
}

fn sealed(key: &Key, counter: u64, text: &[u8]) -> Vec<u8> {
    let mut sealed = vec![0x77; text.len() + TAG];
    key.seal(counter, text, &mut sealed).unwrap();
    sealed
}

fn opened(key: &Key, counter: u64, sealed: &[u8]) -> Result<Vec<u8>, AeadError> {
    let mut text = vec![0x77; sealed.len().saturating_sub(TAG)];
    let result = key.open(counter, sealed, &mut text);
    if result == Err(AeadError::Forged) {
        assert!(text.iter().all(|byte| *byte == 0), "a text that nobody vouches for");
    }
    result.map(|()| text)
}

#[test]
fn every_length_is_sealed_as_ring_seals_it() {
    let Some([wide, ring]) = both(&[0x5a; KEY]) else { return };
    assert_eq!((wide.way(), ring.way()), (Way::Wide, Way::Ring));
    for length in (0..=2_100_u64).chain([4_095, 9_000, 65_535]) {
        let text: Vec<u8> = (0..length).map(|at| (at * 7 + length).to_le_bytes()[0]).collect();
        for counter in [length, u64::from(u32::MAX) + length, u64::MAX - length] {
            let by_us = sealed(&wide, counter, &text);
            assert_eq!(by_us, sealed(&ring, counter, &text), "{length} bytes, counter {counter}");
            assert_eq!(opened(&wide, counter, &by_us).unwrap(), text);
        }
    }
}

#[test]
fn the_stream_is_that_of_the_rfc() {
    // RFC 8439 section 2.4.2: its nonce is one of ours, and its first block the first one of a text.
    let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
    let expected = "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0bf91b65c5524733ab8f593dabcd62b357\
                    1639d624e65152ab8f530c359f0861d807ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736\
                    5af90bbf74a35be6b40b8eedf2785e42874d";
    let key = std::array::from_fn(|at| at.to_le_bytes()[0]);
    for way in [Way::Wide, Way::Ring] {
        let Some(key) = Key::by(way, &key) else {
            println!("SKIPPED: this processor has no AVX-512 IFMA");
            continue;
        };
        let sealed = sealed(&key, 0x4a00_0000, text);
        let hex: String = sealed[..text.len()].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, expected, "{way:?}");
    }
}

#[test]
fn one_bit_anywhere_and_it_does_not_open() {
    for key in each(&[9; KEY]) {
        for length in [0, 1, 64, 150, 300] {
            let good = sealed(&key, 3, &vec![0xc3; length]);
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(opened(&key, 3, &bad), Err(AeadError::Forged), "bit {bit} of {length} bytes");
            }
            assert_eq!(opened(&key, 4, &good), Err(AeadError::Forged), "another counter");
            assert_eq!(opened(&key, 3, &good[..good.len() - 1]), Err(AeadError::Forged), "cut");
            assert!(opened(&key, 3, &good).is_ok());
        }
    }
}

#[test]
fn room_that_does_not_fit_is_left_alone() {
    for key in each(&[9; KEY]) {
        for room in [0, TAG, 10, 10 + TAG - 1, 10 + TAG + 1] {
            let mut sealed = vec![0x77; room];
            let error = key.seal(0, &[1; 10], &mut sealed).unwrap_err();
            assert_eq!(error, AeadError::Length { expected: 10 + TAG, got: room });
            assert!(sealed.iter().all(|byte| *byte == 0x77));
        }
        let good = sealed(&key, 0, &[1; 10]);
        for room in [0, 9, 11, 10 + TAG] {
            let mut text = vec![0x77; room];
            let error = key.open(0, &good, &mut text).unwrap_err();
            assert_eq!(error, AeadError::Length { expected: 10, got: room });
            assert!(text.iter().all(|byte| *byte == 0x77));
        }
        for length in 0..TAG {
            let mut text = [0x77; 3];
            assert_eq!(key.open(0, &vec![0; length], &mut text), Err(AeadError::Forged));
            assert_eq!(text, [0; 3]);
        }
        let long = vec![0; MAX_TEXT + 1];
        let mut room = vec![0x77; long.len() + TAG];
        assert_eq!(key.seal(0, &long, &mut room), Err(AeadError::TooLong(MAX_TEXT + 1)));
        assert!(room.iter().all(|byte| *byte == 0x77));
        let mut text = vec![0x77; long.len()];
        assert_eq!(key.open(0, &room, &mut text), Err(AeadError::TooLong(MAX_TEXT + 1)));
        assert!(text.iter().all(|byte| *byte == 0x77));
    }
}

proptest! {
    #[test]
    fn whatever_is_sealed_one_way_opens_the_other(
        key in any::<[u8; KEY]>(),
        counter in any::<u64>(),
        text in proptest::collection::vec(any::<u8>(), 0..3_000),
    ) {
        if let Some([wide, ring]) = both(&key) {
            prop_assert_eq!(opened(&ring, counter, &sealed(&wide, counter, &text)).unwrap(), text.clone());
            prop_assert_eq!(opened(&wide, counter, &sealed(&ring, counter, &text)).unwrap(), text);
        }
    }
}
