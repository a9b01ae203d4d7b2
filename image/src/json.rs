//! JSON files for people to read: indented, with an end of line.

use serde::Serialize;

use crate::error::{ImageError, Result};

/// `name` is for errors, which do not happen to our own types.
pub(crate) fn pretty(name: &str, value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| ImageError::form(name, "JSON", "a value that can be written", error.to_string()))?;
    Ok(text + "\n")
}
