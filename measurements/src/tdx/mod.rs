//! What a TDX machine of an image must show: MRTD and RTMR0 to RTMR3, event by event, from files and a VM shape alone.
//!
//! Other TEEs measure other things: theirs will be modules beside this one.

pub mod bzimage;
pub mod event;
pub mod overlay;
pub mod pcr;
pub mod pe;
pub mod rtmr1;
pub mod rtmr2;
pub mod uki;

pub use event::{Digest, Event, EventType, Rtmr};
