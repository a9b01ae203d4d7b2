use super::*;
use crate::tdx::acpi::AcpiDigests;
use crate::tdx::event::fold;
use crate::tdx::tdvf::synthetic::{DSTACK, with_empty_store};
use crate::tdx::vm::QemuVersion;

fn register(hex: &str) -> Register {
    Register::from_hex(hex).unwrap()
}

fn acpi(loader: &str, rsdp: &str, tables: &str) -> AcpiDigests {
    AcpiDigests { loader: register(loader), rsdp: register(rsdp), tables: register(tables) }
}

fn dstack_events(vm: &Vm, source: &AcpiSource) -> Vec<Event> {
    let file = with_empty_store(&DSTACK);
    events(&Tdvf::parse(&file).unwrap(), vm, source).unwrap()
}

fn vm(memory_mib: u32, cpus: u16) -> Vm {
    Vm::new(QemuVersion::new(9, 2, 1), memory_mib, cpus)
}

/// A real machine of 64 GiB, 16 CPUs and QEMU 9.2.1: dstack's fixture `verifier/fixtures/quote-report.json`
/// (Dstack-TEE/dstack, Apache-2.0). The ACPI digests are those of its log, the register that of its quote.
#[test]
fn rtmr0_of_a_real_machine_of_64_gib() {
    let log = acpi(
        "2065dd48d647e4377db277ba203526901a17845e93e0df4c2dfc3ce136e0910324ead1e1c86b8d90c2acdf9c85ffac53",
        "772b0169c66b52e4453fff9e3c6257635ea950ebcc8edd7ef2e2f8241cf6a155f39df01a7c7a194b6bc0abe5de11861d",
        "abfb2256644b5786eefdcb92303d2008c36cb9500d98997e215ef5080745d4bf2e5b3629090918e193e7f05b173d48c5",
    );
    let events = dstack_events(&vm(64 << 10, 16), &AcpiSource::Given(log));
    let types: Vec<u32> = events.iter().map(|event| event.event_type.0).collect();
    let policy = [0x8000_0001; 5];
    let expected =
        [&[0x8000_000b, 0x8000_000a][..], &policy, &[0x4, 0xa, 0xa, 0xa, 0x8000_0002, 0x8000_0002]];
    assert_eq!(types, expected.concat());
    assert_eq!(
        fold(&events),
        Some(register(
            "2e3843265f8ecdd4e2282694747f6f2f111605c33f2a8882f5734ee6f3a6ce63d8f34aeef06093dcda76fa5f9d33d8d6"
        ))
    );
}

/// A real machine of 2 GiB, 2 CPUs and QEMU 8.2.2: dstack's fixture `verifier/fixtures/tdx-lite-getquote.json`.
#[test]
fn rtmr0_of_a_real_machine_of_2_gib() {
    let log = acpi(
        "095d04cf26fe03aef6e3561fa24c1aa1cea93f4aeaf563b1f9f7616184c53454875925759434769cec2490acb563a337",
        "8d9a4d4777a1bc77ecd9d8d37a4628129a80052a510320159a20a923bd07a0e90d8d1f2e1ebf088992b25f0d0fa672ef",
        "3070721e169bc41884724cb0e6b3082e1baf249083d8b389181ba50b9afa951057876c380b8870e8c2facf2eff67a2b6",
    );
    assert_eq!(
        fold(&dstack_events(&vm(2048, 2), &AcpiSource::Captured(log))),
        Some(register(
            "f8438db36b96f85d8752ff7f24a89ec05c79ec9eda2ba732c897fb970ca429365b7471b1c054cb84f17b1c2b23ba6640"
        ))
    );
}

/// A real machine of 16 GiB and 8 CPUs with firmware of edk2-stable202505: the log and quote in dstack's
/// `sdk/simulator/attestation.bin`, whose ACPI and SMBIOS digests these are.
fn later() -> (Vm, AcpiSource) {
    let smbios = register(
        "17a566eb173b8f3011c5294e9d8c816e5edc0d592e8a38fc7b0b87ddd0f569e5cf9fe9f95e57db5d1c706c48e8251cec",
    );
    let layout = Some(FirmwareLayout::From202505);
    let vm = Vm { firmware_layout: layout, smbios: Some(smbios), ..vm(16 << 10, 8) };
    let log = acpi(
        "6dae15170c9fea6455681e3f838941a642ff9001a02a333e9ca8549af1db4ba47f01403e31dabe6e8a0b41ddd38b6d99",
        "b3a62232ef6be064cce25a8b92cf55d4a6c099ee7a9c0852ce0c7d572393dae84895c0f59a9db5000f0b34a90c1b1bec",
        "b6ed8ff3fca3c308f3f1ec7889054cc900b1c6dad9b14aedd0144d046626c81a5dbae47937f4949bb2d674a0bd699a7b",
    );
    (vm, AcpiSource::Given(log))
}

#[test]
fn rtmr0_of_a_real_machine_with_later_firmware() {
    let (vm, acpi) = later();
    let events = dstack_events(&vm, &acpi);
    let named: Vec<_> = events.iter().map(|event| (event.event_type.0, event.name.as_str())).collect();
    assert_eq!(
        named,
        [
            (0x8000_000b, "TD HOB"),
            (0x8000_000a, "CFV"),
            (0xa, "BootMenu"),
            (0xa, "bootorder"),
            (0x8000_0001, "SecureBoot"),
            (0x8000_0001, "PK"),
            (0x8000_0001, "KEK"),
            (0x8000_0001, "db"),
            (0x8000_0001, "dbx"),
            (0x4, "separator"),
            (0xa, "etc/table-loader"),
            (0xa, "etc/acpi/rsdp"),
            (0xa, "etc/acpi/tables"),
            (0x8000_0009, "SMBIOS"),
            (0x8000_0002, "BootOrder"),
            (0x8000_0002, "Boot0000"),
            (0x8000_0002, "Boot0001"),
        ]
    );
    assert_eq!(
        fold(&events),
        Some(register(
            "6203948b7c12a0c2e14ed9b11170d7b85345870a304bb0959d6c198224ce621fe944e4623af9631cd64eeffdc0d7fa94"
        ))
    );
}

#[test]
fn what_is_not_known_is_unpinned_and_says_so() {
    let unpinned = |vm: &Vm, acpi: &AcpiSource| -> Vec<(String, String)> {
        let events = dstack_events(vm, acpi);
        let unknown = events.iter().filter(|event| event.digest == Digest::Unpinned);
        let unknown: Vec<_> = unknown.map(|event| (event.name.clone(), event.origin.clone())).collect();
        assert_eq!(fold(&events).is_none(), !unknown.is_empty());
        assert!(unknown.iter().all(|(_, origin)| origin.starts_with("unpinned: ")), "{unknown:?}");
        unknown
    };
    let names =
        |unknown: Vec<(String, String)>| unknown.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let none = unpinned(&vm(2048, 2), &AcpiSource::Unpinned);
    assert_eq!(
        none[0].1,
        "unpinned: no digest for QEMU 9.2.1 (casemate cpus=2 memory=2048M) and this firmware"
    );
    assert_eq!(names(none), ["etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables"]);
    let (vm, acpi) = later();
    let without = Vm { smbios: None, ..vm.clone() };
    assert_eq!(names(unpinned(&without, &acpi)), ["SMBIOS"]);
    let verified = SecureBoot { secure_boot: vec![1], ..SecureBoot::default() };
    assert_eq!(names(unpinned(&Vm { secure_boot: Some(verified), ..vm }, &acpi)), ["image authority"]);
}

#[test]
fn the_origin_says_whose_acpi_digests_they_are() {
    let (vm, acpi) = later();
    let AcpiSource::Given(digests) = acpi else { panic!("given") };
    let origin = |source| dstack_events(&vm, &source)[10].origin.clone();
    assert_eq!(origin(AcpiSource::Given(digests)), "given by the user");
    // Of its 16 GiB what shows in the tables: 2 GiB are below the PCI hole.
    assert_eq!(
        origin(AcpiSource::Captured(digests)),
        "captured from QEMU 9.2.1 (casemate cpus=8 memory=2048M)"
    );
}

#[test]
fn given_variables_and_items_are_measured_in_their_places() {
    let (vm, acpi) = later();
    let secure_boot =
        SecureBoot { secure_boot: vec![0], db: vec![1, 2], dbt: vec![3], ..SecureBoot::default() };
    let fw_cfg = FwCfg {
        extra_pci_roots: Some(1),
        boot_menu: true,
        boot_menu_wait: Some(0x102),
        reserved_memory_end: Some(2),
        pci_mmio64_mb: Some("65536".into()),
        boot_order: vec!["/a".into(), "/b".into()],
    };
    let vm = Vm { secure_boot: Some(secure_boot), fw_cfg, ..vm };
    let found = dstack_events(&vm, &acpi);
    let named = |name: &str| {
        let of_name: Vec<_> = found.iter().enumerate().filter(|(_, event)| event.name == name).collect();
        let [(at, event)] = of_name.as_slice() else { panic!("one {name}") };
        let Digest::Known(digest) = event.digest else { panic!("{name} is known") };
        (*at, digest)
    };
    let items: [(usize, &str, &[u8]); 6] = [
        (2, "etc/extra-pci-roots", &[1, 0, 0, 0, 0, 0, 0, 0]),
        (3, "BootMenu", &[1, 0]),
        (4, "etc/boot-menu-wait", &[2, 1]),
        (5, "etc/reserved-memory-end", &[2, 0, 0, 0, 0, 0, 0, 0]),
        (6, "opt/ovmf/X-PciMmio64Mb", b"65536"),
        (7, "bootorder", b"/a\n/b\0"),
    ];
    for (at, name, data) in items {
        assert_eq!(named(name), (at, Register::digest(data)), "{name}");
    }
    assert_eq!(named("SecureBoot").1, Variable::SECURE_BOOT.digest(&[0]));
    assert_eq!(named("PK").1, Variable::PK.digest(&[]));
    assert_eq!(named("db").1, Variable::DB.digest(&[1, 2]));
    assert_eq!(named("dbt"), (named("dbx").0 + 1, Variable::DBT.digest(&[3])));
    let none = Vm { fw_cfg: FwCfg { boot_order: vec![], ..FwCfg::default() }, ..vm };
    let found = dstack_events(&none, &acpi);
    assert!(found.iter().all(|event| event.name != "bootorder"), "an empty item is not measured");
}

#[test]
fn a_machine_without_the_firmwares_memory_is_refused() {
    let file = with_empty_store(&DSTACK);
    let error = events(&Tdvf::parse(&file).unwrap(), &vm(8, 1), &AcpiSource::Unpinned).unwrap_err();
    assert!(matches!(error, HobError::NoMemory { memory: 0x80_0000, .. }), "{error}");
}
