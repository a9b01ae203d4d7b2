//! What goes on the share and into MRCONFIGID, and what is refused before anything starts.

use std::path::Path;

use casemate_measure::image::{FileDigest, Flavor, ImageManifest, Input};
use casemate_measure::{AppId, ComposeHash, KeyProvider, LaunchRegisters, MrConfigId};
use casemate_qemu::Error;
use casemate_qemu::binding::{Bound, ConfigId, HostFile, HostFiles, VmFacts, bind};
use casemate_qemu::image::CheckedImage;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const VM: VmFacts = VmFacts { cpus: 2, memory_mib: 512 };

/// The demo's document, which needs the workloads `web` and `probe`.
#[expect(clippy::unwrap_used, reason = "test set-up")]
fn demo() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/demo.app-compose.json")).unwrap()
}

#[expect(clippy::unwrap_used, reason = "test set-up")]
fn image(document: Option<&[u8]>, workloads: &[&str]) -> (tempfile::TempDir, CheckedImage) {
    let dir = tempfile::tempdir().unwrap();
    let registers = LaunchRegisters { mrconfigid: MrConfigId([7; 48]), ..LaunchRegisters::ZERO };
    let registers = serde_json::to_vec(&registers).unwrap();
    let names = ["bzImage", "initramfs.cpio.zst", "cmdline", "ovmf.fd", "registers.json"];
    let outputs = names.map(|name| {
        let bytes = if name == "registers.json" { &registers[..] } else { b"x" };
        std::fs::write(dir.path().join(name), bytes).unwrap();
        (name.to_owned(), FileDigest { size: bytes.len() as u64, sha256: Sha256::digest(bytes).into() })
    });
    let input = |kind: &str, name: &str, bytes: &[u8]| Input {
        kind: kind.into(),
        name: name.into(),
        version: None,
        sha256: Sha256::digest(bytes).into(),
        license: None,
        source: None,
    };
    let document = document.map(|bytes| input("document", "app-compose.json", bytes));
    let inputs = workloads.iter().map(|name| input("workload", name, b"")).chain(document);
    let manifest =
        ImageManifest { version: 1, flavor: Flavor::Dev, outputs: outputs.into(), inputs: inputs.collect() };
    std::fs::write(dir.path().join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    let checked = CheckedImage::open(dir.path()).unwrap();
    (dir, checked)
}

fn file(name: &str, bytes: &[u8]) -> HostFile {
    HostFile { path: name.into(), bytes: bytes.to_vec() }
}

fn only(document: &[u8]) -> HostFiles {
    HostFiles { document: file("d.json", document), sys_config: None, instance_info: None }
}

fn bound(files: HostFiles, wanted: &str) -> Result<Bound, Error> {
    let (_dir, image) = image(None, &["probe", "web"]);
    bind(&image, Some(files), wanted.parse()?, VM, false)
}

/// The refusal's words; its exit status is that of a refused document.
#[expect(clippy::expect_used, reason = "test helper")]
fn refusal(result: Result<Bound, Error>) -> String {
    let error = result.expect_err("should be refused");
    assert_eq!(error.exit_status(), 12, "{error}");
    error.to_string()
}

#[test]
fn choices_are_read() {
    for (text, expected) in [
        ("auto", ConfigId::Auto),
        ("v1", ConfigId::V1),
        ("v2", ConfigId::V2),
        ("v3", ConfigId::V3),
        ("zero", ConfigId::Exact(MrConfigId::ZERO)),
        (&"ab".repeat(48), ConfigId::Exact(MrConfigId([0xab; 48]))),
    ] {
        assert_eq!(text.parse::<ConfigId>().unwrap(), expected, "{text}");
    }
    for bad in ["", "v4", "V1", "0", &"ab".repeat(47)] {
        let error = bad.parse::<ConfigId>().unwrap_err();
        assert_eq!(error.exit_status(), 64, "{error}");
    }
}

#[test]
fn versions_1_and_2_are_of_the_documents_bytes() {
    let hash = ComposeHash::of(&demo());
    for choice in ["auto", "v1"] {
        let bound = bound(only(&demo()), choice).unwrap();
        assert_eq!(bound.mrconfigid, MrConfigId::v1(&hash));
        assert_eq!(bound.share.unwrap().document, demo());
    }
    let v2 = MrConfigId::v2(&hash, &hash.app_id(), &KeyProvider::None);
    assert_eq!(bound(only(&demo()), "v2").unwrap().mrconfigid, v2);
    let kept = r#"{"app_id":"0101010101010101010101010101010101010101","instance_id_seed":"02"}"#;
    let files = HostFiles { instance_info: Some(file("i", kept.as_bytes())), ..only(&demo()) };
    let bound = bound(files, "v2").unwrap();
    assert_eq!(bound.mrconfigid, MrConfigId::v2(&hash, &AppId([1; 20]), &KeyProvider::None));
    assert_eq!(bound.share.unwrap().instance_info.unwrap(), kept.as_bytes());
}

/// The register of version 3 is the hash of exactly the text that the guest finds in `.sys-config.json`.
#[test]
fn version_3_goes_onto_the_share() {
    let hash = ComposeHash::of(&demo());
    let expected = |text: &str| {
        let digest: [u8; 32] =
            Sha256::new().chain_update(b"dstack-mr-config-v3:\0").chain_update(text).finalize().into();
        let mut id = [0; 48];
        id[0] = 3;
        id[1..33].copy_from_slice(&digest);
        MrConfigId(id)
    };
    let config = |bound: &Bound| -> Value {
        serde_json::from_slice(bound.share.as_ref().unwrap().sys_config.as_ref().unwrap()).unwrap()
    };
    let made = bound(only(&demo()), "v3").unwrap();
    let text = config(&made)["mr_config"].as_str().unwrap().to_owned();
    assert_eq!(made.mrconfigid, expected(&text));
    let canonical = format!(
        r#"{{"app_id":"{}","compose_hash":"{hash}","key_provider":"none","version":3}}"#,
        hash.app_id()
    );
    assert_eq!(text, canonical);
    assert!(config(&made)["vm_config"].as_str().unwrap().contains(r#""memory_size":536870912"#));

    let own = HostFiles { sys_config: Some(file("s", br#"{"pccs_url":"x"}"#)), ..only(&demo()) };
    let added = bound(own, "v3").unwrap();
    assert_eq!((config(&added)["pccs_url"].as_str(), added.mrconfigid), (Some("x"), made.mrconfigid));
    let supplied = file("s", br#"{"mr_config":"{ \"version\": 3 }"}"#);
    let own = HostFiles { sys_config: Some(supplied.clone()), ..only(&demo()) };
    let kept = bound(own, "v3").unwrap();
    assert_eq!(kept.mrconfigid, expected(r#"{ "version": 3 }"#));
    assert_eq!(kept.share.unwrap().sys_config.unwrap(), supplied.bytes);
}

#[test]
fn without_a_sys_config_one_is_made_and_ones_own_is_left_alone() {
    let made = bound(only(&demo()), "v1").unwrap().share.unwrap().sys_config.unwrap();
    let made: Value = serde_json::from_slice(&made).unwrap();
    let vm: Value = serde_json::from_str(made["vm_config"].as_str().unwrap()).unwrap();
    assert_eq!((&vm["cpu_count"], &vm["memory_size"]), (&2.into(), &(512_u64 << 20).into()));
    let own = HostFiles { sys_config: Some(file("s", b"{ }")), ..only(&demo()) };
    assert_eq!(bound(own, "v1").unwrap().share.unwrap().sys_config.unwrap(), b"{ }");
}

#[test]
fn what_does_not_fit_is_refused_by_file_expectation_and_finding() {
    let words = refusal(bound(only(b"{}"), "v1"));
    assert!(words.starts_with("d.json: ") && words.contains("expected"), "{words}");
    let (_dir, other) = image(None, &["probe"]);
    let words = refusal(bind(&other, Some(only(&demo())), ConfigId::Auto, VM, false));
    assert!(words.contains("service web: rootfs: a workload of the image (probe), found \"web\""), "{words}");
    for (name, sys_config, instance_info, says) in [
        ("s", Some(&b"[]"[..]), None, "a JSON object"),
        ("s", Some(&[b' '; (32 << 10) + 1]), None, "at most 32768 bytes, found 32769"),
        ("i", None, Some(&b"{"[..]), "a JSON object"),
        ("i", None, Some(br#"{"app_id":"xyz"}"#), "app_id: 40 hex digits, or none, found \"xyz\""),
        ("i", None, Some(&[b' '; (10 << 10) + 1]), "at most 10240 bytes, found 10241"),
    ] {
        let files = HostFiles {
            sys_config: sys_config.map(|bytes| file("s", bytes)),
            instance_info: instance_info.map(|bytes| file("i", bytes)),
            ..only(&demo())
        };
        let words = refusal(bound(files, "v1"));
        assert!(words.starts_with(&format!("{name}: expected ")) && words.contains(says), "{words}");
    }
    let own = HostFiles { sys_config: Some(file("s", br#"{"mr_config":7}"#)), ..only(&demo()) };
    assert!(refusal(bound(own, "v3")).contains("mr_config: a string, found 7"));
}

#[test]
fn an_image_has_its_document_from_one_place() {
    let (_dir, baked) = image(Some(&demo()), &["probe", "web"]);
    let words = refusal(bind(&baked, Some(only(&demo())), ConfigId::Auto, VM, false));
    assert!(words.contains(&ComposeHash::of(&demo()).to_string()) && words.contains("baked in"), "{words}");
    let auto = bind(&baked, None, ConfigId::Auto, VM, false).unwrap();
    assert_eq!(auto, Bound { share: None, mrconfigid: MrConfigId([7; 48]) });
    let v1 = bind(&baked, None, ConfigId::V1, VM, false).unwrap();
    assert_eq!(v1.mrconfigid, MrConfigId::v1(&ComposeHash::of(&demo())));
    refusal(bind(&baked, None, ConfigId::V2, VM, false));

    let (_dir, generic) = image(None, &["probe", "web"]);
    assert!(refusal(bind(&generic, None, ConfigId::Auto, VM, false)).contains("expected a document"));
    assert_eq!(bind(&generic, None, ConfigId::Auto, VM, true).unwrap().share, None);
}

#[test]
fn unchecked_files_go_to_the_guest_as_they_are() {
    let (_dir, generic) = image(None, &[]);
    let files = HostFiles { instance_info: Some(file("i", b"\0")), ..only(b"[") };
    let bound = bind(&generic, Some(files), ConfigId::Auto, VM, true).unwrap();
    let share = bound.share.unwrap();
    assert_eq!(
        (&share.document[..], share.sys_config, &share.instance_info.unwrap()[..]),
        (&b"["[..], None, &b"\0"[..])
    );
    assert_eq!(bound.mrconfigid, MrConfigId::v1(&ComposeHash::of(b"[")));
    // What is computed from the parsed document needs one.
    assert!(refusal(bind(&generic, Some(only(b"[")), ConfigId::V2, VM, true)).starts_with("d.json: "));
}
