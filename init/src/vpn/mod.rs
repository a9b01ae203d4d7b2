#![doc = include_str!("README.md")]

pub mod command;
mod config;
mod kept;
mod parent;
mod questions;

pub use config::{Config, ConfigError};
