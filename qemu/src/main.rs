//! `casemate-qemu`: boots an image directory and says how it went. See README.md for commands and exit statuses.

mod commands;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match commands::Cli::try_parse() {
        Ok(cli) => commands::run(cli),
        Err(error) => {
            let status = if error.use_stderr() { 64 } else { 0 };
            // Where not even the help can be printed there is nobody to tell.
            drop(error.print());
            ExitCode::from(status)
        }
    }
}
