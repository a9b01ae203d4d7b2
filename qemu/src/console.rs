//! The console of a development image: the status documents that PID 1 prints on it. The guest wrote every byte, and the
//! kernel may print a line of its own into one of PID 1's, so only a whole line that is one JSON object is taken.

use serde_json::{Map, Value};

use crate::text::printable;

/// What PID 1 prints before a status document.
const STATUS: &[u8] = b"casemate: status ";
/// How much of a console is read, in bytes from its end.
pub const TAIL: u64 = 1 << 20;
/// The longest line that is taken, in bytes: many times what PID 1 prints.
const LINE_MAX: usize = 256 << 10;

/// The last whole status document.
pub fn last_status(tail: &[u8]) -> Option<Map<String, Value>> {
    // What follows the last end of line is still being written.
    let end = tail.iter().rposition(|byte| *byte == b'\n')?;
    let lines = tail.get(..end)?.rsplit(|byte| *byte == b'\n');
    lines.filter(|line| line.len() <= LINE_MAX).find_map(|line| {
        let json = line.trim_ascii_end().strip_prefix(STATUS)?;
        // Nesting is bounded by serde_json, at 128 levels.
        serde_json::from_slice(json).ok()
    })
}

/// A document for a person: a path and its value a line, an object of plain values in one. Named members of a list go by
/// their name. Nothing in it acts on a terminal.
pub fn lines(document: &Map<String, Value>) -> Vec<(String, String)> {
    let mut lines = Vec::new();
    fields("", document, &mut lines);
    lines
}

fn fields(path: &str, object: &Map<String, Value>, lines: &mut Vec<(String, String)>) {
    for (name, value) in object {
        let name = printable(name);
        let path = if path.is_empty() { name } else { format!("{path}.{name}") };
        line(&path, value, lines);
    }
}

fn line(path: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) if object.values().all(is_plain) => {
            let words = object.iter().map(|(name, value)| format!("{}={}", printable(name), plain(value)));
            lines.push((path.to_owned(), words.collect::<Vec<_>>().join(" ")));
        }
        Value::Object(object) => fields(path, object, lines),
        Value::Array(items) if items.iter().all(is_plain) => {
            let words = items.iter().map(plain).collect::<Vec<_>>().join(", ");
            lines.push((path.to_owned(), if words.is_empty() { "none".into() } else { words }));
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                let name = item.get("name").and_then(Value::as_str);
                let name = name
                    .map_or_else(|| format!("{path}[{index}]"), |name| format!("{path}.{}", printable(name)));
                match item {
                    Value::Object(object) => {
                        let rest = object.iter().filter(|(key, _)| *key != "name");
                        line(
                            &name,
                            &Value::Object(rest.map(|(key, value)| (key.clone(), value.clone())).collect()),
                            lines,
                        );
                    }
                    other => line(&name, other, lines),
                }
            }
        }
        value => lines.push((path.to_owned(), plain(value))),
    }
}

const fn is_plain(value: &Value) -> bool {
    !matches!(value, Value::Object(_) | Value::Array(_))
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => printable(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_document_is_taken() {
        let console = concat!(
            "kernel: [    1.0]\r\n",
            "casemate: status {\"stage\":\"boot\"}\r\n",
            "web: casemate: status {\"stage\":\"forged\"}\r\n",
            "casemate: status {\"stage\":\"ready\"}\r\n",
            "casemate: status {\"sta[  7.1] random: crng\r\n",
            "casemate: status [1]\r\ncasemate: status {} {}\r\n",
            "casemate: status {\"stage\":\"half\"}",
        );
        assert_eq!(last_status(console.as_bytes()).unwrap()["stage"], "ready");
        assert_eq!(last_status(b"casemate: status {}"), None, "not whole yet");
        assert_eq!(last_status(b""), None);
        assert_eq!(last_status(&[0xff; 100]), None);
    }

    #[test]
    fn what_is_too_long_or_too_deep_is_not_taken() {
        let long = format!("casemate: status {{\"a\":\"{}\"}}\n", "x".repeat(LINE_MAX));
        assert_eq!(last_status(long.as_bytes()), None);
        let deep = format!("casemate: status {}{}\n", "{\"a\":".repeat(200), "}".repeat(200));
        assert_eq!(last_status(deep.as_bytes()), None);
    }

    #[test]
    fn a_document_becomes_lines_that_no_terminal_acts_on() {
        let document = serde_json::json!({
            "stage": "ready\u{1b}[2J", "module_ms": 7, "identity": { "app_id": "ab", "tags": ["t", "\u{202e}u"] },
            "egress": { "locked": true, "counters": [{ "name": "denied:web", "packets": 3 }] },
            "processes": [{ "name": "web", "pid": 9, "last_exit": null, "more": [1] }, 7], "none": [],
        });
        let Value::Object(document) = document else { panic!() };
        let found: Vec<String> =
            lines(&document).into_iter().map(|(path, value)| format!("{path}: {value}")).collect();
        for expected in [
            r"stage: ready\u{1b}[2J",
            "module_ms: 7",
            "identity.app_id: ab",
            r"identity.tags: t, \u{202e}u",
            "egress.locked: true",
            "egress.counters.denied:web: packets=3",
            "processes.web.pid: 9",
            "processes.web.last_exit: -",
            "processes.web.more: 1",
            "processes[1]: 7",
            "none: none",
        ] {
            assert!(found.iter().any(|line| line == expected), "expected {expected:?}: {found:#?}");
        }
    }
}
