//! The static init binary: compiled alone, with nothing of this machine's folders in it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use casemate_measure::image::{Flavor, Input};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::assemble::{InitBinary, input, package_input};
use crate::error::{ImageError, Result};
use crate::io::store::Store;
use crate::io::toolchain::Toolchain;
use crate::io::{cargo_config, command, target};
use crate::progress::{Progress, megabytes};
use crate::toolchain::ToolchainLock;

/// The guest's target. Giving it explicitly keeps the static C library out of build scripts and procedural macros.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-gnu";
const PACKAGE: &str = "casemate-init";

/// Where the workspace pins what compiles C and links.
pub const TOOLCHAIN_LOCK: &str = "image/toolchain.lock";
/// What the linker says it took, in the target folder.
const LINK_MAP: &str = "link.map";

/// The environment that reaches cargo: where things are, and how the network is reached. Everything else, such as
/// `RUSTFLAGS` or `CARGO_PROFILE_*`, would change the bytes.
const KEPT: &[&str] =
    &["PATH", "HOME", "TMPDIR", "CARGO_HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE"];
const KEPT_PREFIXES: &[&str] = &["RUSTUP_", "CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_SOURCE_"];
const KEPT_PROXIES: &[&str] = &["http_proxy", "https_proxy", "all_proxy", "no_proxy"];

/// How to compile.
#[derive(Clone, Debug)]
pub struct Compiler {
    /// The workspace's root.
    pub workspace: PathBuf,
    /// With or without the simulator and the console.
    pub flavor: Flavor,
    /// A feature of the init that tests alone use (`danger-…`). No option of a user's sets it.
    pub danger: Option<&'static str>,
    /// Parallel jobs; cargo's default otherwise.
    pub jobs: Option<u32>,
    /// What C code may want to know as the date, seconds since 1970.
    pub epoch: u32,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<MetadataPackage>,
}

#[derive(Deserialize)]
struct MetadataPackage {
    source: Option<String>,
    manifest_path: PathBuf,
}

/// The Rust toolchain.
struct Rust {
    version: String,
    commit: String,
    sysroot: PathBuf,
}

impl Compiler {
    /// [`Compiler::compile_with`] the usual store.
    ///
    /// # Errors
    /// As there, or if there is no store.
    pub fn compile(&self, progress: &Progress) -> Result<InitBinary> {
        self.compile_with(&Store::new(None)?, progress)
    }

    /// Compiles, or takes what an earlier run compiled from the same sources. The pinned toolchain comes from `store`.
    ///
    /// # Errors
    /// If cargo or a tool it needs fails, something else than the pinned toolchain was linked, or the binary is not static
    /// or names folders of this machine.
    pub fn compile_with(&self, store: &Store, progress: &Progress) -> Result<InitBinary> {
        let started = Instant::now();
        let workspace = fs::canonicalize(&self.workspace).map_err(ImageError::at(&self.workspace))?;
        let target_dir = target::ready(&workspace)?;
        cargo_config::check(&workspace, cargo_home().as_deref())?;
        let tool_lock = ToolchainLock::read(&workspace.join(TOOLCHAIN_LOCK))?;
        let toolchain = Toolchain::ready(&tool_lock, store, progress)?;
        let rust = self.rust()?;
        let packages = self.package_folders()?;
        let remaps = remaps(&workspace, &target_dir, &packages, &rust, toolchain.root())?;

        let lock = target::lock_file(&target_dir)?;
        if lock.try_lock().is_err() {
            progress.say("init: waiting for another build");
            lock.lock().map_err(ImageError::at(&target_dir))?;
        }
        progress.say(format_args!("init: compiling ({}) in {}", word(self.flavor), target_dir.display()));
        let mut build = self.cargo();
        build.args([
            "build",
            "--release",
            "--locked",
            "-p",
            PACKAGE,
            "--no-default-features",
            "--target",
            TARGET,
        ]);
        if self.flavor == Flavor::Dev {
            build.args(["--features", "dev"]);
        }
        if let Some(danger) = self.danger {
            build.args(["--features", danger]);
        }
        if let Some(jobs) = self.jobs {
            build.arg("--jobs").arg(jobs.to_string());
        }
        build.env("CARGO_TARGET_DIR", &target_dir);
        let map = target_dir.join(LINK_MAP);
        build.env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&remaps, &toolchain.cc(), &map));
        build.env("CC_x86_64_unknown_linux_gnu", toolchain.cc());
        build.env("AR_x86_64_unknown_linux_gnu", toolchain.ar());
        // cc(1) splits at spaces unless told that they are escaped.
        build.env("CC_SHELL_ESCAPED_FLAGS", "1").env("CFLAGS", c_flags(&remaps));
        build.env("SOURCE_DATE_EPOCH", self.epoch.to_string());
        build.stdin(Stdio::null()).stdout(Stdio::null());
        let status = build.status().map_err(|error| ImageError::Program {
            program: "cargo (compile the init)".into(),
            status: "not started".into(),
            output: error.to_string(),
        })?;
        if !status.success() {
            return Err(ImageError::Program {
                program: "cargo (compile the init)".into(),
                status: status.to_string(),
                output: "see above".into(),
            });
        }
        let path = target_dir.join(TARGET).join("release").join(PACKAGE);
        let bytes = fs::read(&path).map_err(ImageError::at(&path))?;
        let linked = fs::read_to_string(&map).map_err(ImageError::at(&map))?;
        drop(lock);
        check_linked(&map, &linked, &[toolchain.root(), &rust.sysroot, &target_dir])?;
        check_binary(&path, &bytes, &remaps)?;
        progress.say(format_args!(
            "init: {} in {:.0} seconds",
            megabytes(bytes.len() as u64),
            started.elapsed().as_secs_f64()
        ));
        let mut inputs = vec![input("init", PACKAGE, &bytes)];
        inputs.extend(inputs_of(&workspace, &rust)?);
        inputs.extend(tool_lock.packages.iter().map(|package| package_input("toolchain", package)));
        Ok(InitBinary { bytes, inputs })
    }

    /// cargo with the environment that it may see.
    fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        self.confine(&mut command);
        command
    }

    fn confine(&self, command: &mut Command) {
        let kept = |name: &str| {
            KEPT.contains(&name)
                || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                || KEPT_PROXIES.contains(&name.to_ascii_lowercase().as_str())
        };
        command
            .current_dir(&self.workspace)
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(kept)))
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("CARGO_INCREMENTAL", "0");
    }

    fn tool(&self, program: &str, arguments: &[&str], what: &str) -> Result<String> {
        let mut command = Command::new(program);
        self.confine(&mut command);
        command::output(command.args(arguments), what)
    }

    fn rust(&self) -> Result<Rust> {
        let text = self.tool("rustc", &["-vV"], "its version")?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
                .ok_or_else(|| ImageError::form("rustc -vV", name, "a value", "none"))
        };
        let sysroot = self.tool("rustc", &["--print", "sysroot"], "its folder")?;
        Ok(Rust {
            version: text.lines().next().unwrap_or_default().trim_start_matches("rustc ").to_owned(),
            commit: field("commit-hash:")?,
            sysroot: PathBuf::from(sysroot.trim_end()),
        })
    }

    /// The folders that hold other people's packages: a registry's unpacked sources, or a vendor folder.
    fn package_folders(&self) -> Result<BTreeSet<PathBuf>> {
        let mut command = self.cargo();
        command.args(["metadata", "--format-version", "1", "--locked", "--filter-platform", TARGET]);
        let text = command::output(&mut command, "list the packages")?;
        let metadata: Metadata = serde_json::from_str(&text)
            .map_err(|error| ImageError::form("cargo metadata", "JSON", "packages", error.to_string()))?;
        let folder = |package: MetadataPackage| {
            package.source.as_ref()?;
            Some(package.manifest_path.parent()?.parent()?.to_owned())
        };
        Ok(metadata.packages.into_iter().filter_map(folder).collect())
    }
}

/// What the binary is made of besides our own sources and the pinned toolchain, for `manifest.json`.
fn inputs_of(workspace: &Path, rust: &Rust) -> Result<Vec<Input>> {
    let lock_path = workspace.join("Cargo.lock");
    let lock = fs::read(&lock_path).map_err(ImageError::at(&lock_path))?;
    let compiler = Input {
        kind: "compiler".into(),
        name: "rustc".into(),
        version: Some(rust.version.clone()),
        sha256: toolchain_digest(&rust.sysroot)?,
        license: Some("MIT OR Apache-2.0".into()),
        source: None,
    };
    Ok(vec![input("lock", "Cargo.lock", &lock), compiler])
}

/// cargo's home, as cargo finds it.
pub(crate) fn cargo_home() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("CARGO_HOME").or_else(|| Some(set("HOME")?.join(".cargo")))
}

const fn word(flavor: Flavor) -> &'static str {
    match flavor {
        Flavor::Dev => "dev",
        Flavor::Prod => "prod",
    }
}

/// From folders of this machine to names that are the same everywhere. The last one that matches counts, so the most
/// specific comes last.
fn remaps(
    workspace: &Path,
    target_dir: &Path,
    packages: &BTreeSet<PathBuf>,
    rust: &Rust,
    toolchain: &Path,
) -> Result<Vec<(String, String)>> {
    let mut remaps = vec![
        (workspace.to_owned(), "/casemate".to_owned()),
        (target_dir.to_owned(), "/target".to_owned()),
        // Where the rust-src component is installed, the standard library's sources are found there and not under the
        // names that the precompiled library has.
        (rust.sysroot.join("lib/rustlib/src/rust"), format!("/rustc/{}", rust.commit)),
        (rust.sysroot.clone(), "/toolchain".to_owned()),
        (toolchain.to_owned(), "/sysroot".to_owned()),
    ];
    remaps.extend(packages.iter().map(|folder| (folder.clone(), "/packages".to_owned())));
    remaps.sort_by_key(|(from, _)| from.as_os_str().len());
    remaps
        .into_iter()
        .map(|(from, to)| match from.to_str() {
            // rustc splits at the last `=`, the compilers' flags at the first.
            Some(text) if !text.contains(['=', '\x1f', '\n']) => Ok((text.to_owned(), to)),
            _ => Err(ImageError::form(
                from.display().to_string(),
                "path",
                "UTF-8 without `=`",
                "something else",
            )),
        })
        .collect()
}

/// Linked by the pinned compiler and linker; rustc's own choice would be the lld that it comes with.
fn rust_flags(remaps: &[(String, String)], linker: &Path, map: &Path) -> OsString {
    let fixed = [
        "-Ctarget-feature=+crt-static",
        "-Crelocation-model=pie",
        "-Clinker-features=-lld",
        "-Clink-arg=-Wl,--build-id=none",
    ];
    let mut flags: Vec<OsString> = fixed.iter().map(OsString::from).collect();
    flags.extend(remaps.iter().map(|(from, to)| format!("--remap-path-prefix={from}={to}").into()));
    // Not `-Wl,`, which would split the path at commas.
    for (option, path) in [("-Clinker=", linker), ("-Clink-arg=-Xlinker\x1f-Clink-arg=-Map=", map)] {
        let mut flag = OsString::from(option);
        flag.push(path);
        flags.push(flag);
    }
    flags.join(OsStr::new("\x1f"))
}

fn c_flags(remaps: &[(String, String)]) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "'\\''"));
    let maps = remaps.iter().map(|(from, to)| quoted(&format!("-ffile-prefix-map={from}={to}")));
    // __DATE__ and __TIME__ are errors, not surprises.
    maps.chain(["-Werror=date-time".to_owned()]).collect::<Vec<_>>().join(" ")
}

/// That every file that the linker took (its map says `LOAD file`) is in one of these folders.
fn check_linked(map: &Path, text: &str, folders: &[&Path]) -> Result<()> {
    let folders: Vec<PathBuf> =
        folders.iter().map(|f| fs::canonicalize(f).map_err(ImageError::at(f))).collect::<Result<_>>()?;
    let mut count = 0_u32;
    for file in text.lines().filter_map(|line| line.strip_prefix("LOAD ")) {
        count = count.saturating_add(1);
        // What is gone again was a temporary file of the compiler's own.
        let Ok(file) = fs::canonicalize(file) else { continue };
        if !folders.iter().any(|folder| file.starts_with(folder)) {
            let (title, found) = (map.display().to_string(), file.display().to_string());
            return Err(ImageError::form(title, "linked", "files of the pinned toolchain alone", found));
        }
    }
    if count == 0 {
        return Err(ImageError::form(
            map.display().to_string(),
            "LOAD",
            "the files that were linked",
            "none",
        ));
    }
    Ok(())
}

/// Static, and without a folder of this machine in it.
fn check_binary(path: &Path, bytes: &[u8], remaps: &[(String, String)]) -> Result<()> {
    let file = || path.display().to_string();
    if !bytes.starts_with(b"\x7fELF") {
        return Err(ImageError::form(file(), "format", "an ELF file", "something else"));
    }
    if contains(bytes, b"/ld-linux-x86-64.so.2\0") {
        return Err(ImageError::form(file(), "linkage", "a static binary", "one that needs an interpreter"));
    }
    match remaps.iter().find(|(from, _)| contains(bytes, from.as_bytes())) {
        Some((from, _)) => {
            Err(ImageError::form(file(), "content", "no path of the machine that compiled it", from.as_str()))
        }
        None => Ok(()),
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some(first) = needle.first() else { return true };
    let mut rest = haystack;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        let here = rest.get(at..).unwrap_or_default();
        if here.starts_with(needle) {
            return true;
        }
        rest = here.get(1..).unwrap_or_default();
    }
    false
}

/// The compiler and the precompiled standard library: names and digests of their files, digested.
fn toolchain_digest(sysroot: &Path) -> Result<[u8; 32]> {
    let mut lines = BTreeSet::new();
    for folder in ["lib", &format!("lib/rustlib/{TARGET}/lib")] {
        let path = sysroot.join(folder);
        for entry in fs::read_dir(&path).map_err(ImageError::at(&path))? {
            let file = entry.map_err(ImageError::at(&path))?.path();
            if file.is_file() {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                lines.insert(format!("{}  {folder}/{name}\n", hex::encode(file_digest(&file)?)));
            }
        }
    }
    let rustc = sysroot.join("bin/rustc");
    lines.insert(format!("{}  bin/rustc\n", hex::encode(file_digest(&rustc)?)));
    Ok(Sha256::digest(lines.into_iter().collect::<String>()).into())
}

fn file_digest(path: &Path) -> Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).map_err(ImageError::at(path))?;
    std::io::copy(&mut file, &mut hasher).map_err(ImageError::at(path))?;
    Ok(hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<(String, String)> {
        let rust = Rust { version: "1".into(), commit: "abc".into(), sysroot: "/t/toolchain".into() };
        let packages = BTreeSet::from([PathBuf::from("/home/it's me/.cargo/registry/src/index-1")]);
        remaps(
            Path::new("/home/it's me/casemate"),
            Path::new("/home/it's me/casemate/target"),
            &packages,
            &rust,
            Path::new("/home/it's me/.cache/casemate/toolchain/1"),
        )
        .unwrap()
    }

    #[test]
    fn the_most_specific_folder_comes_last() {
        let remaps = example();
        let at = |to: &str| remaps.iter().position(|(_, t)| t == to).unwrap();
        assert!(at("/casemate") < at("/target"));
        assert!(at("/toolchain") < at("/rustc/abc"));
    }

    #[test]
    fn folders_with_spaces_and_quotes_reach_the_c_compiler_whole() {
        let flags = c_flags(&example());
        let output = Command::new("sh").arg("-c").arg(format!("printf '%s\\n' {flags}")).output().unwrap();
        let words = String::from_utf8(output.stdout).unwrap();
        assert!(words.lines().any(|w| w == "-ffile-prefix-map=/home/it's me/casemate=/casemate"), "{words}");
        assert_eq!(words.lines().count(), example().len() + 1);
    }

    #[test]
    fn a_binary_that_names_this_machine_is_refused() {
        let remaps = example();
        let path = Path::new("casemate-init");
        assert!(check_binary(path, b"\x7fELF static", &remaps).is_ok());
        let error =
            check_binary(path, b"\x7fELF /home/it's me/casemate/init/src/main.rs", &remaps).unwrap_err();
        assert!(error.to_string().contains("no path of the machine"), "{error}");
        let error = check_binary(path, b"\x7fELF /lib64/ld-linux-x86-64.so.2\0", &remaps).unwrap_err();
        assert!(error.to_string().contains("a static binary"), "{error}");
    }

    #[test]
    fn what_the_linker_took_from_elsewhere_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (root, target) = (dir.path().join("pinned"), dir.path().join("target"));
        for folder in [&root, &target] {
            fs::create_dir(folder).unwrap();
        }
        fs::write(root.join("libc.a"), "").unwrap();
        fs::write(dir.path().join("libz.a"), "").unwrap();
        let judge = |files: &[&str]| {
            let lines: Vec<_> =
                files.iter().map(|f| format!("LOAD {}\n", dir.path().join(f).display())).collect();
            check_linked(Path::new("link.map"), &format!("head\n{}", lines.concat()), &[&root, &target])
                .map_err(|error| error.to_string())
        };
        assert_eq!(judge(&["pinned/libc.a", "pinned/../target/../pinned/libc.a", "target/gone.o"]), Ok(()));
        let error = judge(&["pinned/libc.a", "pinned/../libz.a"]).unwrap_err();
        assert!(
            error.starts_with("link.map: linked: expected files of the pinned toolchain alone, found "),
            "{error}"
        );
        assert!(error.ends_with("libz.a"), "{error}");
        assert!(judge(&[]).unwrap_err().contains("LOAD"));
    }
}
