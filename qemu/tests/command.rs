//! The command itself: its exit statuses, and real QEMU on images whose "kernel" is a few bytes.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use base64::Engine as _;
use casemate_measure::image::{FileDigest, Flavor, ImageManifest, Input};
use casemate_measure::{ComposeHash, LaunchRegisters, MrConfigId};
use casemate_qemu::io::probe;
use casemate_qemu::report::Report;
use sha2::{Digest as _, Sha256};

fn casemate_qemu(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_casemate-qemu"));
    command.args(args);
    command
}

/// Whether the machine has QEMU; said loudly if not, because `tests/run` counts these lines.
fn qemu_is_here(test: &str) -> bool {
    let here = Command::new("qemu-system-x86_64").arg("--version").output().is_ok();
    if !here {
        eprintln!("SKIPPED: {test}: qemu-system-x86_64 is not installed");
    }
    here
}

/// An image whose kernel is multiboot code at 1 MiB (Multiboot Specification 0.6.96, section 3.1), entered in protected mode.
#[expect(clippy::unwrap_used, reason = "test set-up")]
fn image(code: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (magic, flags, load) = (0x1bad_b002_u32, 1_u32 << 16, 0x10_0000_u32);
    let sum = 0_u32.wrapping_sub(magic).wrapping_sub(flags);
    let header = [magic, flags, sum, load, load, 0, 0, load + 32];
    let kernel: Vec<u8> = header.iter().flat_map(|w| w.to_le_bytes()).chain(code.iter().copied()).collect();
    let registers = serde_json::to_vec(&LaunchRegisters::ZERO).unwrap();
    let files: [(&str, &[u8]); 5] = [
        ("bzImage", &kernel),
        ("initramfs.cpio.zst", b"initramfs"),
        ("cmdline", b"quiet"),
        ("ovmf.fd", b"firmware"),
        ("registers.json", &registers),
    ];
    let outputs = files.map(|(name, bytes)| {
        std::fs::write(dir.path().join(name), bytes).unwrap();
        (name.to_owned(), FileDigest { size: bytes.len() as u64, sha256: Sha256::digest(bytes).into() })
    });
    let document = Input {
        kind: "document".into(),
        name: "app-compose.json".into(),
        version: None,
        sha256: [0; 32],
        license: None,
        source: None,
    };
    let manifest =
        ImageManifest { version: 1, flavor: Flavor::Dev, outputs: outputs.into(), inputs: vec![document] };
    std::fs::write(dir.path().join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    dir
}

/// A keyboard controller reset: `mov al, 0xfe; out 0x64, al; hlt`.
const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xf4];
/// `cli; hlt; jmp $-1`: alive and mute.
const HANG: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfd];

#[expect(clippy::unwrap_used, reason = "test set-up")]
fn boot(image: &Path, run_dir: &Path, more: &[&str]) -> Output {
    let mut command = casemate_qemu(&["boot", "--tee", "none", "--firmware", "seabios", "--memory", "128M"]);
    command.arg("--image").arg(image).arg("--run-dir").arg(run_dir).args(more).output().unwrap()
}

#[expect(clippy::unwrap_used, reason = "test set-up")]
fn report(run_dir: &Path) -> Report {
    serde_json::from_slice(&std::fs::read(run_dir.join("status.json")).unwrap()).unwrap()
}

#[test]
fn usage_is_64_and_help_is_0() {
    for bad in [
        &["boot"][..],
        &["fly"],
        &["boot", "--image", "x", "--forward", "1:2:3"],
        &["frames", "--to", "x"],
        &[],
    ] {
        let status = casemate_qemu(bad).output().unwrap().status;
        assert_eq!(status.code(), Some(64), "{bad:?}");
    }
    assert_eq!(casemate_qemu(&["--help"]).output().unwrap().status.code(), Some(0));
}

#[test]
fn a_changed_image_is_3_and_nothing_starts() {
    let image = image(HANG);
    std::fs::write(image.path().join("ovmf.fd"), b"firmwarf").unwrap();
    let run_dir = tempfile::tempdir().unwrap();
    let output = boot(image.path(), run_dir.path(), &["--qemu", "/nonexistent/qemu"]);
    assert_eq!(output.status.code(), Some(3));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("ovmf.fd: SHA-256: expected"), "{words}");
    assert!(!run_dir.path().join("status.json").exists());
}

#[test]
fn without_qemu_it_is_10_and_says_so() {
    let run_dir = tempfile::tempdir().unwrap();
    let output = boot(image(HANG).path(), run_dir.path(), &["--qemu", "/nonexistent/qemu"]);
    assert_eq!(output.status.code(), Some(10));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nonexistent/qemu"));
}

#[test]
fn the_test_guest_of_the_kvm_try_runs_under_tcg() {
    if qemu_is_here("the_test_guest_of_the_kvm_try_runs_under_tcg") {
        let said = probe::run_test_guest("qemu-system-x86_64", "tcg", "max").unwrap();
        assert!(said.contains("ran to its end"), "{said}");
        let error = probe::run_test_guest("qemu-system-x86_64", "no-such-accelerator", "max").unwrap_err();
        assert!(error.contains("no-such-accelerator"), "{error}");
    }
}

#[test]
fn a_guest_that_resets_without_a_word_is_4() {
    if qemu_is_here("a_guest_that_resets_without_a_word_is_4") {
        let run_dir = tempfile::tempdir().unwrap();
        let output = boot(image(RESET).path(), run_dir.path(), &["--timeout", "60"]);
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        let ended = report(run_dir.path()).ended.unwrap();
        assert_eq!(ended.exit_status, 4);
        assert!(ended.words.contains("reset itself"), "{}", ended.words);
    }
}

#[test]
fn a_guest_that_hangs_without_a_word_is_7() {
    if qemu_is_here("a_guest_that_hangs_without_a_word_is_7") {
        let run_dir = tempfile::tempdir().unwrap();
        let output = boot(image(HANG).path(), run_dir.path(), &["--timeout", "2"]);
        assert_eq!(output.status.code(), Some(7), "{output:?}");
    }
}

#[test]
fn qemu_that_fails_by_itself_is_2_with_its_words() {
    if qemu_is_here("qemu_that_fails_by_itself_is_2_with_its_words") {
        let run_dir = tempfile::tempdir().unwrap();
        let output = boot(image(HANG).path(), run_dir.path(), &["--netdev", "socket:bogus=1"]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("bogus"), "{output:?}");
    }
}

#[test]
fn stop_ends_a_deaf_guest_at_once_and_leaves_no_process() {
    if !qemu_is_here("stop_ends_a_deaf_guest_at_once_and_leaves_no_process") {
        return;
    }
    let image = image(HANG);
    let run_dir = tempfile::tempdir().unwrap();
    let path = run_dir.path().to_str().unwrap();
    let mut command = casemate_qemu(&["boot", "--tee", "none", "--firmware", "seabios", "--run-dir", path]);
    let mut child = command.arg("--image").arg(image.path()).arg("--status-unread").spawn().unwrap();
    let begin = Instant::now();
    while !run_dir.path().join("qmp.sock").exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no monitor");
        std::thread::sleep(Duration::from_millis(50));
    }
    let qemu_pid = report(run_dir.path()).qemu_pid;
    let busy = boot(image.path(), run_dir.path(), &[]);
    assert_eq!(busy.status.code(), Some(1), "{busy:?}");
    assert!(String::from_utf8_lossy(&busy.stderr).contains("another machine runs here"));

    let stop = casemate_qemu(&["stop", "--run-dir", path, "--now"]).output().unwrap();
    let status = child.wait().unwrap();
    assert_eq!(stop.status.code(), status.code(), "stop exits as the machine did: {stop:?}");
    assert_eq!(status.code(), Some(4));
    assert!(!Path::new(&format!("/proc/{qemu_pid}")).exists());
    let again = casemate_qemu(&["stop", "--run-dir", path]).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("no machine runs here"));
}

#[test]
fn qemu_does_not_outlive_a_killed_boot() {
    if !qemu_is_here("qemu_does_not_outlive_a_killed_boot") {
        return;
    }
    let image = image(HANG);
    let run_dir = tempfile::tempdir().unwrap();
    let mut command = casemate_qemu(&["boot", "--tee", "none", "--firmware", "seabios", "--run-dir"]);
    let mut child = command.arg(run_dir.path()).arg("--image").arg(image.path()).spawn().unwrap();
    let begin = Instant::now();
    while !run_dir.path().join("qmp.sock").exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no monitor");
        std::thread::sleep(Duration::from_millis(50));
    }
    let qemu = format!("/proc/{}", report(run_dir.path()).qemu_pid);
    child.kill().unwrap();
    child.wait().unwrap();
    let begin = Instant::now();
    while Path::new(&qemu).exists() {
        assert!(begin.elapsed() < Duration::from_secs(20), "QEMU is still there");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn argv_prints_a_line_that_a_shell_takes() {
    let image = image(HANG);
    let mut command = casemate_qemu(&["argv", "--tee", "tdx", "--image"]);
    let output = command.arg(image.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let line = String::from_utf8(output.stdout).unwrap();
    let mut command = casemate_qemu(&["argv", "--tee", "tdx", "--lines", "--image"]);
    let lines = String::from_utf8(command.arg(image.path()).output().unwrap().stdout).unwrap();
    let through_shell = Command::new("sh").arg("-c").arg(format!("printf '%s\\n' {line}")).output().unwrap();
    assert_eq!(String::from_utf8(through_shell.stdout).unwrap(), lines);
    assert!(lines.contains("\"qom-type\":\"tdx-guest\""), "{lines}");
}

/// A generic image needs a document, a baked one takes none, and a pasted line finds its share where it was written.
#[test]
fn documents_are_for_images_without_one() {
    let baked = image(HANG);
    let generic = image(HANG);
    let path = generic.path().join("manifest.json");
    let mut manifest: ImageManifest = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest.inputs.clear();
    std::fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/demo-caller.app-compose.json");
    let run_dir = tempfile::tempdir().unwrap();
    let run = |image: &Path, args: &[&str]| {
        let mut command = casemate_qemu(&["argv", "--tee", "tdx", "--lines", "--image"]);
        command.arg(image).args(args).output().unwrap()
    };
    let (document, dir) = (document.to_str().unwrap(), run_dir.path().to_str().unwrap());
    for (image, args, status, says) in [
        (generic.path(), &[][..], 12, "expected a document"),
        (baked.path(), &["--document", document], 12, "baked in"),
        (generic.path(), &["--document", document], 64, "expected --run-dir"),
        (generic.path(), &["--document", document, "--mrconfigid", "v5"], 64, "expected auto, v1"),
        (generic.path(), &["--sys-config", document], 64, "--document"),
        (generic.path(), &["--document", "/nonexistent"], 1, "/nonexistent"),
    ] {
        let output = run(image, args);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(says), "{args:?}: {output:?}");
    }
    let output = run(generic.path(), &["--document", document, "--run-dir", dir]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let hash = ComposeHash::of(&std::fs::read(document).unwrap());
    let bound = base64::engine::general_purpose::STANDARD.encode(MrConfigId::v1(&hash).0);
    assert!(lines.contains(&format!("\"mrconfigid\":\"{bound}\"")), "{lines}");
    assert!(lines.contains(&format!("{dir}/share.img")), "{lines}");
    assert_eq!(
        std::fs::metadata(run_dir.path().join("share.img")).unwrap().len(),
        casemate_qemu::share::SIZE
    );
}

#[test]
fn outside_counts_connections() {
    let dir = tempfile::tempdir().unwrap();
    let count = dir.path().join("count");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let mut command = casemate_qemu(&["outside", "--listen", &address, "--count"]);
    let mut child = command.arg(&count).spawn().unwrap();
    let until = |wanted: &str| {
        let begin = Instant::now();
        while std::fs::read_to_string(&count).unwrap_or_default() != wanted {
            assert!(begin.elapsed() < Duration::from_secs(20), "never {wanted:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    until("0\n");
    drop(std::net::TcpStream::connect(&address).unwrap());
    drop(std::net::TcpStream::connect(&address).unwrap());
    until("2\n");
    let taken = casemate_qemu(&["outside", "--listen", &address, "--count", "/dev/null"]).output().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(taken.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&taken.stderr).contains(&address));
}

#[test]
fn frames_counts_what_goes_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pcap");
    // A pcap header, then one Ethernet frame with a TCP segment from 10.0.2.15 to 10.0.2.2 port 20202.
    let header = [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65536, 1];
    let mut packet = vec![0x45, 0, 0, 24, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2];
    packet.extend([0x30, 0x39, 0x4e, 0xea]);
    let frame = [&[0; 12][..], &[8, 0], &packet].concat();
    let length = u32::try_from(frame.len()).unwrap();
    let words = header.into_iter().chain([0, 0, length, length]);
    let bytes: Vec<u8> = words.flat_map(u32::to_le_bytes).chain(frame).collect();
    std::fs::write(&path, bytes).unwrap();
    for (to, expected) in [("10.0.2.2:20202", 1), ("10.0.2.2", 1), ("10.0.2.2:1", 0), ("10.0.2.15", 0)] {
        let mut command = casemate_qemu(&["frames", "--to", to, "--pcap"]);
        let output = command.arg(&path).output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{expected} of 1 frames\n"), "{to}");
    }
}
