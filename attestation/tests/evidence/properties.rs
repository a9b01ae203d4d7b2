//! Bytes that nobody chose: no panic, and nothing accepted.

use std::sync::LazyLock;

use casemate_measure::{EventLog, RuntimeEvent};
use casemate_verify::Policy;
use casemate_verify::quote::{HEADER_LEN, TD_REPORT_LEN, TdReport};
use casemate_verify::ratls::{self, Attestation};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::machine::{Machine, NOW, image, trusting_verifier};

static GENUINE: LazyLock<Vec<u8>> = LazyLock::new(|| Machine::boot(b"{}", image()).certificate().1);

prop_compose! {
    fn any_attestation()(
        quote in vec(any::<u8>(), 0..300),
        events in vec((".{0,20}", vec(any::<u8>(), 0..40)), 0..12),
        report_data in vec(any::<u8>(), 64),
        config in ".{0,60}",
    ) -> Attestation {
        Attestation {
            quote,
            events: EventLog::new(events.into_iter().map(|(name, payload)| RuntimeEvent::new(name, payload)).collect()),
            report_data: report_data.try_into().unwrap(),
            config,
        }
    }
}

proptest! {
    #[test]
    fn an_attestation_survives_writing_and_reading(attestation in any_attestation()) {
        prop_assert_eq!(Attestation::decode(&attestation.encode_v0()).unwrap(), attestation);
    }

    #[test]
    fn bytes_that_decode_are_the_encoding_of_what_they_say(mut bytes in vec(any::<u8>(), 0..400)) {
        if let [first, second, ..] = bytes.as_mut_slice() {
            (*first, *second) = (0, 0);
        }
        if let Ok(attestation) = Attestation::decode(&bytes) {
            prop_assert_eq!(Attestation::decode(&attestation.encode_v0()).unwrap(), attestation);
        }
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in vec(any::<u8>(), 0..800)) {
        prop_assert!(ratls::from_certificate(&bytes).is_err());
        prop_assert!(Policy::from_json("p", &bytes, None).is_err());
        prop_assert!(trusting_verifier().verify_quote(&bytes, NOW).is_err());
        // Only what is long enough for header and report, and says it is TDX, reads as a report.
        let long = bytes.len() >= HEADER_LEN + TD_REPORT_LEN;
        prop_assert!(long || TdReport::of_quote(&bytes).is_err());
    }

    /// A changed certificate is refused, or says exactly the same: the change then lay in what nobody relies on (names,
    /// the issuer's signature, line breaks).
    #[test]
    fn a_changed_certificate_never_says_something_else(index in any::<prop::sample::Index>(), flip in 1_u8..) {
        let verifier = trusting_verifier();
        let genuine = verifier.verify_certificate(&GENUINE, NOW).unwrap();
        let mut changed = GENUINE.clone();
        changed[index.index(GENUINE.len())] ^= flip;
        if let Ok(peer) = verifier.verify_certificate(&changed, NOW) {
            prop_assert_eq!((peer.key(), peer.app_id()), (genuine.key(), genuine.app_id()));
            prop_assert_eq!((peer.launch(), peer.rtmr3()), (genuine.launch(), genuine.rtmr3()));
        }
    }
}
