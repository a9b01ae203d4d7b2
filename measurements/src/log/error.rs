//! What can be wrong with a log: every problem names where it is, what was expected and what was found. The text of a log
//! is shown short and escaped.

use std::fmt::Display;

use super::Form;

/// Why a log was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct LogError {
    /// The file as the caller named it.
    pub file: String,
    /// What is wrong with it: the first thing found.
    pub problem: Problem,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Too long to be read at all.
    #[error("{what}: expected at most {limit} bytes, found {found}")]
    TooLong {
        /// What it was read as.
        what: &'static str,
        /// The bound.
        limit: usize,
        /// Its length in bytes.
        found: usize,
    },
    /// In none of the forms that are read.
    #[error("expected a CCEL, an event log of dstack's (JSON) or a TDX quote, found {found}")]
    Unknown {
        /// What is there instead.
        found: &'static str,
    },
    /// More events than any machine has.
    #[error("{what}: expected at most {limit} events, found more")]
    TooManyEvents {
        /// Which form, or the path of the list.
        what: String,
        /// The bound.
        limit: usize,
    },
    /// A field of a binary form.
    #[error("{form}: {field} before byte {byte}{}: expected {expected}, found {found}", in_event(*.event))]
    Binary {
        /// Which form.
        form: Form,
        /// Which field.
        field: &'static str,
        /// Where the reader stands: behind the field, or where it should have begun if the bytes end.
        byte: usize,
        /// Which event, counted from 0; `None` in a header.
        event: Option<usize>,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A field of a JSON form.
    #[error("{path}: expected {expected}, found {found}")]
    Json {
        /// Where: a JSON path such as `tcb_info.event_log[3].digest`.
        path: String,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
}

fn in_event(event: Option<usize>) -> String {
    event.map(|event| format!(" (event {event})")).unwrap_or_default()
}

/// How many characters of somebody else's text are shown: longer than any right value.
const SHOWN: usize = 128;

impl Problem {
    pub(super) fn json(path: impl Into<String>, expected: impl Into<String>, found: impl Display) -> Self {
        Self::Json { path: path.into(), expected: expected.into(), found: tame(&found.to_string()) }
    }
}

/// Short, and without control characters.
pub(super) fn tame(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push('…');
    }
    shown
}
