//! What the VPC server answers: one JSON object, read as hostile input. Whatever is not exactly as it must be is refused whole, and no text
//! of a refusal repeats a key.
//!
//! | field | whose name | what |
//! | --- | --- | --- |
//! | `pre_auth_key` | the seed's | what to join with; needed |
//! | `server_url` | the seed's | the login server; needed |
//! | `shared_key` | the seed's | for the seed's applications; not read |
//! | `noise_key` | ours | the login server's key; needed where none is pinned |
//! | `prefixes` | ours | where addresses will be: inside the configured prefixes |
//! | `derp_pins` | ours | SHA-256 of relays' certificates by host: none that is not configured |
//!
//! The last two change nothing here: what the configuration does not allow is known before the node joins a network that is of no use to it.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::control::client::ServerUrl;
use crate::control::harmless;
use crate::control::join::AuthKey;
use crate::key::{Machine, Public};

/// The longest answer that is read.
pub const MAX_ANSWER: usize = 64 * 1024;
/// The longest pre-auth key; Headscale 0.29's have some 90 characters.
const MAX_KEY: usize = 512;
/// The longest URL of a login server, as the document has it.
const MAX_URL: usize = 512;
/// More prefixes than a network has: one of each family.
const MAX_PREFIXES: usize = 16;
/// More relays than a network of our own has.
const MAX_PINS: usize = 256;
/// The longest name (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;

/// What an answer is judged by.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The only login server that it may name, if the configuration has one.
    pub server: Option<ServerUrl>,
    /// The login server's key, by the configuration or by an earlier answer.
    pub noise_key: Option<Public<Machine>>,
    /// Whether a login server in plain HTTP may be on another machine.
    pub plain_http: bool,
    /// Where addresses may lie.
    pub prefixes: Vec<IpNet>,
    /// Digests of relays' certificates, 64 hex digits, by host name in lower case.
    pub derp_pins: BTreeMap<String, String>,
}

/// An answer that may be used.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The login server.
    pub server: ServerUrl,
    /// Its URL, as it was written.
    pub url: String,
    /// Its key, which is pinned from now on.
    pub noise_key: Public<Machine>,
    /// What to join with.
    pub key: AuthKey,
}

/// Why an answer is not used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// Longer than any is.
    #[error("expected at most {MAX_ANSWER} bytes, found more")]
    TooLong,
    /// Not one JSON object of the known fields, each once.
    #[error(
        "expected one JSON object with pre_auth_key, server_url, noise_key, shared_key, prefixes and derp_pins, each once at most, \
         found something else at line {line}, column {column}"
    )]
    Shape {
        /// Where.
        line: usize,
        /// Where.
        column: usize,
    },
    /// A field that must be there.
    #[error("{0}: expected, found nothing")]
    Missing(&'static str),
    /// A field that is not what it must be. What it is, is not repeated.
    #[error("{field}: expected {expected}, found something else")]
    Field {
        /// Which.
        field: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// The login server is another than the configured one.
    #[error("server_url: expected {expected}, which is configured, found {found}")]
    OtherServer {
        /// The configured one's host and port.
        expected: String,
        /// The one of the answer.
        found: String,
    },
    /// The login server would be spoken to in the clear, over a network.
    #[error("server_url: expected https://, or http:// to loopback, found http:// to {0}")]
    PlainHttp(String),
    /// Nothing says the login server's key.
    #[error("noise_key: expected mkey: and 64 hex digits, since none is configured, found nothing")]
    NoNoiseKey,
    /// The login server's key is another than the pinned one.
    #[error("noise_key: expected {pinned}, which is pinned, found {found}")]
    NoiseKey {
        /// The pinned one.
        pinned: Public<Machine>,
        /// The one of the answer.
        found: Public<Machine>,
    },
    /// Addresses would lie where none may.
    #[error("prefixes: expected inside the configured ones, found {0}")]
    Prefix(IpNet),
    /// A relay's certificate that the configuration does not pin, or pins otherwise.
    #[error("derp_pins: expected the configured ones only, found another for {0}")]
    DerpPin(String),
}

/// The fields, unread: so each is named where it is wrong.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'a> {
    #[serde(borrow)]
    pre_auth_key: Option<&'a RawValue>,
    #[serde(borrow)]
    server_url: Option<&'a RawValue>,
    #[serde(borrow)]
    noise_key: Option<&'a RawValue>,
    #[serde(borrow)]
    prefixes: Option<&'a RawValue>,
    #[serde(borrow)]
    derp_pins: Option<&'a RawValue>,
    #[serde(borrow, rename = "shared_key")]
    _shared_key: Option<&'a RawValue>,
}

impl Answer {
    /// Reads an answer and judges it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn read(body: &[u8], rules: &Rules) -> Result<Self, AnswerError> {
        if body.len() > MAX_ANSWER {
            return Err(AnswerError::TooLong);
        }
        // serde's own words may repeat what they found.
        let fields: Fields<'_> = serde_json::from_slice(body)
            .map_err(|error| AnswerError::Shape { line: error.line(), column: error.column() })?;
        let key = key(fields.pre_auth_key)?;
        let (server, url) = server(fields.server_url, rules)?;
        let noise_key = noise_key(fields.noise_key, rules)?;
        prefixes(fields.prefixes, rules)?;
        derp_pins(fields.derp_pins, rules)?;
        Ok(Self { server, url, noise_key, key })
    }
}

fn key(field: Option<&RawValue>) -> Result<AuthKey, AnswerError> {
    let field = field.ok_or(AnswerError::Missing("pre_auth_key"))?;
    serde_json::from_str::<Zeroizing<String>>(field.get())
        .ok()
        .filter(|text| text.len() <= MAX_KEY && text.bytes().all(|b| b.is_ascii_graphic()))
        .and_then(|text| AuthKey::new(&text))
        .ok_or(AnswerError::Field {
            field: "pre_auth_key",
            expected: "a pre-auth key of visible ASCII characters",
        })
}

fn server(field: Option<&RawValue>, rules: &Rules) -> Result<(ServerUrl, String), AnswerError> {
    let field = field.ok_or(AnswerError::Missing("server_url"))?;
    let text: Option<String> =
        serde_json::from_str(field.get()).ok().filter(|text: &String| text.len() <= MAX_URL);
    let (server, text) = text
        .and_then(|text| Some((text.parse::<ServerUrl>().ok()?, text)))
        .filter(|(server, text)| server.port != 0 && !text.contains('#'))
        .ok_or(AnswerError::Field {
            field: "server_url",
            expected: "an https:// or http:// URL without a path",
        })?;
    if let Some(expected) = &rules.server {
        let same = server.https == expected.https
            && server.port == expected.port
            && server.host.eq_ignore_ascii_case(&expected.host);
        if !same {
            return Err(AnswerError::OtherServer {
                expected: expected.authority(),
                found: harmless(&server.authority()),
            });
        }
    } else if !server.https && !rules.plain_http && !server.is_loopback() {
        return Err(AnswerError::PlainHttp(harmless(&server.authority())));
    }
    Ok((server, text))
}

fn noise_key(field: Option<&RawValue>, rules: &Rules) -> Result<Public<Machine>, AnswerError> {
    let Some(field) = field else {
        return rules.noise_key.ok_or(AnswerError::NoNoiseKey);
    };
    let found: Public<Machine> =
        serde_json::from_str(field.get()).ok().filter(|key: &Public<Machine>| !key.is_zero()).ok_or(
            AnswerError::Field { field: "noise_key", expected: "mkey: and 64 hex digits, not all zero" },
        )?;
    match rules.noise_key {
        Some(pinned) if pinned != found => Err(AnswerError::NoiseKey { pinned, found }),
        _ => Ok(found),
    }
}

fn prefixes(field: Option<&RawValue>, rules: &Rules) -> Result<(), AnswerError> {
    let Some(field) = field else { return Ok(()) };
    let found: Vec<IpNet> = serde_json::from_str(field.get())
        .ok()
        .filter(|found: &Vec<IpNet>| !found.is_empty() && found.len() <= MAX_PREFIXES)
        .ok_or(AnswerError::Field { field: "prefixes", expected: "a list of 1 to 16 prefixes" })?;
    let outside = found.iter().find(|net| !rules.prefixes.iter().any(|allowed| allowed.contains(*net)));
    outside.map_or(Ok(()), |outside| Err(AnswerError::Prefix(*outside)))
}

fn derp_pins(field: Option<&RawValue>, rules: &Rules) -> Result<(), AnswerError> {
    let Some(field) = field else { return Ok(()) };
    let plain = |name: &str| {
        !name.is_empty()
            && name.len() <= MAX_NAME
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-'))
    };
    let found: BTreeMap<String, String> = serde_json::from_str(field.get())
        .ok()
        .filter(|found: &BTreeMap<String, String>| {
            found.len() <= MAX_PINS && found.keys().all(|name| plain(name))
        })
        .ok_or(AnswerError::Field { field: "derp_pins", expected: "64 hex digits by host name" })?;
    let other = found.into_iter().find(|(host, pin)| {
        let configured = rules.derp_pins.get(&host.to_ascii_lowercase());
        !configured.is_some_and(|configured| configured.eq_ignore_ascii_case(pin))
    });
    other.map_or(Ok(()), |(host, _)| Err(AnswerError::DerpPin(harmless(&host))))
}
