//! Programs of others that are built from their published sources, once, into `~/.cache/casemate`, in folders named by
//! version. Headscale and Tailscale are published as Go modules only: a machine without Go fails these tests.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Instant;

use casemate_tests::cargo::cargo;
use serde_json::Value;

/// A published Go module, and what is built of it. Everything that it depends on is pinned by its own `go.sum`.
#[derive(Debug)]
struct Module {
    name: &'static str,
    path: &'static str,
    version: &'static str,
    /// What `go.sum` would say of the module itself.
    sum: &'static str,
    programs: &'static [&'static str],
}

/// A release of Headscale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Release {
    V0_26,
    V0_28,
    V0_29,
}

const HEADSCALE: &str = "github.com/juanfont/headscale";

const fn module(release: Release) -> Module {
    let (version, sum) = match release {
        Release::V0_26 => ("v0.26.1", "h1:WTvvxKtN94jut3Rk8hJPwjK2MdzcFPtrcrMHqlUJGa4="),
        Release::V0_28 => ("v0.28.0", "h1:1lz1wj1NhKH2Y+U6URaVochCMrBsb+IUNDjQdwKn37Q="),
        Release::V0_29 => ("v0.29.2", "h1:eW7zz5yiVlSP1+5zUgPM2YWOoSNkzgX0wBMt5T4zF9g="),
    };
    Module { name: "headscale", path: HEADSCALE, version, sum, programs: &["headscale"] }
}

const TAILSCALE: Module = Module {
    name: "tailscale",
    path: "tailscale.com",
    version: "v1.102.5",
    sum: "h1:2jK9VxQU4Vq/tyR7f2U2NqINxU0pV7R14TDBFsfguHE=",
    programs: &["tailscaled", "tailscale"],
};

/// The server of a release.
pub(crate) fn headscale(release: Release) -> PathBuf {
    static BUILT: [OnceLock<PathBuf>; 3] = [const { OnceLock::new() }; 3];
    BUILT[release as usize].get_or_init(|| go(&module(release)).join("headscale")).clone()
}

/// The folder with `tailscaled` and `tailscale`.
pub(crate) fn tailscale() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| go(&TAILSCALE)).clone()
}

/// Our own, as this tree has it.
pub(crate) fn casemate_init() -> PathBuf {
    if crate::RELEASED {
        return casemate_init_released();
    }
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| built_here(&[])).clone()
}

/// The same as it is shipped, for what is measured.
pub(crate) fn casemate_init_released() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| built_here(&["--release"])).clone()
}

fn built_here(how: &[&str]) -> PathBuf {
    let mut cargo = cargo();
    cargo.args(["build", "--locked", "-p", "casemate-init", "--bin", "casemate-init"]).args(how);
    cargo.args(["--message-format", "json-render-diagnostics"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let messages = said(&mut cargo);
    let program = messages.lines().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message.get("executable")?.as_str().map(PathBuf::from)
    });
    program.unwrap()
}

/// Where what is built once is kept.
pub(crate) fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .filter(|path| !path.is_empty())
        .map_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"), PathBuf::from);
    base.join("casemate")
}

/// The folder of a module's programs.
fn go(module: &Module) -> PathBuf {
    filled(&cache().join("go"), &format!("{}-{}", module.name, module.version), |fresh, into| {
        let mut download = Command::new("go");
        download.args(["mod", "download", "-json", &format!("{}@{}", module.path, module.version)]);
        // Not in a module of somebody's, whose settings would count.
        let about: Value = serde_json::from_str(&said(download.current_dir(fresh))).unwrap();
        assert_eq!(about["Sum"], module.sum, "{} {} is not what it was", module.path, module.version);
        // A module's own folder is where its `go.mod` and `go.sum` count; the cache of modules is not to be written to.
        let source = fresh.join("source");
        said(Command::new("cp").arg("--recursive").arg(about["Dir"].as_str().unwrap()).arg(&source));
        said(Command::new("chmod").args(["-R", "u+w"]).arg(&source));
        let mut build = Command::new("go");
        build.args(["build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o"]).arg(into);
        build.args(module.programs.iter().map(|program| format!("./cmd/{program}")));
        said(build.env("CGO_ENABLED", "0").current_dir(&source));
    })
}

/// A folder of the cache. What is there is whole: it is filled elsewhere and moved. One is filled at a time, whoever asks,
/// since a compiler takes all processors for itself.
pub(crate) fn filled(beside: &Path, name: &str, fill: impl FnOnce(&Path, &Path)) -> PathBuf {
    let place = beside.join(name);
    if place.exists() {
        return place;
    }
    fs::create_dir_all(beside).unwrap();
    let lock = File::create(beside.join(".lock")).unwrap();
    lock.lock().unwrap();
    if !place.exists() {
        // Whoever had the lock before and was killed left its own.
        for left in fs::read_dir(beside).unwrap().flatten() {
            if left.file_name().to_string_lossy().starts_with(".fresh.") {
                fs::remove_dir_all(left.path()).unwrap();
            }
        }
        let begin = Instant::now();
        let fresh = tempfile::Builder::new().prefix(".fresh.").tempdir_in(beside).unwrap();
        let into = fresh.path().join("built");
        fs::create_dir(&into).unwrap();
        fill(fresh.path(), &into);
        fs::rename(&into, &place).unwrap();
        eprintln!("built {name} in {} s", begin.elapsed().as_secs());
    }
    place
}

/// What a program printed that had to succeed.
fn said(command: &mut Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| match program.as_str() {
        "go" => panic!("Go is missing ({error}): Headscale and Tailscale are built with it, 1.26.4 or later"),
        _ => panic!("{program}: {error}"),
    });
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}
