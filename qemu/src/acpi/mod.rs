//! Which ACPI tables QEMU gives the firmware of a TDX machine of ours: found out with stock QEMU under TCG, without TDX, KVM or
//! a patch.
//!
//! The firmware measures three fw_cfg files into RTMR0, as QEMU serves them and before it patches addresses in. QEMU makes
//! them when the firmware first asks, which is after PCI enumeration. So the firmware must run; then its copy is read from
//! outside. README.md says what was found to matter.

mod fw_cfg;
mod machine;
mod program;
mod qtest;
mod table;

pub use fw_cfg::{Blobs, ItemError};
pub(crate) use fw_cfg::{DIRECTORY, Item, directory_length, find, request, trigger};
pub use machine::Machine;
pub(crate) use machine::{Sockets, argv};
pub(crate) use program::power_off;
pub(crate) use qtest::{outl, read, read_answer, write};
pub use table::{AcpiTable, Capture, Mismatch};
