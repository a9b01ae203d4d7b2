//! The arguments of a call, from a JSON body or a query string, as the agent reads them: unknown fields are ignored, `null` is
//! absent, one that is given twice is refused. Pure.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, SeqAccess, Visitor};

use super::refusal::{Refusal, quoted};

/// The most names of one certificate: the agent's own limit.
const NAMES_MAX: usize = 128;

/// Every field of every call that a service may make (dstack `guest-agent/rpc/proto/agent_rpc.proto`, 0.5.x).
#[derive(Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub(super) struct Fields {
    pub(super) report_data: Option<String>,
    pub(super) path: Option<String>,
    pub(super) purpose: Option<String>,
    pub(super) algorithm: Option<String>,
    pub(super) subject: Option<String>,
    pub(super) alt_names: Option<Names>,
    pub(super) usage_ra_tls: Option<bool>,
    pub(super) usage_server_auth: Option<bool>,
    pub(super) usage_client_auth: Option<bool>,
    pub(super) not_before: Option<u64>,
    pub(super) not_after: Option<u64>,
    pub(super) with_app_info: Option<bool>,
}

impl Fields {
    /// From a JSON object; nothing at all is an empty one.
    pub(super) fn from_json(body: &[u8]) -> Result<Self, Refusal> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        // serde would take a list for the fields in their order.
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(Refusal::Body("expected a JSON object".to_owned()));
        }
        // Its errors repeat whole strings of the body.
        const SHOWN: usize = 120;
        serde_json::from_slice(body)
            .map_err(|error| Refusal::Body(error.to_string().chars().take(SHOWN).collect()))
    }

    /// From a query string. The list is `alt_names[]=`, `alt_names[0]=` or a single `alt_names=`.
    pub(super) fn from_query(query: &str) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        let mut single = false;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (form_decode(name)?, form_decode(value)?);
            let twice = match name.as_str() {
                "report_data" => fields.report_data.replace(value).is_some(),
                "path" => fields.path.replace(value).is_some(),
                "purpose" => fields.purpose.replace(value).is_some(),
                "algorithm" => fields.algorithm.replace(value).is_some(),
                "subject" => fields.subject.replace(value).is_some(),
                "usage_ra_tls" => fields.usage_ra_tls.replace(flag("usage_ra_tls", &value)?).is_some(),
                "usage_server_auth" => {
                    fields.usage_server_auth.replace(flag("usage_server_auth", &value)?).is_some()
                }
                "usage_client_auth" => {
                    fields.usage_client_auth.replace(flag("usage_client_auth", &value)?).is_some()
                }
                "not_before" => fields.not_before.replace(seconds("not_before", &value)?).is_some(),
                "not_after" => fields.not_after.replace(seconds("not_after", &value)?).is_some(),
                "with_app_info" => fields.with_app_info.replace(flag("with_app_info", &value)?).is_some(),
                "alt_names" => {
                    single = true;
                    fields.alt_names.replace(Names(vec![value])).is_some()
                }
                list if list.starts_with("alt_names[") && list.ends_with(']') => {
                    fields.alt_names.get_or_insert_default().push(value).map_err(Refusal::Query)?;
                    single
                }
                _ => false,
            };
            if twice {
                return Err(Refusal::Query(format!("{}: given twice", quoted(&name))));
            }
        }
        Ok(fields)
    }
}

/// A list of strings, bounded while it is read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names(pub(super) Vec<String>);

impl Names {
    fn push(&mut self, name: String) -> Result<(), String> {
        if self.0.len() >= NAMES_MAX {
            return Err(format!("alt_names: expected at most {NAMES_MAX} entries, found more"));
        }
        self.0.push(name);
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NamesVisitor;
        impl<'de> Visitor<'de> for NamesVisitor {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of strings")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Names, A::Error> {
                let mut names = Names::default();
                while let Some(name) = seq.next_element()? {
                    names.push(name).map_err(de::Error::custom)?;
                }
                Ok(names)
            }
        }
        from.deserialize_seq(NamesVisitor)
    }
}

fn flag(field: &'static str, text: &str) -> Result<bool, Refusal> {
    text.parse().map_err(|_| Refusal::Field { field, expected: "true or false", found: quoted(text) })
}

fn seconds(field: &'static str, text: &str) -> Result<u64, Refusal> {
    let expected = "a whole number of seconds since 1970";
    text.parse().map_err(|_| Refusal::Field { field, expected, found: quoted(text) })
}

/// application/x-www-form-urlencoded (WHATWG URL 5.1): `+` is a space, `%XX` a byte, the result UTF-8.
fn form_decode(text: &str) -> Result<String, Refusal> {
    let malformed = |what: &str| Refusal::Query(format!("{}: {what}", quoted(text)));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digits = [0; 1];
                let pair = [rest.next().unwrap_or_default(), rest.next().unwrap_or_default()];
                hex::decode_to_slice(pair, &mut digits)
                    .map_err(|_| malformed("expected two hex digits after %"))?;
                let [byte] = digits;
                byte
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| malformed("expected UTF-8"))
}
