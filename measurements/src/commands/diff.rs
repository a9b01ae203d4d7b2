//! `diff`: what a machine shows against what it should.

use std::path::Path;

use casemate_measure::log::diff::{Compared, Diff, Difference, Found, Verdict};
use casemate_measure::log::{self, Form};
use casemate_measure::tdx::{Digest, Event, Expected, expected};

use super::{Exit, replay, text};

pub(crate) fn run(
    expected: &Path,
    actual: &Path,
    quote: Option<&Path>,
    json: bool,
) -> anyhow::Result<(String, Exit)> {
    let (file, bytes) = super::read(expected, expected::MAX_BYTES)?;
    let expected = Expected::read(&file, &bytes)?;
    let log = super::read_log(actual, quote)?;
    anyhow::ensure!(
        log.form == Form::Quote || !log.events.is_empty() || log.registers.is_some(),
        "{}: expected an event log or a quote, found neither events nor registers",
        actual.display()
    );
    let diff = log::diff(&expected, &log);
    let exit = Exit::of(diff.is_equal());
    Ok((if json { super::as_json(&diff)? } else { as_lines(&diff) }, exit))
}

fn as_lines(diff: &Diff) -> String {
    let mut lines = format!("registers  {}\n", replay::source(diff.source));
    if diff.replay.is_none() {
        lines += "log        none in the file: no event can be named\n";
    }
    lines.push('\n');
    lines.extend(diff.registers.iter().map(compared));
    if let Some(replay) = diff.replay.as_ref().filter(|replay| !replay.holds()) {
        let marked: Vec<_> = replay.contradictions().map(|event| event.place.to_string()).collect();
        let words = if marked.is_empty() {
            "it does not lead to the registers that came with it: what it says of its events is not proven"
                .to_owned()
        } else {
            format!("it contradicts itself in {}: `replay` says how", marked.join(", "))
        };
        lines += &format!("\n{}", text::wrapped("log        ", &words));
    }
    lines += if diff.is_equal() { "\nresult     equal\n" } else { "\nresult     not equal\n" };
    lines
}

fn compared(compared: &Compared) -> String {
    let name = compared.register.to_string();
    let verdict = match compared.verdict {
        Verdict::Equal => "equal",
        Verdict::Differs => "DIFFERS",
        Verdict::Unpinned => "not pinned: every other event is as expected",
        Verdict::Absent => "not in the file",
    };
    let mut lines = format!("{name:<11}{verdict}\n");
    if compared.verdict == Verdict::Unpinned && compared.unpinned.is_empty() {
        lines = format!("{name:<11}not pinned, and there is no log\n");
    }
    if compared.verdict == Verdict::Differs {
        let expected = compared.expected.as_ref();
        lines += &expected.map_or_else(
            || "  expected not pinned\n".to_owned(),
            |register| text::register("  expected ", Some(register)),
        );
        lines += &text::register("  found    ", compared.found.as_ref());
        lines.extend(explanation("  because  ", &compared.explained_by));
    }
    lines.extend(compared.unpinned.iter().map(|event| difference("not pinned", event)));
    let words = ["first difference", "and"].into_iter().chain(std::iter::repeat("and"));
    lines.extend(words.zip(&compared.differences).map(|(word, event)| difference(word, event)));
    lines
}

fn explanation(label: &str, labels: &[String]) -> Option<String> {
    (!labels.is_empty()).then(|| text::wrapped(label, &labels.join("; or ")))
}

fn difference(word: &str, difference: &Difference) -> String {
    let place = difference.found.as_ref().map(|found| format!(", {} of the log", found.place));
    let place = place.unwrap_or_default();
    let mut lines = text::wrapped("  ", &format!("{word}: number {}{place}", difference.nth));
    lines += &difference.expected.as_ref().map_or_else(|| "    expected no more event\n".to_owned(), wanted);
    lines += &difference.found.as_ref().map_or_else(|| "    found    no more event\n".to_owned(), found);
    lines.extend(explanation("    because  ", &difference.explained_by));
    lines.extend(difference.depends_on.map(|words| text::wrapped("    depends on ", words)));
    lines
}

fn wanted(event: &Event) -> String {
    let what = format!("{} ({:#010x})", event.name, event.event_type.0);
    let digest = match &event.digest {
        Digest::Known(digest) => text::register("             ", Some(digest)),
        Digest::Unpinned => String::new(),
    };
    text::wrapped("    expected ", &what) + &digest + &text::wrapped("             from ", &event.origin)
}

fn found(event: &Found) -> String {
    let name = event.name.as_deref().filter(|name| !name.is_empty()).unwrap_or("event");
    let what = format!("{} ({:#010x})", text::cell(name, 40), event.event_type.0);
    let text = event.text.as_ref().map(|words| text::wrapped("             text ", words));
    text::wrapped("    found    ", &what)
        + &text::register("             ", Some(&event.digest))
        + &text.unwrap_or_default()
}
