//! The fields of a small JSON file: every key known, every value checked, every error with its path.

use std::collections::BTreeMap;

use crate::document::json::Value;
use crate::document::{Problem, path};

/// An object, all of whose keys are known.
pub(super) struct Fields<'a> {
    path: String,
    fields: &'a BTreeMap<String, Value>,
}

impl<'a> Fields<'a> {
    /// An object at a path, with these keys and no others.
    pub(super) fn of(at: &str, value: &'a Value, keys: &[&str]) -> Result<Self, Problem> {
        let Value::Object(fields) = value else {
            let at = if at.is_empty() { "(top level)" } else { at };
            return Err(Problem::invalid(at, "an object", value.describe()));
        };
        if let Some(unknown) = fields.keys().find(|key| !keys.contains(&key.as_str())) {
            return Err(Problem::UnknownKey { path: path::key(at, unknown), expected: keys.join(", ") });
        }
        Ok(Self { path: at.to_owned(), fields })
    }

    /// The path of a key.
    pub(super) fn path(&self, key: &str) -> String {
        path::key(&self.path, key)
    }

    /// A value that may be left out, or be `null`.
    pub(super) fn optional(&self, key: &str) -> Option<&'a Value> {
        self.fields.get(key).filter(|value| **value != Value::Null)
    }

    /// What a function makes of a value; `None` if it is left out.
    pub(super) fn read<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(value) = self.optional(key) else { return Ok(None) };
        let refuse = || Problem::invalid(&self.path(key), expected, value.describe());
        read(value).map(Some).ok_or_else(refuse)
    }

    /// The same, of a value that must be there.
    pub(super) fn need<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<T, Problem> {
        let absent = || Problem::invalid(&self.path(key), expected, "nothing");
        self.read(key, expected, read)?.ok_or_else(absent)
    }
}

/// A string.
pub(super) fn text(value: &Value) -> Option<&str> {
    if let Value::Text(text) = value { Some(text) } else { None }
}

/// A string of printable ASCII without quotes or backslashes: what a name may be.
pub(super) fn name(value: &Value) -> Option<&str> {
    let plain = |b: u8| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\');
    text(value).filter(|text| (1..=NAME).contains(&text.len()) && text.bytes().all(plain))
}

/// A whole number.
pub(super) fn integer<T: TryFrom<u64>>(value: &Value) -> Option<T> {
    if let Value::Number(number) = value { T::try_from(number.as_u64()?).ok() } else { None }
}

/// `true` or `false`.
pub(super) fn boolean(value: &Value) -> Option<bool> {
    if let Value::Boolean(value) = value { Some(*value) } else { None }
}

/// A list.
pub(super) fn list(value: &Value) -> Option<&[Value]> {
    if let Value::List(items) = value { Some(items) } else { None }
}

/// Hex digits in lower or upper case.
pub(super) fn bytes(value: &Value) -> Option<Vec<u8>> {
    hex::decode(text(value)?).ok()
}

/// The longest name, in bytes.
pub(super) const NAME: usize = 256;
