//! What a service asks, judged by its permission; and what the agent is asked instead. Pure.

use bytes::Bytes;
use casemate_verify::ratls::report_data_for_app;
use hyper::http::Method;
use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::permission::{ServiceDstack, ServiceQuote};
use super::refusal::{Refusal, quoted};

/// A method of the agent that this service may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Version,
    Info,
    Key,
    Quote,
    TlsKey,
}

impl Asked {
    /// The method of a path, as the agent reads it: exactly `/METHOD`.
    pub(super) fn by(path: &str, permission: &ServiceDstack) -> Result<Self, Refusal> {
        match (path, permission.quote) {
            ("/Version", _) => Ok(Self::Version),
            ("/Info", _) => Ok(Self::Info),
            ("/GetKey", _) => Ok(Self::Key),
            ("/GetQuote", ServiceQuote::None) => Err(Refusal::NoQuote),
            ("/GetQuote", ServiceQuote::AppData | ServiceQuote::Raw) => Ok(Self::Quote),
            ("/GetTlsKey", ServiceQuote::Raw) => Ok(Self::TlsKey),
            ("/GetTlsKey", other) => Err(Refusal::NoTlsKey(other)),
            (path, _) => Err(Refusal::Method(quoted(path.strip_prefix('/').unwrap_or(path)))),
        }
    }
}

/// Arguments are JSON: with GET, `?json`, or content type `application/json` (prpc's convention, dstack
/// `ra-rpc/src/rocket_helper.rs`).
pub(super) fn check_form(method: &Method, query: &str, content_type: Option<&str>) -> Result<(), Refusal> {
    let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    let is_json = || {
        essence.eq_ignore_ascii_case("application/json")
            || query.split('&').any(|pair| pair.split('=').next() == Some("json"))
    };
    match *method {
        Method::GET => Ok(()),
        Method::POST if is_json() => Ok(()),
        Method::POST => Err(Refusal::Protobuf),
        ref other => Err(Refusal::HttpMethod(quoted(other.as_str()))),
    }
}

/// What the agent is asked: of our own making, down to the last byte.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) method: &'static str,
    /// A JSON object.
    pub(super) body: Bytes,
    /// The report data, where they are a hash under the tag: the answer must say so.
    pub(super) tagged: Option<[u8; 64]>,
}

impl Question {
    pub(super) fn new(asked: Asked, fields: Fields, permission: &ServiceDstack) -> Result<Self, Refusal> {
        let (method, arguments, tagged) = match asked {
            Asked::Version => ("Version", json!({}), None),
            Asked::Info => ("Info", json!({}), None),
            Asked::Key => ("GetKey", key(fields, permission)?, None),
            Asked::Quote => {
                let given = bytes("report_data", fields.report_data.as_deref())?;
                // Whoever adds a word must say here what is quoted for it.
                let (report_data, tagged) = match permission.quote {
                    ServiceQuote::None => return Err(Refusal::NoQuote),
                    ServiceQuote::AppData => {
                        let tagged = report_data_for_app(&given);
                        (hex::encode(tagged), Some(tagged))
                    }
                    ServiceQuote::Raw => (hex::encode(given), None),
                };
                ("GetQuote", json!({ "report_data": report_data }), tagged)
            }
            Asked::TlsKey => ("GetTlsKey", tls_key(fields), None),
        };
        Ok(Self { method, body: arguments.to_string().into(), tagged })
    }

    /// Whether the agent may have to ask the TEE, which takes its time.
    pub(super) fn is_for_evidence(&self) -> bool {
        matches!(self.method, "GetQuote" | "GetTlsKey")
    }
}

fn key(fields: Fields, permission: &ServiceDstack) -> Result<Value, Refusal> {
    let path = fields.path.unwrap_or_default();
    if !permission.may_derive(&path) {
        return Err(Refusal::NoKey(quoted(&path)));
    }
    let (purpose, algorithm) = (fields.purpose.unwrap_or_default(), fields.algorithm.unwrap_or_default());
    Ok(json!({ "path": path, "purpose": purpose, "algorithm": algorithm }))
}

fn tls_key(fields: Fields) -> Value {
    let given = [
        ("subject", fields.subject.map(Value::from)),
        ("alt_names", fields.alt_names.map(|names| Value::from(names.0))),
        ("usage_ra_tls", fields.usage_ra_tls.map(Value::from)),
        ("usage_server_auth", fields.usage_server_auth.map(Value::from)),
        ("usage_client_auth", fields.usage_client_auth.map(Value::from)),
        ("not_before", fields.not_before.map(Value::from)),
        ("not_after", fields.not_after.map(Value::from)),
        ("with_app_info", fields.with_app_info.map(Value::from)),
    ];
    let given = given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect::<Map<_, _>>())
}

/// Bytes in hex, with or without `0x`; none if absent.
fn bytes(field: &'static str, text: Option<&str>) -> Result<Vec<u8>, Refusal> {
    let text = text.unwrap_or_default();
    let expected = "an even number of hex digits";
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).map_err(|_| Refusal::Field {
        field,
        expected,
        found: quoted(text),
    })
}
