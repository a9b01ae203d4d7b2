//! dstack's own fields, judged by one table (dstack `dstack-types/src/lib.rs`, `AppCompose`; the README shows it, held
//! equal by a test).
//!
//! Their *effective* value is judged: an absent field means dstack's default, and a default is a promise too. Fields
//! that are not in the table are ignored by dstack; the compose hash covers them, so here they are harmless.

use std::collections::BTreeMap;

mod table;

use super::Platform;
use super::error::Problem;
use super::json::Value;
use crate::identity::KeyProvider;
pub(super) use table::FIELDS;

/// One field of dstack's, as the appliance judges it. In a container dstack's own guest carries all of them out.
pub(super) struct DstackField {
    /// Its name at the top level of the document.
    pub name: &'static str,
    /// dstack's default as JSON; `None`: dstack wants it written.
    pub default: Option<&'static str>,
    /// Its JSON type.
    pub shape: Shape,
    /// What the appliance takes.
    pub accepts: Accepts,
    /// What it does with that.
    pub verdict: Verdict,
    /// Why.
    pub why: &'static str,
}

/// A JSON type.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Boolean,
    Text,
    List,
    Any,
}

/// Values that are accepted.
#[derive(Clone, Copy)]
pub(super) enum Accepts {
    /// Any of the type, strings up to so many bytes.
    All { max: usize },
    /// These, as JSON.
    Only(&'static [&'static str]),
}

/// What becomes of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The accepted values are carried out; others are refused.
    Honoured,
    /// The accepted values have nothing to carry out; others are refused.
    Harmless,
    /// The accepted values ask for nothing; others ask for what this version has not, and are refused in those words.
    NotImplemented,
}

impl Verdict {
    /// In words, for the reference.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Honoured => "honoured",
            Self::Harmless => "harmless",
            Self::NotImplemented => "others: not implemented in this version",
        }
    }
}

impl Accepts {
    /// In words, for errors and for the README.
    pub(super) fn words(self) -> String {
        match self {
            Self::All { max: 0 } => "any".to_owned(),
            Self::All { max } => format!("1 to {max} bytes"),
            Self::Only(values) => values.join(" or "),
        }
    }
}

/// What the rest of the document needs to know of dstack's fields.
pub(super) struct DstackFields {
    pub name: String,
    pub key_provider: KeyProvider,
    pub allowed_envs: Vec<String>,
}

impl DstackField {
    /// The effective value, and how an error names it.
    fn effective(&self, top: &BTreeMap<String, Value>) -> Result<(Value, String), Problem> {
        match (top.get(self.name), self.default) {
            (Some(value), _) => Ok((value.clone(), value.describe())),
            (None, Some(default)) => {
                let value = Value::read(default.as_bytes())?;
                let found = format!("nothing, which to dstack means {}", value.describe());
                Ok((value, found))
            }
            (None, None) => Err(self.invalid("nothing".to_owned())),
        }
    }

    fn invalid(&self, found: String) -> Problem {
        let expected = match self.accepts {
            Accepts::All { .. } => self.shape_words().to_owned(),
            Accepts::Only(_) if self.verdict == Verdict::NotImplemented => self.shape_words().to_owned(),
            Accepts::Only(_) => format!("{} ({})", self.accepts.words(), self.why),
        };
        Problem::invalid(self.name, expected, found)
    }

    const fn shape_words(&self) -> &'static str {
        match (self.shape, self.accepts) {
            (Shape::Boolean, _) => "true or false",
            (Shape::Text, Accepts::All { .. }) => "a string of 1 to 128 bytes",
            (Shape::Text, _) => "a string",
            (Shape::List, _) => "a list",
            (Shape::Any, _) => "a value",
        }
    }

    fn has_shape(&self, value: &Value) -> bool {
        match (self.shape, value) {
            (Shape::Any, _)
            | (Shape::Boolean, Value::Boolean(_))
            | (Shape::Text, Value::Text(_))
            | (Shape::List, Value::List(_)) => true,
            (_, Value::Null) => self.default == Some("null"),
            _ => false,
        }
    }

    fn accepts(&self, value: &Value) -> bool {
        match (self.accepts, value) {
            (Accepts::All { max }, Value::Text(text)) => (1..=max).contains(&text.len()),
            (Accepts::All { .. }, _) => true,
            (Accepts::Only(values), _) => values.iter().any(|one| is(value, one)),
        }
    }
}

/// Whether a value equals one written as JSON in a table.
pub(super) fn is(value: &Value, json: &str) -> bool {
    Value::read(json.as_bytes()).is_ok_and(|one| one == *value)
}

/// Types, mandatory fields and what can never be carried out.
pub(super) fn read(top: &BTreeMap<String, Value>, platform: Platform) -> Result<DstackFields, Problem> {
    if platform == Platform::Appliance {
        for field in FIELDS {
            let (value, found) = field.effective(top)?;
            let refused = field.verdict != Verdict::NotImplemented && !field.accepts(&value);
            if refused || !field.has_shape(&value) {
                return Err(field.invalid(found));
            }
        }
    }
    let name = match top.get("name") {
        Some(Value::Text(name)) => name.clone(),
        other => return Err(Problem::invalid("name", "a string", found(other))),
    };
    Ok(DstackFields { name, key_provider: key_provider(top)?, allowed_envs: allowed_envs(top)? })
}

/// Whether the boot waits for an authenticated time. Without servers to ask, that would be a promise that nothing keeps.
pub(super) fn secure_time(
    top: &BTreeMap<String, Value>,
    platform: Platform,
    has_servers: bool,
) -> Result<bool, Problem> {
    if platform == Platform::Container {
        return Ok(false);
    }
    let Some(field) = FIELDS.iter().find(|field| field.name == "secure_time") else { return Ok(false) };
    let (value, found) = field.effective(top)?;
    let wanted = value == Value::Boolean(true);
    if wanted && !has_servers {
        return Err(Problem::invalid(
            field.name,
            "false, or servers in casemate.time.nts that can make it true",
            found,
        ));
    }
    Ok(wanted)
}

/// What this version does not carry out; for after everything else was found right.
pub(super) fn carried_out(top: &BTreeMap<String, Value>, platform: Platform) -> Result<(), Problem> {
    if platform == Platform::Container {
        return Ok(());
    }
    for field in FIELDS {
        let (value, found) = field.effective(top)?;
        if !field.accepts(&value) {
            return Err(Problem::NotImplemented {
                path: field.name.to_owned(),
                found,
                implemented: format!("{}; {}", field.accepts.words(), field.why),
            });
        }
    }
    Ok(())
}

fn key_provider(top: &BTreeMap<String, Value>) -> Result<KeyProvider, Problem> {
    let id = match top.get("key_provider_id") {
        None => Vec::new(),
        Some(Value::Text(text)) => hex::decode(text).map_err(|_| {
            Problem::invalid("key_provider_id", "hex digits", found(top.get("key_provider_id")))
        })?,
        other => return Err(Problem::invalid("key_provider_id", "a string", found(other))),
    };
    let set = |name| top.get(name) == Some(&Value::Boolean(true));
    let kind = match top.get("key_provider") {
        None | Some(Value::Null) if set("kms_enabled") => "kms",
        None | Some(Value::Null) if set("local_key_provider_enabled") => "local",
        None | Some(Value::Null) => "none",
        Some(Value::Text(kind)) => kind,
        other => return Err(Problem::invalid("key_provider", "a string", found(other))),
    };
    match kind {
        "none" => Ok(KeyProvider::None),
        "kms" => Ok(KeyProvider::Kms(id)),
        "local" => Ok(KeyProvider::Local(id)),
        "tpm" => Ok(KeyProvider::Tpm),
        _ => {
            let expected = "\"none\" or \"kms\" or \"local\" or \"tpm\"";
            Err(Problem::invalid("key_provider", expected, found(top.get("key_provider"))))
        }
    }
}

fn allowed_envs(top: &BTreeMap<String, Value>) -> Result<Vec<String>, Problem> {
    let Some(value) = top.get("allowed_envs") else { return Ok(Vec::new()) };
    let strings = match value {
        Value::List(items) => items.iter().map(|item| match item {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }),
        _ => return Err(Problem::invalid("allowed_envs", "a list", value.describe())),
    };
    strings
        .collect::<Option<_>>()
        .ok_or_else(|| Problem::invalid("allowed_envs", "a list of strings", value.describe()))
}

fn found(value: Option<&Value>) -> String {
    value.map_or_else(|| "nothing".to_owned(), Value::describe)
}
