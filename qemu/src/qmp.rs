//! QMP, QEMU's monitor protocol: one JSON object a line (QEMU `docs/interop/qmp-spec.rst`). Bytes in, messages out.

use serde_json::Value;

/// The longest line that is read: a monitor that we start says nothing near it.
const LINE_MAX: usize = 1 << 20;

/// Opens the command mode; the first thing that a client sends.
pub const CAPABILITIES: &str = "{\"execute\":\"qmp_capabilities\"}\n";
/// Presses the power button.
pub const POWERDOWN: &str = "{\"execute\":\"system_powerdown\"}\n";
/// Ends QEMU at once.
pub const QUIT: &str = "{\"execute\":\"quit\"}\n";
/// Asks whether the machine runs, and if not, why.
pub const QUERY_STATUS: &str = "{\"execute\":\"query-status\"}\n";

/// What QEMU says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The greeting.
    Greeting,
    /// `SHUTDOWN`, with its reason: `guest-shutdown`, `guest-reset`, `host-qmp-quit`, … (QEMU `qapi/run-state.json`).
    Shutdown(String),
    /// `POWERDOWN`: somebody pressed the power button, on this monitor or on another.
    Powerdown,
    /// `STOP`: the virtual CPUs stand still; `query-status` says why.
    Stop,
    /// `RESUME`: they run again.
    Resume,
    /// `GUEST_PANICKED`, with what the guest said, if it can: a trust domain reports its fatal errors (QEMU
    /// `qapi/run-state.json`, `GuestPanicInformationTdx`).
    Panicked(Option<String>),
    /// The answer to `query-status`: a run state such as `running` or `internal-error`.
    RunState(String),
    /// A command was carried out.
    Done,
    /// A command was refused.
    Refused(String),
    /// Some other event.
    Other(String),
    /// A line that is no QMP.
    NotQmp(String),
}

/// Cuts the monitor's bytes into messages.
#[derive(Debug, Default)]
pub struct MessageStream {
    pending: Vec<u8>,
}

impl MessageStream {
    /// Takes the next bytes, in pieces of any size.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.pending.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            if !line.trim_ascii().is_empty() {
                messages.push(message(&line));
            }
        }
        if self.pending.len() > LINE_MAX {
            self.pending.clear();
            messages.push(Message::NotQmp("a line without an end".into()));
        }
        messages
    }
}

/// QEMU's version of the line that greets: `11.1.3`. `None` for any other line.
pub fn version(line: &[u8]) -> Option<String> {
    let value = serde_json::from_slice::<Value>(line).ok()?;
    let version = value.pointer("/QMP/version/qemu")?;
    let [major, minor, micro] = ["major", "minor", "micro"].map(|part| version.get(part)?.as_u64());
    Some(format!("{}.{}.{}", major?, minor?, micro?))
}

fn message(line: &[u8]) -> Message {
    let Ok(value) = serde_json::from_slice::<Value>(line) else {
        return Message::NotQmp(String::from_utf8_lossy(line).trim().chars().take(200).collect());
    };
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    if value.get("QMP").is_some() {
        return Message::Greeting;
    }
    if let Some(event) = value.get("event") {
        return match event.as_str() {
            Some("SHUTDOWN") => {
                Message::Shutdown(text(value.pointer("/data/reason").unwrap_or(&Value::Null)))
            }
            Some("POWERDOWN") => Message::Powerdown,
            Some("STOP") => Message::Stop,
            Some("RESUME") => Message::Resume,
            Some("GUEST_PANICKED") => Message::Panicked(
                value.pointer("/data/info/message").and_then(Value::as_str).map(str::to_owned),
            ),
            _ => Message::Other(text(event)),
        };
    }
    if let Some(error) = value.pointer("/error/desc") {
        return Message::Refused(text(error));
    }
    match value.get("return") {
        Some(answer) => answer.get("status").map_or(Message::Done, |state| Message::RunState(text(state))),
        None => Message::NotQmp(value.to_string().chars().take(200).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_told_apart() {
        let lines = concat!(
            "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n",
            "{\"return\": {}}\r\n\r\n",
            "{\"timestamp\": {}, \"event\": \"POWERDOWN\"}\r\n",
            "{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\n",
            "{\"event\": \"STOP\"}\n{\"event\": \"RESUME\"}\n{\"event\": \"GUEST_PANICKED\", \"data\": {\"action\": \"pause\"}}\n",
            "{\"event\": \"GUEST_PANICKED\", \"data\": {\"info\": {\"type\": \"tdx\", \"message\": \"TD misconfig\"}}}\n{\"event\": \"RTC_CHANGE\", \"data\": {}}\n",
            "{\"return\": {\"status\": \"internal-error\", \"running\": false}}\n",
            "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no\"}}\nhello\n7\n",
        );
        let expected = [
            Message::Greeting,
            Message::Done,
            Message::Powerdown,
            Message::Shutdown("guest-reset".into()),
            Message::Stop,
            Message::Resume,
            Message::Panicked(None),
            Message::Panicked(Some("TD misconfig".into())),
            Message::Other("RTC_CHANGE".into()),
            Message::RunState("internal-error".into()),
            Message::Refused("no".into()),
            Message::NotQmp("hello".into()),
            Message::NotQmp("7".into()),
        ];
        for size in [1, 7, 10_000] {
            let mut stream = MessageStream::default();
            let messages: Vec<_> =
                lines.as_bytes().chunks(size).flat_map(|piece| stream.push(piece)).collect();
            assert_eq!(messages, expected, "pieces of {size}");
        }
    }

    #[test]
    fn the_greeting_has_the_version() {
        let greeting =
            br#"{"QMP": {"version": {"qemu": {"micro": 13, "minor": 0, "major": 10}, "package": "Debian"}}}"#;
        assert_eq!(version(greeting).as_deref(), Some("10.0.13"));
        for other in [&br#"{"QMP": {"version": {"qemu": {"minor": 0, "major": 10}}}}"#[..], b"{}", b"x"] {
            assert_eq!(version(other), None);
        }
    }

    #[test]
    fn an_endless_line_is_let_go() {
        let mut stream = MessageStream::default();
        assert_eq!(stream.push(&vec![b'x'; LINE_MAX + 1]), [Message::NotQmp("a line without an end".into())]);
        assert_eq!(stream.push(b"{\"return\": {}}\n"), [Message::Done]);
    }
}
