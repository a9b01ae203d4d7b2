//! The rules of the house, held by tests: who may depend on whom, what every room has, what no file says, and which
//! licences and crates may come in.

mod arrows;
mod files;
mod rooms;
mod spdx;
mod supply;
mod workspace;
