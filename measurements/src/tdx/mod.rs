//! What a TDX machine of an image must show: MRTD and RTMR0 to RTMR3, event by event, from files and a VM shape alone.
//!
//! Other TEEs measure other things: theirs will be modules beside this one.

pub mod aggregated;
pub mod event;
pub mod expected;
pub mod rtmr3;

pub use event::{Digest, Event, EventType, Rtmr};
pub use expected::{Alternative, Expected};
