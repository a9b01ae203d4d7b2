//! Documents, good and bad, each with the documented outcome.

mod bad;
mod everything;
mod not_implemented;
mod support;
