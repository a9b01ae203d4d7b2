//! The command itself: its exit statuses, and real QEMU on images whose "kernel" is a few bytes.

use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use casemate_measure::image::{FileDigest, Flavor, ImageManifest, Input};
use casemate_measure::status::{Flavour, Frame, Reason, Stage};
use casemate_measure::{ComposeHash, LaunchRegisters, MrConfigId};
use casemate_qemu::io::probe;
use casemate_qemu::report::Report;
use nix::sys::signal::Signal;
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
/// Writes S5 with SLP_EN to PM1a_CNT, which SeaBIOS has at 0x604 (ACPI 6.5, section 4.8.3.2.1; SLP_TYP of S5 is 0 in
/// QEMU's q35): `mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt`.
const OFF: &[u8] = &[0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x20, 0x66, 0xef, 0xf4];
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
fn a_guest_that_resets_is_13_and_one_that_powers_off_without_a_word_is_4() {
    if qemu_is_here("a_guest_that_resets_is_13_and_one_that_powers_off_without_a_word_is_4") {
        for (code, status, says) in
            [(RESET, 13, "reset itself"), (OFF, 4, "powered itself off) without a single status frame")]
        {
            let run_dir = tempfile::tempdir().unwrap();
            let output = boot(image(code).path(), run_dir.path(), &["--timeout", "60"]);
            assert_eq!(output.status.code(), Some(status), "{output:?}");
            let ended = report(run_dir.path()).ended.unwrap();
            assert_eq!(i32::from(ended.exit_status), status);
            assert!(ended.words.contains(says), "{}", ended.words);
        }
    }
}

/// A machine that is on, and its monitor.
struct On {
    boot: std::process::Child,
    run_dir: tempfile::TempDir,
    monitor: std::os::unix::net::UnixStream,
    _image: tempfile::TempDir,
}

#[expect(clippy::unwrap_used, reason = "test set-up")]
impl On {
    fn new(code: &[u8], more: &[&str]) -> Self {
        let (image, run_dir) = (image(code), tempfile::tempdir().unwrap());
        let mut command =
            casemate_qemu(&["boot", "--tee", "none", "--firmware", "seabios", "--memory", "128M"]);
        command.arg("--image").arg(image.path()).arg("--run-dir").arg(run_dir.path()).args(more);
        let boot = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let begin = Instant::now();
        let monitor = loop {
            match std::os::unix::net::UnixStream::connect(run_dir.path().join("qmp.sock")) {
                Ok(monitor) => break monitor,
                Err(error) => assert!(begin.elapsed() < Duration::from_secs(60), "no monitor: {error}"),
            }
            std::thread::sleep(Duration::from_millis(50));
        };
        let mut on = Self { boot, run_dir, monitor, _image: image };
        on.say("{\"execute\":\"qmp_capabilities\"}");
        // Once it has answered its main loop runs, and takes signals, too.
        let mut lines = std::io::BufReader::new(on.monitor.try_clone().unwrap()).lines();
        assert!(lines.next().unwrap().unwrap().contains("QMP"));
        assert!(lines.next().unwrap().unwrap().contains("return"));
        on
    }

    fn say(&mut self, line: &str) {
        // In one write: QEMU acts on the closing brace, and what it was told may be to quit.
        self.monitor.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Exit status and words.
    fn ended(self) -> (Option<i32>, String) {
        let output = self.boot.wait_with_output().unwrap();
        let ended = report(self.run_dir.path()).ended.unwrap();
        assert_eq!(output.status.code(), Some(i32::from(ended.exit_status)));
        (output.status.code(), format!("{}\n{}", ended.words, String::from_utf8_lossy(&output.stderr)))
    }
}

#[test]
fn what_the_monitor_does_to_a_machine_is_not_taken_for_the_guests_doing() {
    if !qemu_is_here("what_the_monitor_does_to_a_machine_is_not_taken_for_the_guests_doing") {
        return;
    }
    for (command, status, says) in [
        ("system_reset", 9, "system_reset"),
        ("quit", 9, "(quit)"),
        // Without a handler for it the interrupt ends in a triple fault, as a kernel without one would.
        ("inject-nmi", 13, "reset itself"),
    ] {
        let mut on = On::new(HANG, &["--timeout", "60"]);
        // Again and again: the firmware handles an interrupt that comes while it still runs.
        while on.boot.try_wait().unwrap().is_none() {
            drop(writeln!(on.monitor, "{{\"execute\":\"{command}\"}}"));
            std::thread::sleep(Duration::from_millis(300));
        }
        let (code, words) = on.ended();
        assert_eq!(code, Some(status), "{command}: {words}");
        assert!(words.contains(says), "{command}: {words}");
    }
    let mut on = On::new(HANG, &["--timeout", "3"]);
    on.say("{\"execute\":\"stop\"}");
    let (code, words) = on.ended();
    assert_eq!(code, Some(7), "{words}");
    assert!(
        words.contains("the monitor had stopped it") && words.contains("has stopped the machine"),
        "{words}"
    );
}

#[test]
fn a_qemu_that_is_killed_on_the_host_is_14() {
    if !qemu_is_here("a_qemu_that_is_killed_on_the_host_is_14") {
        return;
    }
    for (signal, status, says) in [
        (Signal::SIGKILL, 14, "signal: 9"),
        (Signal::SIGTERM, 14, "asked to end by a signal"),
        (Signal::SIGSEGV, 2, "signal: 11"),
    ] {
        let on = On::new(HANG, &["--timeout", "60"]);
        let qemu = i32::try_from(report(on.run_dir.path()).qemu_pid).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(qemu), signal).unwrap();
        let (code, words) = on.ended();
        assert_eq!(code, Some(status), "{signal}: {words}");
        assert!(words.contains(says), "{signal}: {words}");
    }
}

#[test]
fn status_shows_a_machine_from_outside() {
    if !qemu_is_here("status_shows_a_machine_from_outside") {
        return;
    }
    let mut on = On::new(HANG, &["--timeout", "60"]);
    let dir = on.run_dir.path().to_owned();
    let status = |more: &[&str]| {
        let output = casemate_qemu(&["status"]).arg(&dir).args(more).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, words) = status(&[]);
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains("QEMU       runs, pid ") && words.contains("not a single one"), "{words}");
    assert!(words.contains("none was printed yet"), "{words}");
    let hostile =
        "web: hello\r\ncasemate: status {\"stage\":\"re\u{9b}ady\"}\r\ncasemate: status {\"stage\":\"ha";
    std::fs::write(dir.join("console.log"), hostile).unwrap();
    let (_, words) = status(&[]);
    assert!(words.contains(r"re\u{9b}ady") && !words.contains("\"ha"), "{words}");
    let (code, text) = status(&["--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(text.is_ascii());
    assert_eq!((code, &json["status"]["stage"]), (Some(0), &"re\u{9b}ady".into()), "{json}");
    assert_eq!(
        (&json["qemu"]["alive"], &json["ready"], &json["frames"]),
        (&true.into(), &false.into(), &0.into())
    );

    // A production machine has no console to read.
    let mut known = report(&dir);
    known.console = None;
    let write = |known: &Report| {
        std::fs::write(dir.join("fresh"), serde_json::to_vec(known).unwrap()).unwrap();
        std::fs::rename(dir.join("fresh"), dir.join("status.json")).unwrap();
    };
    write(&known);
    let (code, words) = status(&[]);
    assert!(code == Some(0) && words.contains("a production image has no console"), "{words}");

    on.say("{\"execute\":\"quit\"}");
    assert_eq!(on.boot.wait().unwrap().code(), Some(9));
    let Some(ended) = report(&dir).ended else { panic!("no end") };
    let (code, words) = status(&[]);
    assert_eq!(code, Some(i32::from(ended.exit_status)), "{words}");
    assert!(words.starts_with("ended      ended at once"), "{words}");
    let gone = Report { ended: None, ..report(&dir) };
    write(&gone);
    let (code, words) = status(&[]);
    assert!(code == Some(1) && words.contains("is gone"), "{words}");
}

#[test]
fn wait_says_what_is_known_when_its_time_is_up() {
    if !qemu_is_here("wait_says_what_is_known_when_its_time_is_up") {
        return;
    }
    let mut on = On::new(HANG, &["--timeout", "60"]);
    let dir = on.run_dir.path().to_str().unwrap().to_owned();
    let wait = |more: &[&str]| {
        let mut command = casemate_qemu(&["wait", "--run-dir", &dir, "--timeout", "1"]);
        let output = command.args(more).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (status, words) = wait(&[]);
    assert_eq!(status, Some(7), "{words}");
    // What the host would have noted of a guest that speaks.
    let mut known = report(on.run_dir.path());
    let write = |known: &Report| {
        let fresh = on.run_dir.path().join("fresh");
        std::fs::write(&fresh, serde_json::to_vec(known).unwrap()).unwrap();
        std::fs::rename(&fresh, on.run_dir.path().join("status.json")).unwrap();
    };
    let frame = Frame {
        flavour: Flavour::Dev,
        stage: Stage::Links,
        reason: Reason::Entered,
        sequence: 1,
        dropped: 0,
        uptime_ms: 1,
        detail: 0,
        digest: [0; 32],
    };
    (known.frames, known.last) = (1, Some((&frame).into()));
    write(&known);
    let (status, words) = wait(&[]);
    assert_eq!(status, Some(6), "{words}");
    assert!(words.contains("stage \"links\""), "{words}");
    known.ready = true;
    write(&known);
    assert_eq!(wait(&[]).0, Some(0));
    let (status, words) = wait(&["--alive"]);
    assert_eq!(status, Some(15), "{words}");
    assert!(words.contains("no sign of life within 1 s"), "{words}");
    let later = std::thread::scope(|scope| {
        let waiting =
            scope.spawn(|| casemate_qemu(&["wait", "--run-dir", &dir, "--alive"]).output().unwrap());
        let begin = Instant::now();
        while !waiting.is_finished() {
            assert!(begin.elapsed() < Duration::from_secs(60), "never alive");
            known.frames += 1;
            write(&known);
            std::thread::sleep(Duration::from_millis(300));
        }
        waiting.join().unwrap()
    });
    assert_eq!(later.status.code(), Some(0), "{later:?}");

    // Whoever watched the machine is gone, and will write no end of it.
    let gone = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut command = casemate_qemu(&["wait", "--run-dir", &dir, "--alive", "--timeout", "60"]);
            command.output().unwrap()
        });
        std::thread::sleep(Duration::from_secs(1));
        on.boot.kill().unwrap();
        on.boot.wait().unwrap();
        waiting.join().unwrap()
    });
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    assert!(String::from_utf8_lossy(&gone.stderr).contains("no machine runs here"), "{gone:?}");
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
    assert_eq!(status.code(), Some(9));
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
