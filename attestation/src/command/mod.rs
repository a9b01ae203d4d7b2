//! The command: arguments in, one verdict out.

mod arguments;
mod challenge;
mod collateral;
mod exit;
mod inspect;
mod io;
mod report;
mod target;
mod verdict;
mod write_policy;

use std::ffi::OsString;

use clap::Parser as _;

use self::arguments::{Arguments, Command};
use self::exit::Exit;
use self::verdict::Verdict;

/// Runs the command and says how it ended. Data go to stdout, talk to stderr.
pub(crate) fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are not errors, and clap knows which stream is theirs.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Trusted };
            return error.print().map_or(Exit::Usage, |()| exit);
        }
    };
    let outcome = match arguments.command {
        Some(Command::Policy(arguments)) => write_policy::run(&arguments),
        None => inspect::run(&arguments.inspect),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("[casemate-verify error]: {}", failure.text);
        Exit::Usage
    })
}

/// Why there is no verdict: the caller's mistake.
struct Failure {
    text: String,
}

impl Failure {
    /// The caller's mistake, a file of theirs included.
    fn usage(error: impl std::fmt::Display) -> Self {
        Self { text: error.to_string() }
    }
}

/// Why it ends before there is evidence to judge.
enum Stop {
    Failure(Failure),
    Verdict(Box<Verdict>),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<Verdict> for Stop {
    fn from(verdict: Verdict) -> Self {
        Self::Verdict(Box::new(verdict))
    }
}
