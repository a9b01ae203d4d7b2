//! The arguments of a call, from a JSON body or a query string, read by name and type (dstack `ra-rpc`, prpc's HTTP
//! form). The caller is hostile: what is kept is bounded here, and each error names field, expectation and finding.
//! Fields that nobody asks for are ignored, as prpc does, so that newer SDKs work.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The most fields in one request; the largest message has nine.
const FIELDS_MAX: usize = 32;
/// The most entries of one list; a certificate with more names than this is nobody's.
const LIST_MAX: usize = 128;

/// Named arguments.
#[derive(Debug, Default)]
pub(crate) struct Arguments {
    fields: BTreeMap<String, Value>,
    from_query: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Value {
    Null,
    Flag(bool),
    Number(u64),
    Text(String),
    List(Vec<String>),
    /// Anything that no field takes, in words.
    Other(&'static str),
}

/// What is wrong with a request. The text goes to the caller.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("request body: {0}")]
    Body(String),
    #[error("query: {0}")]
    Query(String),
    #[error("field `{field}`: expected {expected}, found {found}")]
    Field { field: &'static str, expected: &'static str, found: String },
}

impl Arguments {
    /// From a JSON object; nothing at all is an empty one.
    pub(crate) fn from_json(body: &[u8]) -> Result<Self, RequestError> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        let Object(fields) =
            serde_json::from_slice(body).map_err(|error| RequestError::Body(error.to_string()))?;
        Ok(Self { fields, from_query: false })
    }

    /// From a query string. Lists are `name[]=`, `name[0]=` or, for a list field, a single `name=`.
    pub(crate) fn from_query(query: &str) -> Result<Self, RequestError> {
        let mut fields = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (form_decode(name)?, form_decode(value)?);
            let Some((list, _index)) = name.strip_suffix(']').and_then(|name| name.split_once('[')) else {
                if fields.insert(name.clone(), Value::Text(value)).is_some() {
                    return Err(RequestError::Query(format!("{}: given twice", quoted(&name))));
                }
                check_field_count(&fields).map_err(RequestError::Query)?;
                continue;
            };
            match fields.entry(list.to_owned()).or_insert_with(|| Value::List(Vec::new())) {
                Value::List(entries) if entries.len() < LIST_MAX => entries.push(value),
                Value::List(_) => return Err(RequestError::Query(too_long(list))),
                _ => return Err(RequestError::Query(format!("{}: given twice", quoted(list)))),
            }
            check_field_count(&fields).map_err(RequestError::Query)?;
        }
        Ok(Self { fields, from_query: true })
    }

    /// A string; empty if absent.
    pub(crate) fn text(&mut self, field: &'static str) -> Result<String, RequestError> {
        match self.take(field) {
            None => Ok(String::new()),
            Some(Value::Text(text)) => Ok(text),
            Some(other) => Err(other.refused(field, "a string")),
        }
    }

    /// A boolean; false if absent. In a query `true` or `false`.
    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, RequestError> {
        match (self.take(field), self.from_query) {
            (None, _) => Ok(false),
            (Some(Value::Flag(flag)), _) => Ok(flag),
            (Some(Value::Text(text)), true) if text == "true" || text == "false" => Ok(text == "true"),
            (Some(other), _) => Err(other.refused(field, "true or false")),
        }
    }

    /// Seconds since 1970, if given.
    pub(crate) fn seconds(&mut self, field: &'static str) -> Result<Option<u64>, RequestError> {
        let expected = "a whole number of seconds since 1970";
        match (self.take(field), self.from_query) {
            (None, _) => Ok(None),
            (Some(Value::Number(number)), _) => Ok(Some(number)),
            (Some(Value::Text(text)), true) => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(Value::Text(text).refused(field, expected)),
            },
            (Some(other), _) => Err(other.refused(field, expected)),
        }
    }

    /// A list of strings; empty if absent.
    pub(crate) fn texts(&mut self, field: &'static str) -> Result<Vec<String>, RequestError> {
        match (self.take(field), self.from_query) {
            (None, _) => Ok(Vec::new()),
            (Some(Value::List(list)), _) => Ok(list),
            (Some(Value::Text(text)), true) => Ok(vec![text]),
            (Some(other), _) => Err(other.refused(field, "a list of strings")),
        }
    }

    /// Bytes in hex, with or without `0x`; none if absent.
    pub(crate) fn bytes(&mut self, field: &'static str) -> Result<Vec<u8>, RequestError> {
        let expected = "an even number of hex digits";
        match self.take(field) {
            None => Ok(Vec::new()),
            Some(Value::Text(text)) => {
                let digits = text.strip_prefix("0x").unwrap_or(&text);
                hex::decode(digits).map_err(|_| Value::Text(text).refused(field, expected))
            }
            Some(other) => Err(other.refused(field, expected)),
        }
    }

    /// `null` is the same as absent: SDKs write it for what was not set.
    fn take(&mut self, field: &str) -> Option<Value> {
        self.fields.remove(field).filter(|value| *value != Value::Null)
    }
}

impl Value {
    fn refused(&self, field: &'static str, expected: &'static str) -> RequestError {
        let found = match self {
            Self::Null => "null".into(),
            Self::Flag(flag) => flag.to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => quoted(text),
            Self::List(_) => "a list".into(),
            Self::Other(words) => (*words).into(),
        };
        RequestError::Field { field, expected, found }
    }
}

/// A caller's text in our answer: escaped, and not longer than a person reads.
pub(crate) fn quoted(text: &str) -> String {
    const SHOWN: usize = 40;
    let mut shown = text.chars();
    let head: String = shown.by_ref().take(SHOWN).collect();
    if shown.next().is_none() { format!("{head:?}") } else { format!("{head:?}… ({} bytes)", text.len()) }
}

fn too_long(list: &str) -> String {
    format!("{}: expected at most {LIST_MAX} entries, found more", quoted(list))
}

fn check_field_count(fields: &BTreeMap<String, Value>) -> Result<(), String> {
    if fields.len() > FIELDS_MAX {
        return Err(format!("expected at most {FIELDS_MAX} fields, found more"));
    }
    Ok(())
}

/// application/x-www-form-urlencoded (WHATWG URL 5.1): `+` is a space, `%XX` a byte, the result UTF-8.
fn form_decode(text: &str) -> Result<String, RequestError> {
    let malformed = |what: &str| RequestError::Query(format!("{}: {what}", quoted(text)));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(malformed("expected two hex digits after %"));
                };
                u8::try_from(high * 16 + low).map_err(|_| malformed("expected two hex digits after %"))?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| malformed("expected UTF-8"))
}

struct Object(BTreeMap<String, Value>);

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if fields.contains_key(&name) {
                return Err(de::Error::custom(format_args!("field {}: given twice", quoted(&name))));
            }
            fields.insert(name, map.next_value()?);
            check_field_count(&fields).map_err(de::Error::custom)?;
        }
        Ok(Object(fields))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Number(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(u64::try_from(number).map_or(Value::Other("a negative number"), Value::Number))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Value, E> {
        Ok(Value::Other("a number that is not whole"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let mut all_text = true;
        while let Some(Entry(entry)) = seq.next_element()? {
            match entry {
                Some(text) if all_text && list.len() < LIST_MAX => list.push(text),
                Some(_) if all_text => {
                    return Err(de::Error::custom(format_args!(
                        "expected at most {LIST_MAX} entries in a list, found more"
                    )));
                }
                _ => {
                    all_text = false;
                    list.clear();
                }
            }
        }
        Ok(if all_text { Value::List(list) } else { Value::Other("a list of other things than strings") })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other("an object"))
    }
}

/// An entry of a list: a string, or something that is skipped without being kept.
struct Entry(Option<String>);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct EntryVisitor;
        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<Entry, E> {
                Ok(Entry(Some(text.to_owned())))
            }

            fn visit_unit<E>(self) -> Result<Entry, E> {
                Ok(Entry(None))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Entry, E> {
                Ok(Entry(None))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Entry, E> {
                Ok(Entry(None))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Entry, E> {
                Ok(Entry(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Entry, E> {
                Ok(Entry(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Entry, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Entry(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Entry(None))
            }
        }
        from.deserialize_any(EntryVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Arguments {
        Arguments::from_json(text.as_bytes()).unwrap()
    }

    fn refusal(text: &str) -> String {
        Arguments::from_json(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn json_fields_by_type() {
        let mut arguments = json(
            r#"{"subject":"a\u0062","alt_names":["x","y"],"usage_ra_tls":true,"not_before":7,"report_data":"0xAb01",
                "null":null,"unknown":{"deep":[1,{"a":2}]}}"#,
        );
        assert_eq!(arguments.text("subject").unwrap(), "ab");
        assert_eq!(arguments.texts("alt_names").unwrap(), ["x", "y"]);
        assert!(arguments.flag("usage_ra_tls").unwrap());
        assert_eq!(arguments.seconds("not_before").unwrap(), Some(7));
        assert_eq!(arguments.bytes("report_data").unwrap(), [0xab, 1]);
        assert_eq!(arguments.text("null").unwrap(), "");
        assert_eq!(arguments.seconds("not_after").unwrap(), None);
        assert_eq!(json("").texts("alt_names").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn wrong_types_name_field_expectation_and_finding() {
        let cases = [
            (r#"{"f":1}"#, "field `f`: expected a string, found 1"),
            (r#"{"f":{"a":1}}"#, "field `f`: expected a string, found an object"),
            (r#"{"f":["a",1]}"#, "field `f`: expected a string, found a list of other things than strings"),
            (r#"{"f":-1}"#, "field `f`: expected a string, found a negative number"),
            (r#"{"f":1.5}"#, "field `f`: expected a string, found a number that is not whole"),
        ];
        for (body, expected) in cases {
            assert_eq!(json(body).text("f").unwrap_err().to_string(), expected);
        }
        let error = json(r#"{"f":"true"}"#).flag("f").unwrap_err().to_string();
        assert_eq!(error, r#"field `f`: expected true or false, found "true""#);
        let error = json(r#"{"f":"7"}"#).seconds("f").unwrap_err().to_string();
        assert_eq!(error, r#"field `f`: expected a whole number of seconds since 1970, found "7""#);
        for bad in ["abc", "0x0x00", "zz", "0X00"] {
            let error = json(&format!(r#"{{"f":"{bad}"}}"#)).bytes("f").unwrap_err().to_string();
            assert_eq!(error, format!("field `f`: expected an even number of hex digits, found {bad:?}"));
        }
        let error = json(&format!(r#"{{"f":"{}"}}"#, "x".repeat(1000))).bytes("f").unwrap_err().to_string();
        assert!(error.len() < 160 && error.ends_with("(1000 bytes)"), "{error}");
    }

    #[test]
    fn hostile_bodies_are_refused_and_bounded() {
        assert_eq!(
            refusal("[]"),
            "request body: invalid type: sequence, expected a JSON object at line 1 column 0"
        );
        assert!(refusal("{").starts_with("request body: EOF"));
        assert!(refusal("{} {}").starts_with("request body: trailing characters"));
        assert!(refusal("null").contains("expected a JSON object"));
        assert!(Arguments::from_json(b"{\"a\":\"\xff\"}").is_err());
        let twice = refusal(r#"{"subject":"a","subj\u0065ct":"b"}"#);
        assert!(twice.starts_with(r#"request body: field "subject": given twice"#), "{twice}");
        let many: Vec<String> = (0..=FIELDS_MAX).map(|n| format!(r#""f{n}":0"#)).collect();
        assert!(refusal(&format!("{{{}}}", many.join(","))).contains("at most 32 fields"));
        let long = vec!["\"a\""; LIST_MAX + 1].join(",");
        assert!(refusal(&format!(r#"{{"alt_names":[{long}]}}"#)).contains("at most 128 entries"));
        // Nesting ends in an error of the parser, not of the stack.
        let deep = "[".repeat(1_000_000);
        assert!(refusal(&format!(r#"{{"a":{deep}"#)).starts_with("request body: "));
    }

    #[test]
    fn query_fields_by_type() {
        let mut arguments = Arguments::from_query(
            "subject=a%20b+c&alt_names[]=x&alt_names%5B1%5D=y&one=z&usage_ra_tls=true&not_after=9&report_data=0x00&json",
        )
        .unwrap();
        assert_eq!(arguments.text("subject").unwrap(), "a b c");
        assert_eq!(arguments.texts("alt_names").unwrap(), ["x", "y"]);
        assert_eq!(arguments.texts("one").unwrap(), ["z"]);
        assert!(arguments.flag("usage_ra_tls").unwrap());
        assert_eq!(arguments.seconds("not_after").unwrap(), Some(9));
        assert_eq!(arguments.bytes("report_data").unwrap(), [0]);
    }

    #[test]
    fn bad_queries_are_refused() {
        let refusal = |query: &str| Arguments::from_query(query).unwrap_err().to_string();
        assert_eq!(refusal("a=%4"), r#"query: "%4": expected two hex digits after %"#);
        assert_eq!(refusal("a=%zz"), r#"query: "%zz": expected two hex digits after %"#);
        assert_eq!(refusal("a=%ff"), r#"query: "%ff": expected UTF-8"#);
        assert_eq!(refusal("a=1&a=2"), r#"query: "a": given twice"#);
        assert_eq!(refusal("a=1&a[]=2"), r#"query: "a": given twice"#);
        assert_eq!(refusal("a[]=1&a=2"), r#"query: "a": given twice"#);
        assert!(refusal(&"a[]=&".repeat(LIST_MAX + 1)).contains("at most 128 entries"));
        let many: Vec<String> = (0..=FIELDS_MAX).map(|n| format!("f{n}=")).collect();
        assert!(refusal(&many.join("&")).contains("at most 32 fields"));
        let mut arguments = Arguments::from_query("flag=yes&time=soon").unwrap();
        assert!(arguments.flag("flag").is_err());
        assert!(arguments.seconds("time").is_err());
    }
}
