//! The clock: the rule by which it moves ([`Clock`]), and the client that asks named servers for the time (NTS, RFC 8915).
//!
//! PID 1 keeps the rule and sets the clock. What reads the network is a process of its own, `casemate-time`, which answers
//! in messages of one fixed size ([`Report`]); PID 1 judges each again. Times are durations since 1970-01-01 UTC without
//! leap seconds (POSIX), or, where it says so, since the kernel started: the client never reads the wall clock, so a step
//! of the one cannot disturb the other.

mod agreement;
mod certificate;
mod client;
mod clock;
mod error;
mod io;
pub mod nts;
mod report;
mod status;

pub use agreement::{Agreed, agree};
pub use client::{Client, Handover, Server, run};
pub use clock::{Change, Clock, HORIZON, LARGEST_ERROR, Phase, Proof, SLEW_LIMIT, STEP_THRESHOLD, Sample};
pub use error::TimeError;
pub use nts::key_exchange::NTP_PORT;
pub use report::{REPORT_LEN, Report};
pub use status::Status;
