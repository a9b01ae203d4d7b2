//! `cargo image lock --update`: pins what the suites have now.

use std::path::Path;

use crate::assemble::Parts;
use crate::deb::Deb;
use crate::error::{ImageError, Result};
use crate::io::apt::Apt;
use crate::io::store::{Mirror, Store};
use crate::io::toolchain::Toolchain;
use crate::lock::{KernelLock, Pinned, Role};
use crate::progress::Progress;
use crate::toolchain::{self, ToolchainLock};

/// Kernels before 6.16 have no RTMR interface; trixie itself has 6.12.
const KERNEL_SUITE: &str = "trixie-backports";
const SUITE: &str = "trixie";
/// The package that depends on the newest modules, and so names the newest kernel.
const KERNEL_META: &str = "linux-modules-cloud-amd64";
const KERNEL_PREFIX: &str = "linux-modules-";

const KERNEL_LICENSE: &str = "GPL-2.0-only WITH Linux-syscall-note";
/// As the copyright files of the packages list them.
const FIRMWARE_LICENSE: &str =
    "BSD-2-Clause-Patent AND BSD-3-Clause AND MIT AND ISC AND Apache-2.0 AND OpenSSL";
const STUB_LICENSE: &str = "LGPL-2.1-or-later";
const BUSYBOX_LICENSE: &str = "GPL-2.0-only AND LGPL-2.1-or-later";

const GPL3: &str = "GPL-3.0-or-later";
/// The toolchain: trixie's default compiler, without what only other languages, sanitizers and debuggers need. Licences as the
/// copyright files have them for what is taken out.
const TOOLCHAIN: &[(Role, &str, &str)] = &[
    (Role::Compiler, "cpp-14-x86-64-linux-gnu", GPL3),
    (Role::Compiler, "gcc-14-x86-64-linux-gnu", GPL3),
    (Role::Binutils, "binutils-x86-64-linux-gnu", GPL3),
    (Role::CLibrary, "libc6-dev", "LGPL-2.1-or-later"),
    (Role::CLibrary, "libgcc-14-dev", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    (Role::CLibrary, "linux-libc-dev", KERNEL_LICENSE),
    (Role::Library, "libbinutils", GPL3),
    (Role::Library, "libc6", "LGPL-2.1-or-later"),
    (Role::Library, "libctf0", GPL3),
    (Role::Library, "libgmp10", "LGPL-3.0-or-later OR GPL-2.0-or-later"),
    (Role::Library, "libisl23", "MIT"),
    (Role::Library, "libjansson4", "MIT"),
    (Role::Library, "libmpc3", "LGPL-3.0-or-later"),
    (Role::Library, "libmpfr6", "LGPL-3.0-or-later"),
    (Role::Library, "libsframe1", GPL3),
    (Role::Library, "libzstd1", "BSD-3-Clause OR GPL-2.0-only"),
    (Role::Library, "zlib1g", "Zlib"),
];

/// Asks apt, downloads, checks that an image can be made of it, and returns the new lock; the packages stay in the cache.
///
/// # Errors
/// If apt cannot be reached or the packages do not fit together.
pub fn update(store: &Store, mirror: Option<&Mirror>, progress: &Progress) -> Result<KernelLock> {
    let address = address(mirror)?;
    let mut packages = Vec::new();
    progress.say(format_args!("lock: asking suite {KERNEL_SUITE}"));
    let apt = Apt::update(store.cache(), address, &[KERNEL_SUITE])?;
    let kernel = newest_kernel(&apt)?;
    for (role, name) in [
        (Role::Kernel, format!("linux-binary-{kernel}")),
        (Role::Modules, format!("linux-modules-{kernel}")),
        (Role::KernelBase, format!("linux-base-{kernel}")),
    ] {
        packages.push(pin(&apt, store, role, &name, KERNEL_SUITE, KERNEL_LICENSE, progress)?);
    }
    progress.say(format_args!("lock: asking suite {SUITE}"));
    let apt = Apt::update(store.cache(), address, &[SUITE])?;
    for (role, name, license) in [
        (Role::Firmware, "ovmf", FIRMWARE_LICENSE),
        (Role::UefiStub, "systemd-boot-efi", STUB_LICENSE),
        (Role::DemoWorkload, "busybox-static", BUSYBOX_LICENSE),
    ] {
        packages.push(pin(&apt, store, role, name, SUITE, license, progress)?);
    }
    let pinned: Vec<&Pinned> = packages.iter().collect();
    let mut newest = 0;
    for (package, bytes) in packages.iter().zip(store.packages(&pinned, progress)?) {
        newest = newest.max(Deb::parse(&package.pool_name(), &bytes)?.newest()?);
    }
    let epoch = u32::try_from(newest).map_err(|_| {
        ImageError::form("packages", "modification time", "a time before 2106", newest.to_string())
    })?;
    let lock = KernelLock { version: 1, epoch, packages };
    Parts::read(&lock, store, progress)?;
    // Reading back applies the checks of every later read.
    KernelLock::parse("kernel.lock", lock.render()?.as_bytes())
}

/// The same for `image/toolchain.lock`; that its programs run with its libraries alone is checked too.
///
/// # Errors
/// As [`update`].
pub fn update_toolchain(
    store: &Store,
    mirror: Option<&Mirror>,
    progress: &Progress,
) -> Result<ToolchainLock> {
    progress.say(format_args!("lock: asking suite {SUITE}"));
    let apt = Apt::update(store.cache(), address(mirror)?, &[SUITE])?;
    let mut packages = Vec::new();
    for (role, name, license) in TOOLCHAIN {
        packages.push(pin(&apt, store, *role, name, SUITE, license, progress)?);
    }
    let pinned: Vec<&Pinned> = packages.iter().collect();
    let bytes = store.packages(&pinned, progress)?;
    let pairs: Vec<_> = pinned.iter().copied().zip(bytes.iter().map(Vec::as_slice)).collect();
    let files = toolchain::unpack(&pairs)?;
    let lock = ToolchainLock { version: 1, files: toolchain::digest(&files)?, packages };
    let trial = tempfile::tempdir_in(store.cache()).map_err(ImageError::at(store.cache()))?;
    Toolchain::make(files, &trial.path().join("toolchain"), &Progress::silent())?;
    ToolchainLock::parse("toolchain.lock", lock.render()?.as_bytes())
}

fn address(mirror: Option<&Mirror>) -> Result<Option<&str>> {
    match mirror {
        Some(Mirror::Address(uri)) => Ok(Some(uri.as_str())),
        Some(Mirror::Folder(_)) => {
            Err(ImageError::Usage("lock --update: --mirror: expected an address, found a folder".into()))
        }
        None => Ok(None),
    }
}

/// Writes a lock's text whole.
///
/// # Errors
/// If the file cannot be written.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(ImageError::at(folder))?;
    std::io::Write::write_all(&mut file, text.as_bytes()).map_err(ImageError::at(path))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    file.as_file().set_permissions(mode).map_err(ImageError::at(path))?;
    file.persist(path).map_err(|error| ImageError::Io { path: path.to_owned(), source: error.error })?;
    Ok(())
}

/// `7.3.4+deb13-cloud-amd64`, from what the meta package depends on.
fn newest_kernel(apt: &Apt) -> Result<String> {
    let missing = |found: &str| ImageError::form(KERNEL_META, "Depends", "a linux-modules-… package", found);
    let stanza = apt.candidate(KERNEL_META)?.ok_or_else(|| missing("no such package"))?;
    let depends = field(&stanza, "Depends").unwrap_or_default();
    depends
        .split(',')
        .find_map(|dependency| dependency.split_whitespace().next()?.strip_prefix(KERNEL_PREFIX))
        .map(str::to_owned)
        .ok_or_else(|| missing(depends))
}

fn pin(
    apt: &Apt,
    store: &Store,
    role: Role,
    name: &str,
    suite: &str,
    license: &str,
    progress: &Progress,
) -> Result<Pinned> {
    let stanza = apt
        .candidate(name)?
        .ok_or_else(|| ImageError::form(format!("suite {suite}"), "packages", name, "no such package"))?;
    let package = pinned(role, name, suite, license, &stanza)?;
    progress.say(format_args!("lock: {role}: {}", package.title()));
    let files = apt.download(&[format!("{}={}", package.package, package.version)])?;
    store.keep(&files.join(package.file_name()), &package)?;
    Ok(package)
}

fn pinned(role: Role, name: &str, suite: &str, license: &str, stanza: &str) -> Result<Pinned> {
    let need = |wanted: &'static str| {
        field(stanza, wanted)
            .ok_or_else(|| ImageError::form(format!("package {name}"), wanted, "a value", "none"))
    };
    let version = need("Version")?;
    let (size, digest) = (need("Size")?, need("SHA256")?);
    let mut sha256 = [0; 32];
    hex::decode_to_slice(digest, &mut sha256)
        .map_err(|_| ImageError::form(format!("package {name}"), "SHA256", "64 hex digits", digest))?;
    // `Source: NAME (VERSION)`; what is left out is as in the binary package.
    let source = field(stanza, "Source").unwrap_or(name);
    let (source, source_version) = source.split_once(" (").unwrap_or((source, version));
    let mut sources = vec![format!("{source} {}", source_version.trim_end_matches(')'))];
    for built in field(stanza, "Built-Using").unwrap_or_default().split(',').filter(|b| !b.trim().is_empty())
    {
        sources.push(built.trim().replace(" (= ", " ").trim_end_matches(')').to_owned());
    }
    Ok(Pinned {
        role,
        package: name.to_owned(),
        version: version.to_owned(),
        architecture: need("Architecture")?.to_owned(),
        suite: suite.to_owned(),
        size: size
            .parse()
            .map_err(|_| ImageError::form(format!("package {name}"), "Size", "a number of bytes", size))?,
        sha256,
        license: license.to_owned(),
        sources,
    })
}

fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// `cargo image lock`: has every pinned package, checks it, and says what it is.
///
/// # Errors
/// If a package is nowhere to be had or is not what was pinned.
pub fn verify(packages: &[Pinned], store: &Store, progress: &Progress) -> Result<()> {
    let pinned: Vec<&Pinned> = packages.iter().collect();
    store.packages(&pinned, progress)?;
    for package in pinned {
        let (title, digest) = (package.title(), hex::encode(package.sha256));
        progress.say(format_args!("lock: {}: {title}: as pinned, SHA-256 {digest}", package.role));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_becomes_a_pin() {
        let digest = "598a3fd92bdafc34cd81196b2952ad36e910e47a4ecf162f8ce5e8e262598e53";
        let stanza = format!(
            "Package: busybox-static\nSource: busybox (1:1.37.0-6)\nVersion: 1:1.37.0-6+b9\nArchitecture: amd64\n\
             Built-Using: glibc (= 2.41-12+deb13u4), gcc-14 (= 14.2.0-19)\nSize: 955316\nSHA256: {digest}\n"
        );
        let pin = pinned(Role::DemoWorkload, "busybox-static", "trixie", "GPL-2.0-only", &stanza).unwrap();
        assert_eq!(pin.sources, ["busybox 1:1.37.0-6", "glibc 2.41-12+deb13u4", "gcc-14 14.2.0-19"]);
        assert_eq!((pin.size, hex::encode(pin.sha256).as_str()), (955_316, digest));
        assert_eq!(pin.file_name(), "busybox-static_1%3a1.37.0-6+b9_amd64.deb");
        let error = pinned(Role::Kernel, "x", "trixie", "", "Version: 1\n").unwrap_err().to_string();
        assert_eq!(error, "package x: Size: expected a value, found none");
    }
}
