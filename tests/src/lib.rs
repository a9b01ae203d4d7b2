#![doc = include_str!("../README.md")]

pub mod cargo;
pub mod hostile_dhcp;
pub mod scratch;
