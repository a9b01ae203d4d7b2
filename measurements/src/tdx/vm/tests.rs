use super::*;

const SHAPE: &str = r#"{"memory_mib":2048,"cpus":2,"qemu":"10.0.13"}"#;

fn parse(shape: &str) -> Vm {
    Vm::parse("SHAPE.json", shape.as_bytes()).unwrap()
}

fn refuse(shape: &str) -> String {
    Vm::parse("SHAPE.json", shape.as_bytes()).unwrap_err().to_string()
}

/// The plain shape with more keys.
fn with(more: &str) -> String {
    SHAPE.replace('}', &format!(",{more}}}"))
}

#[test]
fn a_plain_shape_has_the_defaults() {
    let vm = parse(SHAPE);
    assert_eq!(vm, Vm::new(QemuVersion::new(10, 0, 13), 2048, 2));
    assert_eq!(vm.memory(), 2 << 30);
    assert_eq!(vm.page_order(), PageOrder::SinglePass);
    assert_eq!(vm.firmware_layout(), FirmwareLayout::Pre202505);
    assert_eq!(vm.shape(), "casemate cpus=2 memory=2048M");
}

#[test]
fn a_full_shape_is_read_whole() {
    let vm = parse(&format!(
        r#"{{
            "memory_mib": 67108864, "cpus": 4096, "qemu": "8.2.2+dfsg", "machine": "dstack 1 GPU",
            "page_order": "single-pass", "firmware_layout": "from202505", "smbios": "{}",
            "secure_boot": {{ "secure_boot": "01", "pk": "aa", "kek": "bbBB", "db": "cc", "dbx": "dd", "dbt": "ee" }},
            "fw_cfg": {{ "extra_pci_roots": 1, "boot_menu": true, "boot_menu_wait": 65535,
                        "reserved_memory_end": 18446744073709551615, "pci_mmio64_mb": "65536", "boot_order": ["/a"] }}
        }}"#,
        "ab".repeat(48)
    ));
    let secure_boot = SecureBoot {
        secure_boot: vec![1],
        pk: vec![0xaa],
        kek: vec![0xbb, 0xbb],
        db: vec![0xcc],
        dbx: vec![0xdd],
        dbt: vec![0xee],
    };
    let fw_cfg = FwCfg {
        extra_pci_roots: Some(1),
        boot_menu: true,
        boot_menu_wait: Some(65535),
        reserved_memory_end: Some(u64::MAX),
        pci_mmio64_mb: Some("65536".into()),
        boot_order: vec!["/a".into()],
    };
    let expected = Vm {
        memory_mib: MAX_MEMORY_MIB,
        cpus: MAX_CPUS,
        qemu: QemuVersion::new(8, 2, 2),
        machine: "dstack 1 GPU".into(),
        page_order: Some(PageOrder::SinglePass),
        firmware_layout: Some(FirmwareLayout::From202505),
        setup_header: None,
        initrd_argument: None,
        secure_boot: Some(secure_boot),
        fw_cfg,
        smbios: Some(Register([0xab; 48])),
    };
    assert_eq!(vm, expected);
    assert_eq!(vm.memory(), 64 << 40);
    for vm in [vm, parse(SHAPE)] {
        assert_eq!(parse(&serde_json::to_string(&vm).unwrap()), vm, "written and read again");
    }
}

#[test]
fn null_is_as_good_as_nothing() {
    let nulls = KEYS[3..].iter().map(|key| format!("\"{key}\":null")).collect::<Vec<_>>().join(",");
    assert_eq!(parse(&with(&nulls)), parse(SHAPE));
}

#[test]
fn every_wrong_field_is_named() {
    let wrong = |from: &str, to: &str| {
        assert!(SHAPE.contains(from), "{from}");
        refuse(&SHAPE.replace(from, to))
    };
    let later = |more: &str| refuse(&with(&format!("\"firmware_layout\":\"from202505\",{more}")));
    let long = format!("\"secure_boot\":{{\"db\":\"{}\"}}", "00".repeat(MAX_VARIABLE + 1));
    let paths = format!("\"fw_cfg\":{{\"boot_order\":[{}\"/\"]}}", "\"/\",".repeat(MAX_BOOT_DEVICES));
    for (error, says) in [
        (refuse("[2048,2]"), "SHAPE.json: (top level): expected an object, found a list of 2"),
        (refuse("{}"), "SHAPE.json: memory_mib: expected a whole number from 1 to 67108864, found nothing"),
        (refuse("{"), "SHAPE.json: expected one JSON document"),
        (wrong("2048", "0"), "SHAPE.json: memory_mib: expected a whole number from 1 to 67108864, found 0"),
        (wrong("2048", "67108865"), "memory_mib: expected a whole number from 1 to 67108864, found 67108865"),
        (wrong("2048", "18446744073709553664"), "memory_mib: expected a whole number from 1 to 67108864"),
        (wrong("2048", "2048.5"), "memory_mib: expected a whole number from 1 to 67108864, found 2048.5"),
        (wrong("2048", "\"2G\""), "memory_mib: expected a whole number from 1 to 67108864, found \"2G\""),
        (wrong(":2,", ":0,"), "cpus: expected a whole number from 1 to 4096, found 0"),
        (wrong(":2,", ":4097,"), "cpus: expected a whole number from 1 to 4096, found 4097"),
        (wrong(":2,", ":null,"), "cpus: expected a whole number from 1 to 4096, found nothing"),
        (
            wrong("10.0.13", "10"),
            "qemu: expected a release such as \"10.0.13\" or \"8.2.2+dfsg\", found \"10\"",
        ),
        (wrong("cpus", "cpu"), "SHAPE.json: cpu: expected one of the keys memory_mib, cpus, qemu, machine"),
        (wrong("cpus", "\\u0071emu"), "SHAPE.json: qemu: expected each key once, found it twice"),
        (refuse(&with("\"machine\":\"\"")), "machine: expected printable text of 1 to 256 bytes, found \"\""),
        (refuse(&with("\"machine\":\"\\u001b[2J\"")), "found \"\\u{1b}[2J\""),
        (
            refuse(&with("\"page_order\":\"both\"")),
            "page_order: expected \"single-pass\" or \"two-pass\", found \"both\"",
        ),
        (
            refuse(&with("\"firmware_layout\":1")),
            "firmware_layout: expected \"pre202505\" or \"from202505\", found 1",
        ),
        (refuse(&with("\"secure_boot\":true")), "secure_boot: expected an object, found true"),
        (
            refuse(&with("\"secure_boot\":{\"PK\":\"00\"}")),
            "secure_boot.PK: expected one of the keys secure_boot, pk",
        ),
        (
            refuse(&with("\"secure_boot\":{\"pk\":\"0\"}")),
            "secure_boot.pk: expected hex digits of at most 1048576 bytes, found \"0\"",
        ),
        (refuse(&with(&long)), "secure_boot.db: expected hex digits of at most 1048576 bytes, found"),
        (refuse(&with("\"smbios\":\"00\"")), "smbios: expected 96 hex digits, found \"00\""),
        (refuse(&with("\"fw_cfg\":{}")), "fw_cfg: expected nothing without firmware_layout \"from202505\""),
        (
            refuse(&with(&format!("\"smbios\":\"{}\"", "00".repeat(48)))),
            "smbios: expected nothing without firmware_layout",
        ),
        (
            later("\"fw_cfg\":{\"bootmenu\":true}"),
            "fw_cfg.bootmenu: expected one of the keys extra_pci_roots, boot_menu",
        ),
        (later("\"fw_cfg\":{\"boot_menu\":1}"), "fw_cfg.boot_menu: expected true or false, found 1"),
        (
            later("\"fw_cfg\":{\"boot_menu_wait\":65536}"),
            "fw_cfg.boot_menu_wait: expected a whole number from 0 to 65535",
        ),
        (
            later("\"fw_cfg\":{\"extra_pci_roots\":-1}"),
            "fw_cfg.extra_pci_roots: expected a whole number below 2^64, found -1",
        ),
        (
            later("\"fw_cfg\":{\"pci_mmio64_mb\":\"1 \"}"),
            "fw_cfg.pci_mmio64_mb: expected a string of 1 to 20 digits",
        ),
        (
            later("\"fw_cfg\":{\"boot_order\":[\"/a\\n/b\"]}"),
            "fw_cfg.boot_order: expected a list of at most 256 device paths",
        ),
        (later(&paths), "fw_cfg.boot_order: expected a list of at most 256 device paths"),
    ] {
        assert!(error.contains(says), "expected {says:?}, found {error}");
        assert!(error.starts_with("SHAPE.json: ") && error.len() < 400, "{error}");
    }
}

#[test]
fn versions_of_qemu() {
    for (text, version) in [
        ("10.0.13", (10, 0, 13)),
        ("8.2.2+dfsg", (8, 2, 2)),
        ("8.2.2+dfsg-0ubuntu1", (8, 2, 2)),
        ("11.1.3~bpo13", (11, 1, 3)),
        ("9.2.0-rc", (9, 2, 0)),
        ("0.9.1", (0, 9, 1)),
    ] {
        let (major, minor, micro) = version;
        assert_eq!(text.parse(), Ok(QemuVersion::new(major, minor, micro)), "{text}");
    }
    for text in [
        "",
        "10",
        "10.0",
        "10.0.13.1",
        "10.0.",
        "v10.0.13",
        "10.0.x",
        "+dfsg",
        "10.0.13 (Debian)",
        "10.00.1",
        "010.0.1",
        "10.1.50",
        "10.1.91",
        "99999.0.0",
        "-1.0.0",
        "1:10.0.13",
        "10.0.13+\u{1b}",
    ] {
        assert_eq!(text.parse::<QemuVersion>(), Err(QemuVersionError), "{text}");
    }
    assert!(format!("1.2.3+{}", "x".repeat(NAME)).parse::<QemuVersion>().is_err());
    assert_eq!(QemuVersion::new(10, 0, 13).to_string(), "10.0.13");
    assert!(QemuVersion::new(9, 2, 1) < QemuVersion::new(10, 0, 0));
}

#[test]
fn what_follows_from_the_version() {
    for (text, order, seen) in [
        ("7.2.22", PageOrder::TwoPass, KernelSeen::Patched),
        ("8.2.2", PageOrder::TwoPass, KernelSeen::Patched),
        ("9.0.0", PageOrder::SinglePass, KernelSeen::Patched),
        // The pinned firmware takes the kernel that QEMU serves by name since 10.0, and there it is as it is in the file.
        ("10.0.13", PageOrder::SinglePass, KernelSeen::AsFile),
        ("11.1.3", PageOrder::SinglePass, KernelSeen::AsFile),
    ] {
        let version: QemuVersion = text.parse().unwrap();
        let vm = Vm::new(version, 2048, 1);
        assert_eq!((vm.page_order(), vm.kernel_seen()), (order, seen), "{text}");
    }
    let asked = parse(&with("\"setup_header\":\"patched\",\"initrd_argument\":\"prepended\""));
    assert_eq!(
        (asked.kernel_seen(), asked.initrd_argument()),
        (KernelSeen::Patched, InitrdArgument::Prepended)
    );
    let asked = parse(&with("\"page_order\":\"two-pass\""));
    assert_eq!(asked.page_order(), PageOrder::TwoPass, "the shape knows better than the version");
}

#[test]
fn of_memory_the_acpi_tables_see_what_lies_below_4_gib() {
    for (memory, low) in
        [(128, 128), (2047, 2047), (2815, 2815), (2816, 2048), (65_536, 2048), (u32::MAX, 2048)]
    {
        let vm = Vm::new(QemuVersion::new(11, 1, 3), memory, 1);
        assert_eq!(vm.low_memory_mib(), low, "{memory}");
        assert_eq!(vm.shape(), format!("casemate cpus=1 memory={low}M"));
    }
}
