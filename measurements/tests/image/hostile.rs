//! Files that are not what they should be: one line that says which and why, status 64, and nothing on stdout.

use crate::build::{OPTIONAL, kernel};
use crate::directory::{Directory, SHAPE, firmware, sections};
use crate::{image, measure};

/// Refused, with these words on stderr in one line.
fn check_refused(what: &str, (status, out, err): &(Option<i32>, String, String), says: &str) {
    assert_eq!((*status, out.as_str()), (Some(64), ""), "{what}: {err}");
    let Some(line) = err.strip_suffix('\n') else { panic!("{what}: {err:?}") };
    assert!(line.starts_with("casemate-measure: ") && !line.chars().any(char::is_control), "{what}: {err:?}");
    assert!(line.contains(says), "{what}: expected {says:?}, found {line}");
    // An error in an error is said once.
    assert_eq!(line.matches(says).count(), 1, "{what}: {line}");
}

fn refused(file: &str, content: impl AsRef<[u8]>, more: &[&str], says: &str) {
    let directory = Directory::new();
    directory.write(file, content);
    check_refused(says, &image(directory.path(), more), says);
}

fn changed(mut file: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn firmware_files() {
    let whole = || firmware(&sections());
    let with = |change: &dyn Fn(&mut [crate::directory::Section; 6])| {
        let mut sections = sections();
        change(&mut sections);
        firmware(&sections)
    };
    // Whatever is cut off its end, its table is; what is cut off its beginning, its sections lie outside.
    for (file, says) in [
        (Vec::new(), "firmware: size: expected 1 KiB to 16777216 bytes, found 0"),
        (whole()[..0x2800].to_vec(), "firmware: GUIDed table: expected its footer"),
        (whole()[0x1000..].to_vec(), "firmware: section 0 (BFV): DataOffset: expected to end"),
        (vec![0xff; 0x2000], "firmware: GUIDed table: expected its footer"),
        (
            with(&|s| s[3].address = s[2].address),
            "firmware: sections 2 and 3: expected guest memory of their own",
        ),
        (
            with(&|s| s[1].offset = 0x1000),
            "firmware: sections 0 and 1: expected bytes of the file of their own",
        ),
        (with(&|s| s[2].size = 1 << 32), "firmware: sections"),
        (
            with(&|s| (s[2].address, s[2].size) = (1 << 32, 1 << 32)),
            "sections without data: expected at most",
        ),
        (
            with(&|s| s[0].raw = 0xffff_f000),
            "section 0 (BFV): RawDataSize: expected as much as MemoryDataSize",
        ),
        (
            with(&|s| (s[0].raw, s[0].size, s[0].address) = (0xffff_f000, 0xffff_f000, 1 << 32)),
            "section 0 (BFV): DataOffset: expected to end",
        ),
        (with(&|s| s[0].size = u64::MAX), "section 0 (BFV): MemoryDataSize"),
        (with(&|s| s[2].address = u64::MAX - 0xfff), "section 2 (temporary memory): MemoryAddress"),
        (with(&|s| s[0].attributes = 0), "section 0 (BFV): Attributes: expected MR.EXTEND"),
        (with(&|s| s[4].kind = 3), "sections: expected one TD HOB, found 0"),
        (with(&|s| s[2].address = 0x1_0000_0000), "memory: expected the firmware's temporary memory"),
    ] {
        refused("ovmf.fd", &file, &[], says);
        // The same of a firmware that is given.
        let directory = Directory::new();
        directory.write("other.fd", &file);
        check_refused(says, &image(directory.path(), &["--firmware", &directory.argument("other.fd")]), says);
    }
    // No file is read beyond the longest firmware.
    let directory = Directory::new();
    let endless = image(directory.path(), &["--firmware", "/dev/zero"]);
    check_refused("/dev/zero", &endless, "/dev/zero: expected at most 16777216 bytes, found more");
}

#[test]
fn kernels() {
    let pe = |at: usize, bytes: &[u8]| changed(kernel(), at, bytes);
    for (file, says) in [
        (Vec::new(), "kernel: setup header: expected at least 616 bytes, found 0"),
        (b"#!/bin/sh\n".repeat(100), "kernel: header: expected HdrS, found"),
        (
            kernel()[..0x1000].to_vec(),
            "kernel: certificate table: expected an end within the file's 4096 bytes",
        ),
        (pe(0x1fe, &[0, 0]), "kernel: boot_flag: expected 0xaa55, found 0x0"),
        (pe(0x206, &[0, 2]), "kernel: version: expected at least 0x20b, found 0x200"),
        (pe(0x1f1, &[0xff]), "kernel: setup_sects: expected setup code within the file's"),
        (pe(0, b"ZM"), "kernel: e_magic: expected MZ, found 0x4d5a"),
        (pe(0x3c, &[0xff; 4]), "kernel: e_lfanew: expected an end within the file's"),
        (pe(0x46, &[0xff; 2]), "kernel: Size"),
        (pe(OPTIONAL + 60, &[0xff; 4]), "kernel: SizeOfHeaders: expected less than SizeOfImage"),
        (pe(OPTIONAL + 56, &[0xff; 8]), "kernel: SizeOfHeaders: expected less than SizeOfImage"),
        (
            pe(OPTIONAL + 108, &[0xff; 4]),
            "kernel: NumberOfRvaAndSizes: expected at most 16, found 0xffffffff",
        ),
    ] {
        refused("bzImage", file, &[], says);
    }
    // Longer than anything that is loaded: it is not read to its end.
    let directory = Directory::new();
    std::fs::File::create(directory.file("bzImage")).unwrap().set_len(3 << 30).unwrap();
    check_refused(
        "3 GiB",
        &image(directory.path(), &[]),
        "bzImage: expected at most 2147483648 bytes, found",
    );
    // An initramfs for which the machine has no room.
    let shape = r#"{"memory_mib": 16, "cpus": 1, "qemu": "9.2.1", "setup_header": "patched"}"#;
    let directory = Directory::new();
    directory.write("shape.json", shape);
    directory.write("initramfs.cpio.zst", vec![0; 16 << 20]);
    check_refused("no room", &image(directory.path(), &[]), "kernel: initramfs: expected less than");
}

#[test]
fn unified_kernel_images() {
    let directory = Directory::new();
    let (status, out, err) = image(directory.path(), &["--uki"]);
    check_refused("none", &(status, out, err), "casemate.efi: No such file");
    let stub = |version: u32, kernel| {
        crate::directory::stub(format!("#### LoaderInfo: systemd-stub {version} ####").as_bytes(), kernel)
    };
    for (file, says) in [
        (Vec::new(), "unified kernel image: DOS header: expected an end within the file's 0 bytes"),
        (kernel(), "unified kernel image: sections: expected .sdmagic, found none"),
        (stub(256, &kernel()), "unified kernel image: .sdmagic: systemd-stub: expected version 257"),
        (stub(257, &[b'5'; 512]), "unified kernel image: .linux: e_magic: expected MZ, found 0x3535"),
    ] {
        refused("casemate.efi", file, &["--uki"], says);
    }
}

#[test]
fn command_lines() {
    refused("cmdline", b"quiet \xff", &[], "cmdline: expected UTF-8");
    refused("cmdline", "x".repeat(2048), &[], "cmdline: expected at most 2047 bytes, found 2048");
    refused("cmdline", "quiet\0", &[], "cmdline: expected text without NUL");
    let old = r#"{"memory_mib": 2048, "cpus": 1, "qemu": "8.2.2"}"#;
    let directory = Directory::new();
    directory.write("shape.json", old);
    directory.write("cmdline", "vga=791");
    check_refused("vga=", &image(directory.path(), &[]), "command line: expected none with vga= in it");
}

#[test]
fn files_that_are_missing() {
    for file in ["ovmf.fd", "bzImage", "initramfs.cpio.zst", "cmdline", "shape.json"] {
        let directory = Directory::new();
        directory.remove(file);
        check_refused(file, &image(directory.path(), &[]), &format!("{file}: No such file or directory"));
        // A folder of that name is no file.
        std::fs::create_dir(directory.file(file)).unwrap();
        check_refused(file, &image(directory.path(), &[]), &format!("{file}: Is a directory"));
    }
    let directory = Directory::new();
    for option in ["--acpi", "--document", "--firmware"] {
        let found = image(directory.path(), &[option, "/no/such/file"]);
        check_refused(option, &found, "/no/such/file: No such file or directory");
    }
    // An image of somebody else's needs no sha256sum.txt.
    directory.remove("sha256sum.txt");
    assert_eq!(image(directory.path(), &[]).0, Some(0));
}

#[test]
fn shapes() {
    for (shape, says) in [
        ("", "shape.json: expected one JSON document"),
        ("[]", "shape.json: (top level): expected an object, found []"),
        ("{}", "shape.json: memory_mib: expected a whole number from 1 to 67108864, found nothing"),
        (&SHAPE.replace("2048", "0"), "shape.json: memory_mib: expected a whole number"),
        (&SHAPE.replace("2048", "1e99"), "shape.json: memory_mib: expected a whole number"),
        (&SHAPE.replace("2048", "-1"), "shape.json: memory_mib: expected a whole number"),
        (&SHAPE.replace("2048", "18446744073709551616"), "shape.json: memory_mib: expected a whole number"),
        (&SHAPE.replace("\"cpus\"", "\"memory_mib\""), "shape.json: memory_mib: expected each key once"),
        (&SHAPE.replace("\"cpus\"", "\"\\u001b[2J\""), "shape.json: "),
        (&SHAPE.replace("10.0.13", "10.0.50"), "shape.json: qemu: expected a release such as"),
        (&SHAPE.replace('{', r#"{"firmware_layout": "new", "#), "shape.json: firmware_layout: expected"),
        (&SHAPE.replace('{', r#"{"smbios": "00", "#), "shape.json: smbios: expected 96 hex digits"),
        (
            &SHAPE.replace('{', r#"{"secure_boot": {"pk": "0"}, "#),
            "shape.json: secure_boot.pk: expected hex digits",
        ),
        (&"[".repeat(100_000), "shape.json: "),
    ] {
        refused("shape.json", shape, &[], says);
    }
    // Memory in which the firmware has no room.
    refused("shape.json", SHAPE.replace("2048", "8"), &[], "memory: expected the firmware's");
}

#[test]
fn acpi_tables() {
    let directory = Directory::new();
    let table: serde_json::Value = serde_json::from_slice(&directory.read("acpi.json")).unwrap();
    let mut twice = table.clone();
    twice["entries"][1] = table["entries"][0].clone();
    let mut short = table.clone();
    short["entries"][1]["rsdp"] = "22".into();
    for (table, says) in [
        (twice.to_string(), "acpi.json: entries[1]: expected each QEMU and shape once, found this one again"),
        (short.to_string(), "acpi.json: entries[1].rsdp: expected 96 hex digits, found"),
        ("{}".to_owned(), "acpi.json: entries: expected a list, found nothing"),
        ("\u{feff}{}".to_owned(), "acpi.json: expected one JSON document"),
    ] {
        directory.write("acpi.json", table);
        let found = image(directory.path(), &["--acpi", &directory.argument("acpi.json")]);
        check_refused(says, &found, says);
    }
}

#[test]
fn documents_and_arguments() {
    let directory = Directory::new();
    directory.write("document.json", "{}");
    let found = image(directory.path(), &["--document", &directory.argument("document.json")]);
    check_refused("document", &found, "document.json: ");
    let document = ["--document", crate::DOCUMENT];
    for id in ["bad", "", &"4".repeat(39), &"4".repeat(41), &"g".repeat(40)] {
        let found = image(directory.path(), &[&document[..], &["--instance-id", id]].concat());
        check_refused(id, &found, &format!("--instance-id: expected 40 hex digits, found {id:?}"));
    }
    // What clap says has more lines; the first one has the name.
    for (arguments, says) in [
        (&["--instance-id", crate::INSTANCE][..], "--document"),
        (&["--json", "--explain"], "--explain"),
        (&["--qemu-version", "10"], "expected a release such as"),
    ] {
        let (status, out, err) = image(directory.path(), arguments);
        assert_eq!((status, out.as_str()), (Some(64), ""), "{err}");
        assert!(err.starts_with("error: ") && err.contains(says), "{err}");
    }
    assert_eq!(measure(&["image", directory.path().to_str().unwrap()]).0, Some(64));
}
