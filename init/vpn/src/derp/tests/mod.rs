#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod client;
mod codec;
mod reach;
mod scripted;
