//! What the command is asked.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Says who is there, and whether a policy trusts it.
#[derive(Debug, Parser)]
#[command(
    name = "casemate-verify",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
#[command(
    after_help = "Exit codes: 0 trusted under the policy, 1 not trusted, 2 could not decide, 64 usage.\n\n\
    Example: casemate-verify policy --image out/demo --document configs/demo.app-compose.json --out demo.policy.json\n\
    \x20        casemate-verify 127.0.0.1:8443 --policy demo.policy.json --trust-simulator"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) inspect: Inspect,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Writes the policy that accepts one document on one image.
    Policy(WritePolicy),
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// HOST:PORT of a TLS server, or a file with its certificate (PEM or DER).
    #[arg(value_name = "TARGET", required = true)]
    pub(crate) target: Option<String>,
    /// The policy that judges; without one nothing is trusted.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Intel's collateral for the quote (JSON).
    #[arg(long, value_name = "FILE")]
    pub(crate) collateral: Option<PathBuf>,
    /// Believe the simulated TEE, whose keys are public.
    #[cfg(feature = "simulator")]
    #[arg(long)]
    pub(crate) trust_simulator: bool,
    /// Judge as of this time instead of now (Unix seconds).
    #[arg(long, value_name = "UNIX")]
    pub(crate) at: Option<u64>,
    /// One JSON object on stdout instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WritePolicy {
    /// Image directory, for its registers.json.
    #[arg(long, value_name = "DIR")]
    pub(crate) image: PathBuf,
    /// The measured document (app-compose.json).
    #[arg(long, value_name = "FILE")]
    pub(crate) document: PathBuf,
    /// Where to write; stdout if absent.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}
