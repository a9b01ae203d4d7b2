//! ChaCha20 (RFC 8439 sections 2.1 to 2.4), four blocks side by side: a register holds one row of each of them, so that a quarter
//! round is done for the sixteen columns of four blocks at once. Several such groups are worked on together, because each
//! instruction waits for the one before.

use std::arch::x86_64::{
    __m512i, _mm_setr_epi32, _mm512_add_epi32, _mm512_broadcast_i32x4, _mm512_rol_epi32, _mm512_setr_epi32,
    _mm512_shuffle_epi32, _mm512_shuffle_i32x4, _mm512_xor_si512,
};

use zeroize::Zeroizing;

use super::{REGISTER, bytes, register};
use crate::KEY;

/// "expand 32-byte k".
const CONSTANTS: [i32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
/// Two of the twenty at a time.
const DOUBLE_ROUNDS: usize = 10;
/// Blocks of a group.
const GROUP: u32 = 4;

/// The four rows of four blocks' states. After the rounds, [`turned`] makes it four blocks.
type Group = [__m512i; 4];

/// What is known of all blocks: their first three rows, and their last one but for the block's number.
struct State {
    rows: [__m512i; 3],
    last: __m512i,
}

/// Poly1305's key for one text: r and s (section 2.6).
pub(super) type OneTime = Zeroizing<[[u8; 16]; 2]>;

/// XORs a text, from block 1 on, into room of the same length; gives the first half of block 0.
#[target_feature(enable = "avx512f")]
pub(super) fn xor(key: &[u8; KEY], counter: u64, text: &[u8], room: &mut [u8]) -> OneTime {
    let state = State::new(key, counter);
    let mut one_time = OneTime::default();
    let mut text = Text { from: text, to: room };
    let mut block = 0;
    // So many groups at a time as there are registers for; a packet of a tailnet is one such turn. At the end, only what is needed.
    loop {
        match text.from.len().div_ceil(REGISTER) + usize::from(block == 0) {
            17.. => state.turn::<6>(&mut block, &mut text, &mut one_time),
            9.. => state.turn::<4>(&mut block, &mut text, &mut one_time),
            5.. => state.turn::<2>(&mut block, &mut text, &mut one_time),
            1.. => state.turn::<1>(&mut block, &mut text, &mut one_time),
            0 => return one_time,
        }
    }
}

impl State {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(key: &[u8; KEY], counter: u64) -> Self {
        let (words, _) = key.as_chunks();
        let mut words = words.iter().map(|word| i32::from_le_bytes(*word));
        let mut row = || {
            let mut row = [0; 4];
            row.iter_mut().zip(&mut words).for_each(|(to, from)| *to = from);
            row
        };
        let (first, second) = (row(), row());
        let [a, b, c, d, e, f, g, h] = counter.to_le_bytes();
        let nonce = [0, 0, i32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h])];
        Self { rows: [each(CONSTANTS), each(first), each(second)], last: each(nonce) }
    }

    /// Makes so many groups of blocks and uses them up.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn turn<const GROUPS: usize>(&self, block: &mut u32, text: &mut Text<'_>, one_time: &mut OneTime) {
        let [a, b, c] = self.rows;
        let mut groups = [[a, b, c, self.last]; GROUPS];
        let mut number = *block;
        for [.., last] in &mut groups {
            *last = _mm512_add_epi32(*last, numbers(number));
            number = number.wrapping_add(GROUP);
        }
        let mut states = groups;
        for _ in 0..DOUBLE_ROUNDS {
            for state in &mut states {
                quarter_rounds(state);
            }
            for state in &mut states {
                to_diagonals(state);
            }
            for state in &mut states {
                quarter_rounds(state);
            }
            for state in &mut states {
                to_columns(state);
            }
        }
        for (state, start) in states.iter_mut().zip(&groups) {
            for (row, start) in state.iter_mut().zip(start) {
                *row = _mm512_add_epi32(*row, *start);
            }
            *state = turned(*state);
        }
        let mut blocks = states.iter().flatten();
        if *block == 0
            && let Some(first) = blocks.next()
            && let ([r, s, ..], []) = bytes(*first).as_chunks()
        {
            **one_time = [*r, *s];
        }
        for stream in blocks {
            if text.from.is_empty() {
                break;
            }
            text.xor(*stream);
        }
        *block = number;
    }
}

/// Four times the same row.
#[inline]
#[target_feature(enable = "avx512f")]
fn each([a, b, c, d]: [i32; 4]) -> __m512i {
    _mm512_broadcast_i32x4(_mm_setr_epi32(a, b, c, d))
}

/// The numbers of four blocks, from one on, in the place that they have in the last row.
#[inline]
#[target_feature(enable = "avx512f")]
fn numbers(first: u32) -> __m512i {
    let first = _mm512_broadcast_i32x4(_mm_setr_epi32(first.cast_signed(), 0, 0, 0));
    _mm512_add_epi32(first, _mm512_setr_epi32(0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0))
}

/// A quarter round (section 2.1) of every column.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarter_rounds([a, b, c, d]: &mut Group) {
    *a = _mm512_add_epi32(*a, *b);
    *d = _mm512_rol_epi32::<16>(_mm512_xor_si512(*d, *a));
    *c = _mm512_add_epi32(*c, *d);
    *b = _mm512_rol_epi32::<12>(_mm512_xor_si512(*b, *c));
    *a = _mm512_add_epi32(*a, *b);
    *d = _mm512_rol_epi32::<8>(_mm512_xor_si512(*d, *a));
    *c = _mm512_add_epi32(*c, *d);
    *b = _mm512_rol_epi32::<7>(_mm512_xor_si512(*b, *c));
}

/// Puts the diagonals where the columns are.
#[inline]
#[target_feature(enable = "avx512f")]
fn to_diagonals([_, b, c, d]: &mut Group) {
    *b = _mm512_shuffle_epi32::<0b00_11_10_01>(*b);
    *c = _mm512_shuffle_epi32::<0b01_00_11_10>(*c);
    *d = _mm512_shuffle_epi32::<0b10_01_00_11>(*d);
}

/// And back.
#[inline]
#[target_feature(enable = "avx512f")]
fn to_columns([_, b, c, d]: &mut Group) {
    *b = _mm512_shuffle_epi32::<0b10_01_00_11>(*b);
    *c = _mm512_shuffle_epi32::<0b01_00_11_10>(*c);
    *d = _mm512_shuffle_epi32::<0b00_11_10_01>(*d);
}

/// From one row of four blocks in each register to one block in each.
#[inline]
#[target_feature(enable = "avx512f")]
fn turned([a, b, c, d]: Group) -> Group {
    let (low_ab, high_ab) =
        (_mm512_shuffle_i32x4::<0b01_00_01_00>(a, b), _mm512_shuffle_i32x4::<0b11_10_11_10>(a, b));
    let (low_cd, high_cd) =
        (_mm512_shuffle_i32x4::<0b01_00_01_00>(c, d), _mm512_shuffle_i32x4::<0b11_10_11_10>(c, d));
    [
        _mm512_shuffle_i32x4::<0b10_00_10_00>(low_ab, low_cd),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(low_ab, low_cd),
        _mm512_shuffle_i32x4::<0b10_00_10_00>(high_ab, high_cd),
        _mm512_shuffle_i32x4::<0b11_01_11_01>(high_ab, high_cd),
    ]
}

/// What is left of a text and of the room for it.
struct Text<'a> {
    from: &'a [u8],
    to: &'a mut [u8],
}

impl Text<'_> {
    /// One block of it, or what is left.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn xor(&mut self, stream: __m512i) {
        let length = self.from.len().min(REGISTER);
        let Some((from, rest)) = self.from.split_at_checked(length) else { return };
        self.from = rest;
        let Some((to, room)) = std::mem::take(&mut self.to).split_at_mut_checked(length) else { return };
        self.to = room;
        if let (Ok(from), Ok(to)) = (from.try_into(), <&mut [u8; REGISTER]>::try_from(&mut *to)) {
            *to = bytes(_mm512_xor_si512(register(from), stream));
            return;
        }
        for ((to, from), stream) in to.iter_mut().zip(from).zip(bytes(stream)) {
            *to = from ^ stream;
        }
    }
}
