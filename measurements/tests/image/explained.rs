//! What is printed for people.

use casemate_measure::tdx::mrtd::mrtd;
use casemate_measure::tdx::{PageOrder, Tdvf, rtmr2};

use crate::build::kernel;
use crate::directory::{Directory, stub};
use crate::{DOCUMENT, INSTANCE, printed};

/// Every line of it fits a terminal of 80 columns, which acts on none of it.
fn check_terminal(text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}

/// A register as it is printed, in two lines.
fn halves(label: &str, register: impl ToString) -> String {
    let digits = register.to_string();
    let (first, second) = digits.split_at(48);
    format!("{label:<15}{first}\n{:15}{second}\n", "")
}

#[test]
fn registers_are_printed_and_what_is_not_known_is_said() {
    let directory = Directory::new();
    let out = printed(directory.path(), &[]);
    check_terminal(&out);
    let firmware = directory.read("ovmf.fd");
    let firmware = Tdvf::parse(&firmware).unwrap();
    for words in [
        "machine        2048 MiB of memory, 2 CPUs, QEMU 10.0.13, \"casemate\"\n",
        &halves("MRTD", mrtd(&firmware, PageOrder::SinglePass)),
        "RTMR0          NOT PINNED: nobody said what is measured as etc/table-loader,\n               etc/acpi/rsdp,",
        &halves("RTMR2", rtmr2::register("quiet panic=-1", &[0x42; 5000])),
        "RTMR3          NOT PINNED: nobody said what is measured as boot events\n",
    ] {
        assert!(out.contains(words), "{words:?}: {out}");
    }
    assert!(!out.contains("mr_aggregated"), "{out}");

    assert_ne!(mrtd(&firmware, PageOrder::SinglePass), mrtd(&firmware, PageOrder::TwoPass));
    // Another QEMU measures pages in another order.
    let out = printed(directory.path(), &["--qemu-version", "8.2.2"]);
    assert!(out.contains(&halves("MRTD", mrtd(&firmware, PageOrder::TwoPass))), "{out}");
}

#[test]
fn a_document_makes_everything_known() {
    let directory = Directory::new();
    let acpi = directory.argument("acpi.json");
    let arguments = ["--acpi", &acpi, "--document", DOCUMENT];
    let out = printed(directory.path(), &arguments);
    check_terminal(&out);
    assert!(
        out.contains("RTMR3          NOT PINNED: nobody said what is measured as instance-id\n"),
        "{out}"
    );
    assert!(out.contains("\nmr_system      ") && !out.contains("mr_aggregated"), "{out}");
    let out = printed(directory.path(), &[&arguments[..], &["--instance-id", INSTANCE]].concat());
    check_terminal(&out);
    assert!(!out.contains("NOT PINNED"), "{out}");
    for label in ["MRCONFIGID     01", "os_image_hash  ", "mr_system      ", "mr_aggregated  "] {
        assert_eq!(out.matches(&format!("\n{label}")).count(), 1, "{label}: {out}");
    }
}

#[test]
fn explain_says_type_digest_and_origin_of_each_event_in_80_columns() {
    let directory = Directory::new();
    // Nothing that is printed is longer than a line, whatever is in the files.
    directory.write("cmdline", format!("quiet {} \t\u{7}\u{1b}[2J \u{e9}\u{202e}", "x".repeat(1500)));
    let machine = "m".repeat(256);
    directory.write(
        "shape.json",
        format!(
            r#"{{"memory_mib": 4096, "cpus": 1, "qemu": "9.2.1", "machine": "{machine}",
                "firmware_layout": "from202505", "setup_header": "patched",
                "fw_cfg": {{"boot_order": ["/{machine}"]}}, "secure_boot": {{"secure_boot": "01"}}}}"#
        )
        .replace(&format!("/{machine}"), "/a"),
    );
    let out = printed(directory.path(), &["--explain", "--document", DOCUMENT, "--instance-id", INSTANCE]);
    check_terminal(&out);
    let events = out.matches("\n       type    ").count();
    assert_eq!(events, 2 + 2 + 5 + 1 + 3 + 1 + 1 + 3 + 5 + 2 + 7);
    assert_eq!(out.matches("\n       digest  ").count(), events);
    assert_eq!(out.matches("\n       from    ").count(), events);
    assert_eq!(out.matches("\n       digest  NOT PINNED\n").count(), 3 + 2);
    for words in [
        "    from       the firmware's sections; each page added, then measured\n",
        "     1 TD HOB\n       type    EV_EFI_HANDOFF_TABLES2\n       digest  ",
        "       from    memory of 4096 MiB and the firmware's sections\n",
        "     4 bootorder\n",
        "     1 kernel\n       type    EV_EFI_BOOT_SERVICES_APPLICATION\n",
        "with what QEMU 9.2.1 writes into its header",
        "       from    command line: quiet",
        "\\u{7}\\u{1b}[2J \\u{e9}\\u{202e} initrd=initrd\n",
        "     3 compose-hash\n       type    DSTACK_RUNTIME_EVENT\n",
    ] {
        assert!(out.contains(words), "{words:?}: {out}");
    }
}

#[test]
fn a_unified_kernel_image_is_explained_too() {
    let directory = Directory::new();
    directory.write("casemate.efi", stub(b"#### LoaderInfo: systemd-stub 257.13 ####", &kernel()));
    let out = printed(directory.path(), &["--uki", "--explain"]);
    check_terminal(&out);
    for words in [
        "     1 unified kernel image\n       type    EV_EFI_BOOT_SERVICES_APPLICATION\n",
        "     4 kernel\n       type    EV_EFI_BOOT_SERVICES_APPLICATION\n",
        "     1 .linux: name\n       type    EV_IPL\n",
    ] {
        assert!(out.contains(words), "{words:?}: {out}");
    }
    // QEMU 9.1.0 writes into the image, and into nothing else.
    let rtmrs = |more: &[&str]| {
        let out = printed(directory.path(), &[&["--uki"], more].concat());
        let at = |label| out.find(label).unwrap();
        (
            out[at("MRTD")..at("RTMR1")].to_owned(),
            out[at("RTMR1")..at("RTMR2")].to_owned(),
            out[at("RTMR2")..].to_owned(),
        )
    };
    let (as_file, patched) = (rtmrs(&[]), rtmrs(&["--qemu-version", "9.1.0"]));
    assert_eq!((&as_file.0, &as_file.2), (&patched.0, &patched.2));
    assert_ne!(as_file.1, patched.1);
}
