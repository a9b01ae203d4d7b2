//! Machines that really boot: QEMU under TCG, one processor, one machine at a time. Each test asserts the documented end:
//! the last status frame's stage and reason, and the exit status that `casemate-qemu` would have.
//!
//! The guest is compiled once per flavour, by the image builder and into its cache.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests and their rig: what fails here fails the test"
)]

mod console;
mod https;
mod images;
mod initramfs;
#[allow(dead_code, reason = "shared with the fault and escape tests")]
mod machine;
mod peer;

mod bound;
mod demo;
mod document;
mod ends;
mod host;
mod logs;
mod network;
mod production;
mod share;
mod tampered;
mod time;
mod workloads;
