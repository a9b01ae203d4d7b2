//! Network Time Security, RFC 8915: the bytes of the key exchange and of NTP packets. Pure; all of it may be fed anything.

mod association;
pub mod key_exchange;
mod packet;
mod record;
mod siv;

pub use association::{Association, Cookie, FULL};
pub use packet::{Answer, Nonces, Request, unix};
pub use record::{Record, records};
pub use siv::Keys;
