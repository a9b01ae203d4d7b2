//! Identities, event digests and registers against dstack's own values, and against values computed independently.
#![expect(clippy::unwrap_used, reason = "a test that cannot make its input has failed")]

use casemate_measure::tdx::rtmr2::register as rtmr2;
use casemate_measure::{
    AppId, ComposeHash, EventLog, InstanceId, KeyProvider, MrConfigId, Register, RuntimeEvent,
};
use serde_json::Value;

/// The compose hash of dstack's fixture `tdx-lite-getquote.json` (Dstack-TEE/dstack, Apache-2.0).
const COMPOSE: &str = "86b0e55f2fa8e4fb69d890f14f54d5612707646e2573d54e0d2ddaaade77caa9";
const ZERO15: &str = "000000000000000000000000000000";

fn compose() -> ComposeHash {
    ComposeHash::from_hex(COMPOSE).unwrap()
}

#[test]
fn compose_hash_is_over_the_bytes_as_they_are() {
    // FIPS 180-4 example "abc".
    assert_eq!(
        ComposeHash::of(b"abc").to_string(),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert_ne!(ComposeHash::of(b"{}"), ComposeHash::of(b"{ }"));
}

#[test]
fn app_and_instance_id() {
    assert_eq!(compose().app_id().to_string(), "86b0e55f2fa8e4fb69d890f14f54d5612707646e");
    let seed = std::array::from_fn(|i| u8::try_from(i).unwrap());
    let instance = InstanceId::derive(&seed, &compose().app_id());
    assert_eq!(instance.to_string(), "ee545cc47bb3423e7fe89e9742f0b999f67b67df");
}

/// The real quote of that fixture has version 1; versions 2 and 3 were computed with an independent Keccak and SHA-256.
#[test]
fn mrconfigid() {
    let (hash, app) = (compose(), compose().app_id());
    assert_eq!(MrConfigId::v1(&hash).to_string(), format!("01{COMPOSE}{ZERO15}"));
    for (provider, digest) in [
        (KeyProvider::None, "6677756f4c6b0bd0784cccc07d86f2cf3e0b06d5567777359ec93e8362906137"),
        (
            KeyProvider::Local(vec![1, 2, 3, 4]),
            "6c8a20383a8b143640969108001cf5be74fed34ceeca2df86eb19b613aad5e6e",
        ),
        (
            KeyProvider::Kms(vec![1, 2, 3, 4]),
            "a98580b13e20294febcf7aba2e1d3b122965b75d363b8f8b8b29aa2adccf14d6",
        ),
    ] {
        assert_eq!(MrConfigId::v2(&hash, &app, &provider).to_string(), format!("02{digest}{ZERO15}"));
    }
    let document = format!(r#"{{"compose_hash":"{COMPOSE}","key_provider":"none","version":3}}"#);
    assert_eq!(
        MrConfigId::v3(document.as_bytes()).to_string(),
        format!("031b482d19be10e062f39791062fbbee1192d7157e06a614c40a46b8d74e0a9d3b{ZERO15}")
    );
}

#[test]
fn key_provider_payloads() {
    assert_eq!(KeyProvider::None.event_payload(), r#"{"name":"none","id":""}"#);
    assert_eq!(KeyProvider::Kms(vec![0x30, 0x59]).event_payload(), r#"{"name":"kms","id":"3059"}"#);
    assert_eq!(KeyProvider::Local(vec![0xab]).event_payload(), r#"{"name":"local-sgx","id":"ab"}"#);
    assert_eq!(KeyProvider::Tpm.event_payload(), r#"{"name":"tpm","id":""}"#);
}

#[test]
fn event_digests() {
    let none = KeyProvider::None.event_payload();
    for (event, payload, digest) in [
        (
            "system-preparing",
            "",
            "f9974020ef507068183313d0ca808e0d1ca9b2d1ad0c61f5784e7157c362c06536f5ddacdad4451693f48fcc72fff624",
        ),
        (
            "boot-mr-done",
            "",
            "98bd7e6bd3952720b65027fd494834045d06b4a714bf737a06b874638b3ea00ff402f7f583e3e3b05e921c8570433ac6",
        ),
        (
            "system-ready",
            "",
            "1a76b2a80a0be71eae59f80945d876351a7a3fb8e9fd1ff1cede5734aa84ea11fd72b4edfbb6f04e5a85edd114c751bd",
        ),
        (
            "storage-fs",
            "zfs",
            "ba51104636900268b0e059fa3d266419d079d1e94aea26fb9fcbb8d764bf4c89a67ac271b8a0d1a3989945132a111fc7",
        ),
        (
            "storage-fs",
            "ext4",
            "94eb1c817c35f570ca895b48b46e656e696d1a126581e70022f6f93a8c64d026ece224c6bffbe3bfdfe00bb3447adcd0",
        ),
        (
            "key-provider",
            none.as_str(),
            "7f788209b6106d43ad4b0cef85797120c234f175a10b7cb609a73ec1f4285adfe7abca2e1e3d3bd2ba058c2b78d1771d",
        ),
    ] {
        assert_eq!(RuntimeEvent::new(event, payload).digest().to_string(), digest, "{event} {payload}");
    }
}

fn fixture() -> Value {
    serde_json::from_str(include_str!("fixtures/dstack-event-log.json")).unwrap()
}

fn log(fixture: &Value) -> EventLog {
    let events = fixture["events"].as_array().unwrap().iter().map(|event| {
        let payload = hex::decode(event["event_payload"].as_str().unwrap()).unwrap();
        RuntimeEvent::new(event["event"].as_str().unwrap(), payload)
    });
    EventLog::new(events.collect())
}

#[test]
fn a_real_log_replays_to_its_quotes_rtmr3() {
    let fixture = fixture();
    let log = log(&fixture);
    for (event, recorded) in log.events().iter().zip(fixture["events"].as_array().unwrap()) {
        assert_eq!(event.digest().to_string(), recorded["digest"].as_str().unwrap(), "{}", event.event);
    }
    assert_eq!(log.replay().to_string(), fixture["rtmr3"].as_str().unwrap());
    assert_eq!(log.compose_hash().unwrap().app_id(), log.app_id().unwrap());
    assert_eq!(log.app_id().unwrap().to_string(), "3763bc34552cf3a27ff71ad5f7a90471562a1a2d");
    assert_eq!(log.instance_id().unwrap().to_string(), "c3714eb66990eace777b4e664c16e09375dec4c9");

    let mut events = log.events().to_vec();
    events.swap(0, 1);
    assert_ne!(EventLog::new(events).replay(), log.replay());
}

#[test]
fn what_an_app_adds_after_system_ready_names_nobody() {
    let mut log = EventLog::default();
    log.push(RuntimeEvent::new("app-id", [1; 20]));
    log.push(RuntimeEvent::new("app-id", [2; 20]));
    log.push(RuntimeEvent::new("system-ready", []));
    log.push(RuntimeEvent::new("compose-hash", [3; 32]));
    assert_eq!(log.app_id(), Some(AppId([1; 20])));
    assert_eq!(log.compose_hash(), None);
    // A payload of another length is no app id.
    assert_eq!(EventLog::new(vec![RuntimeEvent::new("app-id", [1; 19])]).app_id(), None);
}

#[test]
fn a_real_rtmr2_is_two_digests() {
    let fixture = fixture();
    let digests = fixture["rtmr2_digests"].as_array().unwrap();
    let replayed = digests
        .iter()
        .map(|digest| Register::from_hex(digest.as_str().unwrap()).unwrap())
        .fold(Register::ZERO, |register, digest| register.extended(&digest));
    assert_eq!(digests.len(), 2);
    assert_eq!(replayed.to_string(), fixture["rtmr2"].as_str().unwrap());
}

/// Computed with another SHA-384 over UTF-16LE of `console=ttyS0 init=/init initrd=initrd` and its terminator.
#[test]
fn rtmr2_in_closed_form() {
    assert_eq!(
        rtmr2("console=ttyS0 init=/init", b"initramfs").to_string(),
        "0e6d2642e95eb6b1005e9c29f4174e2f3e552010055f1a6b7653a64e321655a8d275e0b4091a75a1c4fd36e3275f4e6f"
    );
}
