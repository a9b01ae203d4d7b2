//! The machine's own apt, with its proxies, transports and credentials, but with state, cache and sources of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::error::{ImageError, Result};
use crate::io::command;
use crate::sources::Archive;

/// Every package of an image is for this architecture, or for all.
const ARCHITECTURE: &str = "amd64";

/// apt with fresh indexes of some suites. Its folder vanishes with it.
#[derive(Debug)]
pub struct Apt {
    dir: TempDir,
}

impl Apt {
    /// Makes private state below `scratch` and fetches the indexes of the suites.
    ///
    /// `mirror` replaces the address of this machine's Debian archive.
    ///
    /// # Errors
    /// If there is no apt, no Debian source, or the indexes cannot be had.
    pub fn update(scratch: &Path, mirror: Option<&str>, suites: &[&str]) -> Result<Self> {
        let archive = match mirror {
            Some(uri) => Archive::at(uri),
            None => machine_archive()?,
        };
        fs::create_dir_all(scratch).map_err(ImageError::at(scratch))?;
        let dir =
            tempfile::Builder::new().prefix("apt-").tempdir_in(scratch).map_err(ImageError::at(scratch))?;
        let apt = Self { dir };
        for part in ["sources.list.d", "none", "state/lists/partial", "cache/archives/partial", "files"] {
            let path = apt.path(part);
            fs::create_dir_all(&path).map_err(ImageError::at(&path))?;
        }
        write(&apt.path("sources.list.d/casemate.sources"), &archive.render(suites, ARCHITECTURE))?;
        write(&apt.path("state/status"), "")?;
        write(&apt.path("apt.conf"), &configuration(apt.dir.path())?)?;
        command::output(apt.command("apt-get").arg("update"), "package indexes")?;
        Ok(apt)
    }

    /// A control field of every version of a package that the suites have: the `apt-cache show` stanzas.
    ///
    /// # Errors
    /// If apt-cache cannot be run; a package that does not exist gives no stanza.
    pub fn show(&self, package: &str) -> Result<Vec<String>> {
        let output = command::run(
            self.command("apt-cache").args(["show", "--all-versions", package]),
            "look up a package",
        )?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(text.split("\n\n").map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect())
    }

    /// The stanza of the version that apt would install.
    ///
    /// # Errors
    /// If apt-cache cannot be run.
    pub fn candidate(&self, package: &str) -> Result<Option<String>> {
        let mut command = self.command("apt-cache");
        let output = command::run(command.args(["show", "--no-all-versions", package]), "look up a package")?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok((!text.is_empty()).then_some(text))
    }

    /// Downloads packages, `NAME=VERSION` each, and returns the folder they are in.
    ///
    /// # Errors
    /// If any of them cannot be had.
    pub fn download(&self, packages: &[String]) -> Result<PathBuf> {
        let files = self.path("files");
        let mut command = self.command("apt-get");
        command.current_dir(&files).arg("download").args(packages);
        command::output(&mut command, "download packages")?;
        Ok(files)
    }

    fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join(part)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-q").arg("-c").arg(self.path("apt.conf")).env("LC_ALL", "C");
        command
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(ImageError::at(path))
}

/// Read after the machine's own configuration (apt.conf(5)), which therefore stays in force where this says nothing.
fn configuration(dir: &Path) -> Result<String> {
    let dir = dir.to_str().filter(|d| !d.contains(['"', '\n', ';'])).ok_or_else(|| {
        ImageError::form("cache folder", "path", "UTF-8 without quotes", dir.display().to_string())
    })?;
    Ok(format!(
        r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear APT::Architectures;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large;
#clear Acquire::IndexTargets::deb::CNF;
APT::Architecture "{ARCHITECTURE}";
APT::Architectures {{ "{ARCHITECTURE}"; }};
APT::Update::Error-Mode "any";
APT::Default-Release "";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "{dir}/sources.list.d";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{dir}/none";
Dir::State "{dir}/state";
Dir::State::lists "{dir}/state/lists";
Dir::State::status "{dir}/state/status";
Dir::Cache "{dir}/cache";
Dir::Cache::archives "{dir}/cache/archives";
"#
    ))
}

/// The Debian archive among this machine's sources, wherever its configuration says they are.
fn machine_archive() -> Result<Archive> {
    let text = command::output(
        Command::new("apt-config").args([
            "shell",
            "LIST",
            "Dir::Etc::sourcelist/f",
            "PARTS",
            "Dir::Etc::sourceparts/d",
        ]),
        "find the apt sources",
    )?;
    let value = |name: &str| {
        text.lines().find_map(|line| {
            Some(line.strip_prefix(name)?.strip_prefix("='")?.strip_suffix('\'')?.to_owned())
        })
    };
    let list = value("LIST").unwrap_or_else(|| "/etc/apt/sources.list".into());
    let parts = value("PARTS").unwrap_or_else(|| "/etc/apt/sources.list.d/".into());
    let mut paths: Vec<PathBuf> = fs::read_dir(&parts)
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    // sources.list(5): other endings are ignored.
    paths.retain(|path| path.extension().is_some_and(|e| e == "list" || e == "sources"));
    paths.sort();
    paths.insert(0, PathBuf::from(&list));
    let files: Vec<(String, String)> = paths
        .iter()
        .filter_map(|path| Some((path.display().to_string(), fs::read_to_string(path).ok()?)))
        .collect();
    Archive::find(&files).ok_or_else(|| ImageError::NoDebianSource {
        looked_at: format!("{list}, {parts}*.list, {parts}*.sources"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_would_end_the_quotes_is_refused() {
        assert!(configuration(Path::new("/tmp/a\"; Dir \"/")).is_err());
        assert!(configuration(Path::new("/tmp/a")).unwrap().contains("Dir::State \"/tmp/a/state\";"));
    }
}
