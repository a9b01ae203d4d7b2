//! `replay`: what a log's events lead to.

use std::path::Path;

use casemate_measure::log::replay::{Cause, Comparison, Judged, Payload, Remark, Replay, Replayed, Standing};
use casemate_measure::log::{self, Source};

use super::{Exit, text};

pub(crate) fn run(path: &Path, quote: Option<&Path>, json: bool) -> anyhow::Result<(String, Exit)> {
    let log = super::read_log(path, quote)?;
    anyhow::ensure!(!log.events.is_empty(), "{}: expected an event log, found no event", path.display());
    let replay = log::replay(&log);
    let exit = Exit::of(replay.holds());
    Ok((if json { super::as_json(&replay)? } else { as_lines(&replay) }, exit))
}

fn as_lines(replay: &Replay) -> String {
    let left_out = match replay.left_out {
        0 => String::new(),
        some => format!(", {some} more that extend no RTMR"),
    };
    let mut lines = format!("log        {}, {} events{left_out}\n", replay.form, replay.events.len());
    lines += &format!("registers  {}\n", source(replay.source));
    for replayed in &replay.registers {
        lines += &format!("\n{:<11}{}", replayed.rtmr.to_string(), events(replayed.events));
        lines += &register(replayed);
        lines.extend(replay.of(replayed.rtmr).map(event));
    }
    lines + "\n" + LEGEND + &conclusion(replay)
}

/// What the columns of an event say.
const LEGEND: &str = "\
digest     quoted: the quote's register proves it; stated: a register does that
           only the agent states; beyond: extended later, or never; unproven
payload    computed, bound: the digest proves it; unbound: the digest is of
           something that is not in the log; empty: there is none
";

/// Who says what the registers hold.
pub(super) const fn source(source: Option<Source>) -> &'static str {
    match source {
        Some(Source::Quote) => "of a quote, whose signature is not checked here",
        Some(Source::Info) => "as the machine's agent states them, unsigned",
        None => "none in the file: there is nothing to compare with",
    }
}

fn events(count: usize) -> String {
    if count == 1 { "1 event".to_owned() } else { format!("{count} events") }
}

fn register(replayed: &Replayed) -> String {
    let by_replay = text::register("  replay   ", Some(&replayed.register));
    match &replayed.comparison {
        Comparison::Unknown => format!("\n{by_replay}"),
        Comparison::Equal => format!(": equal\n{by_replay}"),
        Comparison::Differs { register, cause } => {
            let held = text::register("  register ", Some(register));
            let cause = match cause {
                None => String::new(),
                Some(Cause::Prefix(0)) => text::wrapped("  ", "none of these events was extended"),
                Some(Cause::Prefix(count)) => {
                    let words = format!(
                        "the first {} lead to the register; the others came later, or never",
                        events(*count)
                    );
                    text::wrapped("  ", &words)
                }
                Some(Cause::Payload) => text::wrapped(
                    "  ",
                    "the log's own digests lead to the register: the name or payload of the event that is marked is false",
                ),
            };
            format!(": DIFFERS\n{by_replay}{held}{cause}")
        }
    }
}

fn event(event: &Judged) -> String {
    let standing = match event.standing {
        Standing::Quoted => "quoted",
        Standing::Stated => "stated",
        Standing::Beyond => "beyond",
        Standing::Unproven => "unproven",
    };
    let payload = match event.payload {
        Payload::Computed => "computed",
        Payload::Bound => "bound",
        Payload::Unbound => "unbound",
        Payload::Empty => "empty",
    };
    let name = text::cell(event.name.as_deref().unwrap_or_default(), 22);
    let row = format!(
        "  {:>4}  {:08x}  {}  {standing:<8}  {payload:<8}  {name}",
        event.place.event,
        event.event_type.0,
        text::short(&event.digest),
    );
    let remarks: String = event.remarks.iter().map(remark).collect();
    format!("{}\n{remarks}", row.trim_end())
}

fn remark(remark: &Remark) -> String {
    match remark {
        Remark::Digest { found, computed } => format!(
            "        ! the log's digest is not the one that the payload makes\n{}{}",
            text::register("          found    ", Some(found)),
            text::register("          computed ", Some(computed)),
        ),
        Remark::Preimage { .. } => {
            "        ! the log's preimage is not the one that name and payload make\n".to_owned()
        }
        Remark::Colon => "        ! the name has a colon: the digest does not say where it ends\n".to_owned(),
    }
}

fn conclusion(replay: &Replay) -> String {
    let differ: Vec<_> = replay
        .registers
        .iter()
        .filter(|replayed| matches!(replayed.comparison, Comparison::Differs { .. }))
        .map(|replayed| replayed.rtmr.to_string())
        .collect();
    let marked: Vec<_> =
        replay.contradictions().map(|event| format!("{} ({})", event.place, event.rtmr)).collect();
    let mut words = match (differ.as_slice(), replay.source) {
        ([], None) => "not compared with anything".to_owned(),
        ([], Some(_)) => "all four registers are what the log's events make".to_owned(),
        (differ, _) => format!("{} not what the log's events make", are(&differ.join(", "), differ.len())),
    };
    if !marked.is_empty() {
        words += &format!("; what contradicts itself: {}", marked.join(", "));
    }
    format!("\n{}", text::wrapped("result     ", &words))
}

fn are(names: &str, count: usize) -> String {
    format!("{names} {}", if count == 1 { "is" } else { "are" })
}
