//! Where the library touches the machine it runs on.

pub mod capture;
pub mod captures;
pub mod monitor;
pub mod probe;
pub mod run;
mod spawn;
