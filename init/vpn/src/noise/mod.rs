//! The Noise tunnel inside ts2021: `Noise_IK_25519_ChaChaPoly_BLAKE2s`, as tailscale `control/controlbase` frames it.
//!
//! [`handshake`] and [`record`] are functions of bytes; [`stream`] puts a byte stream over them; [`early`] reads what the server
//! says before HTTP/2. Both sides of the handshake are here: the tests' scripted server is the responder.

pub mod early;
pub mod handshake;
pub mod record;
pub mod stream;

#[cfg(test)]
mod tests;

pub use handshake::{HandshakeError, INITIATION_LEN, Initiator, RESPONSE_LEN, Tunnel, respond};
pub use record::{Opener, RecordError, Sealer};
pub use stream::NoiseStream;
