//! A real dstack machine's `GetQuote` answer, from bytes to a verdict: 28 events of all registers, key provider local-sgx.

use casemate_measure::tdx::aggregated::mr_aggregated;
use casemate_measure::{ComposeHash, Register};
use casemate_verify::collateral::{Collateral, Kept};
use casemate_verify::evidence::{Detected, detect};
use casemate_verify::policy::Freshness;
use casemate_verify::{
    Binding, Class, Evidence, Policy, PolicyApp, PolicyImage, PolicyParts, Presented, ProviderClaim,
    TrustAnchor, Verdict, Verifier,
};

const ANSWER: &[u8] = include_bytes!("../fixtures/dstack_getquote.json");
/// Of the kind of platform that the answer comes from.
const COLLATERAL: &[u8] = include_bytes!("../fixtures/tdx_quote_outdated_collateral.json");
/// 2026-02-25T06:13:20Z, when [`COLLATERAL`] is valid.
const VALID: u64 = 1_772_000_000;

fn report_data() -> [u8; 64] {
    let mut data = [0; 64];
    data[..2].copy_from_slice(&[0x12, 0x34]);
    data
}

/// The evidence in an answer, and the firmware's part of its log.
fn read(answer: &[u8]) -> (Evidence, Option<casemate_measure::log::Log>) {
    match detect(answer).unwrap() {
        Detected::Evidence(evidence, log) => (evidence, log),
        Detected::Log(_) => panic!("a log"),
    }
}

fn quote(evidence: &Evidence) -> &[u8] {
    let Evidence::Attestation(attestation) = evidence else { panic!("no attestation") };
    &attestation.quote
}

fn verifier(quote: &[u8]) -> Verifier {
    let verifier = Verifier::new([TrustAnchor::Intel], Default::default());
    let collateral = Collateral::from_json(COLLATERAL).unwrap();
    let verified = verifier.verify_collateral(quote, collateral, VALID).unwrap();
    assert_eq!(verifier.store().keep(verified, VALID), Kept::Stored);
    verifier
}

fn policy(evidence: &Evidence) -> PolicyParts {
    let report = casemate_verify::quote::TdReport::of_quote(quote(evidence)).unwrap();
    // The event's payload; MRENCLAVE of dstack's key provider enclave.
    let id = "1b7a49378403249b6986a907844cab0921eca32dd47e657f3c10311ccaeccf8b";
    let compose_hash =
        ComposeHash::from_hex("3763bc34552cf3a27ff71ad5f7a90471562a1a2df552dfc1998cba2d60da27e7").unwrap();
    PolicyParts {
        images: vec![PolicyImage::from(&report.launch())],
        apps: vec![PolicyApp {
            name: "lium".into(),
            app_id: compose_hash.app_id(),
            compose_hash: Some(compose_hash),
            tags: Vec::new(),
        }],
        key_providers: vec![ProviderClaim { name: "local-sgx".into(), id: id.into() }],
        ..PolicyParts::default()
    }
}

/// The verdict on an answer under a policy that accepts the real one.
fn judge(
    answer: &[u8],
    change: impl FnOnce(&mut PolicyParts),
    asked: Option<&[u8; 64]>,
    now: u64,
) -> Verdict {
    let (genuine, _) = read(ANSWER);
    let verifier = verifier(quote(&genuine));
    let mut parts = policy(&genuine);
    change(&mut parts);
    let policy = Policy::new("test", parts).unwrap();
    let (evidence, log) = read(answer);
    let presented = Presented { evidence: &evidence, firmware_log: log.as_ref(), report_data: asked };
    policy.verdict(&verifier, &presented, now)
}

fn classes(verdict: &Verdict) -> Vec<Class> {
    match verdict {
        Verdict::Trusted(_) => Vec::new(),
        Verdict::NotTrusted { reasons, .. } => reasons.iter().map(|reason| reason.class).collect(),
        Verdict::Undecided(error) => panic!("undecided: {error}"),
    }
}

#[test]
fn it_is_trusted_for_the_report_data_that_were_asked_for() {
    let verdict = judge(ANSWER, |_| (), Some(&report_data()), VALID);
    let peer = verdict.trusted().unwrap_or_else(|| panic!("{:?}", classes(&verdict)));
    assert_eq!(*peer.binding(), Binding::ReportData);
    assert_eq!(peer.app_id().to_string(), "3763bc34552cf3a27ff71ad5f7a90471562a1a2d");
    assert_eq!(peer.instance_id().unwrap().to_string(), "c3714eb66990eace777b4e664c16e09375dec4c9");
    assert_eq!(hex::encode(peer.ppid()), "897d3eb76ea887b783f9ad3d0771034b");
    assert_eq!(hex::encode(peer.platform_instance_id().unwrap()), "af3b9e752ee6e3f88eb745536ae57b0d");
    assert!(!peer.launch().rtmr0.is_zero() && !peer.launch().rtmr1.is_zero());
    // SHA-256 over the registers by Python's hashlib.
    let aggregated = mr_aggregated(&peer.launch(), &peer.rtmr3(), &Register::ZERO, &Register::ZERO);
    assert_eq!(aggregated.to_string(), "233c659f83048505bb1ef7f105245aa80f5d04e3d096c329da272d7ee13fbf38");
}

#[test]
fn without_that_it_speaks_for_nothing() {
    assert_eq!(classes(&judge(ANSWER, |_| (), None, VALID)), [Class::Binding]);
    assert_eq!(classes(&judge(ANSWER, |_| (), Some(&[0; 64]), VALID)), [Class::Binding]);
}

#[test]
fn each_part_of_the_policy_counts() {
    let refused = |change: fn(&mut PolicyParts)| classes(&judge(ANSWER, change, Some(&report_data()), VALID));
    assert_eq!(refused(|parts| parts.key_providers.clear()), [Class::KeyProvider]);
    assert_eq!(refused(|parts| parts.images[0].rtmr0 = Some(Register([1; 48]))), [Class::Image]);
    assert_eq!(refused(|parts| parts.images[0].mrtd = None), [Class::Image]);
    assert_eq!(refused(|parts| parts.tcb.min_evaluation_number = Some(19)), [Class::Tcb]);
    let challenge = Freshness { challenge: true, ..Freshness::default() };
    let challenged = judge(ANSWER, |parts| parts.freshness = challenge, Some(&report_data()), VALID);
    assert_eq!(classes(&challenged), [Class::Binding]);
}

#[test]
fn expired_and_future_collateral_are_named() {
    // The next updates are on 2026-03-20; TCB info and the rest were signed on 2026-02-18.
    for (now, text) in [(VALID + 60 * 86_400, "xpired"), (VALID - 30 * 86_400, "in the future")] {
        let Verdict::NotTrusted { reasons, peer: None } = judge(ANSWER, |_| (), Some(&report_data()), now)
        else {
            panic!("trusted at {now}")
        };
        assert_eq!(reasons[0].class, Class::Collateral);
        assert!(reasons[0].found.contains(text), "{}", reasons[0]);
    }
}

/// What is in the JSON of the answer, changed.
fn changed(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let mut answer = serde_json::from_slice(ANSWER).unwrap();
    change(&mut answer);
    serde_json::to_vec(&answer).unwrap()
}

/// The events, whether they stand in the answer or in a string of it.
fn with_events(change: impl FnOnce(&mut Vec<serde_json::Value>)) -> Vec<u8> {
    changed(|answer| {
        let log = answer["event_log"].as_str().unwrap().to_owned();
        let mut events = serde_json::from_str(&log).unwrap();
        change(&mut events);
        answer["event_log"] = serde_json::to_string(&events).unwrap().into();
    })
}

fn refused(answer: &[u8]) -> Vec<Class> {
    classes(&judge(answer, |_| (), Some(&report_data()), VALID))
}

/// As agents write it since 0.5.6: payloads of RTMR0 to RTMR2 and digests of RTMR3 left out.
#[test]
fn a_stripped_log_is_the_same_evidence() {
    let stripped = with_events(|events| {
        for event in events {
            let field = if event["imr"] == 3 { "digest" } else { "event_payload" };
            event[field] = "".into();
        }
    });
    assert_eq!(refused(&stripped), []);
    // And the list itself in place of a string that holds it.
    let plain = changed(|answer| {
        let log = answer["event_log"].as_str().unwrap().to_owned();
        answer["event_log"] = serde_json::from_str(&log).unwrap();
    });
    assert_eq!(refused(&plain), []);
}

#[test]
fn a_log_of_another_boot_is_refused() {
    let count = |events: &Vec<serde_json::Value>| events.len();
    let dropped = with_events(|events| {
        let last = count(events) - 1;
        events.remove(last);
    });
    assert_eq!(refused(&dropped), [Class::Log]);
    let swapped = with_events(|events| events.swap(21, 22));
    assert_eq!(refused(&swapped), [Class::Log]);
    let firmware = with_events(|events| events.swap(2, 3));
    assert_eq!(refused(&firmware), [Class::Log]);
    let lying = with_events(|events| events[21]["event_payload"] = "00".repeat(20).into());
    assert_eq!(refused(&lying), [Class::Log]);
    let other = changed(|answer| answer["report_data"] = "1235".into());
    assert_eq!(refused(&other), [Class::Binding]);
}
