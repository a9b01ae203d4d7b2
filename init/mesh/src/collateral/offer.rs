//! Collateral on its way to who may need it: with a quote, by which it is verified. Pure.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// `{"quote": "<hex>", "collateral": {…}}`.
#[derive(Debug)]
pub(super) struct Offer<'a> {
    pub(super) quote: Vec<u8>,
    pub(super) collateral: Cow<'a, str>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Form<'a> {
    #[serde(borrow)]
    quote: Cow<'a, str>,
    #[serde(borrow)]
    collateral: &'a RawValue,
}

impl<'a> Offer<'a> {
    pub(super) fn read(json: &'a [u8]) -> Result<Self, String> {
        let form: Form<'a> = serde_json::from_slice(json)
            .map_err(|error| format!("expected an object with quote and collateral, found {error}"))?;
        let quote = hex::decode(form.quote.as_ref())
            .map_err(|_| "quote: expected hex digits, found something else".to_owned())?;
        Ok(Self { quote, collateral: form.collateral.get().into() })
    }

    /// Collateral is JSON already.
    pub(super) fn write(quote: &[u8], collateral: &str) -> String {
        format!("{{\"quote\":\"{}\",\"collateral\":{collateral}}}", hex::encode(quote))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let json = Offer::write(&[1, 0xab], r#"{"a" : "b"}"#);
        let offer = Offer::read(json.as_bytes()).unwrap();
        assert_eq!((offer.quote.as_slice(), offer.collateral.as_ref()), (&[1, 0xab][..], r#"{"a" : "b"}"#));
    }

    #[test]
    fn anything_else_is_named() {
        for (json, expected) in [
            ("", "expected an object with quote and collateral, found EOF"),
            ("[]", "expected an object"),
            (r#"{"quote":"00"}"#, "missing field `collateral`"),
            (r#"{"collateral":{}}"#, "missing field `quote`"),
            (r#"{"quote":"00","collateral":{},"more":1}"#, "unknown field `more`"),
            (r#"{"quote":"00","quote":"00","collateral":{}}"#, "duplicate field `quote`"),
            (r#"{"quote":"0","collateral":{}}"#, "quote: expected hex digits"),
            (r#"{"quote":"0x00","collateral":{}}"#, "quote: expected hex digits"),
        ] {
            let error = Offer::read(json.as_bytes()).unwrap_err();
            assert!(error.contains(expected), "{json}: {error}");
        }
    }
}
