//! `image/kernel.lock`: which packages an image is made of, to the byte. [`Pinned`] is also what
//! `image/toolchain.lock` lists.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{ImageError, Result};
use crate::json;

/// The format that this version reads and writes.
const VERSION: u32 = 1;
/// No package is larger: 512 MiB.
const MAX_PACKAGE: u64 = 512 << 20;

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelLock {
    /// Format version, 1.
    pub version: u32,
    /// Modification time of every file of an image, in seconds since 1970: that of the newest file in the pinned
    /// packages. The guest's clock never goes below it.
    pub epoch: u32,
    /// One for each role.
    pub packages: Vec<Pinned>,
}

/// What a package is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The kernel image.
    Kernel,
    /// Its modules.
    Modules,
    /// The list of what is built in.
    KernelBase,
    /// The firmware, OVMF.
    Firmware,
    /// systemd-stub, which a unified kernel image starts with.
    UefiStub,
    /// The demonstration's workload, busybox: in no image unless it is given as a workload.
    DemoWorkload,
    /// The C compiler.
    Compiler,
    /// Assembler, linker, archiver.
    Binutils,
    /// What is linked or included: start files, archives, headers.
    CLibrary,
    /// What the programs of the toolchain need themselves to run: the loader and shared libraries.
    Library,
}

impl Role {
    /// Those of `kernel.lock`, one package each.
    pub const KERNEL_LOCK: [Self; 6] =
        [Self::Kernel, Self::Modules, Self::KernelBase, Self::Firmware, Self::UefiStub, Self::DemoWorkload];
    /// Those of `toolchain.lock`, one package or more each.
    pub const TOOLCHAIN_LOCK: [Self; 4] = [Self::Compiler, Self::Binutils, Self::CLibrary, Self::Library];
    /// Those that every image is made of.
    pub const IMAGE: [Self; 5] =
        [Self::Kernel, Self::Modules, Self::KernelBase, Self::Firmware, Self::UefiStub];

    const fn word(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Modules => "modules",
            Self::KernelBase => "kernel-base",
            Self::Firmware => "firmware",
            Self::UefiStub => "uefi-stub",
            Self::DemoWorkload => "demo-workload",
            Self::Compiler => "compiler",
            Self::Binutils => "binutils",
            Self::CLibrary => "c-library",
            Self::Library => "library",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A package, to the byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// What it is for.
    pub role: Role,
    /// Its name.
    pub package: String,
    /// Its Debian version.
    pub version: String,
    /// Its architecture.
    pub architecture: String,
    /// The Debian suite it was pinned from.
    pub suite: String,
    /// Length of the file in bytes.
    pub size: u64,
    /// SHA-256 of the file.
    #[serde(with = "hex::serde")]
    pub sha256: [u8; 32],
    /// Licence, SPDX.
    pub license: String,
    /// Name and version of its source package and of sources that were built into it: the source offer.
    pub sources: Vec<String>,
}

impl Pinned {
    /// `name version`, for messages.
    pub fn title(&self) -> String {
        format!("{} {}", self.package, self.version)
    }

    /// The file name that `apt-get download` gives.
    pub fn file_name(&self) -> String {
        format!("{}_{}_{}.deb", self.package, self.version.replace(':', "%3a"), self.architecture)
    }

    /// The file name in a Debian pool: the version without its epoch.
    pub fn pool_name(&self) -> String {
        let version = self.version.split_once(':').map_or(self.version.as_str(), |(_, rest)| rest);
        format!("{}_{version}_{}.deb", self.package, self.architecture)
    }

    /// Its own record, for what is unpacked from it.
    ///
    /// # Errors
    /// None in practice.
    pub fn to_json(&self) -> Result<String> {
        json::pretty("package record", self)
    }

    /// Where the sources are to be had, for `manifest.json`.
    pub fn source_offer(&self) -> String {
        format!(
            "Debian source packages {} (suite {}; apt-get source NAME=VERSION, or Debian's snapshot archive)",
            self.sources.join(", "),
            self.suite
        )
    }
}

impl KernelLock {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// If it cannot be read or is not a lock of this version.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read(path).map_err(ImageError::at(path))?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Checks. `file` is for errors.
    ///
    /// # Errors
    /// The first thing that is wrong: field, expectation, finding.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self> {
        let lock: Self = serde_json::from_slice(text)
            .map_err(|error| ImageError::form(file, "JSON", "a package lock", error.to_string()))?;
        lock.check(file)?;
        Ok(lock)
    }

    fn check(&self, file: &str) -> Result<()> {
        let wrong = |field: String, expected: &str, found: &str| {
            Err(ImageError::form(file, field, expected, format!("{found:?}")))
        };
        if self.version != VERSION {
            return wrong("version".into(), "1", &self.version.to_string());
        }
        for role in Role::KERNEL_LOCK {
            let count = self.packages.iter().filter(|p| p.role == role).count();
            if count != 1 {
                return wrong("packages".into(), &format!("one package of role {role}"), &count.to_string());
            }
        }
        check_packages(file, &self.packages, &Role::KERNEL_LOCK)
    }

    /// The package of a role.
    ///
    /// # Errors
    /// None after [`KernelLock::parse`].
    pub fn role(&self, role: Role) -> Result<&Pinned> {
        self.packages
            .iter()
            .find(|package| package.role == role)
            .ok_or_else(|| ImageError::form("lock", "packages", format!("one of role {role}"), "none"))
    }

    /// The file's text, in one form only.
    ///
    /// # Errors
    /// None in practice.
    pub fn render(&self) -> Result<String> {
        let mut sorted = self.clone();
        sorted.packages.sort_by_key(|package| package.role);
        json::pretty("lock", &sorted)
    }
}

/// What is wrong with packages that a file lists: these become arguments and file names.
pub(crate) fn check_packages(file: &str, packages: &[Pinned], roles: &[Role]) -> Result<()> {
    for (index, package) in packages.iter().enumerate() {
        let wrong = |field: &str, expected: &str, found: &str| {
            Err(ImageError::form(file, format!("packages[{index}].{field}"), expected, format!("{found:?}")))
        };
        if !roles.contains(&package.role) {
            let words: Vec<_> = roles.iter().map(|role| role.word()).collect();
            return wrong("role", &format!("one of {}", words.join(", ")), package.role.word());
        }
        // Debian Policy 5.6.1, 5.6.12.
        if !is_word(&package.package, "+-.") {
            return wrong("package", "a Debian package name", &package.package);
        }
        if !is_word(&package.version, "+-.~:") {
            return wrong("version", "a Debian version", &package.version);
        }
        if !is_word(&package.architecture, "-") {
            return wrong("architecture", "a Debian architecture", &package.architecture);
        }
        if !is_word(&package.suite, "-") {
            return wrong("suite", "a Debian suite", &package.suite);
        }
        if package.size == 0 || package.size > MAX_PACKAGE {
            return wrong("size", "1 to 536870912 bytes", &package.size.to_string());
        }
        if package.sources.is_empty() {
            return wrong("sources", "at least one source package", "none");
        }
    }
    Ok(())
}

/// Starts with a letter or digit; letters, digits and `also`.
fn is_word(text: &str, also: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}

#[cfg(test)]
pub(crate) mod tests {
    use sha2::{Digest as _, Sha256};

    use super::*;

    /// A package of that content.
    pub(crate) fn pinned(role: Role, content: &[u8]) -> Pinned {
        Pinned {
            role,
            package: format!("pkg-{role}"),
            version: "1:2.0-1~bpo13+1".into(),
            architecture: "amd64".into(),
            suite: "trixie".into(),
            size: content.len() as u64,
            sha256: Sha256::digest(content).into(),
            license: "GPL-2.0-only".into(),
            sources: vec!["pkg 2.0-1".into()],
        }
    }

    fn lock() -> KernelLock {
        KernelLock {
            version: 1,
            epoch: 1_700_000_000,
            packages: Role::KERNEL_LOCK.into_iter().map(|role| pinned(role, b"deb")).collect(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = lock().render().unwrap();
        assert_eq!(KernelLock::parse("kernel.lock", text.as_bytes()).unwrap(), lock());
        let names = (lock().packages[0].file_name(), lock().packages[0].pool_name());
        assert_eq!(names.0, "pkg-kernel_1%3a2.0-1~bpo13+1_amd64.deb");
        assert_eq!(names.1, "pkg-kernel_2.0-1~bpo13+1_amd64.deb");
    }

    #[test]
    fn what_is_wrong_is_named() {
        type Change = fn(&mut serde_json::Value);
        let cases: [(Change, &str); 10] = [
            (|v| v["version"] = 2.into(), "version: expected 1, found \"2\""),
            (
                |v| v["packages"][1]["role"] = "kernel".into(),
                "packages: expected one package of role kernel, found \"2\"",
            ),
            (
                |v| {
                    let mut more = v["packages"][0].clone();
                    more["role"] = "binutils".into();
                    v["packages"].as_array_mut().unwrap().push(more);
                },
                "packages[6].role: expected one of kernel, modules, kernel-base, firmware, uefi-stub, demo-workload, found \"binutils\"",
            ),
            (
                |v| v["packages"][0]["package"] = "../x".into(),
                "packages[0].package: expected a Debian package name, found \"../x\"",
            ),
            (
                |v| v["packages"][2]["version"] = "1 -o Dir=/".into(),
                "packages[2].version: expected a Debian version, found \"1 -o Dir=/\"",
            ),
            (
                |v| v["packages"][0]["suite"] = "-x".into(),
                "packages[0].suite: expected a Debian suite, found \"-x\"",
            ),
            (
                |v| v["packages"][0]["size"] = 0.into(),
                "packages[0].size: expected 1 to 536870912 bytes, found \"0\"",
            ),
            (
                |v| v["packages"][0]["sources"] = serde_json::json!([]),
                "packages[0].sources: expected at least one source package, found \"none\"",
            ),
            (|v| v["packages"][0]["sha256"] = "abc".into(), "JSON: expected a package lock, found "),
            (|v| v["more"] = 1.into(), "JSON: expected a package lock, found unknown field `more`"),
        ];
        for (change, message) in cases {
            let mut value = serde_json::to_value(lock()).unwrap();
            change(&mut value);
            let error =
                KernelLock::parse("kernel.lock", value.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("kernel.lock: {message}")), "{error}");
        }
    }

    #[test]
    fn the_lock_of_this_tree_is_good() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernel.lock");
        let lock = KernelLock::read(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lock.render().unwrap());
    }
}
