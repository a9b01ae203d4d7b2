//! What the command is asked.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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
    \x20        casemate-verify 127.0.0.1:8443 --policy demo.policy.json --trust-simulator --nonce"
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
    /// HOST:PORT of a TLS server, a file of evidence in any form, or a directory with one.
    #[arg(value_name = "TARGET", required = true)]
    pub(crate) target: Option<String>,
    /// The policy that judges; without one nothing is trusted.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Intel's collateral: a JSON file, a directory of such, or the base URL of a PCCS.
    #[arg(long, value_name = "DIR|FILE|URL")]
    pub(crate) collateral: Option<String>,
    /// Judge as of this time instead of now (Unix seconds, or RFC 3339).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) at: Option<u64>,
    /// Challenge the server: evidence for a fresh nonce and this very connection.
    #[arg(long)]
    pub(crate) nonce: bool,
    /// The report data that was asked for (at most 64 bytes, padded with zeros), for evidence without a certificate.
    #[arg(long, value_name = "HEX", value_parser = report_data)]
    pub(crate) report_data: Option<[u8; 64]>,
    /// Believe the simulated TEE, whose keys are public.
    #[cfg(feature = "simulator")]
    #[arg(long)]
    pub(crate) trust_simulator: bool,
    /// One JSON object on stdout instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WritePolicy {
    /// Image directory, for its registers.json.
    #[arg(long, value_name = "DIR", required_unless_present = "expected")]
    pub(crate) image: Option<PathBuf>,
    /// The measured document (app-compose.json).
    #[arg(long, value_name = "FILE")]
    pub(crate) document: PathBuf,
    /// Every register of the image on one machine: the output of `cargo measure image --json`, instead of registers.json.
    #[arg(long, value_name = "FILE")]
    pub(crate) expected: Option<PathBuf>,
    /// Where to write; stdout if absent.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

fn moment(text: &str) -> Result<u64, String> {
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).map(OffsetDateTime::unix_timestamp);
    time.ok()
        .and_then(|seconds| u64::try_from(seconds).ok())
        .ok_or_else(|| "expected Unix seconds, or RFC 3339 such as 2026-02-25T06:13:20Z".to_owned())
}

fn report_data(digits: &str) -> Result<[u8; 64], String> {
    let bytes = hex::decode(digits).map_err(|error| format!("expected hex digits, {error}"))?;
    let mut padded = [0; 64];
    let found = bytes.len();
    let to = padded.get_mut(..found).ok_or_else(|| format!("expected at most 64 bytes, found {found}"))?;
    to.copy_from_slice(&bytes);
    Ok(padded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_seconds_or_rfc_3339() {
        assert_eq!(moment("1772000000"), Ok(1_772_000_000));
        assert_eq!(moment("2026-02-25T06:13:20Z"), Ok(1_772_000_000));
        assert_eq!(moment("2026-02-25T07:13:20+01:00"), Ok(1_772_000_000));
        for bad in ["", "-1", "1969-12-31T00:00:00Z", "2026-02-25", "2026-02-25T06:13:20", "now"] {
            assert!(moment(bad).unwrap_err().starts_with("expected Unix seconds"), "{bad}");
        }
    }

    #[test]
    fn report_data_are_padded_with_zeros() {
        let mut padded = [0; 64];
        padded[..2].copy_from_slice(&[0x12, 0x34]);
        assert_eq!(report_data("1234"), Ok(padded));
        assert_eq!(report_data(&"ff".repeat(64)), Ok([0xff; 64]));
        assert_eq!(report_data(&"ff".repeat(65)).unwrap_err(), "expected at most 64 bytes, found 65");
        assert!(report_data("123").is_err() && report_data("xy").is_err());
    }
}
