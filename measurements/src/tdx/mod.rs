//! What a TDX machine of an image must show: MRTD and RTMR0 to RTMR3, event by event, from files and a VM shape alone.
//!
//! Other TEEs measure other things: theirs will be modules beside this one.

pub mod acpi;
pub mod aggregated;
pub mod bzimage;
pub mod efi;
pub mod event;
pub mod expected;
mod fields;
pub mod hob;
pub mod image;
pub mod mrtd;
pub mod overlay;
pub mod pcr;
pub mod pe;
pub mod region;
pub mod rtmr0;
pub mod rtmr1;
pub mod rtmr2;
pub mod rtmr3;
pub mod tdvf;
pub mod uki;
pub mod vm;

pub use acpi::{AcpiDigests, AcpiEntry, AcpiSource, AcpiTable};
pub use event::{Digest, Event, EventType, Rtmr};
pub use expected::{Alternative, Expected};
pub use image::{Image, ImageError, Measured, Payload};
pub use mrtd::PageOrder;
pub use rtmr0::FirmwareLayout;
pub use tdvf::{FirmwareError, Tdvf};
pub use vm::{QemuVersion, Vm};
