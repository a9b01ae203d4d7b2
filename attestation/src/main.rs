//! `casemate-verify` (`cargo verify`): who is there, and is it trusted. Exit codes and JSON are described in the README.
#![forbid(unsafe_code)]

mod command;

use std::process::ExitCode;

fn main() -> ExitCode {
    command::run(std::env::args_os()).into()
}
