//! `casemate-init status`: the document of the machine or container it runs in, for a person or as it is.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::Value;

/// More than any document of ours.
const MAX_LEN: u64 = 4 << 20;

const USAGE: &str = "usage: casemate-init status [--json] [--file PATH]";

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The arguments.
    #[error("{0}; {USAGE}")]
    Usage(String),
    /// There is no document: no PID 1 of ours, or one that is not that far.
    #[error("{0}: no status document: this is no appliance, or its boot is not over")]
    None(PathBuf),
    /// The kernel's word.
    #[error("{path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is something else.
    #[error("{path}: expected a status document of version 1, found {found}")]
    Other {
        /// Which file.
        path: PathBuf,
        /// What it is.
        found: String,
    },
}

/// Runs it. Exit status 0, 1 without a document, 64 for wrong arguments.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let shown = Wanted::parse(arguments).and_then(|wanted| wanted.text());
    match shown {
        Ok(text) => match io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            drop(writeln!(io::stderr(), "casemate-init: {error}"));
            if matches!(error, CommandError::Usage(_)) { ExitCode::from(64) } else { ExitCode::FAILURE }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    json: bool,
    file: PathBuf,
}

impl Wanted {
    fn parse(arguments: &[OsString]) -> Result<Self, CommandError> {
        let (mut json, mut file, mut rest) = (false, None, arguments.iter());
        while let Some(argument) = rest.next() {
            match argument.to_str() {
                Some("--json") if !json => json = true,
                Some("--file") if file.is_none() => {
                    let path = rest
                        .next()
                        .ok_or_else(|| CommandError::Usage("--file: expected a path".to_owned()))?;
                    file = Some(PathBuf::from(path));
                }
                _ => return Err(CommandError::Usage(format!("{}: not expected", argument.display()))),
            }
        }
        Ok(Self { json, file: file.unwrap_or_else(|| super::PATH.into()) })
    }

    fn text(&self) -> Result<String, CommandError> {
        let bytes = read(&self.file)?;
        let other = |found: String| CommandError::Other { path: self.file.clone(), found };
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| other(error.to_string()))?;
        if value.get("version") != Some(&Value::from(1)) {
            return Err(other(
                value
                    .get("version")
                    .map_or_else(|| "none".to_owned(), |version| format!("version {version}")),
            ));
        }
        let mut text = String::new();
        if self.json {
            text = String::from_utf8_lossy(&bytes).into_owned();
            text.push('\n');
        } else {
            show(&mut text, "", &value);
        }
        Ok(text)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => CommandError::None(path.to_owned()),
        _ => CommandError::Read { path: path.to_owned(), source },
    };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(MAX_LEN).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

/// A path and its plain values in each line; an object in a list goes by its name.
pub(crate) fn show(text: &mut String, path: &str, value: &Value) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) if !path.is_empty() && fields.values().all(is_plain) => {
            let named = fields.iter().filter(|(name, _)| *name != "name" && *name != "stage");
            let words: Vec<String> = named.map(|(name, value)| format!("{name} {}", plain(value))).collect();
            line(text, path, &words.join(", "));
        }
        Value::Object(fields) => fields.iter().for_each(|(name, field)| show(text, &below(name), field)),
        Value::Array(items) if items.iter().all(is_plain) => {
            let words: Vec<String> = items.iter().map(plain).collect();
            line(text, path, if words.is_empty() { "none".to_owned() } else { words.join(", ") }.as_str());
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                let name = ["name", "stage"].iter().find_map(|key| item.get(key));
                show(text, &below(&name.map_or_else(|| number.to_string(), plain)), item);
            }
        }
        plain_value => line(text, path, &plain(plain_value)),
    }
}

fn line(text: &mut String, path: &str, words: &str) {
    text.push_str(&format!("{path:<28}  {words}\n"));
}

const fn is_plain(value: &Value) -> bool {
    !matches!(value, Value::Object(_) | Value::Array(_))
}

/// As a person reads it: text without quotes, and nothing that acts on a terminal.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if !text.is_empty() && text.chars().all(|c| matches!(c, ' '..='~')) => {
            text.clone()
        }
        Value::String(text) => text.escape_default().collect(),
        other => other.to_string(),
    }
}
