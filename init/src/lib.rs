#![doc = include_str!("../README.md")]

pub mod boot;
pub mod confine;
pub mod guest;
pub mod handover;
pub mod health;
pub mod layout;
pub mod log;
pub mod net;
pub mod roles;
pub mod share;
pub mod status;
pub mod supervise;
pub mod sys;
pub mod time;
pub mod vpn;
