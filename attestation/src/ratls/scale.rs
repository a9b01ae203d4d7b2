//! Version 0 of dstack's versioned attestation, SCALE (dstack `dstack-attest/src/attestation.rs`).

use casemate_measure::event::RUNTIME_EVENT_TYPE;
use casemate_measure::{EventLog, RuntimeEvent};
use parity_scale_codec::{Compact, Decode, Encode, Input};

use super::{Attestation, MAX_EVENTS};
use crate::error::EvidenceError;

/// `AttestationQuote::DstackTdx`; the other discriminants are other TEEs.
const DSTACK_TDX: u8 = 0;
/// `AttestationQuote::DstackAmdSevSnp`.
const SEV_SNP: u8 = 3;

/// The event register of RTMR3 in dstack's numbering (TCG index less one).
const RTMR3: u32 = 3;

#[derive(Encode, Decode)]
struct V0 {
    version: u8,
    platform: u8,
    quote: Vec<u8>,
    event_log: Events<TdxEvent>,
    runtime_events: Events<Runtime>,
    report_data: [u8; 64],
    config: String,
}

/// A list that is read as far as it may be long: an event of two bytes takes fifty in memory.
#[derive(Encode)]
struct Events<T>(Vec<T>);

impl<T: Decode> Decode for Events<T> {
    fn decode<I: Input>(input: &mut I) -> Result<Self, parity_scale_codec::Error> {
        let Compact(length) = Compact::<u32>::decode(input)?;
        if usize::try_from(length).map_or(true, |length| length > MAX_EVENTS) {
            return Err("more events than are read".into());
        }
        (0..length).map(|_| T::decode(input)).collect::<Result<_, _>>().map(Self)
    }
}

#[derive(Encode, Decode)]
struct TdxEvent {
    imr: u32,
    event_type: u32,
    digest: Vec<u8>,
    event: String,
    event_payload: Vec<u8>,
}

#[derive(Encode, Decode)]
struct Runtime {
    event: String,
    payload: Vec<u8>,
}

pub(super) fn encode(attestation: &Attestation) -> Vec<u8> {
    let events = attestation.events.events();
    V0 {
        version: 0,
        platform: DSTACK_TDX,
        quote: attestation.quote.clone(),
        event_log: Events(
            events
                .iter()
                .map(|e| TdxEvent {
                    imr: RTMR3,
                    event_type: RUNTIME_EVENT_TYPE,
                    digest: Vec::new(),
                    event: e.event.clone(),
                    event_payload: e.payload.clone(),
                })
                .collect(),
        ),
        runtime_events: Events(
            events.iter().map(|e| Runtime { event: e.event.clone(), payload: e.payload.clone() }).collect(),
        ),
        report_data: attestation.report_data,
        config: attestation.config.clone(),
    }
    .encode()
}

/// Bytes that begin with version 0.
pub(super) fn decode(bytes: &[u8]) -> Result<Attestation, EvidenceError> {
    if let [_, platform, ..] = bytes
        && *platform != DSTACK_TDX
    {
        let name = match *platform {
            1 => "TDX on Google Cloud",
            2 => "AWS Nitro Enclave",
            SEV_SNP => "AMD SEV-SNP",
            4 => "AWS NitroTPM",
            _ => "an unknown TEE",
        };
        return Err(EvidenceError::NotImplemented {
            what: format!("attestation of {name} (discriminant {platform})"),
        });
    }
    let mut rest = bytes;
    let v0 = V0::decode(&mut rest)
        .map_err(|error| EvidenceError::malformed("attestation", "SCALE, version 0", error))?;
    if !rest.is_empty() {
        return Err(EvidenceError::malformed(
            "attestation",
            "nothing after it",
            format_args!("{} trailing bytes", rest.len()),
        ));
    }
    // Only the runtime events are replayed, here as by dstack; the other log says nothing that is not in them.
    Ok(Attestation {
        quote: v0.quote,
        events: EventLog::new(
            v0.runtime_events.0.into_iter().map(|e| RuntimeEvent::new(e.event, e.payload)).collect(),
        ),
        report_data: v0.report_data,
        config: v0.config,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Attestation {
        Attestation {
            quote: vec![9],
            events: EventLog::new(vec![RuntimeEvent::new("app-id", [7; 20])]),
            report_data: [3; 64],
            config: "{}".into(),
        }
    }

    /// The attestation at the end of dstack's `test_csr_v2_scale_encoding_stable_with_tdx_quote` (reference 2.7).
    #[test]
    fn bytes_are_dstacks() {
        let attestation = Attestation {
            quote: vec![9],
            events: EventLog::default(),
            report_data: [0; 64],
            config: String::new(),
        };
        let expected = hex::decode(format!("000004090000{}00", "00".repeat(64))).unwrap();
        assert_eq!(attestation.encode_v0(), expected);
        assert_eq!(Attestation::decode(&expected).unwrap(), attestation);
    }

    #[test]
    fn log_is_stripped() {
        // imr 3, type 0x08000001, empty digest, "app-id", payload; then the runtime event.
        let event = format!("0300000001000008{}18{}50{}", "00", hex::encode("app-id"), "07".repeat(20));
        let runtime = format!("18{}50{}", hex::encode("app-id"), "07".repeat(20));
        let expected =
            format!("00000409{}{event}{}{runtime}{}08{}", "04", "04", "03".repeat(64), hex::encode("{}"));
        assert_eq!(hex::encode(sample().encode_v0()), expected);
    }

    #[test]
    fn every_truncation_and_any_trailing_byte_is_refused() {
        let bytes = sample().encode_v0();
        assert_eq!(Attestation::decode(&bytes).unwrap(), sample());
        for length in 0..bytes.len() {
            assert!(Attestation::decode(&bytes[..length]).is_err(), "{length}");
        }
        let mut long = bytes;
        long.push(0);
        let error = Attestation::decode(&long).unwrap_err().to_string();
        assert_eq!(error, "attestation: expected nothing after it, found 1 trailing bytes");
    }

    #[test]
    fn other_platforms_are_named() {
        let error = |bytes: &[u8]| Attestation::decode(bytes).unwrap_err().to_string();
        assert_eq!(
            error(&[0, 3]),
            "not implemented in this version: attestation of AMD SEV-SNP (discriminant 3)"
        );
    }

    /// Two bytes each: ten times what they promise would be too much.
    #[test]
    fn more_events_than_any_boot_has_are_refused() {
        let with = |events: usize| {
            let event = RuntimeEvent::new("", []);
            Attestation { events: EventLog::new(vec![event; events]), ..sample() }.encode_v0()
        };
        assert!(Attestation::decode(&with(MAX_EVENTS)).is_ok());
        let error = Attestation::decode(&with(MAX_EVENTS + 1)).unwrap_err().to_string();
        assert!(error.contains("more events than are read"), "{error}");
    }

    #[test]
    fn a_length_that_promises_more_than_there_is_is_refused() {
        // A compact length of 2^30 - 1 bytes with nothing behind it.
        assert!(Attestation::decode(&[0, 0, 0xfe, 0xff, 0xff, 0xff]).is_err());
    }
}
