//! The system calls that have no safe wrapper; the only `unsafe` of this package.
#![allow(unsafe_code, reason = "this module is the package's one address for it")]

mod descriptors;
mod files;
mod kernel;
mod pages;
mod spawn;
mod tun;

pub use descriptors::{answer_memfd, close_on_exec_from, inherited, memfd, non_blocking, read_answer};
pub use files::exchange;
pub use kernel::{finit_module, power_off, random, set_clock, slew_clock};
pub use pages::give_back_pages;
pub use spawn::{Namespaces, Spawn, drop_privileges, fork, spawn};
pub use tun::open_tun;
