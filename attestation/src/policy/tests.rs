use std::sync::Arc;

use casemate_measure::tdx::{Digest, Event, EventType, Expected, Rtmr};

use super::*;
use crate::TcbStatus;
use crate::anchor::Tee;
use crate::peer::{AuthenticQuote, Key, sample};

fn valid() -> serde_json::Value {
    serde_json::json!({
        "version": 1,
        "images": [{ "mrtd": null, "rtmr2": "aa".repeat(48) }],
        "apps": [{
            "name": "web",
            "app_id": "11".repeat(20),
            "compose_hash": "11".repeat(32),
            "tags": ["tag:internal-only"]
        }]
    })
}

fn refusal(change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut policy = valid();
    change(&mut policy);
    Policy::from_json("p.json", policy.to_string().as_bytes(), None).unwrap_err().to_string()
}

#[test]
fn a_policy_survives_writing_and_reading() {
    let policy = Policy::from_json("p.json", valid().to_string().as_bytes(), None).unwrap();
    assert_eq!(policy.apps()[0].tags, ["tag:internal-only"]);
    assert_eq!(policy.images()[0].mrtd, None);
    let written = serde_json::to_vec(&policy).unwrap();
    assert_eq!(Policy::from_json("p.json", &written, None).unwrap(), policy);
}

#[test]
fn unknown_and_doubled_keys_are_refused_at_every_level() {
    assert!(refusal(|p| p["allow_simulator"] = true.into()).contains("unknown field `allow_simulator`"));
    assert!(refusal(|p| p["images"][0]["rtmr3"] = "".into()).contains("unknown field `rtmr3`"));
    assert!(refusal(|p| p["apps"][0]["tag"] = "".into()).contains("unknown field `tag`"));
    let doubled = valid().to_string().replacen('{', "{\"version\":1,", 1);
    let error = Policy::from_json("p.json", doubled.as_bytes(), None).unwrap_err();
    assert!(error.to_string().contains("duplicate field `version`"), "{error}");
}

#[test]
fn each_error_names_file_place_expectation_and_finding() {
    assert_eq!(refusal(|p| p["version"] = 2.into()), "p.json: version: expected 1, found 2");
    assert_eq!(
        refusal(|p| p["images"] = serde_json::json!([])),
        "p.json: images: expected at least one acceptable image (or a KMS that judges them), found none"
    );
    assert_eq!(
        refusal(|p| p["apps"] = serde_json::json!([])),
        "p.json: apps: expected at least one acceptable app, found none"
    );
    assert!(
        refusal(|p| p["images"][0]["mrtd"] = "00".repeat(48).into())
            .starts_with("p.json: images[0].mrtd: expected a measured register or null, found zero")
    );
    assert!(
        refusal(|p| p["images"][0]["rtmr2"] = "00".repeat(48).into())
            .starts_with("p.json: images[0].rtmr2: expected a measured register, found zero")
    );
    assert!(
        refusal(|p| p["images"][0]["rtmr2"] = "aa".into()).contains("expected 96 hex digits, found \"aa\"")
    );
    assert!(refusal(|p| p["images"][0] = serde_json::json!({})).contains("missing field `rtmr2`"));
    assert!(
        refusal(|p| p["apps"][0]["app_id"] = "22".repeat(20).into()).starts_with("p.json: apps[0].app_id")
    );
    assert!(
        refusal(|p| {
            let app = p["apps"][0].clone();
            p["apps"] = serde_json::json!([app.clone(), app]);
        })
        .starts_with("p.json: apps[1]: expected each app once")
    );
}

/// The peer that [`valid`] accepts: a real platform's, with the registers replaced.
fn peer() -> AuthenticPeer {
    let aa = Register([0xaa; 48]);
    let launch = LaunchRegisters { mrtd: aa, rtmr0: aa, rtmr1: aa, rtmr2: aa, ..LaunchRegisters::ZERO };
    sample::peer(Tee::Tdx, launch)
}

fn policy(change: impl FnOnce(&mut serde_json::Value)) -> Policy {
    let mut policy = valid();
    for name in ["mrtd", "rtmr1"] {
        policy["images"][0][name] = "aa".repeat(48).into();
    }
    change(&mut policy);
    Policy::from_json("p.json", policy.to_string().as_bytes(), None).unwrap()
}

/// Class and value of everything that is refused.
fn refused(policy: &Policy, peer: AuthenticPeer) -> Vec<(Class, String)> {
    refused_at(policy, peer, sample::VALID)
}

fn refused_at(policy: &Policy, peer: AuthenticPeer, now: u64) -> Vec<(Class, String)> {
    match policy.judge(peer, now) {
        Ok(_) => Vec::new(),
        Err(NotTrusted(reasons)) => reasons.into_iter().map(|reason| (reason.class, reason.what)).collect(),
    }
}

#[test]
fn each_rule_refuses_with_its_class_and_nothing_else() {
    let hex16 = |byte: &str| serde_json::Value::from(byte.repeat(16));
    let hex48 = |byte: &str| serde_json::Value::from(byte.repeat(48));
    assert_eq!(refused(&policy(|_| ()), peer()), []);
    let cases: Vec<(Policy, Class, &str)> = vec![
        (policy(|p| p["images"][0]["rtmr2"] = hex48("bb")), Class::Image, "images[0].rtmr2"),
        (policy(|p| p["images"][0]["mrtd"] = serde_json::Value::Null), Class::Image, "images[0].mrtd"),
        (
            policy(|p| p["os_image_hashes"] = serde_json::json!(["11".repeat(32)])),
            Class::Image,
            "os_image_hash",
        ),
        (
            policy(|p| p["key_providers"] = serde_json::json!([{ "name": "kms", "id": "01" }])),
            Class::KeyProvider,
            "key_provider",
        ),
        (policy(|p| p["tdx_modules"] = serde_json::json!([hex48("bb")])), Class::Module, "mr_seam"),
        (
            policy(|p| p["platforms"] = serde_json::json!([{ "ppid": hex16("00") }])),
            Class::Platform,
            "platform",
        ),
        (
            policy(|p| p["platforms"] = serde_json::json!([{ "piid": hex16("00") }])),
            Class::Platform,
            "platform",
        ),
        (
            policy(|p| p["tcb"] = serde_json::json!({ "accept": ["SWHardeningNeeded"] })),
            Class::Tcb,
            "tcb.status",
        ),
        (policy(|p| p["tcb"] = serde_json::json!({ "min_evaluation_number": 18 })), Class::Tcb, "tcb"),
        (policy(|p| p["tcb"] = serde_json::json!({ "allow_smt": false })), Class::Tcb, "tcb"),
        (policy(|p| p["tcb"] = serde_json::json!({ "allow_cached_keys": false })), Class::Tcb, "tcb"),
        (policy(|p| p["tcb"] = serde_json::json!({ "allow_dynamic_platform": false })), Class::Tcb, "tcb"),
        (policy(|p| p["freshness"] = serde_json::json!({ "challenge": true })), Class::Binding, "evidence"),
    ];
    for (policy, class, what) in cases {
        assert_eq!(refused(&policy, peer()), [(class, what.to_owned())]);
    }
    let other = policy(|p| {
        p["apps"][0]["compose_hash"] = "22".repeat(32).into();
        p["apps"][0]["app_id"] = "22".repeat(20).into();
    });
    assert_eq!(refused(&other, peer()), [(Class::App, "app".to_owned())]);
}

#[test]
fn every_reason_is_given_not_only_the_first() {
    let strict = policy(|p| {
        p["tdx_modules"] = serde_json::json!(["bb".repeat(48)]);
        p["images"][0]["rtmr1"] = "bb".repeat(48).into();
        p["freshness"] = serde_json::json!({ "challenge": true });
    });
    let classes: Vec<_> = refused(&strict, peer()).into_iter().map(|(class, _)| class).collect();
    assert_eq!(classes, [Class::Binding, Class::Image, Class::Module]);
}

#[test]
fn what_fits_the_lists_is_accepted() {
    let quote = sample::quote();
    let listed = policy(|p| {
        p["tdx_modules"] = serde_json::json!([quote.report().mr_seam]);
        p["platforms"] = serde_json::json!([
            { "name": "another", "ppid": "00".repeat(16) },
            { "ppid": hex::encode(quote.ppid()), "piid": hex::encode(quote.platform_instance_id().unwrap()) },
        ]);
        p["tcb"] = serde_json::json!({ "min_evaluation_number": 17 });
        p["freshness"] = serde_json::json!({ "max_collateral_age_days": 1 });
    });
    assert_eq!(refused(&listed, peer()), []);
}

#[test]
fn collateral_ages() {
    let two_days = policy(|p| p["freshness"] = serde_json::json!({ "max_collateral_age_days": 2 }));
    let issued = peer().collateral_times().oldest_issue;
    assert_eq!(refused_at(&two_days, peer(), issued + 2 * 86_400), []);
    let late = refused_at(&two_days, peer(), issued + 2 * 86_400 + 1);
    assert_eq!(late, [(Class::Freshness, "collateral".to_owned())]);
}

#[test]
fn an_outdated_platform_is_borne_for_its_grace() {
    let outdated = || {
        let mut peer = peer();
        let mut claims = (*peer.evidence.quote.claims).clone();
        claims.tcb.status = TcbStatus::OutOfDate;
        claims.platform.tcb_level.tcb_status = TcbStatus::OutOfDate;
        claims.platform.tcb_date_tag = sample::VALID - 10 * 86_400;
        claims.platform.tcb_level.advisory_ids = vec!["INTEL-SA-01192".into()];
        peer.evidence.quote = AuthenticQuote { claims: Arc::new(claims), ..peer.evidence.quote };
        peer
    };
    let with = |days: u32, advisories: &[&str]| {
        policy(|p| {
            p["tcb"] = serde_json::json!({
                "accept": ["UpToDate", "OutOfDate"], "platform_grace_days": days, "reject_advisories": advisories,
            });
        })
    };
    assert_eq!(refused(&policy(|_| ()), outdated()), [(Class::Tcb, "tcb.status".to_owned())]);
    assert_eq!(refused(&with(10, &[]), outdated()), []);
    assert_eq!(refused(&with(9, &[]), outdated()), [(Class::Tcb, "tcb".to_owned())]);
    assert_eq!(refused(&with(10, &["INTEL-SA-01192"]), outdated()), [(Class::Tcb, "tcb".to_owned())]);
}

#[test]
fn what_speaks_for_nothing_is_refused() {
    let bound = |binding: Binding| AuthenticPeer { binding, ..peer() };
    let key = Key { spki_sha256: [0; 32], not_after: sample::VALID };
    let (any, challenge) =
        (policy(|_| ()), policy(|p| p["freshness"] = serde_json::json!({ "challenge": true })));
    let accepted = |policy: &Policy, binding: Binding| refused(policy, bound(binding)).is_empty();
    assert!(!accepted(&any, Binding::Nothing));
    assert!(accepted(&any, Binding::ReportData));
    assert!(accepted(&any, Binding::Key(key)));
    assert!(accepted(&any, Binding::Challenge(key, [7; 32])));
    assert!(!accepted(&challenge, Binding::Nothing));
    assert!(!accepted(&challenge, Binding::ReportData));
    assert!(!accepted(&challenge, Binding::Key(key)));
    assert!(accepted(&challenge, Binding::Challenge(key, [7; 32])));
}

#[test]
fn an_app_of_a_kms_may_have_any_document() {
    let kms = ProviderClaim { name: "kms".into(), id: "0a".into() };
    let policy = policy(|p| {
        p["key_providers"] = serde_json::json!([kms]);
        p["apps"][0]["compose_hash"] = serde_json::Value::Null;
        p["apps"][0]["app_id"] = "77".repeat(20).into();
    });
    let with = |app_id: u8, provider: &ProviderClaim| {
        let mut peer = peer();
        peer.evidence.app_id = AppId([app_id; 20]);
        peer.evidence.key_provider = provider.clone();
        refused(&policy, peer).into_iter().map(|(class, _)| class).collect::<Vec<_>>()
    };
    assert_eq!(with(0x77, &kms), []);
    assert_eq!(with(0x78, &kms), [Class::App]);
    assert_eq!(with(0x77, &ProviderClaim::none()), [Class::KeyProvider, Class::App]);
}

#[test]
fn images_come_in_three_forms() {
    let own = LaunchRegisters { rtmr2: Register([0xaa; 48]), ..LaunchRegisters::ZERO };
    let mut same = valid();
    same["images"] = serde_json::json!(["same"]);
    let same = same.to_string();
    let error = Policy::from_json("p.json", same.as_bytes(), None).unwrap_err().to_string();
    assert!(
        error.starts_with("p.json: images[0]: expected registers (who judges has none of its own here)"),
        "{error}"
    );
    let read = Policy::from_json("p.json", same.as_bytes(), Some(&own)).unwrap();
    assert_eq!((read.images()[0].mrtd, read.images()[0].rtmr2), (None, own.rtmr2));

    // The output of `cargo measure image --json`, as it is.
    let aa = Register([0xaa; 48]);
    let event = |rtmr, digest| Event {
        rtmr,
        event_type: EventType(4),
        name: "an event".into(),
        digest,
        origin: "a test".into(),
    };
    let mut expected = Expected {
        mrtd: aa,
        mrconfigid: None,
        os_image_hash: None,
        mr_system: None,
        mr_aggregated: None,
        events: Rtmr::ALL.map(|rtmr| event(rtmr, Digest::Known(aa))).into(),
        alternatives: Vec::new(),
    };
    let read = |expected: &Expected| {
        let mut policy = valid();
        policy["images"] = serde_json::json!([expected]);
        Policy::from_json("p.json", policy.to_string().as_bytes(), None)
    };
    let rtmr2 = Register::ZERO.extended(&aa);
    let register = Some(rtmr2);
    let image = PolicyImage { name: None, mrtd: Some(aa), rtmr0: register, rtmr1: register, rtmr2 };
    assert_eq!(read(&expected).unwrap().images(), [image]);
    expected.events[0].digest = Digest::Unpinned;
    let error = read(&expected).unwrap_err().to_string();
    assert_eq!(
        error,
        "p.json: images[0]: expected every event of RTMR0 with its digest, found one that is not pinned"
    );
}

#[test]
fn contradictions_are_refused() {
    let tcb = |tcb: serde_json::Value| refusal(|p| p["tcb"] = tcb);
    assert!(
        tcb(serde_json::json!({ "accept": [] }))
            .starts_with("p.json: tcb.accept: expected at least one status")
    );
    assert!(tcb(serde_json::json!({ "accept": ["Revoked"] })).contains("found Revoked"));
    assert!(tcb(serde_json::json!({ "accept": ["OutOfDate"] })).contains("expected a platform_grace_days"));
    assert!(tcb(serde_json::json!({ "accpt": [] })).contains("unknown field `accpt`"));
    assert!(
        refusal(|p| p["platforms"] = serde_json::json!([{ "name": "x" }]))
            .contains("platforms[0]: expected a ppid or a piid")
    );
    assert!(
        refusal(|p| p["platforms"] = serde_json::json!([{ "ppid": "00" }]))
            .contains("expected 32 hex digits")
    );
    assert!(
        refusal(|p| p["key_providers"] = serde_json::json!([{ "name": "none", "id": "01" }]))
            .starts_with("p.json: key_providers[0]: expected none or tpm without id")
    );
    assert!(
        refusal(|p| p["apps"][0]["compose_hash"] = serde_json::Value::Null)
            .contains("null is for apps of a KMS")
    );
    assert!(
        refusal(|p| p["kms"] = serde_json::json!([{ "name": "k", "certificate": "none" }]))
            .starts_with("p.json: kms[0].certificate: expected one certificate in PEM")
    );
    assert!(refusal(|p| p["tdx_modules"] = serde_json::json!(["00".repeat(48)])).contains("found zero"));
    assert!(
        refusal(|p| p["freshness"] = serde_json::json!({ "nonce": true })).contains("unknown field `nonce`")
    );
}
