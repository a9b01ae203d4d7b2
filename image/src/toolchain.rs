//! `image/toolchain.lock` and what is made of it: the C compiler, assembler, linker and C library that a static init
//! swallows, as files that run from any folder of any machine.
//!
//! The programs are Debian's, dynamically linked, and name the machine's loader and libraries. So none of them is started
//! directly: `tools/` has a script for each, which starts it with the loader and the libraries that lie beside it, whatever
//! the machine has. A script finds its root by its own name, and so the whole may lie anywhere. The compiler looks for the
//! other programs in `tools/` first, and for everything else below the root alone.

use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::cpio;
use crate::deb::Deb;
use crate::error::{ImageError, Result};
use crate::json;
use crate::lock::{Pinned, Role, check_packages};
use crate::path::MemberPath;
use crate::tree::{Node, Tree};

/// The format that this version reads and writes.
const VERSION: u32 = 1;

/// Where the scripts are.
pub(crate) const TOOLS: &str = "tools";
/// The loader, and the folder of its libraries.
pub(crate) const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
pub(crate) const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// The programs by the names that the compiler and cargo know: `gcc -###` of a C and an assembly file, and of a link, starts
/// these; `ar` is for crates that compile C.
pub(crate) const PROGRAMS: &[(&str, &str)] = &[
    ("cc", "usr/bin/x86_64-linux-gnu-gcc-14"),
    ("cc1", "usr/libexec/gcc/x86_64-linux-gnu/14/cc1"),
    ("as", "usr/bin/x86_64-linux-gnu-as"),
    ("collect2", "usr/libexec/gcc/x86_64-linux-gnu/14/collect2"),
    ("ld", "usr/bin/x86_64-linux-gnu-ld.bfd"),
    ("ar", "usr/bin/x86_64-linux-gnu-ar"),
];

/// What else is taken out of the packages: headers, archives, start files, shared libraries, the linker's plugin.
const WANTED: &[&str] = &[
    "usr/include/",
    "usr/lib/gcc/x86_64-linux-gnu/14/",
    "usr/lib/linux/",
    "usr/lib/x86_64-linux-gnu/",
    "usr/lib64/",
    "usr/libexec/gcc/x86_64-linux-gnu/14/liblto_plugin.so",
];
/// Converters between character sets: nothing here converts any.
const UNWANTED: &str = "usr/lib/x86_64-linux-gnu/gconv/";

/// What would make the programs look elsewhere or say something else: GCC manual, "Environment Variables Affecting GCC";
/// ld(1), ENVIRONMENT; ld.so(8), ENVIRONMENT.
const UNSET: &str = "GCC_EXEC_PREFIX COMPILER_PATH LIBRARY_PATH CPATH C_INCLUDE_PATH DEPENDENCIES_OUTPUT \
                     SUNPRO_DEPENDENCIES GCC_COMPARE_DEBUG GNUTARGET LDEMULATION LD_RUN_PATH LD_PRELOAD LD_AUDIT \
                     LD_LIBRARY_PATH GLIBC_TUNABLES";

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolchainLock {
    /// Format version, 1.
    pub version: u32,
    /// SHA-256 of what is taken out of the packages, as a canonical archive: by this the unpacked files are known again.
    #[serde(with = "hex::serde")]
    pub files: [u8; 32],
    /// At least one for each role.
    pub packages: Vec<Pinned>,
}

impl ToolchainLock {
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
            .map_err(|error| ImageError::form(file, "JSON", "a toolchain lock", error.to_string()))?;
        if lock.version != VERSION {
            return Err(ImageError::form(file, "version", "1", lock.version.to_string()));
        }
        for role in Role::TOOLCHAIN_LOCK {
            if !lock.packages.iter().any(|package| package.role == role) {
                return Err(ImageError::form(
                    file,
                    "packages",
                    format!("one of role {role} or more"),
                    "none",
                ));
            }
        }
        check_packages(file, &lock.packages, &Role::TOOLCHAIN_LOCK)?;
        for (index, package) in lock.packages.iter().enumerate() {
            if lock.packages.iter().take(index).any(|other| other.package == package.package) {
                let field = format!("packages[{index}].package");
                return Err(ImageError::form(
                    file,
                    field,
                    "each package once",
                    format!("{:?}", package.package),
                ));
            }
        }
        Ok(lock)
    }

    /// The file's text, in one form only.
    ///
    /// # Errors
    /// None in practice.
    pub fn render(&self) -> Result<String> {
        let mut sorted = self.clone();
        sorted.packages.sort_by(|a, b| (a.role, &a.package).cmp(&(b.role, &b.package)));
        json::pretty("lock", &sorted)
    }

    /// The name of what is made of it: another one for other packages and for other scripts.
    ///
    /// # Errors
    /// None in practice.
    pub(crate) fn key(&self) -> Result<String> {
        let mut text = self.render()?;
        for (name, _) in PROGRAMS {
            text.push_str(&script(name).unwrap_or_default());
        }
        let mut key = hex::encode(Sha256::digest(text));
        key.truncate(16);
        Ok(key)
    }

    /// That files taken out of packages are those that were pinned.
    ///
    /// # Errors
    /// If they are not.
    pub(crate) fn check_files(&self, title: &str, files: &Tree) -> Result<()> {
        let found = digest(files)?;
        if found == self.files {
            return Ok(());
        }
        Err(ImageError::form(title, "SHA-256 of its files", hex::encode(self.files), hex::encode(found)))
    }
}

/// What is taken out of the packages.
///
/// # Errors
/// If a package is broken, two have the same file, a link leaves the root, or a program is missing.
pub(crate) fn unpack(packages: &[(&Pinned, &[u8])]) -> Result<Tree> {
    let mut tree = Tree::new();
    for (package, bytes) in packages {
        let name = package.pool_name();
        for (path, node) in Deb::parse(&name, bytes)?.files(is_wanted)?.iter() {
            if let Node::Symlink { target } = node
                && leaves(path, target)
            {
                return Err(ImageError::member(
                    &name,
                    path.as_str(),
                    format!("a link out of the root: {target}"),
                ));
            }
            tree.insert(path.clone(), node.clone())
                .map_err(|why| ImageError::member(&name, path.as_str(), why.to_string()))?;
        }
    }
    for path in PROGRAMS.iter().map(|(_, path)| *path).chain([LOADER]) {
        let found = MemberPath::parse(path).ok().and_then(|path| tree.resolve(&path).ok().flatten());
        if !matches!(found, Some((_, Node::File { executable: true, .. }))) {
            return Err(ImageError::form("toolchain packages", "files", path, "no such program in them"));
        }
    }
    Ok(tree)
}

/// Whether a link points out of the root that its path is in.
fn leaves(path: &MemberPath, target: &str) -> bool {
    let mut depth = path.as_str().matches('/').count();
    target.starts_with('/')
        || target.split('/').any(|part| match part {
            "" | "." => false,
            ".." if depth == 0 => true,
            ".." => {
                depth -= 1;
                false
            }
            _ => {
                depth += 1;
                false
            }
        })
}

fn is_wanted(path: &MemberPath) -> bool {
    let path = path.as_str();
    PROGRAMS.iter().any(|(_, program)| *program == path)
        || (WANTED.iter().any(|wanted| path.starts_with(wanted)) && !path.starts_with(UNWANTED))
}

/// SHA-256 of a tree as an archive.
///
/// # Errors
/// If it is too large for one.
pub(crate) fn digest(files: &Tree) -> Result<[u8; 32]> {
    Ok(Sha256::digest(cpio::canonical(files)?).into())
}

/// The scripts, below [`TOOLS`], and the link by which the linker's own scripts name the C library.
pub(crate) fn scripts() -> Vec<(MemberPath, Node)> {
    let scripts = PROGRAMS.iter().filter_map(|(name, _)| {
        Some((
            MemberPath::parse(&format!("{TOOLS}/{name}")).ok()?,
            Node::executable(script(name)?.into_bytes()),
        ))
    });
    let lib = MemberPath::parse("lib").ok().map(|path| (path, Node::Symlink { target: "usr/lib".into() }));
    scripts.chain(lib).collect()
}

/// The script of that name. It is started by its absolute path.
fn script(name: &str) -> Option<String> {
    let (_, program) = PROGRAMS.iter().find(|(other, _)| *other == name)?;
    // What the compiler starts has its environment and its arguments from the compiler.
    let (unset, arguments) = match name {
        "cc" => (format!("unset {UNSET}\n"), "-B\"$tools/\" --sysroot=\"$root\" "),
        "ar" => (format!("unset {UNSET}\n"), ""),
        _ => (String::new(), ""),
    };
    Some(format!(
        "#!/bin/sh\n\
         {unset}tools=${{0%/*}}\n\
         root=${{tools%/*}}\n\
         PATH=$tools exec \"$root/{LOADER}\" --inhibit-cache --library-path \"$root/{LIBRARIES}\" \
         --argv0 \"$root/{program}\" \"$root/{program}\" {arguments}\"$@\"\n"
    ))
}

#[cfg(test)]
mod tests {
    use tar::EntryType::{Directory, Regular, Symlink};

    use super::*;
    use crate::deb::tests::deb;
    use crate::lock::tests::pinned;

    fn lock() -> ToolchainLock {
        let packages = Role::TOOLCHAIN_LOCK.into_iter().map(|role| pinned(role, b"deb")).collect();
        ToolchainLock { version: 1, files: [7; 32], packages }
    }

    #[test]
    fn what_is_written_is_read() {
        let text = lock().render().unwrap();
        assert_eq!(ToolchainLock::parse("toolchain.lock", text.as_bytes()).unwrap(), lock());
        let mut other = lock();
        other.packages.reverse();
        assert_eq!(other.render().unwrap(), text);
        other.files[0] = 8;
        assert_ne!(other.key().unwrap(), lock().key().unwrap());
    }

    #[test]
    fn what_is_wrong_is_named() {
        type Change = fn(&mut serde_json::Value);
        let cases: [(Change, &str); 6] = [
            (|v| v["version"] = 2.into(), "version: expected 1, found 2"),
            (|v| v["files"] = "00".into(), "JSON: expected a toolchain lock, found "),
            (
                |v| v["packages"][1]["role"] = "compiler".into(),
                "packages: expected one of role binutils or more, found none",
            ),
            (
                |v| {
                    let mut more = v["packages"][0].clone();
                    more["role"] = "kernel".into();
                    v["packages"].as_array_mut().unwrap().push(more);
                },
                "packages[4].role: expected one of compiler, binutils, c-library, library, found \"kernel\"",
            ),
            (
                |v| v["packages"][3]["package"] = "pkg-compiler".into(),
                "packages[3].package: expected each package once, found \"pkg-compiler\"",
            ),
            (
                |v| v["packages"][2]["version"] = "1 -o Dir=/".into(),
                "packages[2].version: expected a Debian version, found \"1 -o Dir=/\"",
            ),
        ];
        for (change, message) in cases {
            let mut value = serde_json::to_value(lock()).unwrap();
            change(&mut value);
            let error =
                ToolchainLock::parse("toolchain.lock", value.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("toolchain.lock: {message}")), "{error}");
        }
    }

    #[test]
    fn the_lock_of_this_tree_is_good() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("toolchain.lock");
        let lock = ToolchainLock::read(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lock.render().unwrap());
    }

    fn programs() -> Vec<(String, tar::EntryType, u32, &'static str)> {
        let paths = PROGRAMS.iter().map(|(_, path)| *path).chain([LOADER]);
        paths.map(|path| (format!("./{path}"), Regular, 0o755, "elf")).collect()
    }

    fn unpacked(files: &[(&str, tar::EntryType, u32, &str)]) -> Result<Tree> {
        let programs = programs();
        let mut all: Vec<_> = programs.iter().map(|(p, k, m, c)| (p.as_str(), *k, *m, *c)).collect();
        all.extend(files);
        unpack(&[(&pinned(Role::Compiler, b"deb"), &deb("", &all))])
    }

    #[test]
    fn what_is_not_needed_is_left_in_the_packages() {
        let tree = unpacked(&[
            ("./usr/include/stdio.h", Regular, 0o644, "h"),
            ("./usr/lib/x86_64-linux-gnu/libc.a", Regular, 0o644, "a"),
            ("./usr/lib/x86_64-linux-gnu/gconv/X.so", Regular, 0o644, "so"),
            ("./usr/share/doc/x", Regular, 0o644, "doc"),
            ("./usr/bin/x86_64-linux-gnu-lto-dump-14", Regular, 0o755, "elf"),
            ("./etc/", Directory, 0o755, ""),
        ])
        .unwrap();
        let paths: Vec<_> =
            tree.iter().filter(|(_, n)| **n == Node::plain(*b"h") || **n == Node::plain(*b"a")).collect();
        assert_eq!(paths.len(), 2);
        let others = ["gconv/X.so", "share", "lto-dump", "etc"];
        assert!(!tree.iter().any(|(path, _)| others.iter().any(|other| path.as_str().contains(other))));
    }

    #[test]
    fn a_link_out_and_a_missing_program_are_errors() {
        for target in ["/lib/libm.so.6", "../../../../lib/libm.so.6", "../x86_64-linux-gnu/../../../../x"] {
            let link = ("./usr/lib/x86_64-linux-gnu/libm.so", Symlink, 0o777, target);
            let error = unpacked(&[link]).unwrap_err().to_string();
            assert!(
                error.contains(&format!("libm.so: refused: a link out of the root: {target}")),
                "{error}"
            );
        }
        unpacked(&[("./usr/lib/x86_64-linux-gnu/libm.so", Symlink, 0o777, "../../../lib/libm.so.6")])
            .unwrap();
        let lone = deb("", &[("./usr/include/stdio.h", Regular, 0o644, "h")]);
        let error = unpack(&[(&pinned(Role::Compiler, b"deb"), &lone)]).unwrap_err().to_string();
        assert!(error.contains("expected usr/bin/x86_64-linux-gnu-gcc-14, found no such program"), "{error}");
    }

    #[test]
    fn a_script_starts_its_program_with_the_loader_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("it's a root");
        let mut tree = Tree::new();
        let echo = "#!/bin/sh\nprintf '%s\\n' \"$PATH\" \"${CPATH-unset}\" \"$0\" \"$@\"\n";
        tree.insert(MemberPath::parse(LOADER).unwrap(), Node::executable(echo.as_bytes())).unwrap();
        for (path, node) in scripts() {
            tree.insert(path, node).unwrap();
        }
        crate::io::directory::write(&tree, &root, false).unwrap();
        let mut command = std::process::Command::new(root.join("tools/cc"));
        let output = command.args(["a b", "-c"]).env("CPATH", "/usr/include").output().unwrap();
        let at = |path: &str| root.join(path).display().to_string();
        let program = at("usr/bin/x86_64-linux-gnu-gcc-14");
        let expected = [
            at("tools"),
            "unset".into(),
            at(LOADER),
            "--inhibit-cache".into(),
            "--library-path".into(),
            at(LIBRARIES),
            "--argv0".into(),
            program.clone(),
            program,
            format!("-B{}/", at("tools")),
            format!("--sysroot={}", root.display()),
            "a b".into(),
            "-c".into(),
        ];
        assert_eq!(String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(), expected);
    }
}
