//! `casemate-agent`: a simulated agent on the host, and a client certificate from any agent.

mod command;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match command::Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("casemate-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
