//! The command itself, on a small workspace with packages made here: no network, no kernel, no compiler.
#![expect(clippy::unwrap_used, reason = "a test that cannot set up its world must fail")]
#![expect(clippy::indexing_slicing, reason = "fixtures of known size")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use casemate_image::cpio;
use casemate_image::lock::{KernelLock, Pinned, Role};
use casemate_image::modules::WANTED;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

#[path = "../src/uki/fixture.rs"]
mod fixture;

const RELEASE: &str = "7.3.4+test";

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        builder.append_data(&mut header, path, &content[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

fn deb(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = b"!<arch>\n".to_vec();
    let members = [("debian-binary", b"2.0\n".to_vec()), ("control.tar", tar(&[])), ("data.tar", tar(files))];
    for (name, content) in members {
        bytes.extend(format!("{name:<16}{:<32}{:<10}`\n", 0, content.len()).bytes());
        bytes.extend(content);
    }
    bytes
}

/// A kernel module with that `.modinfo`: the section headers are the null one, `.modinfo`, and the names.
fn module(modinfo: &str) -> Vec<u8> {
    let names = b"\0.modinfo\0";
    let table = 64 + modinfo.len() + names.len();
    let mut elf = vec![0; 64];
    elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
    elf[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
    elf[0x3a] = 64;
    elf[0x3c] = 3;
    elf[0x3e] = 2;
    elf.extend(modinfo.bytes().chain(*names));
    for (name, at, size) in [(0_u32, 0, 0), (1, 64, modinfo.len()), (0, 64 + modinfo.len(), names.len())] {
        let mut header = [0; 64];
        header[..4].copy_from_slice(&name.to_le_bytes());
        header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
        header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
        elf.extend(header);
    }
    elf
}

/// A workspace with a lock, a mirror folder, an init and a workload.
struct World {
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { dir: tempfile::tempdir().unwrap() };
        for folder in ["ws/image", "ws/init", "debs", "home/.cargo", "web/bin", "web/etc"] {
            fs::create_dir_all(world.path(folder)).unwrap();
        }
        let kernel = fixture::kernel(RELEASE, 0x0100);
        let ko = module(&format!("vermagic={RELEASE} SMP\0"));
        let modules: Vec<(String, Vec<u8>)> = WANTED
            .iter()
            .flat_map(|(_, names)| names.iter())
            .map(|name| (format!("usr/lib/modules/x/kernel/{name}.ko"), ko.clone()))
            .collect();
        let packages = [
            (Role::Kernel, deb(&[("boot/vmlinuz".into(), kernel)])),
            (Role::Modules, deb(&modules)),
            (Role::KernelBase, deb(&[("usr/lib/modules/x/modules.builtin".into(), Vec::new())])),
            (Role::Firmware, deb(&[("usr/share/ovmf/OVMF.fd".into(), b"firmware".to_vec())])),
            (Role::UefiStub, deb(&[("usr/lib/systemd/boot/efi/linuxx64.efi.stub".into(), fixture::stub())])),
            (Role::DemoWorkload, deb(&[("usr/bin/busybox".into(), b"\x7fELF".to_vec())])),
        ];
        let packages = packages.map(|(role, bytes)| {
            let pinned = Pinned {
                role,
                package: format!("pkg-{role}"),
                version: "1.0".into(),
                architecture: "amd64".into(),
                suite: "trixie".into(),
                size: bytes.len() as u64,
                sha256: Sha256::digest(&bytes).into(),
                license: "MIT".into(),
                sources: vec!["pkg 1.0".into()],
            };
            fs::write(world.path("debs").join(pinned.pool_name()), bytes).unwrap();
            pinned
        });
        let lock = KernelLock { version: 1, epoch: 1_700_000_000, packages: packages.into() };
        fs::write(world.path("ws/image/kernel.lock"), lock.render().unwrap()).unwrap();
        fs::write(world.path("init"), b"\x7fELF init").unwrap();
        for name in ["bin/one", "bin/two", "etc/three", "etc/four"] {
            fs::write(world.path("web").join(name), name).unwrap();
        }
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.run_as_is(&[arguments, &["--mirror", "debs"]].concat())
    }

    fn run_as_is(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_casemate-image"))
            .args(arguments)
            .current_dir(self.dir.path())
            .env("CARGO_MANIFEST_DIR", self.path("ws/image"))
            .env("HOME", self.path("home"))
            .env_remove("CARGO_HOME")
            .env_remove("XDG_CACHE_HOME")
            .env_remove("CASEMATE_DEB_CACHE")
            .output()
            .unwrap()
    }

    fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{text}");
        text
    }

    fn bad(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    }
}

const BUILD: &[&str] =
    &["build", "--flavor", "dev", "--init", "init", "--workload", "web=web", "--out", "out"];

fn archive(image: &Path) -> Vec<u8> {
    zstd::decode_all(&fs::read(image.join("initramfs.cpio.zst")).unwrap()[..]).unwrap()
}

#[test]
fn an_image_is_built_and_reproduced_from_another_place() {
    let world = World::new();
    world.good(BUILD);
    let bytes = archive(&world.path("out"));
    let records = cpio::records(&bytes).unwrap();
    assert_eq!(records.last().unwrap().path, "init");
    assert!(records.iter().any(|r| r.path == "services/web/etc/three"));
    assert!(fs::read_to_string(world.path("out/manifest.json")).unwrap().contains("init-prebuilt"));

    let same = ["reproduce", "--init", "init", "--workload", "web=web", "--side-a", "out", "--work", "work"];
    let said = world.good(&same);
    assert!(said.contains("umask 077, locale tr_TR.UTF-8, time zone Pacific/Kiritimati"), "{said}");
    assert!(said.contains("are the same, byte by byte"), "{said}");
    // Both sides from scratch.
    let both = ["reproduce", "--flavor", "prod", "--init", "init", "--workload", "web=web"];
    assert!(world.good(&both).contains("are the same, byte by byte"));
    assert_eq!(
        fs::read_dir(world.path("home/.cache/casemate")).unwrap().count(),
        0,
        "the work folder is gone"
    );

    // Two images of the same are the same; another flavour is another.
    let diff = |a: &str, b: &str| {
        let output = world.run_as_is(&["diff", a, b]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    world.good(&["build", "--flavor", "prod", "--init", "init", "--workload", "web=web", "--out", "prod"]);
    assert_eq!(diff("out", "work/b/some where/else entirely/image").0, Some(0));
    let (code, said) = diff("out", "prod");
    assert_eq!(code, Some(1));
    assert_eq!(said.lines().next(), Some("flavor: dev on side A, prod on side B"), "{said}");
    assert_eq!(diff("out", "web").0, Some(64));

    // The check can fail: an input of side B differs in one byte.
    fs::write(world.path("web/etc/three"), "etc/tHree").unwrap();
    let said = world.bad(&same);
    assert!(
        said.contains("not reproducible: initramfs.cpio.zst: member services/web/etc/three: first difference at offset 5"),
        "{said}"
    );
    assert!(said.contains("; input workload web: SHA-256 "), "{said}");
}

#[test]
fn a_failure_is_one_error_and_no_image() {
    let world = World::new();
    let before = fs::read_dir(world.dir.path()).unwrap().count();
    let mut small = BUILD.to_vec();
    small.extend(["--max-size", "100"]);
    assert!(world.bad(&small).contains("expected at most 100 (--max-size)"));
    let package = world.path("debs/pkg-firmware_1.0_amd64.deb");
    let mut bytes = fs::read(&package).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&package, &bytes).unwrap();
    let said = world.bad(BUILD);
    assert!(said.contains("not the pinned bytes of package pkg-firmware 1.0: SHA-256: expected "), "{said}");
    fs::remove_file(&package).unwrap();
    let said = world.bad(BUILD);
    assert!(said.contains("pkg-firmware_1.0_amd64.deb (suite trixie, SHA-256 "), "{said}");
    assert!(said.contains("what to do: "), "{said}");
    assert_eq!(fs::read_dir(world.dir.path()).unwrap().count(), before);
}

#[test]
fn nothing_but_an_image_is_replaced() {
    let world = World::new();
    let mut onto = BUILD.to_vec();
    *onto.last_mut().unwrap() = "home";
    assert!(world.bad(&onto).contains("home: exists and has no manifest.json in it: not replaced"));
    assert!(world.path("home/.cargo").exists());
}
