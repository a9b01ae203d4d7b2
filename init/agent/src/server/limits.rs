//! What a caller may take.

use std::time::Duration;

/// The largest body, bytes (dstack's limit).
pub(super) const BODY_MAX: usize = 10 << 20;
/// Larger bodies than this, bytes, are read one at a time over all callers: no method has use for one, and together
/// they must not fill the memory.
pub(super) const BODY_SMALL: usize = 64 << 10;
/// Request line and headers, bytes; a GET has its arguments there.
pub(super) const HEAD_MAX: usize = 16 << 10;
/// Connections at a time.
pub(super) const CONNECTIONS_MAX: usize = 64;
/// Of these, connections of one uid.
pub(super) const CONNECTIONS_OF_ONE_UID: usize = 16;
/// Calls that wait for a quote, or have one made, …
pub(super) const QUOTES_MAX: usize = 16;
/// … and of these, calls of one uid.
pub(super) const QUOTES_OF_ONE_UID: usize = 8;
/// To tell a caller that it is refused.
pub(super) const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// Between attempts to accept while descriptors or memory are short, …
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// … and how many there are in a row.
pub(super) const ACCEPT_ATTEMPTS: u32 = 100;

/// Times; tests have shorter ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// To send a head; also how long a connection may idle.
    pub(super) head: Duration,
    /// To send a body.
    pub(super) body: Duration,
    /// After this a connection takes no new request, …
    pub(super) connection: Duration,
    /// … and this much later it is closed whatever it does: a caller who does not read its answer holds its place no
    /// longer.
    pub(super) grace: Duration,
}

impl Times {
    /// In use.
    pub(super) const REAL: Self = Self {
        head: Duration::from_secs(10),
        body: Duration::from_secs(10),
        connection: Duration::from_secs(60),
        grace: Duration::from_secs(20),
    };
}
