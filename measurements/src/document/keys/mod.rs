//! The one table of the section's keys. Reading takes types, bounds, defaults and unknown keys from here; the README
//! shows it, held equal by a test.

mod table;

use super::json::Value;
pub(crate) use table::KEYS;

/// One key of the section.
pub(crate) struct Key {
    /// Its path inside `casemate`: `[]` is any item of a list, `.*` any value of a map.
    pub path: &'static str,
    /// Its type and bounds.
    pub kind: Kind,
    /// What its absence means, as JSON; `None`: it must be there. Where this is `null`, `null` may be written too.
    pub default: Option<&'static str>,
    /// Which of its valid values this version carries out.
    pub carried: Carried,
    /// What it means, in a few words.
    pub meaning: &'static str,
}

/// A JSON type with bounds.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer { min: u64, max: u64 },
    /// A string of at most so many bytes; its form in words, checked where it is converted.
    Text { max: usize, form: &'static str },
    /// One of these strings.
    Word(&'static [&'static str]),
    /// So many items.
    List { min: usize, max: usize },
    /// An object whose keys are data, of a form in words.
    Map { max: usize, keys: &'static str },
    /// An object whose keys are in the table.
    Object,
    /// A string, or an object whose keys are in the table.
    TextOrObject { max: usize, form: &'static str },
}

/// Which valid values are carried out.
#[derive(Clone, Copy)]
pub(crate) enum Carried {
    /// All.
    Yes,
    /// None: wherever the key is reached, it is refused.
    No,
    /// These, as JSON.
    Only(&'static [&'static str]),
    /// Those that pass, and which these are in words.
    Where(fn(&Value) -> bool, &'static str),
}

impl Kind {
    /// In words, for errors and for the README.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Boolean => "true or false".to_owned(),
            Self::Integer { min, max } if min == max => format!("{min}"),
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Text { max, form } => format!("{form} (a string of at most {max} bytes)"),
            Self::Word(words) => words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(" or "),
            Self::List { min, max } => format!("a list of {min} to {max}"),
            Self::Map { max, keys } => format!("an object of at most {max} keys, each {keys}"),
            Self::Object => "an object".to_owned(),
            Self::TextOrObject { max, form } => {
                format!("{form} (a string of at most {max} bytes) or an object")
            }
        }
    }
}

impl Carried {
    /// In words, for errors and for the README.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Yes => "yes".to_owned(),
            Self::No => "no".to_owned(),
            Self::Only(values) => format!("only {}", values.join(", ")),
            Self::Where(_, words) => format!("only {words}"),
        }
    }
}

/// The row of a path.
pub(crate) fn row(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

/// The rows of the keys of the object at a path; the section itself is at `""`.
pub(crate) fn of_object(path: &str) -> impl Iterator<Item = (&'static str, &'static Key)> {
    KEYS.iter().filter_map(move |key| {
        let rest = key.path.strip_prefix(path)?;
        let name = if path.is_empty() { rest } else { rest.strip_prefix('.')? };
        (name != "*" && !name.is_empty() && !name.contains(['.', '['])).then_some((name, key))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        for key in KEYS {
            assert_eq!(KEYS.iter().filter(|k| k.path == key.path).count(), 1, "{}", key.path);
            if let Some(default) = key.default {
                assert!(Value::read(default.as_bytes()).is_ok(), "{}", key.path);
            }
            if let Carried::Only(values) = key.carried {
                assert!(values.iter().all(|v| Value::read(v.as_bytes()).is_ok()), "{}", key.path);
            }
            let below = |suffix: &str| row(&format!("{}{suffix}", key.path)).is_some();
            match key.kind {
                Kind::List { .. } => assert!(below("[]"), "{}", key.path),
                Kind::Map { .. } => assert!(below(".*"), "{}", key.path),
                Kind::Object | Kind::TextOrObject { .. } => {
                    assert!(of_object(key.path).count() > 0, "{}", key.path);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn the_keys_of_an_object_are_its_own_only() {
        let names = |path| of_object(path).map(|(name, _)| name).collect::<Vec<_>>();
        assert_eq!(names("egress"), ["mode", "allow", "log_denied"]);
        assert_eq!(names("vpn.derp_pins"), [""; 0]);
        assert_eq!(names("server.allowed_apps.*"), ["tags"]);
        assert_eq!(
            names(""),
            [
                "version",
                "role",
                "node",
                "network",
                "dns",
                "time",
                "collateral",
                "gateway",
                "vpn",
                "egress",
                "mesh",
                "logs",
                "operators",
                "server",
                "services"
            ]
        );
    }
}
