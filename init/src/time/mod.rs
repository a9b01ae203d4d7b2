#![doc = include_str!("README.md")]

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
