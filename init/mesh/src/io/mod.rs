//! Sockets, timers and the clock: everything that asks the kernel.

mod clock;
mod idle;
mod listen;

pub(crate) use clock::unix_seconds;
pub(crate) use idle::Idle;
pub(crate) use listen::{accept, listen};
