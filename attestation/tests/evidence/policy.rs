//! Authentic peers against policies.

use casemate_measure::{AppId, ComposeHash, LaunchRegisters, Register};
use casemate_verify::{AuthenticPeer, NotTrusted, Policy, PolicyApp, PolicyImage, PolicyParts};

use crate::machine::{Machine, NOW, image, trusting_verifier};

const DOCUMENT: &[u8] = br#"{"casemate":{}}"#;

fn peer(document: &[u8], launch: LaunchRegisters) -> AuthenticPeer {
    let (_, certificate) = Machine::boot(document, launch).certificate();
    trusting_verifier().verify_certificate(&certificate, NOW).unwrap()
}

fn policy(images: Vec<PolicyImage>) -> Policy {
    let compose_hash = ComposeHash::of(DOCUMENT);
    let app = PolicyApp {
        name: "web".into(),
        app_id: compose_hash.app_id(),
        compose_hash: Some(compose_hash),
        tags: vec!["tag:internal-only".into()],
    };
    Policy::new("test", PolicyParts { images, apps: vec![app], ..PolicyParts::default() }).unwrap()
}

fn reasons(policy: &Policy, peer: AuthenticPeer) -> Vec<String> {
    let NotTrusted(reasons) = policy.judge(peer, NOW).unwrap_err();
    reasons.into_iter().map(|reason| reason.what).collect()
}

#[test]
fn the_right_app_on_the_right_image_gets_its_tags() {
    let verified = policy(vec![PolicyImage::from(&image())]).judge(peer(DOCUMENT, image()), NOW).unwrap();
    assert_eq!(verified.tags(), ["tag:internal-only"]);
    assert_eq!(verified.app_id(), ComposeHash::of(DOCUMENT).app_id());
}

#[test]
fn another_rtmr2_is_refused() {
    let other = LaunchRegisters { rtmr2: Register::digest(b"other code"), ..LaunchRegisters::ZERO };
    let policy = policy(vec![PolicyImage::from(&image())]);
    assert_eq!(reasons(&policy, peer(DOCUMENT, other)), ["images[0].rtmr2"]);
}

#[test]
fn another_document_is_refused_beside_everything_else_that_differs() {
    let other = LaunchRegisters { rtmr2: Register::digest(b"other code"), ..LaunchRegisters::ZERO };
    let policy = policy(vec![PolicyImage::from(&image())]);
    assert_eq!(reasons(&policy, peer(b"another", image())), ["app"]);
    assert_eq!(reasons(&policy, peer(b"another", other)), ["images[0].rtmr2", "app"]);
}

#[test]
fn an_unmeasured_register_satisfies_no_explicit_value() {
    let measured = PolicyImage { mrtd: Some(Register([1; 48])), ..PolicyImage::from(&image()) };
    assert_eq!(reasons(&policy(vec![measured]), peer(DOCUMENT, image())), ["images[0].mrtd"]);
}

#[test]
fn any_of_several_images_will_do() {
    let other = PolicyImage { rtmr2: Register([5; 48]), ..PolicyImage::from(&image()) };
    policy(vec![other, PolicyImage::from(&image())]).judge(peer(DOCUMENT, image()), NOW).unwrap();
}

#[test]
fn a_policy_names_no_app_that_cannot_exist() {
    let compose_hash = ComposeHash::of(DOCUMENT);
    let app = PolicyApp {
        name: "web".into(),
        app_id: AppId([0; 20]),
        compose_hash: Some(compose_hash),
        tags: Vec::new(),
    };
    let error = Policy::new(
        "test",
        PolicyParts { images: vec![PolicyImage::from(&image())], apps: vec![app], ..PolicyParts::default() },
    )
    .unwrap_err();
    assert!(error.to_string().starts_with("test: apps[0].app_id: expected "), "{error}");
}
