//! dstack's HTTP form of a call (prpc's convention; dstack `ra-rpc/src/rocket_helper.rs`). No I/O: a request whose body
//! was read goes in, an answer comes out.

use bytes::Bytes;
use hyper::{Method, Response, StatusCode};
use serde_json::json;

use crate::agent::{Agent, Request};
use crate::arguments::{Arguments, quoted};

const JSON: &str = "application/json";
/// prpc's content type of binary answers.
const BINARY: &str = "application/octet-stream";

/// In which form the caller wants to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// GET, `?json`, or a JSON body.
    Json,
    /// Everything else is protobuf.
    Protobuf,
}

impl Form {
    pub(crate) fn of(method: &Method, query: &str, content_type: Option<&str>) -> Self {
        let in_query = query.split('&').any(|pair| pair.split('=').next() == Some("json"));
        let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
        if method == Method::GET || in_query || essence.eq_ignore_ascii_case(JSON) {
            Self::Json
        } else {
            Self::Protobuf
        }
    }
}

/// A request, with its body where the method has one.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) form: Form,
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) body: &'a [u8],
}

/// Reads the call.
pub(crate) fn request(call: &Call<'_>) -> Result<Request, String> {
    if call.form == Form::Protobuf {
        return Err("protobuf mode is not implemented in this version: use JSON (`?json`, or content type \
                    application/json)"
            .into());
    }
    let arguments = match *call.method {
        Method::GET => Arguments::from_query(call.query),
        Method::POST => Arguments::from_json(call.body),
        ref other => return Err(format!("expected GET or POST, found {}", quoted(other.as_str()))),
    };
    let method = call.path.strip_prefix('/').unwrap_or(call.path);
    arguments
        .map_err(Into::into)
        .and_then(|arguments| Agent::request(method, arguments))
        .map_err(|error| error.to_string())
}

/// What was carried out, or why not.
pub(crate) fn answer(form: Form, carried_out: Result<Bytes, String>) -> (StatusCode, &'static str, Bytes) {
    match carried_out {
        Ok(body) => (StatusCode::OK, JSON, body),
        Err(error) => refusal(form, &error),
    }
}

/// An error, always 400: `{"error": …}`, pretty-printed, or `ProtoError { string message = 1 }`.
pub(crate) fn refusal(form: Form, error: &str) -> (StatusCode, &'static str, Bytes) {
    let (content_type, body) = match form {
        Form::Json => (JSON, format!("{:#}", json!({ "error": error })).into_bytes()),
        Form::Protobuf => (BINARY, proto_error(error)),
    };
    (StatusCode::BAD_REQUEST, content_type, body.into())
}

/// The response of `answer` or `refusal`.
pub(crate) fn response<B>(
    (status, content_type, body): (StatusCode, &'static str, Bytes),
    wrap: impl FnOnce(Bytes) -> B,
) -> Response<B> {
    let mut response = Response::new(wrap(body));
    *response.status_mut() = status;
    let value = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, value);
    response
}

/// Field 1, length-delimited (protobuf encoding: tag `1 << 3 | 2`, varint length, bytes).
fn proto_error(message: &str) -> Vec<u8> {
    let mut encoded = vec![0x0a];
    let mut length = message.len();
    while length >= 0x80 {
        encoded.push(low_seven_bits(length) | 0x80);
        length >>= 7;
    }
    encoded.push(low_seven_bits(length));
    encoded.extend_from_slice(message.as_bytes());
    encoded
}

fn low_seven_bits(value: usize) -> u8 {
    value.to_le_bytes().first().copied().unwrap_or_default() & 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_json_for_get_for_json_in_the_query_and_for_json_bodies() {
        let cases = [
            (Method::GET, "", None, Form::Json),
            (Method::POST, "json", None, Form::Json),
            (Method::POST, "json=1", None, Form::Json),
            (Method::POST, "a=b&json=true", None, Form::Json),
            (Method::POST, "", Some("application/json"), Form::Json),
            (Method::POST, "", Some("Application/JSON; charset=utf-8"), Form::Json),
            (Method::POST, "", None, Form::Protobuf),
            (Method::POST, "jsonp=1", Some("application/octet-stream"), Form::Protobuf),
            (Method::POST, "a=json", Some("application/jsonlines"), Form::Protobuf),
        ];
        for (method, query, content_type, form) in cases {
            assert_eq!(Form::of(&method, query, content_type), form, "{method} {query} {content_type:?}");
        }
    }

    #[test]
    fn errors_in_both_forms() {
        let (status, content_type, body) = refusal(Form::Json, "no \"such\" thing");
        assert_eq!((status, content_type), (StatusCode::BAD_REQUEST, "application/json"));
        assert_eq!(body, "{\n  \"error\": \"no \\\"such\\\" thing\"\n}");
        let (_, content_type, body) = refusal(Form::Protobuf, "abc");
        assert_eq!((content_type, &body[..]), ("application/octet-stream", &b"\x0a\x03abc"[..]));
        let long = "x".repeat(300);
        let (_, _, body) = refusal(Form::Protobuf, &long);
        assert_eq!(body[..3], [0x0a, 0xac, 0x02]);
        assert_eq!(&body[3..], long.as_bytes());
    }
}
