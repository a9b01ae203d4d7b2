//! The fault table: what breaks, where, and the documented rule that the machine then follows, as its status frames say it.
//!
//! Each row of [`table`] is a fault and what must follow; several share a machine where they do not disturb each other. The
//! guest is compiled with `danger-faults`, which lets the host order what breaks (init/src/guest/faults.rs). Time passes as
//! fast as QEMU can count instructions, and at once where the guest waits.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests and their rig: what fails here fails the test"
)]

#[path = "../boot/console.rs"]
#[allow(dead_code, reason = "shared with the boot tests")]
mod console;
#[path = "../boot/https.rs"]
#[allow(dead_code, reason = "shared with the boot tests")]
mod https;
#[path = "../boot/images.rs"]
#[allow(dead_code, reason = "shared with the boot tests")]
mod images;
#[path = "../boot/machine.rs"]
#[allow(dead_code, reason = "shared with the boot tests")]
mod machine;

mod clock;
mod disk;
mod host;
mod judge;
mod processes;
mod table;
