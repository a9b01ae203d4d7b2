//! Poly1305 (RFC 8439 section 2.5), eight blocks side by side.
//!
//! A number modulo 2^130 - 5 is three limbs of 44, 44 and 42 bits, one in each of three registers, eight numbers abreast. The
//! instructions multiply 52 bits by 52 and add the lower or the upper half of the 104 that come out, so the upper half stands for
//! 2^52, which is 2^8 of the next limb; and what is carried out of the last limb, 2^132 by the product of limbs, comes back as
//! 4 x 5 = 20 of the first.
//!
//! Each of eight sums is multiplied by r^8 for every group of eight blocks, and in the end by r^8 to r^1: the first block's by the most.
//! The text is thought of as filled up in front to whole groups, with blocks that are nothing, since zero stays zero.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64,
    _mm512_or_si512, _mm512_reduce_add_epi64, _mm512_set1_epi64, _mm512_setr_epi64, _mm512_setzero_si512,
    _mm512_slli_epi64, _mm512_srli_epi64, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

use subtle::{Choice, ConditionallySelectable as _};

use super::{REGISTER, register};
use crate::TAG;

const BLOCK: usize = 16;
/// Blocks that are worked on together.
const LANES: usize = 8;
const GROUP: usize = LANES * BLOCK;
/// Which block of a group is in which lane, once two registers of four blocks are sorted into lower and upper halves.
const ORDER: [usize; LANES] = [0, 4, 1, 5, 2, 6, 3, 7];

const M44: u64 = (1 << 44) - 1;
const M42: u64 = (1 << 42) - 1;
/// What is set above each block's sixteen bytes (section 2.5: "one bit beyond the number of octets"), in its last limb.
const BEYOND: u64 = 1 << (128 - 88);

/// One number's limbs.
type Number = [u64; 3];
/// Eight numbers' limbs.
type Numbers = [__m512i; 3];

/// The tag of a sealed text without additional data (section 2.8): the text, filled up to whole blocks, then both lengths.
#[target_feature(enable = "avx512f,avx512ifma")]
pub(super) fn tag([r, s]: &[[u8; BLOCK]; 2], sealed: &[u8]) -> [u8; TAG] {
    let [first, second, third] = powers(clamped(u128::from_le_bytes(*r)));
    let last = [lanes(first), lanes(second), lanes(third)];
    let r8 = [all(first), all(second), all(third)];
    let blocks = sealed.len().div_ceil(BLOCK) + 1;
    let groups = blocks.div_ceil(LANES);
    let nothing = groups * LANES - blocks;
    let mut sums = [_mm512_setzero_si512(); 3];
    for group in 0..groups {
        // The first group is of what is before the text, too, and the last of what is after it.
        let start = (group * GROUP).checked_sub(nothing * BLOCK);
        let whole = start.and_then(|at| sealed.get(at..)?.as_chunks().0.first_chunk());
        let beyond = if group == 0 { beyond(nothing) } else { _mm512_set1_epi64(BEYOND.cast_signed()) };
        let factor = if group + 1 == groups { &last } else { &r8 };
        let blocks = match whole {
            Some(whole) => limbs(whole, beyond),
            None => limbs(&edge(sealed, group * GROUP, nothing * BLOCK, group + 1 == groups), beyond),
        };
        sums = multiplied(added(sums, blocks), factor);
    }
    let [h0, h1, h2] = sums;
    let sum = |limb| _mm512_reduce_add_epi64(limb).cast_unsigned();
    reduced([sum(h0), sum(h1), sum(h2)]).wrapping_add(u128::from_le_bytes(*s)).to_le_bytes()
}

/// A group that is not all text: nothing, text, zeroes up to a whole block, and, in the last one, how long the text is.
fn edge(sealed: &[u8], at: usize, nothing: usize, last: bool) -> [[u8; REGISTER]; 2] {
    let mut group = [[0; REGISTER]; 2];
    let bytes = group.as_flattened_mut();
    let room = bytes.get_mut(nothing.saturating_sub(at)..).unwrap_or_default();
    let text = sealed.get(at.saturating_sub(nothing)..).unwrap_or_default();
    for (to, from) in room.iter_mut().zip(text) {
        *to = *from;
    }
    if last && let Some(length) = bytes.last_chunk_mut() {
        *length = (sealed.len() as u64).to_le_bytes();
    }
    group
}

/// The bits beyond the blocks of a group that begins with some that are nothing.
#[inline]
#[target_feature(enable = "avx512f")]
fn beyond(nothing: usize) -> __m512i {
    lanes(ORDER.map(|block| if block < nothing { 0 } else { BEYOND }))
}

/// Eight blocks as numbers.
#[inline]
#[target_feature(enable = "avx512f")]
fn limbs([first, second]: &[[u8; REGISTER]; 2], beyond: __m512i) -> Numbers {
    let (first, second) = (register(first), register(second));
    let (low, high) = (_mm512_unpacklo_epi64(first, second), _mm512_unpackhi_epi64(first, second));
    let m44 = _mm512_set1_epi64(M44.cast_signed());
    let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
    [
        _mm512_and_si512(low, m44),
        _mm512_and_si512(middle, m44),
        _mm512_or_si512(_mm512_srli_epi64::<24>(high), beyond),
    ]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn added([a0, a1, a2]: Numbers, [b0, b1, b2]: Numbers) -> Numbers {
    [_mm512_add_epi64(a0, b0), _mm512_add_epi64(a1, b1), _mm512_add_epi64(a2, b2)]
}

/// Twenty times.
#[inline]
#[target_feature(enable = "avx512f")]
fn x20(limb: __m512i) -> __m512i {
    _mm512_add_epi64(_mm512_slli_epi64::<4>(limb), _mm512_slli_epi64::<2>(limb))
}

/// The products, carried once.
///
/// `a` is what this gives, with a block added: limbs below 2^46. `r` is below 2^45, 20 r below 2^50. So all factors are below 2^52, as
/// the instructions want it; of three products, the lower halves together are below 2^54, the upper ones below 2^46, times 2^8 below
/// 2^54. Those of the last limb's upper halves have no factor of twenty in them: below 2^41, times 2^8 x 20 below 2^54. So each sum is
/// below 2^56, what is carried below 2^14, and the first limb below 2^44 + 5 x 2^14.
#[inline]
#[target_feature(enable = "avx512f,avx512ifma")]
fn multiplied([a0, a1, a2]: Numbers, [r0, r1, r2]: &Numbers) -> Numbers {
    let (r0, r1, r2) = (*r0, *r1, *r2);
    let (s1, s2) = (x20(r1), x20(r2));
    let low = |products: [(__m512i, __m512i); 3]| {
        let [(a, b), (c, d), (e, f)] = products;
        let sum = _mm512_madd52lo_epu64(_mm512_setzero_si512(), a, b);
        _mm512_madd52lo_epu64(_mm512_madd52lo_epu64(sum, c, d), e, f)
    };
    let high = |products: [(__m512i, __m512i); 3]| {
        let [(a, b), (c, d), (e, f)] = products;
        let sum = _mm512_madd52hi_epu64(_mm512_setzero_si512(), a, b);
        _mm512_slli_epi64::<8>(_mm512_madd52hi_epu64(_mm512_madd52hi_epu64(sum, c, d), e, f))
    };
    let first = [(a0, r0), (a1, s2), (a2, s1)];
    let second = [(a0, r1), (a1, r0), (a2, s2)];
    let third = [(a0, r2), (a1, r1), (a2, r0)];
    let d0 = _mm512_add_epi64(low(first), x20(high(third)));
    let d1 = _mm512_add_epi64(low(second), high(first));
    let d2 = _mm512_add_epi64(low(third), high(second));

    let m44 = _mm512_set1_epi64(M44.cast_signed());
    let d1 = _mm512_add_epi64(d1, _mm512_srli_epi64::<44>(d0));
    let d2 = _mm512_add_epi64(d2, _mm512_srli_epi64::<44>(d1));
    let carried = _mm512_srli_epi64::<42>(d2);
    let five = _mm512_add_epi64(carried, _mm512_slli_epi64::<2>(carried));
    [
        _mm512_add_epi64(_mm512_and_si512(d0, m44), five),
        _mm512_and_si512(d1, m44),
        _mm512_and_si512(d2, _mm512_set1_epi64(M42.cast_signed())),
    ]
}

#[allow(clippy::cast_possible_truncation, reason = "the lower part is what is wanted")]
const fn low(number: u128) -> u64 {
    number as u64
}

/// r, its bits cleared as section 2.5 says.
const fn clamped(r: u128) -> Number {
    let r = r & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
    [low(r) & M44, low(r >> 44) & M44, low(r >> 88)]
}

/// The first number in all lanes: r^8.
#[inline]
#[target_feature(enable = "avx512f")]
fn all([first, ..]: [u64; LANES]) -> __m512i {
    _mm512_set1_epi64(first.cast_signed())
}

/// The limbs of r^8 to r^1, in [`ORDER`].
fn powers(r: Number) -> [[u64; LANES]; 3] {
    let r2 = times(r, r);
    let (r3, r4) = (times(r2, r), times(r2, r2));
    let (r5, r6, r7, r8) = (times(r4, r), times(r4, r2), times(r4, r3), times(r4, r4));
    let powers = [r8, r4, r7, r3, r6, r2, r5, r];
    [powers.map(|[first, ..]| first), powers.map(|[_, second, _]| second), powers.map(|[.., third]| third)]
}

/// One number for each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn lanes(numbers: [u64; LANES]) -> __m512i {
    let [a, b, c, d, e, f, g, h] = numbers.map(u64::cast_signed);
    _mm512_setr_epi64(a, b, c, d, e, f, g, h)
}

/// One product: limbs below 2^44, 2^45 and 2^42.
fn times([a0, a1, a2]: Number, [r0, r1, r2]: Number) -> Number {
    let product = |a: u64, r: u64| u128::from(a) * u128::from(r);
    let (s1, s2) = (r1 * 20, r2 * 20);
    let d0 = product(a0, r0) + product(a1, s2) + product(a2, s1);
    let d1 = product(a0, r1) + product(a1, r0) + product(a2, s2) + (d0 >> 44);
    let d2 = product(a0, r2) + product(a1, r1) + product(a2, r0) + (d1 >> 44);
    let h0 = (low(d0) & M44) + low(d2 >> 42) * 5;
    [h0 & M44, (low(d1) & M44) + (h0 >> 44), low(d2) & M42]
}

/// The number itself, below 2^130 - 5, of limbs below 2^63; of it, the lower 128 bits.
fn reduced([mut h0, mut h1, mut h2]: Number) -> u128 {
    // After the first turn the last limb is below 2^42 and the first below 2^44 + 2^24, so that the second carries one out of it at
    // most, and none is left to be carried after it.
    for _ in 0..2 {
        h1 += h0 >> 44;
        h2 += h1 >> 44;
        (h0, h1) = (h0 & M44, h1 & M44);
        h0 += (h2 >> 42) * 5;
        h2 &= M42;
    }
    h1 += h0 >> 44;
    h2 += h1 >> 44;
    (h0, h1) = (h0 & M44, h1 & M44);
    // Less 2^130 - 5: if nothing is left to borrow, that is the number. Both are computed, and neither is branched to.
    let mut g0 = h0 + 5;
    let mut g1 = h1 + (g0 >> 44);
    let g2 = (h2 + (g1 >> 44)).wrapping_sub(1 << 42);
    (g0, g1) = (g0 & M44, g1 & M44);
    let less = Choice::from(u8::from(g2 >> 63 == 1));
    let pick = |h: u64, g: u64| u128::from(u64::conditional_select(&g, &h, less));
    pick(h0, g0) | pick(h1, g1) << 44 | pick(h2, g2) << 88
}

#[cfg(test)]
mod tests;
