//! The order of the boot and every failure rule, without a kernel.

use std::time::Duration;

use casemate_measure::manifest::ModuleGroup;
use casemate_measure::status::{Reason, Stage};
use casemate_measure::{
    AppId, ComposeHash, EventLog, KeyProvider, MeasuredConfig, MrConfigId, Register, RuntimeEvent,
};

use super::{Document, Failure, Host, Measured, run};

const GOOD: &str = include_str!("../../../configs/node.app-compose.json");

/// A machine of paper: it writes down what was asked of it, and fails where it is told to.
struct Paper {
    calls: Vec<String>,
    fails_at: Option<&'static str>,
    document: Vec<u8>,
    baked: bool,
    bound: MrConfigId,
    rtmr3: Register,
}

impl Paper {
    fn new() -> Self {
        Self {
            calls: Vec::new(),
            fails_at: None,
            document: GOOD.into(),
            baked: true,
            bound: MrConfigId::ZERO,
            rtmr3: Register::ZERO,
        }
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
    fn document(&mut self) -> Result<Document, Failure> {
        self.call("document")?;
        Ok(Document { name: "app-compose.json".into(), bytes: self.document.clone(), baked: self.baked })
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
        "document",
        "extend",
        "modules lock",
        "lock",
        "modules late",
        "no more modules",
        "links",
        "address",
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
        ("document", Stage::Measure),
        ("extend", Stage::Measure),
        ("modules lock", Stage::Lock),
        ("lock", Stage::Lock),
        ("modules late", Stage::Modules),
        ("no more modules", Stage::Modules),
        ("links", Stage::Links),
        ("address", Stage::Address),
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
    paper.document = b"{\"casemate\": {\"a\": 1, \"\\u0061\": 2}}".to_vec();
    let (stage, failure) = run(&mut paper).unwrap_err();
    assert_eq!((stage, failure.reason), (Stage::Document, Reason::DocumentRefused));
    assert_eq!(failure.digest, ComposeHash::of(&paper.document).0);
    assert_eq!(paper.calls.iter().filter(|call| *call == "extend").count(), 3);
    assert!(!paper.calls.iter().any(|call| call == "lock"));
    let compose = ComposeHash::of(&paper.document);
    let events = vec![
        RuntimeEvent::new("system-preparing", []),
        RuntimeEvent::new("app-id", compose.app_id().0),
        RuntimeEvent::new("compose-hash", compose.0),
    ];
    assert_eq!(paper.rtmr3, EventLog::new(events).replay());
}

#[test]
fn mrconfigid_decides_about_the_document() {
    let compose = ComposeHash::of(GOOD.as_bytes());
    let other = ComposeHash([1; 32]);
    let v2 = |hash: &ComposeHash, app: &AppId| MrConfigId::v2(hash, app, &KeyProvider::None);
    let mut unknown = [0; 48];
    unknown[0] = 9;
    let mut zero_version = [0; 48];
    zero_version[40] = 1;
    let cases = [
        (MrConfigId::ZERO, true, None),
        (MrConfigId::ZERO, false, Some(Stage::Measure)),
        (MrConfigId::v1(&compose), false, None),
        (MrConfigId::v1(&compose), true, None),
        (MrConfigId::v1(&other), true, Some(Stage::Measure)),
        (v2(&compose, &compose.app_id()), false, None),
        (v2(&other, &other.app_id()), true, Some(Stage::Document)),
        (MrConfigId::v3(b"{}"), true, Some(Stage::Document)),
        (MrConfigId(unknown), true, Some(Stage::Document)),
        (MrConfigId(zero_version), true, Some(Stage::Document)),
    ];
    for (bound, baked, expected) in cases {
        let mut paper = Paper::new();
        (paper.bound, paper.baked) = (bound, baked);
        let ended = run(&mut paper).map_err(|(stage, failure)| (stage, failure.reason));
        let expected = expected.map(|stage| (stage, Reason::ConfigIdMismatch));
        assert_eq!(ended.err(), expected, "{bound} baked {baked}");
    }
}
