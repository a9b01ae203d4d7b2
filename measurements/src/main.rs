//! `casemate-measure`: what a measured document says and who that makes the machine.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use casemate_measure::document::{self, reference};
use casemate_measure::{KeyProvider, MeasuredConfig, MrConfigId, Platform};
use clap::{Parser, Subcommand, ValueEnum};

/// Exit status of a wrong command line, and of a document that cannot be read or was refused (sysexits.h `EX_USAGE`).
const USAGE: u8 = 64;

#[derive(Parser)]
#[command(name = "casemate-measure", version, about = "Compute what a Casemate machine measures")]
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
    /// Print the tables of keys and of dstack's fields, as in README.md
    Reference,
}

#[derive(Clone, Copy, ValueEnum)]
enum Where {
    /// Casemate's own image
    Appliance,
    /// A container under stock dstack
    Container,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
            return error.print().map_or(ExitCode::FAILURE, |()| code);
        }
    };
    let printed = match arguments.command {
        Command::Compose { file, json, platform } => match compose(&file, platform) {
            Ok(config) => print(&if json { as_json(&config) } else { as_lines(&config) }),
            Err(error) => {
                eprintln!("casemate-measure: {error:#}");
                return ExitCode::from(USAGE);
            }
        },
        Command::Reference => print(&format!("{}\n{}", reference::keys(), reference::dstack_fields())),
    };
    printed.map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

fn compose(path: &Path, platform: Where) -> anyhow::Result<MeasuredConfig> {
    let file = path.display().to_string();
    let platform = match platform {
        Where::Appliance => Platform::Appliance,
        Where::Container => Platform::Container,
    };
    let mut bytes = Vec::new();
    // One byte more than may be there, so that too long a file is seen to be too long.
    let limit = document::MAX_BYTES as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .with_context(|| file.clone())?;
    let most = document::MAX_BYTES;
    anyhow::ensure!(bytes.len() <= most, "{file}: expected at most {most} bytes, found more");
    Ok(MeasuredConfig::parse(&file, &bytes, platform)?)
}

fn identities(config: &MeasuredConfig) -> (String, String, String, String) {
    let (hash, app) = (config.compose_hash(), config.app_id());
    let (v1, v2) = (MrConfigId::v1(&hash), MrConfigId::v2(&hash, &app, &KeyProvider::None));
    (hash.to_string(), app.to_string(), v1.to_string(), v2.to_string())
}

fn as_lines(config: &MeasuredConfig) -> String {
    let (hash, app, v1, v2) = identities(config);
    let (name, tag) = (config.name(), config.section().egress.mode.tag());
    let mut lines = format!(
        "name            {name:?}\ncompose hash    {hash}\napp id          {app}\n\
         MRCONFIGID v1   {v1}\nMRCONFIGID v2   {v2} (key provider none)\ntag             {tag}\n"
    );
    lines.extend(config.warnings().iter().map(|warning| format!("warning         {warning}\n")));
    lines
}

fn as_json(config: &MeasuredConfig) -> String {
    let (compose_hash, app_id, v1, v2) = identities(config);
    let warnings: Vec<_> = config.warnings().iter().map(ToString::to_string).collect();
    let object = serde_json::json!({
        "name": config.name(), "compose_hash": compose_hash, "app_id": app_id,
        "mrconfigid": { "v1": v1, "v2": v2 }, "tag": config.section().egress.mode.tag(), "warnings": warnings,
    });
    format!("{object:#}\n")
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
