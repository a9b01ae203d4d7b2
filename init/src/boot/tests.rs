//! The order of the boot and every failure rule, without a kernel.

use std::time::Duration;

use casemate_measure::manifest::ModuleGroup;
use casemate_measure::status::{Reason, Stage};
use casemate_measure::{
    AppId, ComposeHash, EventLog, KeyProvider, MeasuredConfig, MrConfigId, Register, RuntimeEvent,
};

use super::{Failure, Host, Measured, Shared, run};

const GOOD: &str = include_str!("../../../configs/node.app-compose.json");

/// A machine of paper: it writes down what was asked of it, and fails where it is told to.
struct Paper {
    calls: Vec<String>,
    fails_at: Option<&'static str>,
    /// Baked into the image.
    document: Option<Vec<u8>>,
    shared: Shared,
    bound: MrConfigId,
    rtmr3: Register,
}

impl Paper {
    fn new() -> Self {
        Self {
            calls: Vec::new(),
            fails_at: None,
            document: Some(GOOD.into()),
            shared: Shared::default(),
            bound: MrConfigId::ZERO,
            rtmr3: Register::ZERO,
        }
    }

    /// With a document on the host share, and MRCONFIGID.
    fn shared(shared: Shared, bound: MrConfigId) -> Self {
        Self { document: None, shared, bound, ..Self::new() }
    }

    fn call(&mut self, name: impl Into<String>) -> Result<(), Failure> {
        let name = name.into();
        let fails = self.fails_at == Some(name.as_str());
        self.calls.push(name);
        if fails { Err(Failure::new(Reason::LockFailed, "told to")) } else { Ok(()) }
    }

    fn position(&self, name: &str) -> usize {
        self.calls.iter().position(|call| call == name).unwrap_or_else(|| panic!("{name} was not called"))
    }
}

impl Host for Paper {
    fn enter(&mut self, stage: Stage, deadline: Duration) {
        assert!(deadline > Duration::ZERO);
        self.calls.push(format!("enter {}", stage.words()));
    }
    fn early(&mut self) -> Result<(), Failure> {
        self.call("early")
    }
    fn mounts(&mut self) -> Result<(), Failure> {
        self.call("mounts")
    }
    fn check_manifest(&mut self) -> Result<(), Failure> {
        self.call("manifest")
    }
    fn sysctls(&mut self) -> Result<(), Failure> {
        self.call("sysctls")
    }
    fn entropy(&mut self) -> Result<(), Failure> {
        self.call("entropy")
    }
    fn find_tee(&mut self) -> Result<(), Failure> {
        self.call("tee")
    }
    fn baked_document(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        self.call("baked document")?;
        Ok(self.document.clone())
    }
    fn shared_document(&mut self) -> Result<Shared, Failure> {
        self.call("share")?;
        Ok(self.shared.clone())
    }
    fn extend(&mut self, digest: &Register) -> Result<(), Failure> {
        self.rtmr3 = self.rtmr3.extended(digest);
        self.call("extend")
    }
    fn mr_config_id(&mut self) -> Result<MrConfigId, Failure> {
        Ok(self.bound)
    }
    fn instance_seed(&mut self) -> Result<[u8; 20], Failure> {
        Ok([7; 20])
    }
    fn load_modules(&mut self, group: ModuleGroup) -> Result<(), Failure> {
        self.call(format!("modules {}", group.word()))
    }
    fn disable_modules(&mut self) -> Result<(), Failure> {
        self.call("no more modules")
    }
    fn lock(&mut self, _: &MeasuredConfig) -> Result<(), Failure> {
        self.call("lock")
    }
    fn links(&mut self, _: &MeasuredConfig) -> Result<(), Failure> {
        self.call("links")
    }
    fn address(&mut self, _: &MeasuredConfig) -> Result<(), Failure> {
        self.call("address")
    }
    fn time(&mut self, _: &MeasuredConfig) -> Result<(), Failure> {
        self.call("time")
    }
    fn agent(&mut self, _: &Measured) -> Result<(), Failure> {
        self.call("agent")
    }
    fn services(&mut self, _: &Measured) -> Result<(), Failure> {
        self.call("services")
    }
    fn mesh(&mut self, _: &Measured) -> Result<(), Failure> {
        self.call("mesh")
    }
    fn ready(&mut self, _: &Measured) {
        self.calls.push("ready".into());
    }
}

#[test]
fn nothing_is_up_before_the_lock_and_nothing_is_parsed_before_it_is_measured() {
    let mut paper = Paper::new();
    let measured = run(&mut paper).unwrap();
    let order = [
        "early",
        "mounts",
        "manifest",
        "sysctls",
        "entropy",
        "modules tee",
        "tee",
        "baked document",
        "extend",
        "modules lock",
        "lock",
        "modules late",
        "no more modules",
        "links",
        "address",
        "time",
        "agent",
        "services",
        "mesh",
        "ready",
    ];
    let positions: Vec<usize> = order.iter().map(|name| paper.position(name)).collect();
    assert!(positions.is_sorted(), "{:?}", paper.calls);
    assert_eq!(measured.app_id, ComposeHash::of(GOOD.as_bytes()).app_id());
}

#[test]
fn rtmr3_holds_exactly_the_events_that_are_handed_on_in_dstack_order() {
    let mut paper = Paper::new();
    let measured = run(&mut paper).unwrap();
    assert_eq!(paper.rtmr3, measured.events.replay());
    let names: Vec<&str> = measured.events.events().iter().map(|event| event.event.as_str()).collect();
    let expected = [
        "system-preparing",
        "app-id",
        "compose-hash",
        "instance-id",
        "boot-mr-done",
        "key-provider",
        "system-ready",
    ];
    assert_eq!(names, expected);
}

#[test]
fn a_failure_at_any_step_ends_the_boot_there() {
    let steps = [
        ("early", Stage::Early),
        ("mounts", Stage::Mounts),
        ("manifest", Stage::Manifest),
        ("sysctls", Stage::Sysctls),
        ("entropy", Stage::Entropy),
        ("modules tee", Stage::Tee),
        ("tee", Stage::Tee),
        ("baked document", Stage::Measure),
        ("extend", Stage::Measure),
        ("modules lock", Stage::Lock),
        ("lock", Stage::Lock),
        ("modules late", Stage::Modules),
        ("no more modules", Stage::Modules),
        ("links", Stage::Links),
        ("address", Stage::Address),
        ("time", Stage::Time),
        ("agent", Stage::Agent),
        ("services", Stage::Services),
        ("mesh", Stage::Mesh),
    ];
    for (step, expected) in steps {
        let mut paper = Paper::new();
        paper.fails_at = Some(step);
        let (stage, _) = run(&mut paper).unwrap_err();
        assert_eq!(stage, expected, "{step}");
        assert_eq!(paper.calls.last().map(String::as_str), Some(step), "nothing follows");
    }
}

#[test]
fn a_refused_document_was_measured_first_and_nothing_took_effect() {
    let mut paper = Paper::new();
    let document = b"{\"casemate\": {\"a\": 1, \"\\u0061\": 2}}";
    paper.document = Some(document.to_vec());
    let (stage, failure) = run(&mut paper).unwrap_err();
    assert_eq!((stage, failure.reason), (Stage::Document, Reason::DocumentRefused));
    assert_eq!(failure.digest, ComposeHash::of(document).0);
    assert_eq!(paper.calls.iter().filter(|call| *call == "extend").count(), 3);
    assert!(!paper.calls.iter().any(|call| call == "lock"));
    let compose = ComposeHash::of(document);
    let events = vec![
        RuntimeEvent::new("system-preparing", []),
        RuntimeEvent::new("app-id", compose.app_id().0),
        RuntimeEvent::new("compose-hash", compose.0),
    ];
    assert_eq!(paper.rtmr3, EventLog::new(events).replay());
}

fn compose() -> ComposeHash {
    ComposeHash::of(GOOD.as_bytes())
}

fn good() -> Shared {
    Shared { document: GOOD.into(), ..Shared::default() }
}

/// How the boot ended: `None` if it came to its end.
fn ending(mut paper: Paper) -> Option<(Stage, Reason)> {
    run(&mut paper).err().map(|(stage, failure)| (stage, failure.reason))
}

#[test]
fn a_baked_image_never_opens_the_share() {
    let mut paper = Paper::new();
    paper.shared = good();
    run(&mut paper).unwrap();
    assert!(!paper.calls.iter().any(|call| call == "share" || call == "modules share"), "{:?}", paper.calls);
}

#[test]
fn the_shares_document_is_hashed_before_anything_is_made_of_it() {
    let mut paper = Paper::shared(good(), MrConfigId::v1(&compose()));
    let measured = run(&mut paper).unwrap();
    let order = ["tee", "baked document", "modules share", "share", "extend", "modules lock"];
    let positions: Vec<usize> = order.iter().map(|name| paper.position(name)).collect();
    assert!(positions.is_sorted(), "{:?}", paper.calls);
    assert_eq!((measured.document.as_slice(), measured.app_id), (GOOD.as_bytes(), compose().app_id()));
    for step in ["modules share", "share"] {
        let mut paper = Paper::shared(good(), MrConfigId::v1(&compose()));
        paper.fails_at = Some(step);
        let (stage, _) = run(&mut paper).unwrap_err();
        assert_eq!((stage, paper.rtmr3), (Stage::Measure, Register::ZERO), "{step}");
        assert_eq!(paper.calls.last().map(String::as_str), Some(step), "nothing follows");
    }
}

#[test]
fn mrconfigid_decides_about_the_document() {
    let other = ComposeHash([1; 32]);
    let v2 = |hash: &ComposeHash, app: &AppId| MrConfigId::v2(hash, app, &KeyProvider::None);
    let first = |version: u8| {
        let mut id = [0; 48];
        (id[0], id[40]) = (version, 1);
        MrConfigId(id)
    };
    let mut almost = MrConfigId::v1(&compose());
    almost.0[47] = 1;
    // What it is, how it ends with the document on the share, and with the document baked in.
    let cases = [
        (MrConfigId::ZERO, Some(Stage::Measure), None),
        (MrConfigId::v1(&compose()), None, None),
        (MrConfigId::v1(&other), Some(Stage::Measure), Some(Stage::Measure)),
        (almost, Some(Stage::Measure), Some(Stage::Measure)),
        (v2(&compose(), &compose().app_id()), None, None),
        (v2(&other, &compose().app_id()), Some(Stage::Document), Some(Stage::Document)),
        (v2(&compose(), &other.app_id()), Some(Stage::Document), Some(Stage::Document)),
        (
            MrConfigId::v2(&compose(), &compose().app_id(), &KeyProvider::Tpm),
            Some(Stage::Document),
            Some(Stage::Document),
        ),
        (MrConfigId::v3(b"{}"), Some(Stage::Document), Some(Stage::Document)),
        (first(0), Some(Stage::Document), Some(Stage::Document)),
        (first(4), Some(Stage::Document), Some(Stage::Document)),
    ];
    for (bound, with_share, baked) in cases {
        let mut paper = Paper::new();
        paper.bound = bound;
        for (paper, expected) in [(Paper::shared(good(), bound), with_share), (paper, baked)] {
            let expected = expected.map(|stage| (stage, Reason::ConfigIdMismatch));
            assert_eq!(ending(paper), expected, "{bound}");
        }
    }
}

#[test]
fn version_3_binds_a_document_that_must_say_what_was_measured() {
    // A paper machine's seed is always the same, and so is its instance id.
    let instance = casemate_measure::InstanceId::derive(&[7; 20], &compose().app_id());
    let full = format!(
        r#"{{"app_id":"{}","compose_hash":"{}","instance_id":"{instance}","key_provider":"none","key_provider_id":"","version":3}}"#,
        compose().app_id(),
        compose()
    );
    let with = |document: &str| Shared { mr_config: Some(document.into()), ..good() };
    assert_eq!(ending(Paper::shared(with(&full), MrConfigId::v3(full.as_bytes()))), None);
    let mismatch = Some((Stage::Document, Reason::ConfigIdMismatch));
    let spaced = format!("{full} ");
    assert_eq!(
        ending(Paper::shared(with(&spaced), MrConfigId::v3(full.as_bytes()))),
        mismatch,
        "hashed as supplied"
    );
    assert_eq!(ending(Paper::shared(good(), MrConfigId::v3(full.as_bytes()))), mismatch, "not supplied");
    let mut baked = Paper::new();
    (baked.shared, baked.bound) = (with(&full), MrConfigId::v3(full.as_bytes()));
    assert_eq!(ending(baked), mismatch, "a baked image has no share");
    let lies = [
        (compose().app_id().to_string(), "00".repeat(20)),
        (compose().to_string(), "00".repeat(32)),
        (instance.to_string(), "00".repeat(20)),
        ("none".into(), "kms".into()),
        ("_id\":\"\"".into(), "_id\":\"00\"".into()),
        ("\"version\":3".into(), "\"version\":4".into()),
        ("\"version\":3".into(), "\"other\":3".into()),
    ];
    for (from, to) in lies {
        let lie = full.replace(&from, &to);
        assert_ne!(lie, full);
        assert_eq!(ending(Paper::shared(with(&lie), MrConfigId::v3(lie.as_bytes()))), mismatch, "{lie}");
    }
}

#[test]
fn another_app_id_is_extended_and_then_without_a_kms_powers_off() {
    let app = AppId([9; 20]);
    let shared = Shared { app_id: Some(app), ..good() };
    let v2 = MrConfigId::v2(&compose(), &app, &KeyProvider::None);
    for bound in [MrConfigId::v1(&compose()), v2] {
        let mut paper = Paper::shared(shared.clone(), bound);
        let (stage, failure) = run(&mut paper).unwrap_err();
        assert_eq!((stage, failure.reason), (Stage::Document, Reason::AppIdMismatch), "{bound}");
        assert_eq!(failure.digest, compose().0);
        let events = vec![
            RuntimeEvent::new("system-preparing", []),
            RuntimeEvent::new("app-id", app.0),
            RuntimeEvent::new("compose-hash", compose().0),
        ];
        assert_eq!(paper.rtmr3, EventLog::new(events).replay());
    }
    let own = Shared { app_id: Some(compose().app_id()), ..good() };
    assert_eq!(ending(Paper::shared(own, MrConfigId::v1(&compose()))), None);
}

#[test]
fn without_a_key_provider_the_hosts_seed_is_not_used() {
    let shared = Shared { instance_id_seed: Some([8; 20]), ..good() };
    let measured = run(&mut Paper::shared(shared, MrConfigId::v1(&compose()))).unwrap();
    let fresh = casemate_measure::InstanceId::derive(&[7; 20], &compose().app_id());
    assert_eq!(measured.instance_id, fresh);
    assert_eq!(measured.events.instance_id(), Some(fresh));
}

/// No document of this version names a KMS, so the rule is held where it stands.
#[test]
fn with_a_kms_the_hosts_seed_and_app_id_count() {
    let app_id = AppId([9; 20]);
    let shared = Shared { instance_id_seed: Some([8; 20]), app_id: Some(app_id), ..good() };
    let hashed = super::Hashed { source: super::Source::Share(shared), compose_hash: compose(), app_id };
    let kms = KeyProvider::Kms(vec![1]);
    let id = super::instance_id(&mut Paper::new(), &hashed, &kms).unwrap();
    assert_eq!(id, casemate_measure::InstanceId::derive(&[8; 20], &app_id));
    super::check_app_id(&hashed, &kms).unwrap();
    for other in [KeyProvider::Local(vec![1]), KeyProvider::Tpm, KeyProvider::None] {
        assert!(super::check_app_id(&hashed, &other).is_err(), "{other:?}");
    }
}
