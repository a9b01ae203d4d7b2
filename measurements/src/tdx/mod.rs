//! What a TDX machine of an image must show: MRTD and RTMR0 to RTMR3, event by event, from files and a VM shape alone.
//!
//! Other TEEs measure other things: theirs will be modules beside this one.

pub mod acpi;
pub mod efi;
pub mod event;
mod fields;
pub mod hob;
pub mod mrtd;
pub mod rtmr0;
pub mod tdvf;
pub mod vm;

pub use acpi::{AcpiDigests, AcpiEntry, AcpiSource, AcpiTable};
pub use event::{Digest, Event, EventType, Rtmr};
pub use mrtd::PageOrder;
pub use rtmr0::FirmwareLayout;
pub use tdvf::{FirmwareError, Tdvf};
pub use vm::{QemuVersion, Vm};
