//! RTMR3 from the facts of a boot.

use casemate_measure::tdx::aggregated::{Hash256, mr_aggregated, mr_key_provider, mr_system};
use casemate_measure::tdx::event::fold;
use casemate_measure::tdx::rtmr3::{Boot, Instance, StorageFs, events};
use casemate_measure::{EventLog, KeyProvider, LaunchRegisters, MeasuredConfig, MrConfigId, Platform};

use super::*;

/// The recorded machine's, with the local key provider's id out of its event.
fn recorded() -> (Boot, EventLog) {
    let log = read(&report());
    let runtime: Vec<_> = log.events.iter().filter_map(log::Logged::runtime).collect();
    let log = EventLog::new(runtime);
    let provider: Value = serde_json::from_slice(&log.find("key-provider").unwrap().payload).unwrap();
    assert_eq!(provider["name"], "local-sgx");
    let boot = Boot {
        compose_hash: log.compose_hash().unwrap(),
        app_id: log.app_id().unwrap(),
        instance: Instance::Known(log.instance_id().unwrap()),
        key_provider: KeyProvider::Local(hex::decode(provider["id"].as_str().unwrap()).unwrap()),
        storage_fs: None,
    };
    (boot, log)
}

#[test]
fn a_real_boot_follows_from_its_facts() {
    let (boot, log) = recorded();
    let expected = events(&boot);
    assert_eq!(expected.len(), 7);
    for (expected, recorded) in expected.iter().zip(log.events()) {
        assert_eq!((&expected.name, expected.digest), (&recorded.event, Digest::Known(recorded.digest())));
    }
    // The app of that machine extended one more.
    let last = log.events().last().unwrap();
    assert_eq!(fold(&expected).unwrap().extended(&last.digest()), real(4));
}

#[test]
fn the_boot_of_our_document_has_dstacks_order_and_its_instance_is_not_pinned() {
    let document = include_bytes!("../../../configs/node.app-compose.json");
    let config = MeasuredConfig::parse("FILE", document, Platform::Appliance).unwrap();
    let mut boot = Boot::of(&config);
    let unknown = events(&boot);
    let names: Vec<_> = unknown.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "system-preparing",
            "app-id",
            "compose-hash",
            "instance-id",
            "boot-mr-done",
            "key-provider",
            "system-ready"
        ]
    );
    let unpinned: Vec<_> = unknown.iter().filter(|event| event.digest == Digest::Unpinned).collect();
    let [instance] = unpinned.as_slice() else { panic!("{unpinned:?}") };
    assert_eq!(instance.name, "instance-id");
    assert_eq!(instance.origin, "not pinned: no instance id was given, and each machine has its own");
    assert_eq!(fold(&unknown), None);

    let zfs =
        "ba51104636900268b0e059fa3d266419d079d1e94aea26fb9fcbb8d764bf4c89a67ac271b8a0d1a3989945132a111fc7";
    boot.instance = Instance::Without;
    boot.storage_fs = Some(StorageFs::Zfs);
    let known = events(&boot);
    assert_eq!((known[6].name.as_str(), known[7].name.as_str()), ("storage-fs", "system-ready"));
    assert_eq!(known[6].digest, Digest::Known(Register::from_hex(zfs).unwrap()));
    let empty = casemate_measure::RuntimeEvent::new("instance-id", []).digest();
    assert_eq!(known[3].digest, Digest::Known(empty));
    assert!(fold(&known).is_some());
}

/// Computed by Python's hashlib over the recorded registers and events.
#[test]
fn what_dstack_calls_the_recorded_machine() {
    let (_, log) = recorded();
    let launch = LaunchRegisters {
        mrtd: real(0),
        rtmr0: real(1),
        rtmr1: real(2),
        rtmr2: real(3),
        mrconfigid: MrConfigId::ZERO,
    };
    let provider = mr_key_provider(log.find("key-provider").map(|event| event.payload.as_slice()));
    let zero = Register::ZERO;
    let named = [
        provider,
        mr_system(&launch, &provider),
        mr_aggregated(&launch, &real(4), &zero, &zero),
        mr_aggregated(&launch, &log.replay_boot_time(), &zero, &zero),
    ];
    assert_eq!(
        named.map(|hash: Hash256| hash.to_string()),
        [
            "154b6be6b47baac4c85a97a77d4d8acdb64398f511e4bd02a22aba6a425cc0cb",
            "e1ae776a1492d4f87937b7e563d265c16300be4aba5d748207587023bb7dbb75",
            "233c659f83048505bb1ef7f105245aa80f5d04e3d096c329da272d7ee13fbf38",
            "f9a9159f75a175a0a65052b78f764a312456db56f5c397c600d08445ab68937b"
        ]
    );
}
