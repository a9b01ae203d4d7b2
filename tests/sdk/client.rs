//! The clients: pinned by lock files with digests, installed into a cache that has those digests in its name, and run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// A client of dstack that others publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sdk {
    Python,
    JavaScript,
    Rust,
}

/// How to run one.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) sdk: Sdk,
    words: Vec<PathBuf>,
}

/// Why a client is not there.
#[derive(Debug)]
pub(crate) enum Absence {
    /// No such program on this machine, or nobody answers who has the packages.
    Excusable(String),
    /// The packages are not those of the lock file.
    Wrong(String),
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk").join(name)
}

/// `sdk/NAME-DIGEST` in the cache, by what decides what is put there.
fn cache(name: &str, inputs: &[&[u8]]) -> PathBuf {
    let mut digest = Sha256::new();
    for input in inputs {
        digest.update(Sha256::digest(input));
    }
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
        PathBuf::from,
    );
    base.join("casemate/sdk").join(format!("{name}-{}", &hex::encode(digest.finalize())[..16]))
}

/// What package programs say when they got something else than was pinned.
const MISMATCH: [&str; 4] =
    ["DO NOT MATCH THE HASHES", "EINTEGRITY", "checksum for", "failed to verify the checksum"];

fn run(command: &mut Command) -> Result<Output, Absence> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| Absence::Excusable(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let last: Vec<_> = said.lines().rev().filter(|line| !line.trim().is_empty()).take(5).collect();
    let why =
        format!("{program}: {}: {}", output.status, last.into_iter().rev().collect::<Vec<_>>().join(" | "));
    Err(if MISMATCH.iter().any(|text| said.contains(text)) { Absence::Wrong } else { Absence::Excusable }(
        why,
    ))
}

/// Fills a folder beside its place and moves it there: whatever is there is whole. Two who do it at once do the same.
fn filled(place: &Path, fill: impl FnOnce(&Path) -> Result<(), Absence>) -> Result<(), Absence> {
    if place.exists() {
        return Ok(());
    }
    let beside = place.parent().unwrap();
    fs::create_dir_all(beside).unwrap();
    let fresh = tempfile::tempdir_in(beside).unwrap();
    fill(fresh.path())?;
    match fs::rename(fresh.path(), place) {
        Err(error) if !place.exists() => panic!("{}: {error}", place.display()),
        _ => Ok(()),
    }
}

impl Client {
    /// Installs it, if it is not there.
    pub(crate) fn ready(sdk: Sdk) -> Result<Self, Absence> {
        let words = match sdk {
            Sdk::Python => python()?,
            Sdk::JavaScript => javascript()?,
            Sdk::Rust => rust()?,
        };
        Ok(Self { sdk, words })
    }

    /// Everything that it sees of an agent.
    pub(crate) async fn look(&self, socket: &Path) -> Value {
        let mut command = tokio::process::Command::new(&self.words[0]);
        command.args(&self.words[1..]).arg(socket).stdin(Stdio::null()).kill_on_drop(true);
        // Whoever hangs has failed: far more than any machine needs.
        let output = tokio::time::timeout(Duration::from_secs(300), command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{:?} hangs", self.sdk)).unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{:?}: {}\n{errors}", self.sdk, output.status);
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

fn python() -> Result<Vec<PathBuf>, Absence> {
    let folder = folder("python");
    let requirements = folder.join("requirements.txt");
    // Some packages are compiled, for one interpreter each.
    let which = run(Command::new("python3").args(["-Ic", "import sys; print(sys.version, sys.prefix)"]))?;
    let place = cache("python", &[&fs::read(&requirements).unwrap(), &which.stdout]);
    filled(&place, |fresh| {
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
            "--no-deps",
        ]);
        pip.args(["--require-hashes", "--only-binary", ":all:", "--requirement"]).arg(&requirements);
        run(pip.arg("--target").arg(fresh)).map(drop)
    })?;
    // Of the packages that the machine has, none: one of the same name would be taken before ours.
    Ok(vec!["python3".into(), "-IS".into(), folder.join("client.py"), place])
}

fn javascript() -> Result<Vec<PathBuf>, Absence> {
    let folder = folder("javascript");
    let files = ["package.json", "package-lock.json"];
    let [package, lock] = files.map(|name| fs::read(folder.join(name)).unwrap());
    let place = cache("javascript", &[&package, &lock]);
    filled(&place, |fresh| {
        for name in files {
            fs::copy(folder.join(name), fresh.join(name)).unwrap();
        }
        let mut npm = Command::new("npm");
        npm.args([
            "ci",
            "--ignore-scripts",
            "--legacy-peer-deps",
            "--no-audit",
            "--no-fund",
            "--fetch-retries=1",
        ]);
        run(npm.current_dir(fresh)).map(drop)
    })?;
    // Its own words for a program that is absent.
    run(Command::new("node").arg("--version"))?;
    Ok(vec!["node".into(), folder.join("client.mjs"), place])
}

fn rust() -> Result<Vec<PathBuf>, Absence> {
    let folder = folder("rust");
    let files = ["Cargo.toml", "Cargo.lock", "client.rs"].map(|name| fs::read(folder.join(name)).unwrap());
    let place = cache("rust", &files.each_ref().map(Vec::as_slice));
    filled(&place, |fresh| {
        let cargo = || {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.current_dir(&folder);
            cargo
        };
        run(cargo().args(["fetch", "--locked"]))?;
        // All is there now: what does not compile is no excuse. Of what that takes (600 MB) only the program is kept.
        let target = fresh.join("target");
        let built =
            run(cargo().args(["build", "--locked", "--offline", "--quiet"]).env("CARGO_TARGET_DIR", &target));
        built.map_err(|absence| match absence {
            Absence::Excusable(why) | Absence::Wrong(why) => Absence::Wrong(why),
        })?;
        fs::rename(target.join("debug/client"), fresh.join("client")).unwrap();
        fs::remove_dir_all(target).unwrap();
        Ok(())
    })?;
    Ok(vec![place.join("client")])
}
