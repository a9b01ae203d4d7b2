//! Kernels and unified kernel images: digests of files made here, and what is wrong with files that are none.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "fixtures of known size")]

mod build;

mod bzimage;
mod events;
mod hostile;
mod overlay;
mod pe;
mod uki;
