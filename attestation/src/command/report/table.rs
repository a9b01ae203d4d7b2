//! The answer for a person: each check in its order, then who it is, then the verdict.

use std::fmt::Write as _;

use casemate_verify::Tee;

use super::Report;
use super::json::JsonPeer;
use super::stages::{Mark, lines};
use crate::command::verdict::Verdict;

pub(super) fn of(report: &Report<'_>) -> String {
    let verdict = report.verdict;
    let mut text = Text(String::new());
    text.line("target", report.target);
    for check in lines(report) {
        let mark = match check.mark {
            Mark::Held => '✓',
            Mark::Failed => '✗',
            Mark::NotJudged | Mark::NotReached => '–',
        };
        let name = format!("{mark} {}", check.stage.name());
        let said = match check.mark {
            Mark::NotReached => vec!["not reached".to_owned()],
            Mark::NotJudged => match check.text.first() {
                Some(text) => vec![format!("not judged: {text}")],
                None => vec!["not judged".to_owned()],
            },
            Mark::Held | Mark::Failed => check.text,
        };
        for (index, words) in said.iter().enumerate() {
            text.line(if index == 0 { &name } else { "" }, words);
        }
    }
    if let Some(peer) = verdict.peer() {
        who(&mut text, &JsonPeer::of(peer, verdict.tags()), matches!(verdict, Verdict::Trusted(_)));
    }
    text.line("verdict", verdict.sentence());
    if let Some(advice) = verdict.advice() {
        text.line("", &advice);
    }
    text.0
}

fn who(text: &mut Text, peer: &JsonPeer<'_>, trusted: bool) {
    let tee = match peer.tee {
        Tee::Tdx => "Intel TDX",
        _ => "SIMULATED: its keys are public, this proves nothing about a machine",
    };
    text.line("tee", tee);
    text.line("app id", &peer.app_id);
    text.line("compose hash", &peer.compose_hash);
    text.line("instance", peer.instance_id.as_deref().unwrap_or("none"));
    text.line("key provider", &peer.key_provider);
    if let Some(hash) = &peer.os_image_hash {
        text.line("os image", hash);
    }
    let registers = [
        ("mrtd", &peer.registers.mrtd),
        ("rtmr0", &peer.registers.rtmr0),
        ("rtmr1", &peer.registers.rtmr1),
        ("rtmr2", &peer.registers.rtmr2),
        ("rtmr3", &peer.registers.rtmr3),
    ];
    for (name, register) in registers {
        text.line(name, register.as_deref().unwrap_or("not measured"));
    }
    text.line("mrconfigid", peer.registers.mrconfigid.as_deref().unwrap_or("not bound"));
    text.line("key pin", peer.spki_pin.as_deref().unwrap_or("none: no certificate"));
    if trusted {
        text.line("tags", &peer.tags.join(" "));
    }
}

struct Text(String);

impl Text {
    fn line(&mut self, name: &str, value: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{name:<16}{}", shown(value));
    }
}

/// Text of hostile origin, safe for a terminal: what is already escaped stays as it is.
fn shown(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' => safe.push(character),
            other => safe.extend(other.escape_debug()),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn hostile_text_moves_no_cursor() {
        assert_eq!(shown("a\u{1b}[2Jb\r\n\u{202e}c"), "a\\u{1b}[2Jb\\r\\n\\u{202e}c");
        assert_eq!(shown(r#"{"name":"none"} it's \u{1b}"#), r#"{"name":"none"} it's \u{1b}"#);
    }
}
