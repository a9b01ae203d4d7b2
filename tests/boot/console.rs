//! The console of a development image, read while it is written.

use serde_json::Value;

/// What PID 1 prints before a status document.
const STATUS: &str = "casemate: status ";

/// Lines as they are shown. A line that is still being written is left out.
pub(crate) fn lines(log: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(log);
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop();
    lines.into_iter().map(|line| line.trim_end_matches('\r').to_owned()).collect()
}

/// Every status document in it.
pub(crate) fn statuses(log: &[u8]) -> Vec<Value> {
    let documents = lines(log).into_iter().filter_map(|line| {
        let json = line.strip_prefix(STATUS)?;
        // The kernel may print a line of its own into one of ours.
        serde_json::from_str(json).ok()
    });
    documents.collect()
}

/// A process of a status document, by its name.
pub(crate) fn process<'a>(status: &'a Value, name: &str) -> &'a Value {
    let all = status["processes"].as_array().expect("processes");
    all.iter()
        .find(|process| process["name"] == name)
        .unwrap_or_else(|| panic!("no process {name}: {status}"))
}
