//! With AVX-512. All `unsafe` of this crate is here: that the processor has the instructions, and that registers and bytes are
//! the same size.

#![allow(unsafe_code, reason = "instructions that not every processor has; each use says why it is sound")]

mod chacha20;
mod poly1305;

use std::arch::x86_64::__m512i;

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::{KEY, TAG};

/// The length of a register, which is that of ChaCha20's block.
const REGISTER: usize = 64;

/// A key. That there is one says that the processor has what [`chacha20::xor`] and [`poly1305::tag`] are made of.
pub(crate) struct Key(Zeroizing<[u8; KEY]>);

impl Key {
    pub(crate) fn new(key: &[u8; KEY]) -> Option<Self> {
        // The detection also asks whether the system keeps the registers.
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512ifma"))
            .then(|| Self(Zeroizing::new(*key)))
    }

    /// Seals a text into room of the same length, and gives the tag.
    pub(crate) fn seal(&self, counter: u64, text: &[u8], sealed: &mut [u8]) -> [u8; TAG] {
        // SAFETY: there is a key, so `new` found both features.
        unsafe {
            let one_time = chacha20::xor(&self.0, counter, text, sealed);
            poly1305::tag(&one_time, sealed)
        }
    }

    /// Opens into room of the same length, and tells whether the tag is right: what is in the room is nothing if it is not.
    pub(crate) fn open(&self, counter: u64, sealed: &[u8], tag: &[u8; TAG], text: &mut [u8]) -> bool {
        // SAFETY: there is a key, so `new` found both features.
        let right = unsafe {
            let one_time = chacha20::xor(&self.0, counter, sealed, text);
            poly1305::tag(&one_time, sealed)
        };
        right.ct_eq(tag).into()
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
const fn register(bytes: &[u8; REGISTER]) -> __m512i {
    // SAFETY: both are 64 bytes, and any bytes are a register.
    unsafe { std::mem::transmute::<[u8; REGISTER], __m512i>(*bytes) }
}

#[inline]
#[target_feature(enable = "avx512f")]
const fn bytes(register: __m512i) -> [u8; REGISTER] {
    // SAFETY: both are 64 bytes, and any register is bytes.
    unsafe { std::mem::transmute::<__m512i, [u8; REGISTER]>(register) }
}
