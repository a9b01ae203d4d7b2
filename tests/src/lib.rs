#![doc = include_str!("../README.md")]

pub mod hostile_dhcp;
