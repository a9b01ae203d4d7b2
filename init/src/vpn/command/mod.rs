//! `casemate-init vpn …`: the parent, and questions to a node that runs.

mod client;
mod text;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use casemate_vpn::status::Request;
use serde_json::Value;

use super::sockets::DEFAULT_SOCKET;
use client::Client;

const USAGE: &str = "usage: casemate-init vpn --config FILE
       casemate-init vpn status [--json] [--socket PATH]
       casemate-init vpn ping NAME [--count N] [--until-direct] [--socket PATH]
       casemate-init vpn netcheck [--json] [--socket PATH]

  --config FILE     join a tailnet, as root, until SIGTERM or SIGINT
  status            how the node stands; --json: as it says it itself
  ping NAME         ask a peer over the network's own paths, N times (4)
  --until-direct    until an answer came on a direct path; status 1 if none did
  netcheck          what relays say about this machine's network

Status 0: done. 1: not done, and why. 64: wrong arguments.";

/// Runs it.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let wanted = match Wanted::parse(arguments) {
        Ok(Wanted::Help) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Ok(wanted) => wanted,
        Err(words) => {
            drop(writeln!(io::stderr(), "casemate-init vpn: {words}\n{USAGE}"));
            return ExitCode::from(64);
        }
    };
    let done = match wanted {
        Wanted::Help => Ok(true),
        Wanted::Join(file) => join(&file),
        Wanted::Ask { request, json, socket } => ask(&request, json, &socket),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            drop(writeln!(io::stderr(), "casemate-init vpn: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Help,
    Join(PathBuf),
    Ask { request: Request, json: bool, socket: PathBuf },
}

/// Options that take a value, and those that take none, as far as they were given.
#[derive(Default)]
struct Options {
    config: Option<PathBuf>,
    socket: Option<PathBuf>,
    count: Option<u32>,
    json: bool,
    until_direct: bool,
    words: Vec<String>,
}

impl Options {
    fn parse(arguments: &[OsString]) -> Result<Self, String> {
        let mut found = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let mut value = |name: &str| rest.next().ok_or_else(|| format!("{name}: expected a value"));
            match argument.to_str() {
                Some("--config") if found.config.is_none() => found.config = Some(value("--config")?.into()),
                Some("--socket") if found.socket.is_none() => found.socket = Some(value("--socket")?.into()),
                Some("--count") if found.count.is_none() => {
                    let text = value("--count")?;
                    let count = text.to_str().and_then(|text| text.parse().ok());
                    let good = count.filter(|count| (1..=1000).contains(count));
                    found.count =
                        Some(good.ok_or_else(|| {
                            format!("--count: expected 1 to 1000, found {}", text.display())
                        })?);
                }
                Some("--json") if !found.json => found.json = true,
                Some("--until-direct") if !found.until_direct => found.until_direct = true,
                Some(word) if !word.starts_with('-') => found.words.push(word.to_owned()),
                _ => return Err(format!("{}: not expected", argument.display())),
            }
        }
        Ok(found)
    }
}

impl Wanted {
    fn parse(arguments: &[OsString]) -> Result<Self, String> {
        if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
            return Ok(Self::Help);
        }
        let Options { config, socket, count, json, until_direct, words } = Options::parse(arguments)?;
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let ask = |request, json| Self::Ask {
            request,
            json,
            socket: socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into()),
        };
        match (words.as_slice(), config) {
            ([], Some(file)) if socket.is_none() && count.is_none() && !json && !until_direct => {
                Ok(Self::Join(file))
            }
            (["status"], None) if count.is_none() && !until_direct => Ok(ask(Request::Status {}, json)),
            (["netcheck"], None) if count.is_none() && !until_direct => Ok(ask(Request::Netcheck {}, json)),
            (["ping", name], None) if !json => {
                let default = if until_direct { 20 } else { 4 };
                let count = count.unwrap_or(default);
                Ok(ask(Request::Ping { name: (*name).to_owned(), count, until_direct }, false))
            }
            _ => Err("expected --config FILE, status, ping NAME or netcheck".to_owned()),
        }
    }
}

fn join(file: &Path) -> anyhow::Result<bool> {
    super::resolv::recover_first();
    let config = super::Config::load(file)?;
    super::parent::run(&config)?;
    Ok(true)
}

fn ask(request: &Request, json: bool, socket: &Path) -> anyhow::Result<bool> {
    let mut client = Client::ask(socket, request)?;
    let mut out = io::stdout();
    match request {
        Request::Ping { until_direct, .. } => {
            let (mut answered, mut direct) = (false, false);
            while let Some(line) = client.next()? {
                if line.get("end") == Some(&Value::Bool(true)) {
                    continue;
                }
                answered |= text::is_answer(&line);
                direct |= text::is_direct(&line);
                writeln!(out, "{}", text::ping(&line))?;
            }
            Ok(if *until_direct { direct } else { answered })
        }
        _ => {
            let document = client.only()?;
            let shown = match request {
                _ if json => client.line().to_owned(),
                Request::Status {} => text::status(&document),
                _ => text::plain_lines(&document),
            };
            write!(out, "{shown}{}", if shown.ends_with('\n') { "" } else { "\n" })?;
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests;
