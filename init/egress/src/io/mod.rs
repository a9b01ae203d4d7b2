//! The netlink socket and the lock that it owns.

mod lock;
mod socket;

pub use lock::{Counter, Lock, LockError};
