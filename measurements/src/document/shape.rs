//! First pass over the section: known keys only, types and bounds by the table, defaults filled in. After it every key
//! of every object is there.

use std::collections::BTreeMap;

use super::error::Problem;
use super::json::Value;
use super::keys::{self, Key, Kind};
use super::path;

/// The section with nothing left out.
pub(super) fn complete(section: &Value) -> Result<Value, Problem> {
    let Value::Object(fields) = section else {
        return Err(Problem::invalid(SECTION, "an object", section.describe()));
    };
    // Another version has other keys: say so before the first of them is called unknown.
    if let (Some(version), Some(row)) = (fields.get("version"), keys::row("version")) {
        value(&Walk { at: path::key(SECTION, "version"), row }, version)?;
    }
    object(SECTION, "", fields)
}

/// The key under which the section lies in the document.
pub(super) const SECTION: &str = "casemate";

struct Walk {
    at: String,
    row: &'static Key,
}

impl Walk {
    fn refuse(&self, found: &Value) -> Problem {
        Problem::invalid(&self.at, self.row.kind.words(), found.describe())
    }

    fn child(&self, at: String, suffix: &str) -> Result<Self, Problem> {
        let path = format!("{}{suffix}", self.row.path);
        let row = keys::row(&path).ok_or_else(|| Problem::invalid(&at, "a key of the table", "none"))?;
        Ok(Self { at, row })
    }
}

fn value(walk: &Walk, found: &Value) -> Result<Value, Problem> {
    let refuse = || walk.refuse(found);
    match (walk.row.kind, found) {
        (_, Value::Null) if walk.row.default == Some("null") => {}
        (Kind::Boolean, Value::Boolean(_)) => {}
        (Kind::Integer { min, max }, Value::Number(number)) => {
            number.as_u64().filter(|n| (min..=max).contains(n)).ok_or_else(refuse)?;
        }
        (Kind::Text { max, .. } | Kind::TextOrObject { max, .. }, Value::Text(text)) if text.len() <= max => {
        }
        (Kind::Word(words), Value::Text(text)) if words.contains(&text.as_str()) => {}
        (Kind::List { min, max }, Value::List(items)) if (min..=max).contains(&items.len()) => {
            return list(walk, items);
        }
        (Kind::Map { max, .. }, Value::Object(fields)) if fields.len() <= max => return map(walk, fields),
        (Kind::Object | Kind::TextOrObject { .. }, Value::Object(fields)) => {
            return object(&walk.at, walk.row.path, fields);
        }
        _ => return Err(refuse()),
    }
    Ok(found.clone())
}

fn list(walk: &Walk, items: &[Value]) -> Result<Value, Problem> {
    let mut complete = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        complete.push(value(&walk.child(path::index(&walk.at, index), "[]")?, item)?);
    }
    Ok(Value::List(complete))
}

fn map(walk: &Walk, fields: &BTreeMap<String, Value>) -> Result<Value, Problem> {
    let mut complete = BTreeMap::new();
    for (key, field) in fields {
        complete.insert(key.clone(), value(&walk.child(path::key(&walk.at, key), ".*")?, field)?);
    }
    Ok(Value::Object(complete))
}

fn object(at: &str, row_path: &str, fields: &BTreeMap<String, Value>) -> Result<Value, Problem> {
    let rows: Vec<_> = keys::of_object(row_path).collect();
    if let Some(unknown) = fields.keys().find(|key| !rows.iter().any(|(name, _)| name == key)) {
        let expected = rows.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        return Err(Problem::UnknownKey { path: path::key(at, unknown), expected });
    }
    let mut complete = BTreeMap::new();
    for (name, row) in rows {
        let walk = Walk { at: path::key(at, name), row };
        let field = match (fields.get(name), row.default) {
            (Some(field), _) => value(&walk, field)?,
            (None, Some(default)) => value(&walk, &Value::read(default.as_bytes())?)?,
            (None, None) => return Err(Problem::invalid(&walk.at, row.kind.words(), "nothing")),
        };
        complete.insert(name.to_owned(), field);
    }
    Ok(Value::Object(complete))
}
