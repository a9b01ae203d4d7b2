//! Documents, good and bad, each with the documented outcome.

mod bad;
mod collateral;
mod everything;
mod not_implemented;
mod support;
mod vpn;
