//! A value of the completed section together with its path, and its conversion to checked types.
//!
//! Types and bounds were checked by [`super::shape`]; a wrong type here would be an error all the same, never a panic.

use std::str::FromStr;

use super::error::Problem;
use super::json::Value;
use super::path;
use super::shape::SECTION;

/// A value and where it is.
#[derive(Clone)]
pub(super) struct Node<'a> {
    value: &'a Value,
    path: String,
}

impl<'a> Node<'a> {
    /// The section itself.
    pub(super) fn section(value: &'a Value) -> Self {
        Self { value, path: SECTION.to_owned() }
    }

    /// A problem at this value.
    pub(super) fn problem(&self, expected: impl Into<String>) -> Problem {
        Problem::invalid(&self.path, expected, self.value.describe())
    }

    /// The value under a key of an object.
    pub(super) fn at(&self, key: &str) -> Result<Self, Problem> {
        let path = path::key(&self.path, key);
        match self.value {
            Value::Object(fields) => match fields.get(key) {
                Some(value) => Ok(Self { value, path }),
                None => Err(Problem::invalid(&path, "a value", "nothing")),
            },
            _ => Err(self.problem("an object")),
        }
    }

    /// `None` if the value is `null`.
    pub(super) fn present(self) -> Option<Self> {
        (*self.value != Value::Null).then_some(self)
    }

    /// Whether the value is an object.
    pub(super) const fn is_object(&self) -> bool {
        matches!(self.value, Value::Object(_))
    }

    /// The items of a list.
    pub(super) fn items(&self) -> Result<Vec<Self>, Problem> {
        let Value::List(items) = self.value else { return Err(self.problem("a list")) };
        let item = |(i, value)| Self { value, path: path::index(&self.path, i) };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// The keys and values of a map.
    pub(super) fn entries(&self) -> Result<Vec<(&'a str, Self)>, Problem> {
        let Value::Object(fields) = self.value else { return Err(self.problem("an object")) };
        let entry = |(key, value)| {
            let key: &'a String = key;
            (key.as_str(), Self { value, path: path::key(&self.path, key) })
        };
        Ok(fields.iter().map(entry).collect())
    }

    /// Each item of a list, converted.
    pub(super) fn each<T>(&self, convert: impl Fn(&Self) -> Result<T, Problem>) -> Result<Vec<T>, Problem> {
        self.items()?.iter().map(convert).collect()
    }

    /// A string.
    pub(super) fn text(&self) -> Result<&'a str, Problem> {
        match self.value {
            Value::Text(text) => Ok(text),
            _ => Err(self.problem("a string")),
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, Problem> {
        match self.value {
            Value::Boolean(value) => Ok(*value),
            _ => Err(self.problem("true or false")),
        }
    }

    /// A whole number.
    pub(super) fn integer<T: TryFrom<u64>>(&self) -> Result<T, Problem> {
        let number = match self.value {
            Value::Number(number) => number.as_u64().and_then(|n| T::try_from(n).ok()),
            _ => None,
        };
        number.ok_or_else(|| self.problem("a whole number in range"))
    }

    /// A string that a function understands.
    pub(super) fn form<T>(
        &self,
        expected: &str,
        read: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, Problem> {
        read(self.text()?).ok_or_else(|| self.problem(expected))
    }

    /// A string in the form that a type reads.
    pub(super) fn parsed<T: FromStr>(&self, expected: &str) -> Result<T, Problem> {
        self.form(expected, |text| text.parse().ok())
    }

    /// The value that belongs to one of a few words.
    pub(super) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, Problem> {
        let text = self.text()?;
        words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<_> = words.iter().map(|(word, _)| path::quoted(word)).collect();
            self.problem(words.join(" or "))
        })
    }
}
