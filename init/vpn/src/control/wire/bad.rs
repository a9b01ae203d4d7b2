//! JSON that does not read, without a word of it.

use serde_json::error::Category;
use thiserror::Error;

/// Where JSON did not read, and of what kind that is. serde's own words quote what stands there, and that may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{kind} at line {line}, column {column}")]
pub struct BadJson {
    kind: &'static str,
    line: usize,
    column: usize,
}

impl From<serde_json::Error> for BadJson {
    fn from(error: serde_json::Error) -> Self {
        let kind = match error.classify() {
            Category::Io => "an I/O error",
            Category::Syntax => "no JSON",
            Category::Data => "another type than it should be",
            Category::Eof => "its end",
        };
        Self { kind, line: error.line(), column: error.column() }
    }
}
