//! `casemate-measure` (`cargo measure`): what a measured document says and who that makes the machine; what an event log
//! replays to, and where it is not what was expected. Exit statuses are described in the README.

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::Exit;
use commands::compose::Where;

#[derive(Parser)]
#[command(name = "casemate-measure", version, about = "Compute what a Casemate machine measures")]
#[command(after_help = "Exit status: 0 yes, 1 no, 64 a command line or a file that is wrong.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check an app-compose.json and print its identities
    Compose {
        /// The document; its bytes are hashed as they are
        file: PathBuf,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        /// Where the document is to run
        #[arg(long, value_enum, default_value = "appliance")]
        platform: Where,
    },
    /// Compute what a machine of an image must show, without a TDX host
    Image(commands::image::Arguments),
    /// Fold an event log into its registers, and compare them with those of the quote that came with it
    Replay {
        /// A CCEL, an event log of dstack's (JSON), or an agent's answer that holds one
        file: PathBuf,
        /// A quote, or an answer with one, to compare with instead of the file's own
        #[arg(long, value_name = "FILE")]
        quote: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Name the first event that differs, and the input that explains it
    Diff {
        /// What `cargo measure image --json` printed
        expected: PathBuf,
        /// An event log in any form, an agent's answer, or a quote
        actual: PathBuf,
        /// A quote, or an answer with one, to compare with instead of the file's own
        #[arg(long, value_name = "FILE")]
        quote: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the tables of keys, of dstack's fields and of what changes which register, as in README.md
    Reference,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Yes };
            return error.print().map_or(ExitCode::FAILURE, |()| exit.into());
        }
    };
    match run(arguments.command) {
        Ok((text, exit)) => commands::print(&text).map_or(ExitCode::FAILURE, |()| exit.into()),
        Err(error) => {
            eprintln!("casemate-measure: {error:#}");
            Exit::Usage.into()
        }
    }
}

fn run(command: Command) -> anyhow::Result<(String, Exit)> {
    match command {
        Command::Compose { file, json, platform } => commands::compose::run(&file, json, platform),
        Command::Image(arguments) => commands::image::run(&arguments),
        Command::Replay { file, quote, json } => commands::replay::run(&file, quote.as_deref(), json),
        Command::Diff { expected, actual, quote, json } => {
            commands::diff::run(&expected, &actual, quote.as_deref(), json)
        }
        Command::Reference => Ok((commands::reference(), Exit::Yes)),
    }
}
