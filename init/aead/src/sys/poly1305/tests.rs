//! Against the `poly1305` crate, at the edges that no key of ChaCha20's is known to reach.

#![allow(clippy::indexing_slicing, reason = "a test that cannot go on may panic")]

use super::super::Key;
use super::*;
use crate::KEY;
use ::poly1305::Poly1305;
use ::poly1305::universal_hash::KeyInit as _;

/// What the crate says of a text filled up to whole blocks, and its lengths.
fn theirs(one_time: &[[u8; BLOCK]; 2], sealed: &[u8]) -> [u8; TAG] {
    let mut all = sealed.to_vec();
    all.resize(sealed.len().next_multiple_of(BLOCK) + 8, 0);
    all.extend((sealed.len() as u64).to_le_bytes());
    Poly1305::new(one_time.as_flattened().into()).compute_unpadded(&all).into()
}

fn ours(one_time: &[[u8; BLOCK]; 2], sealed: &[u8]) -> [u8; TAG] {
    assert!(Key::new(&[0; KEY]).is_some());
    // SAFETY: the processor has both features.
    unsafe { tag(one_time, sealed) }
}

/// Whether there is anything to test.
fn is_wide() -> bool {
    let wide = Key::new(&[0; KEY]).is_some();
    if !wide {
        println!("SKIPPED: this processor has no AVX-512 IFMA");
    }
    wide
}

/// Halves of keys: nothing, everything, and what makes carries run through all limbs.
fn halves_of_keys() -> Vec<[u8; 16]> {
    let mut halves = vec![[0; 16], [0xff; 16], [1; 16], [0x55; 16], [0xaa; 16]];
    for at in 0..16 {
        let mut one = [0; 16];
        one[at] = 0x0c;
        halves.push(one);
    }
    halves.push([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    halves.push([4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    halves
}

#[test]
fn a_tag_is_that_of_the_poly1305_crate_at_every_edge() {
    if !is_wide() {
        return;
    }
    let mut texts = Vec::new();
    for length in [0, 1, 15, 16, 17, 31, 32, 48, 111, 112, 113, 127, 128, 129, 240, 256, 1280, 4096] {
        for byte in [0, 0xff, 0xfb, 0x80, 1] {
            texts.push(vec![byte; length]);
        }
        // One block that stands out, at the front, in the middle and at the end.
        for at in [0, length / 2, length.saturating_sub(1)] {
            let mut text = vec![0xff; length];
            if let Some(byte) = text.get_mut(at) {
                *byte = 0xfa;
            }
            texts.push(text);
        }
    }
    for r in halves_of_keys() {
        for s in halves_of_keys() {
            let one_time = [r, s];
            for text in &texts {
                assert_eq!(
                    ours(&one_time, text),
                    theirs(&one_time, text),
                    "{one_time:x?}, {} bytes",
                    text.len()
                );
            }
        }
    }
}

#[test]
fn a_sum_is_reduced_however_near_to_the_prime_it_is() {
    // 2^130 - 5 and what is around it, in limbs as the sums leave them: also not carried, and also several times the prime.
    let prime = [M44 - 4, M44, M42];
    assert_eq!(reduced(prime), 0);
    assert_eq!(reduced([M44 - 5, M44, M42]), u128::MAX - 5);
    assert_eq!(reduced([M44 - 3, M44, M42]), 1);
    assert_eq!(reduced([M44, M44, M42]), 4);
    assert_eq!(reduced([1 << 44, M44, M42]), 5);
    for times in 1..=8 {
        assert_eq!(reduced(prime.map(|limb| limb * times)), 0, "{times} primes");
        let [a, b, c] = prime.map(|limb| limb * times);
        assert_eq!(reduced([a + 7, b, c]), 7, "{times} primes and seven");
    }
    // The greatest that eight lanes give.
    let most = [((1 << 44) + (1 << 17)) * 8, M44 * 8, M42 * 8];
    let one = reduced([(1 << 44) + (1 << 17), M44, M42]);
    assert!(one < 1 << 20, "too near to the prime for eight of it to be eight times it");
    assert_eq!(reduced(most), one * 8);
}

#[test]
fn the_greatest_factors_are_multiplied_without_losing_a_bit() {
    if !is_wide() {
        return;
    }
    // As great as the comment at `multiplied` allows, in all limbs and lanes.
    let (a, r) = ([(1 << 46) - 1; 3], [(1 << 45) - 1; 3]);
    // SAFETY: the processor has both features.
    let product = unsafe { multiplied_once(a, r) };
    assert_eq!(reduced(product), reduced(times_slowly(a, r)));
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn multiplied_once(a: Number, r: Number) -> Number {
    let each = |[x, y, z]: Number| [lanes([x; LANES]), lanes([y; LANES]), lanes([z; LANES])];
    multiplied(each(a), &each(r)).map(|limb| {
        let lanes = super::super::bytes(limb);
        let (words, _) = lanes.as_chunks();
        assert!(words.iter().all(|word| Some(word) == words.first()), "lanes that differ");
        u64::from_le_bytes(words[0])
    })
}

/// The same product, its limbs carried in 128 bits each.
fn times_slowly(a: Number, r: Number) -> Number {
    let mut sums = [0_u128; 3];
    for (i, a) in a.into_iter().enumerate() {
        for (j, r) in r.into_iter().enumerate() {
            let twenty = if i + j >= 3 { 20 } else { 1 };
            sums[(i + j) % 3] += u128::from(a) * u128::from(r) * twenty;
        }
    }
    for _ in 0..4 {
        for (at, bits) in [(0, 44), (1, 44), (2, 42)] {
            let carried = sums[at] >> bits;
            sums[at] &= (1 << bits) - 1;
            if at == 2 {
                sums[0] += carried * 5;
            } else {
                sums[at + 1] += carried;
            }
        }
    }
    sums.map(low)
}

#[test]
fn limbs_of_63_bits_are_reduced() {
    let most = [(1 << 63) - 1; 3];
    assert_eq!(reduced(most), reduced(times_slowly(most, [1, 0, 0])));
}
