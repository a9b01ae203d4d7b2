//! `cargo image reproduce`: the same image from two places that have as little in common as one machine allows.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use casemate_measure::image::Flavor;
use nix::sys::stat::{Mode, umask};

use crate::assemble::MANIFEST;
use crate::compare;
use crate::error::{ImageError, Result};
use crate::io::compile::{TARGET, cargo_home};
use crate::io::store::{Mirror, cache_root};
use crate::io::{command, directory};
use crate::path::MemberPath;
use crate::progress::Progress;
use crate::tree::{Node, Tree};
use crate::workload::WorkloadSpec;

/// Not sources: version control, and what builds leave at the top.
const NOT_COPIED: &[&str] = &[".git", "target", "out"];

/// What to build twice.
#[derive(Clone, Debug)]
pub struct Request {
    /// The workspace to copy.
    pub workspace: PathBuf,
    /// Which flavour; otherwise that of side A, or production.
    pub flavor: Option<Flavor>,
    /// The document to bake in.
    pub document: Option<PathBuf>,
    /// The roots of its services.
    pub workloads: Vec<WorkloadSpec>,
    /// Where packages come from.
    pub mirror: Option<Mirror>,
    /// A binary for both sides, instead of compiling: then only the rest is compared.
    pub init: Option<PathBuf>,
    /// An image that was built already, as side A.
    pub side_a: Option<PathBuf>,
    /// Where to work; a temporary folder in our cache otherwise.
    pub work: Option<PathBuf>,
}

/// What is different on each side.
struct Side {
    name: &'static str,
    /// Below the work folder; of different length, and one with a space.
    folder: &'static str,
    umask: u32,
    locale: &'static str,
    zone: &'static str,
    /// More jobs than the machine has processors.
    extra_jobs: u32,
    /// Whether folders are filled from the last name to the first.
    reversed: bool,
}

const A: Side =
    Side { name: "A", folder: "a", umask: 0o022, locale: "C", zone: "UTC", extra_jobs: 0, reversed: false };
const B: Side = Side {
    name: "B",
    folder: "b/some where/else entirely",
    umask: 0o077,
    locale: "tr_TR.UTF-8",
    zone: "Pacific/Kiritimati",
    extra_jobs: 1,
    reversed: true,
};

/// Builds both sides with `builder`, which is this program, and compares every byte.
///
/// # Errors
/// If a side cannot be built, or [`ImageError::Differs`].
pub fn run(request: &Request, builder: &Path, progress: &Progress) -> Result<()> {
    let work = Work::new(request.work.as_deref())?;
    let (flavor, a) = match &request.side_a {
        Some(dir) => (side_a_flavor(request, dir)?, dir.clone()),
        None => {
            let flavor = request.flavor.unwrap_or(Flavor::Prod);
            (flavor, work.build(request, &A, flavor, builder, progress)?)
        }
    };
    let b = work.build(request, &B, flavor, builder, progress)?;
    match compare::directories(&a, &b) {
        // The files first: an input that differs may be the effect, not the cause, as the init is.
        Err(ImageError::Differs(first)) => {
            let mut lines = vec![first];
            lines.extend(compare::inputs(&a, &b)?);
            return Err(ImageError::Differs(lines.join("; ")));
        }
        other => other?,
    }
    progress.say(format_args!("reproduce: {} and {} are the same, byte by byte", a.display(), b.display()));
    Ok(())
}

/// The flavour of an image that exists, after a look at whether side B is going to be given the same inputs.
fn side_a_flavor(request: &Request, dir: &Path) -> Result<Flavor> {
    let file = dir.join(MANIFEST).display().to_string();
    let manifest = compare::manifest(dir)?;
    if let Some(asked) = request.flavor.filter(|flavor| *flavor != manifest.flavor) {
        let words = (format!("{asked:?}").to_lowercase(), format!("{:?}", manifest.flavor).to_lowercase());
        return Err(ImageError::form(file, "flavor", words.0, words.1));
    }
    let names = |kind: &str| -> Vec<String> {
        manifest.inputs.iter().filter(|i| i.kind == kind).map(|i| i.name.clone()).collect()
    };
    if names("document").is_empty() != request.document.is_none() {
        let words = ["a document, given again with --config", "no document"];
        let [expected, found] = if request.document.is_none() { words } else { [words[1], words[0]] };
        return Err(ImageError::form(file, "inputs", expected, found));
    }
    let mut given: Vec<String> = request.workloads.iter().map(|w| w.name.to_string()).collect();
    given.sort();
    if names("workload") != given {
        let expected = format!("workloads [{}], given again with --workload", names("workload").join(", "));
        return Err(ImageError::form(file, "inputs", expected, format!("[{}]", given.join(", "))));
    }
    if names("init-prebuilt").is_empty() != request.init.is_none() {
        return Err(ImageError::form(file, "inputs", "--init on both sides or on neither", "one of them"));
    }
    Ok(manifest.flavor)
}

/// Where the copies are; a temporary folder goes away with it.
struct Work {
    root: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl Work {
    fn new(asked: Option<&Path>) -> Result<Self> {
        if let Some(root) = asked {
            fs::create_dir_all(root).map_err(ImageError::at(root))?;
            let root = fs::canonicalize(root).map_err(ImageError::at(root))?;
            return Ok(Self { root, _temporary: None });
        }
        let cache = cache_root()?;
        fs::create_dir_all(&cache).map_err(ImageError::at(&cache))?;
        let dir = tempfile::Builder::new()
            .prefix("reproduce-")
            .tempdir_in(&cache)
            .map_err(ImageError::at(&cache))?;
        Ok(Self { root: dir.path().to_owned(), _temporary: Some(dir) })
    }

    fn build(
        &self,
        request: &Request,
        side: &Side,
        flavor: Flavor,
        builder: &Path,
        progress: &Progress,
    ) -> Result<PathBuf> {
        let folder = self.root.join(side.folder);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(ImageError::at(&folder))?;
        }
        let [source, cargo_home, target, toolchain, out] =
            ["source", "cargo", "target", "toolchain", "image"].map(|n| folder.join(n));
        progress.say(format_args!(
            "side {}: {} with umask {:03o}, locale {}, time zone {}",
            side.name,
            folder.display(),
            side.umask,
            side.locale,
            side.zone
        ));
        directory::write(&sources(&request.workspace)?, &source, side.reversed)?;
        if request.init.is_none() {
            fetch(&request.workspace)?;
        }
        copy_registry(&cargo_home)?;

        let word = if flavor == Flavor::Dev { "dev" } else { "prod" };
        let mut command = Command::new(builder);
        command.args(["build", "--flavor", word, "--out"]).arg(&out);
        let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let jobs = u32::try_from(jobs).unwrap_or(1).saturating_add(side.extra_jobs);
        command.arg("--jobs").arg(jobs.to_string());
        if let Some(document) = &request.document {
            command.arg("--config").arg(absolute(document)?);
        }
        if let Some(init) = &request.init {
            command.arg("--init").arg(absolute(init)?);
        }
        match &request.mirror {
            Some(Mirror::Folder(path)) => drop(command.arg("--mirror").arg(absolute(path)?)),
            Some(Mirror::Address(uri)) => drop(command.args(["--mirror", uri])),
            None => {}
        }
        // In another order on side B, and, where they are directories, from a copy made in another order.
        let mut workloads: Vec<&WorkloadSpec> = request.workloads.iter().collect();
        if side.reversed {
            workloads.reverse();
        }
        for spec in workloads {
            let path = if spec.path.is_dir() {
                let copy = folder.join("workloads").join(spec.name.as_str());
                directory::write(&directory::read(&spec.path)?, &copy, side.reversed)?;
                copy
            } else {
                absolute(&spec.path)?
            };
            command.arg("--workload").arg(format!("{}={}", spec.name, path.display()));
        }
        command
            .env("CARGO_MANIFEST_DIR", source.join("image"))
            .env("CARGO_HOME", &cargo_home)
            .env("CARGO_NET_OFFLINE", "true")
            .env("CASEMATE_TARGET", &target)
            .env("CASEMATE_TOOLCHAIN", &toolchain)
            .env("LC_ALL", side.locale)
            .env("TZ", side.zone)
            .current_dir(&folder)
            .stdin(Stdio::null());
        // The child inherits it; it is put back at once.
        let before = umask(Mode::from_bits_truncate(side.umask));
        let status = command.status();
        umask(before);
        let failed = |status: String| ImageError::Program {
            program: format!("{} (build side {})", builder.display(), side.name),
            status,
            output: "see above".into(),
        };
        match status {
            Ok(status) if status.success() => Ok(out),
            Ok(status) => Err(failed(status.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(ImageError::at(path))
}

/// The workspace as files, not as a checkout.
fn sources(workspace: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    for entry in fs::read_dir(workspace).map_err(ImageError::at(workspace))? {
        let path = entry.map_err(ImageError::at(workspace))?.path();
        let Some(name) = path.file_name().and_then(OsStr::to_str).filter(|name| !NOT_COPIED.contains(name))
        else {
            continue;
        };
        let refuse = |why: String| ImageError::member("workspace", name, why);
        let at = MemberPath::parse(name).map_err(|why| refuse(why.to_string()))?;
        if path.is_dir() {
            tree.graft(&at, &directory::read(&path)?)
                .map_err(|(path, why)| refuse(format!("{path}: {why}")))?;
        } else if path.is_file() {
            let content = fs::read(&path).map_err(ImageError::at(&path))?;
            tree.insert(at, Node::plain(content)).map_err(|why| refuse(why.to_string()))?;
        }
    }
    Ok(tree)
}

/// Has cargo download every crate of the lock file: what was built here so far need not have used the guest's.
fn fetch(workspace: &Path) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Not those of other systems, which nobody downloads by building here.
    command.args(["fetch", "--locked", "--quiet", "--target", TARGET]).current_dir(workspace);
    command::output(&mut command, "download the crates").map(drop)
}

/// A CARGO_HOME with the downloads of this machine's, so that nothing is fetched twice, but unpacked in its own place.
fn copy_registry(to: &Path) -> Result<()> {
    let from = cargo_home().ok_or_else(|| ImageError::Usage("neither CARGO_HOME nor HOME is set".into()))?;
    for part in ["registry/index", "registry/cache"] {
        let source = from.join(part);
        if source.is_dir() {
            directory::write(&directory::read(&source)?, &to.join(part), false)?;
        }
    }
    for name in ["config.toml", "config"] {
        let source = from.join(name);
        if source.is_file() {
            fs::copy(&source, to.join(name)).map_err(ImageError::at(&source))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_copied_without_history_and_builds() {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in [
            (".git/HEAD", "x"),
            ("target/debug/x", "x"),
            ("init/target.rs", "y"),
            (".cargo/config.toml", "z"),
            ("Cargo.toml", "w"),
        ] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let copy = dir.path().join("target/copy");
        directory::write(&sources(dir.path()).unwrap(), &copy, true).unwrap();
        let tree = directory::read(&copy).unwrap();
        let paths: Vec<&str> = tree.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, [".cargo", ".cargo/config.toml", "Cargo.toml", "init", "init/target.rs"]);
    }

    #[test]
    fn side_a_must_have_been_built_from_the_same_inputs() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = serde_json::json!({"version": 1, "flavor": "prod", "outputs": {},
            "inputs": [{"kind": "workload", "name": "web", "sha256": "00".repeat(32)}]});
        fs::write(dir.path().join(MANIFEST), manifest.to_string()).unwrap();
        let mut request = Request {
            workspace: dir.path().into(),
            flavor: None,
            document: None,
            workloads: Vec::new(),
            mirror: None,
            init: None,
            side_a: Some(dir.path().into()),
            work: None,
        };
        let judge = |request: &Request| side_a_flavor(request, dir.path()).map_err(|e| e.to_string());
        assert!(
            judge(&request).unwrap_err().contains("workloads [web], given again with --workload, found []")
        );
        request.workloads.push("web=/x".parse().unwrap());
        assert_eq!(judge(&request), Ok(Flavor::Prod));
        request.document = Some("x".into());
        assert!(judge(&request).unwrap_err().contains("expected no document"));
        request.document = None;
        request.flavor = Some(Flavor::Dev);
        assert!(judge(&request).unwrap_err().contains("flavor: expected dev, found prod"));
    }
}
