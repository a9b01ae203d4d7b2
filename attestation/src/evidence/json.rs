//! Evidence in JSON: answers of dstack's agent (`GetQuote`, `Attest`), what dstack's verifier takes, and event logs.

use serde::Deserialize;

use super::{Detected, Evidence};
use crate::error::EvidenceError;
use crate::quote::{self, TdReport};
use crate::ratls::{Attestation, event_log};

/// The fields of all forms. Others are ignored, as by dstack; one that is given twice is refused.
#[derive(Deserialize)]
struct Answer {
    /// A versioned attestation. If it is there, dstack's verifier looks at nothing else.
    attestation: Option<String>,
    quote: Option<String>,
    /// Only whether it is there: the reader of logs reads it.
    event_log: Option<serde::de::IgnoredAny>,
    report_data: Option<String>,
    vm_config: Option<String>,
}

pub(super) fn detect(bytes: &[u8]) -> Result<Detected, EvidenceError> {
    if bytes.trim_ascii_start().starts_with(b"[") {
        return event_log::read(bytes).map(Detected::Log);
    }
    // Lines of dstack's own log are objects, too: the reader of logs knows them.
    let Ok(answer) = serde_json::from_slice::<Answer>(bytes) else {
        return event_log::read(bytes).map(Detected::Log);
    };
    if let Some(digits) = &answer.attestation {
        let evidence = Evidence::Attestation(Attestation::decode(&hex_digits("attestation", digits)?)?);
        return Ok(Detected::Evidence(evidence, None));
    }
    let Some(digits) = &answer.quote else {
        return event_log::read(bytes).map(Detected::Log);
    };
    let quote = hex_digits("quote", digits)?;
    if answer.event_log.is_none() {
        // As in the binary form: what is no quote should not be called one.
        quote::certificate_chain(&quote)?;
        return Ok(Detected::Evidence(Evidence::Quote(quote), None));
    }
    let log = event_log::read(bytes)?;
    let report_data = report_data(&answer, &quote)?;
    let attestation = Attestation {
        quote,
        events: event_log::runtime(&log)?,
        report_data,
        config: answer.vm_config.unwrap_or_default(),
    };
    Ok(Detected::Evidence(Evidence::Attestation(attestation), event_log::firmware(log)))
}

/// What the answer says; what dstack's verifier takes says nothing, then it is the quote's own. Agents answer what was asked
/// for, before it was padded with zeros.
fn report_data(answer: &Answer, quote: &[u8]) -> Result<[u8; 64], EvidenceError> {
    let Some(digits) = &answer.report_data else { return Ok(TdReport::of_quote(quote)?.report_data) };
    let bytes = hex_digits("report_data", digits)?;
    let mut padded = [0; 64];
    let found = bytes.len();
    let to = padded.get_mut(..found).ok_or_else(|| {
        EvidenceError::malformed("report_data", "at most 64 bytes", format_args!("{found} bytes"))
    })?;
    to.copy_from_slice(&bytes);
    Ok(padded)
}

fn hex_digits(what: &str, digits: &str) -> Result<Vec<u8>, EvidenceError> {
    let digits = digits.strip_prefix("0x").unwrap_or(digits);
    hex::decode(digits).map_err(|error| EvidenceError::malformed(what, "hex digits", error))
}
