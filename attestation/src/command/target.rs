//! What the command is pointed at, and the evidence there.

use std::path::{Path, PathBuf};

use casemate_measure::EventLog;
use casemate_measure::log::Log;
use casemate_measure::tdx::Rtmr;
use casemate_verify::evidence::{Detected, detect};
use casemate_verify::quote::TdReport;
use casemate_verify::ratls::Attestation;
use casemate_verify::{Evidence, EvidenceError, Reason};

use super::collateral::Offered;
use super::io::files;
use super::io::url::host_and_port;
use super::verdict::Verdict;
use super::{Failure, Stop};

/// The target by its kind.
pub(super) enum Target {
    Peer { host: String, port: u16 },
    File(PathBuf),
    Directory(PathBuf),
}

/// What was shown.
pub(super) struct Shown {
    pub(super) evidence: Evidence,
    pub(super) firmware_log: Option<Log>,
    /// Out of a directory.
    pub(super) collateral: Option<Offered>,
}

impl Target {
    /// A directory or file of that name if there is one, else a server.
    pub(super) fn of(text: &str) -> Result<Self, Failure> {
        let path = Path::new(text);
        if path.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        if path.is_file() {
            return Ok(Self::File(path.to_owned()));
        }
        let (host, port) = host_and_port(text).ok_or_else(|| {
            Failure::usage(format!("TARGET: expected HOST:PORT, a file or a directory, found {text:?}"))
        })?;
        Ok(Self::Peer { host: host.to_owned(), port })
    }
}

/// The evidence in a file.
pub(super) fn file(path: &Path) -> Result<Shown, Stop> {
    let bytes = files::read_evidence(path).map_err(Failure::usage)?;
    match detect(&bytes).map_err(unreadable)? {
        Detected::Evidence(evidence, firmware_log) => Ok(Shown { evidence, firmware_log, collateral: None }),
        Detected::Log(_) => {
            let name = path.display();
            Err(Failure::usage(format!(
                "{name}: expected evidence, found an event log (put it beside its quote in a directory)"
            ))
            .into())
        }
    }
}

fn unreadable(error: EvidenceError) -> Stop {
    Verdict::NotAuthentic(vec![Reason::from(error)]).into()
}

/// What a file in a directory is for, by its name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Evidence,
    Log,
    Collateral,
}

/// The names of evidence. The README repeats them.
const EVIDENCE: &[&str] = &[
    "quote.bin",
    "quote.hex",
    "quote.json",
    "attestation.bin",
    "attestation.hex",
    "attestation.json",
    "*.pem",
    "*.crt",
    "*.der",
];
/// The names of event logs: the firmware's, and dstack's with RTMR3's events.
const LOGS: &[&str] = &["ccel.bin", "event_log.json"];
/// The name of collateral.
const COLLATERAL: &str = "collateral.json";

fn role(name: &str) -> Option<Role> {
    let fits = |pattern: &&str| match pattern.strip_prefix('*') {
        Some(ending) => name.len() > ending.len() && name.ends_with(ending),
        None => name == *pattern,
    };
    if EVIDENCE.iter().any(fits) {
        Some(Role::Evidence)
    } else if LOGS.contains(&name) {
        Some(Role::Log)
    } else {
        (name == COLLATERAL).then_some(Role::Collateral)
    }
}

/// The evidence in a directory, with what lies beside it. Files of other names are not looked at.
pub(super) fn directory(directory: &Path) -> Result<Shown, Stop> {
    let mut evidence = Vec::new();
    let mut logs = Vec::new();
    let mut collateral = None;
    for (name, path) in files::list(directory).map_err(Failure::usage)? {
        match role(&name) {
            Some(Role::Evidence) => evidence.push(path),
            Some(Role::Log) => logs.push(path),
            Some(Role::Collateral) => collateral = Some(Offered::read(&path)?),
            None => {}
        }
    }
    let [path] = evidence.as_slice() else {
        let names: Vec<_> = evidence.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let expected = EVIDENCE.join(", ");
        let text =
            format!("{}: expected one file of evidence ({expected}), found {found}", directory.display());
        return Err(Failure::usage(text).into());
    };
    let mut shown = Shown { collateral, ..file(path)? };
    for log in &logs {
        add_log(&mut shown, path, log)?;
    }
    Ok(shown)
}

/// Adds a log to the evidence: RTMR3's events to a quote, the firmware's beside it.
fn add_log(shown: &mut Shown, evidence: &Path, path: &Path) -> Result<(), Stop> {
    let bytes = files::read_evidence(path).map_err(Failure::usage)?;
    let name = path.display();
    let Detected::Log(mut log) = detect(&bytes).map_err(unreadable)? else {
        return Err(Failure::usage(format!("{name}: expected an event log, found evidence")).into());
    };
    if let Some(events) = runtime(&name.to_string(), &log)? {
        match &shown.evidence {
            Evidence::Quote(quote) => {
                let report_data = TdReport::of_quote(quote).map_err(unreadable)?.report_data;
                shown.evidence = Evidence::Attestation(Attestation {
                    quote: quote.clone(),
                    events,
                    report_data,
                    config: String::new(),
                });
            }
            Evidence::Attestation(attestation) => {
                same_events(&name.to_string(), evidence, &attestation.events, &events)?
            }
            Evidence::Certificate(found) => {
                same_events(&name.to_string(), evidence, &found.attestation.events, &events)?
            }
            _ => {
                return Err(
                    Failure::usage(format!("{name}: expected no event log beside such evidence")).into()
                );
            }
        }
    }
    log.events.retain(|event| event.rtmr != Rtmr::Rtmr3);
    if log.events.is_empty() {
        return Ok(());
    }
    match &shown.firmware_log {
        Some(known) if known.events != log.events => {
            let text = format!("{name}: expected the firmware's events as in the other log, found others");
            Err(Failure::usage(text).into())
        }
        _ => {
            shown.firmware_log = Some(log);
            Ok(())
        }
    }
}

/// RTMR3's events, if the log has some.
fn runtime(name: &str, log: &Log) -> Result<Option<EventLog>, Stop> {
    let events = log.events.iter().filter(|event| event.rtmr == Rtmr::Rtmr3).map(|event| {
        let text = || {
            Failure::usage(format!(
                "{name}: {}: expected a runtime event of dstack, found another of RTMR3",
                event.place
            ))
        };
        event.runtime().ok_or_else(text)
    });
    let events: Vec<_> = events.collect::<Result<_, _>>()?;
    Ok((!events.is_empty()).then(|| EventLog::new(events)))
}

fn same_events(name: &str, evidence: &Path, known: &EventLog, found: &EventLog) -> Result<(), Stop> {
    if known.events() == found.events() {
        return Ok(());
    }
    let text = format!("{name}: expected RTMR3's events as in {}, found others", evidence.display());
    Err(Failure::usage(text).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_files_are_for() {
        for (name, expected) in [
            ("quote.bin", Some(Role::Evidence)),
            ("leaf.pem", Some(Role::Evidence)),
            (".pem", None),
            ("event_log.json", Some(Role::Log)),
            ("collateral.json", Some(Role::Collateral)),
            ("README.md", None),
            ("policy.json", None),
        ] {
            assert!(role(name) == expected, "{name}");
        }
    }

    #[test]
    fn the_readme_names_them() {
        let readme = include_str!("../../README.md");
        for name in EVIDENCE.iter().chain(LOGS).chain(&[COLLATERAL]) {
            assert!(readme.contains(&format!("`{name}`")), "{name}");
        }
    }
}
