//! The strict JSON reader: bounded in bytes and depth, no key twice.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::error::Problem;
use super::path;

/// The longest document: 4 MiB (design section 2).
pub const MAX_BYTES: usize = 4 << 20;

/// The most objects and lists inside one another, the outermost included (design section 2). `serde_json` itself stops
/// at 128, so its stack use is bounded too.
pub const MAX_DEPTH: usize = 64;

/// A JSON value whose objects have each key once.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// Any number.
    Number(serde_json::Number),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Self>),
    /// An object.
    Object(BTreeMap<String, Self>),
}

impl Value {
    /// Reads a whole document.
    ///
    /// # Errors
    /// Whatever is no JSON, too long, nested too deeply, or has a key twice.
    pub fn read(document: &[u8]) -> Result<Self, Problem> {
        if document.len() > MAX_BYTES {
            return Err(Problem::TooLong { found: document.len() });
        }
        let text = std::str::from_utf8(document)
            .map_err(|error| Problem::NotUtf8 { offset: error.valid_up_to() })?;
        let problem = Cell::new(None);
        let mut reader = serde_json::Deserializer::from_str(text);
        let seed = Seed { place: Place::Top, levels: 0, problem: &problem };
        let value = seed.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
        value.map_err(|error| problem.take().unwrap_or_else(|| Problem::NotJson { found: error.to_string() }))
    }

    /// What an error says was found: short, and with nothing of the document unescaped.
    pub fn describe(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Boolean(value) => value.to_string(),
            Self::Number(value) => value.to_string(),
            Self::Text(text) => path::quoted(text),
            Self::List(items) if items.is_empty() => "[]".to_owned(),
            Self::List(items) => format!("a list of {}", items.len()),
            Self::Object(fields) if fields.is_empty() => "{}".to_owned(),
            Self::Object(_) => "an object".to_owned(),
        }
    }
}

/// Where the reader is: a chain on the stack, written out only for an error.
#[derive(Clone, Copy)]
enum Place<'p> {
    Top,
    Key(&'p Self, &'p str),
    Index(&'p Self, usize),
}

impl Place<'_> {
    fn path(&self) -> String {
        match self {
            Self::Top => String::new(),
            Self::Key(parent, key) => path::key(&parent.path(), key),
            Self::Index(parent, index) => path::index(&parent.path(), *index),
        }
    }
}

struct Seed<'p> {
    place: Place<'p>,
    /// Objects and lists around this value.
    levels: usize,
    /// Carries a problem of ours past `serde_json`'s error type, which holds only text.
    problem: &'p Cell<Option<Problem>>,
}

impl Seed<'_> {
    fn refuse<E: de::Error>(&self, problem: Problem) -> E {
        self.problem.set(Some(problem));
        E::custom("refused")
    }

    fn descend<E: de::Error>(&self) -> Result<usize, E> {
        if self.levels >= MAX_DEPTH {
            return Err(self.refuse(Problem::TooDeep { path: self.place.path() }));
        }
        Ok(self.levels.saturating_add(1))
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let levels = self.descend()?;
        let mut items = Vec::new();
        loop {
            let place = Place::Index(&self.place, items.len());
            match list.next_element_seed(Seed { place, levels, problem: self.problem })? {
                Some(item) => items.push(item),
                None => return Ok(Value::List(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let levels = self.descend()?;
        let mut fields = BTreeMap::new();
        while let Some(key) = object.next_key::<String>()? {
            let place = Place::Key(&self.place, &key);
            if fields.contains_key(&key) {
                return Err(self.refuse(Problem::DuplicateKey { path: place.path() }));
            }
            let value = object.next_value_seed(Seed { place, levels, problem: self.problem })?;
            fields.insert(key, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(document: &[u8]) -> Problem {
        Value::read(document).unwrap_err()
    }

    #[test]
    fn reads_every_kind_of_value() {
        let value = Value::read(br#" {"a": [null, true, -1, 2.5, "x\u00e9", {}]} "#).unwrap();
        let Value::Object(fields) = value else { panic!("no object") };
        let Some(Value::List(items)) = fields.get("a") else { panic!("no list") };
        let described: Vec<_> = items.iter().map(Value::describe).collect();
        assert_eq!(described, ["null", "true", "-1", "2.5", "\"xé\"", "{}"]);
    }

    #[test]
    fn a_key_twice_is_refused_at_every_level_and_in_every_spelling() {
        for (document, path) in [
            (r#"{"a":1,"a":1}"#, "a"),
            (r#"{"a":1,"\u0061":1}"#, "a"),
            (r#"{"\u0061":1,"\u0061":2}"#, "a"),
            (r#"{"x":[{},{"b":{"c":0,"\u0063":0}}]}"#, "x[1].b.c"),
        ] {
            assert_eq!(
                problem(document.as_bytes()),
                Problem::DuplicateKey { path: path.into() },
                "{document}"
            );
        }
    }

    #[test]
    fn depth_is_counted_exactly() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(Value::read(nested(MAX_DEPTH).as_bytes()).is_ok());
        let path = "[0]".repeat(MAX_DEPTH);
        assert_eq!(problem(nested(MAX_DEPTH + 1).as_bytes()), Problem::TooDeep { path });
        let objects = format!("{}1{}", r#"{"a":"#.repeat(MAX_DEPTH + 1), "}".repeat(MAX_DEPTH + 1));
        assert!(matches!(problem(objects.as_bytes()), Problem::TooDeep { .. }));
    }

    #[test]
    fn megabytes_of_nesting_end_at_once() {
        for open in ["[", r#"{"a":"#] {
            let long = open.repeat((10 << 20) / open.len());
            assert_eq!(problem(long.as_bytes()), Problem::TooLong { found: long.len() });
            let longest = open.repeat(MAX_BYTES / open.len());
            assert!(matches!(problem(longest.as_bytes()), Problem::TooDeep { .. }));
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        assert_eq!(problem(b"{\"a\":\"\xff\"}"), Problem::NotUtf8 { offset: 6 });
        for document in [
            "",
            "{",
            "{} {}",
            "{}x",
            "\u{feff}{}",
            r#"{"a":"\ud800"}"#,
            "{'a':1}",
            "[1,]",
            "[1e999]",
            "[01]",
            "NaN",
        ] {
            assert!(matches!(problem(document.as_bytes()), Problem::NotJson { .. }), "{document}");
        }
    }
}
