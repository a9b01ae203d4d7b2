//! A machine with a software TPM, in which `witness.c` is the init.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use casemate_image::assemble::{self, InitBinary, Plan};
use casemate_image::io::store::Store;
use casemate_image::lock::KernelLock;
use casemate_image::progress::Progress;
use casemate_measure::image::Flavor;

/// Twenty times what a boot takes on an idle machine.
const PATIENCE: Duration = Duration::from_secs(240);
const LOOK: Duration = Duration::from_millis(50);

/// The QEMU of this machine; `None`, said loudly, where something is missing that a witness needs.
pub(crate) fn installed(test: &str) -> Option<Qemu> {
    let missing = ["qemu-system-x86_64", "swtpm", "swtpm_setup"]
        .into_iter()
        .find(|program| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err());
    match missing {
        Some(program) => skipped(test, &format!("{program} is not installed")),
        None => Some(Qemu::of("qemu-system-x86_64")),
    }
}

/// One that gives the firmware the kernel as it is.
pub(crate) fn newer(test: &str) -> Option<Qemu> {
    static FETCHED: OnceLock<Result<String, String>> = OnceLock::new();
    installed(test)?;
    let fetch = || {
        let script = workspace().join("qemu/tests/peer/fetch-qemu");
        let output = Command::new("bash").arg(script).arg("11").output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\n', "; ");
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    };
    match FETCHED.get_or_init(fetch) {
        Ok(program) => Some(Qemu::of(program)),
        Err(why) => skipped(test, &format!("QEMU 11.1 cannot be fetched: {why}")),
    }
}

fn skipped(test: &str, why: &str) -> Option<Qemu> {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "SKIPPED under CI=true: {test}: {why}");
    eprintln!("SKIPPED: {test}: {why}");
    None
}

/// A program and its version.
pub(crate) struct Qemu {
    program: String,
    pub(crate) version: (u32, u32, u32),
}

impl Qemu {
    fn of(program: &str) -> Self {
        let output = Command::new(program).arg("--version").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // QEMU emulator version 7.2.22 (Debian …)
        let version = text.split("version ").nth(1).unwrap().split(|c: char| !c.is_ascii_digit() && c != '.');
        let numbers: Vec<u32> =
            version.into_iter().next().unwrap().split('.').map(|n| n.parse().unwrap()).collect();
        Self { program: program.to_owned(), version: (numbers[0], numbers[1], numbers[2]) }
    }
}

/// The image, made once. Its files are where dstack's metadata says.
pub(crate) fn image() -> &'static Path {
    static IMAGE: LazyLock<PathBuf> = LazyLock::new(|| {
        let plan = Plan {
            flavor: Flavor::Dev,
            document: None,
            workloads: Vec::new(),
            lock: KernelLock::read(&workspace().join("image/kernel.lock")).unwrap(),
            store: Store::new(None).unwrap(),
            max_size: None,
            out: place("image"),
        };
        let init = |_: &Progress| Ok(InitBinary { bytes: init(), inputs: Vec::new() });
        assemble::build(&plan, init, &Progress::silent()).unwrap().out
    });
    &IMAGE
}

fn init() -> Vec<u8> {
    let (source, out) = (workspace().join("tests/witness/witness.c"), place("init"));
    let mut compiler = Command::new("cc");
    compiler.args(["-static", "-Os", "-Wall", "-Wextra", "-Werror", "-o"]).arg(&out).arg(source);
    assert!(compiler.status().unwrap().success(), "cc, with a static C library (gcc, libc6-dev)");
    fs::read(out).unwrap()
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// In cargo's folder for what tests write.
fn place(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("witness");
    fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}

/// A file as the guest saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) mode: u32,
    pub(crate) content: Vec<u8>,
}

/// Boots with the image's firmware and these arguments, and hears what the guest says. One machine at a time.
pub(crate) fn boot(qemu: &Qemu, memory_mib: u32, arguments: &[&str]) -> BTreeMap<String, Told> {
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let temp = tempfile::Builder::new().prefix("casemate-witness.").tempdir().unwrap();
    let at = |name: &str| temp.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(at("tpm")).unwrap();
    let setup = Command::new("swtpm_setup")
        .args(["--tpm2", "--pcr-banks", "sha384,sha256", "--tpmstate", &at("tpm")])
        .output()
        .unwrap();
    assert!(setup.status.success(), "swtpm_setup: {}", String::from_utf8_lossy(&setup.stdout));
    let mut swtpm = Command::new("swtpm");
    swtpm.args(["socket", "--tpm2", "--terminate", "--tpmstate", &format!("dir={}", at("tpm"))]);
    let _swtpm = Running::start(swtpm.args(["--ctrl", &format!("type=unixio,path={}", at("control"))]));
    wait("swtpm's socket", || Path::new(&at("control")).exists());

    let mut machine = Command::new(&qemu.program);
    machine.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-nic", "none"]);
    machine.args(["-machine", "q35,hpet=off,smm=off", "-accel", "tcg", "-cpu", "max", "-smp", "1"]);
    machine.args(["-m", &format!("{memory_mib}M"), "-bios", image().join("ovmf.fd").to_str().unwrap()]);
    machine.args(["-chardev", &format!("socket,id=tpm,path={}", at("control"))]);
    machine.args(["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0"]);
    for port in ["console", "told"] {
        machine.args(["-serial", &format!("file:{}", at(port))]);
    }
    let mut machine = Running::start(machine.args(arguments));
    wait("the machine's end", || machine.0.try_wait().unwrap().is_some());
    let told = fs::read_to_string(at("told")).unwrap();
    assert!(!told.is_empty(), "{}", String::from_utf8_lossy(&fs::read(at("console")).unwrap()));
    // The firmware clears the screen there too.
    told.lines().filter(|text| text.starts_with('/')).map(line).collect()
}

/// `PATH MODE HEX`, of which a directory has no third.
fn line(line: &str) -> (String, Told) {
    let words: Vec<&str> = line.trim_end().splitn(3, ' ').collect();
    let content = hex::decode(words.get(2).unwrap_or(&"")).unwrap();
    (words[0].to_owned(), Told { mode: u32::from_str_radix(words[1], 8).unwrap(), content })
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "{what}: not in time");
        std::thread::sleep(LOOK);
    }
}

/// Ends with the test.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
