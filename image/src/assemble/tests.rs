//! Whole builds from small packages made here, without network, kernel or compiler.

use std::fs;

use casemate_measure::section::DnsLabel;
use casemate_measure::tdx::overlay::View;
use casemate_measure::tdx::pe::Pe;
use tar::EntryType::Regular;
use tempfile::TempDir;

use super::*;
use crate::cpio;
use crate::deb::tests::deb;
use crate::elf::tests::object;
use crate::io::store::Mirror;
use crate::lock::tests::pinned;
use crate::modules::WANTED;
use crate::uki::fixture;
use crate::unpack::tests::{archive, xz};

const RELEASE: &str = "7.3.4+test";

/// A folder with packages, and a plan that uses them.
fn world() -> (TempDir, Plan) {
    let dir = tempfile::tempdir().unwrap();
    let debs = dir.path().join("debs");
    fs::create_dir(&debs).unwrap();
    let kernel = fixture::kernel(RELEASE, 0x0100);
    let vermagic = format!("vermagic={RELEASE} SMP");
    let module = object(&["depends=", &vermagic]);
    let modules: Vec<(String, Vec<u8>)> = WANTED
        .iter()
        .flat_map(|(_, names)| names.iter())
        .map(|name| (format!("./usr/lib/modules/{RELEASE}/kernel/{name}.ko"), module.clone()))
        .collect();
    let modules: Vec<_> = modules.iter().map(|(p, m)| (p.as_str(), Regular, 0o644, m)).collect();
    let packages = [
        (Role::Kernel, deb("", &[("./usr/lib/modules/x/vmlinuz", Regular, 0o644, &kernel)])),
        (Role::Modules, deb("", &modules)),
        (
            Role::KernelBase,
            deb("", &[("./usr/lib/modules/x/modules.builtin", Regular, 0o644, "kernel/a.ko\n")]),
        ),
        (Role::Firmware, deb("", &[("./usr/share/ovmf/OVMF.fd", Regular, 0o644, "firmware")])),
        (Role::UefiStub, deb("", &[(&format!("./{STUB}"), Regular, 0o644, fixture::stub())])),
        (Role::DemoWorkload, deb("", &[("./usr/bin/busybox", Regular, 0o755, "elf")])),
    ];
    let pins: Vec<Pinned> = packages.iter().map(|(role, bytes)| pinned(*role, bytes)).collect();
    for ((_, bytes), pin) in packages.iter().zip(&pins) {
        fs::write(debs.join(pin.pool_name()), bytes).unwrap();
    }
    let plan = Plan {
        flavor: Flavor::Dev,
        document: None,
        workloads: Vec::new(),
        lock: KernelLock { version: 1, epoch: 1_700_000_000, packages: pins },
        store: Store::at(dir.path().join("cache"), Some(Mirror::Folder(debs))),
        max_size: None,
        out: dir.path().join("out"),
    };
    (dir, plan)
}

fn stand_in(_: &Progress) -> Result<InitBinary> {
    Ok(InitBinary { bytes: b"\x7fELF".to_vec(), inputs: vec![input("init", "casemate-init", b"\x7fELF")] })
}

fn run(plan: &Plan) -> Result<Built> {
    build(plan, stand_in, &Progress::silent())
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn workload(dir: &TempDir) -> WorkloadSpec {
    let path = dir.path().join("web");
    fs::create_dir_all(path.join("bin")).unwrap();
    fs::write(path.join("bin/tool"), "tool").unwrap();
    WorkloadSpec { name: DnsLabel::new("web").unwrap(), path }
}

#[test]
fn an_image_directory_is_complete_and_says_what_it_is_made_of() {
    let (dir, mut plan) = world();
    plan.workloads.push(workload(&dir));
    let built = run(&plan).unwrap();
    assert_eq!(
        names(&built.out),
        [
            "bzImage",
            "casemate.efi",
            "cmdline",
            "digest.txt",
            "initramfs.cpio.zst",
            "manifest.json",
            "metadata.json",
            "ovmf.fd",
            "registers.json",
            "sha256sum.txt",
        ]
    );
    let read = |name: &str| fs::read(built.out.join(name)).unwrap();
    let manifest: ImageManifest = serde_json::from_slice(&read(MANIFEST)).unwrap();
    assert_eq!(manifest, built.manifest);
    for (name, expected) in &manifest.outputs {
        assert_eq!(digest(&read(name)), *expected, "{name}");
    }
    let inputs: Vec<(&str, &str)> =
        manifest.inputs.iter().map(|i| (i.kind.as_str(), i.name.as_str())).collect();
    assert_eq!(
        inputs,
        [
            ("package", "pkg-kernel"),
            ("package", "pkg-modules"),
            ("package", "pkg-kernel-base"),
            ("package", "pkg-firmware"),
            ("package", "pkg-uefi-stub"),
            ("init", "casemate-init"),
            ("workload", "web"),
        ]
    );
    assert!(manifest.inputs[..5].iter().all(|i| i.license.is_some() && i.source.is_some()));
    let registers: LaunchRegisters = serde_json::from_slice(&read("registers.json")).unwrap();
    let cmdline = String::from_utf8(read("cmdline")).unwrap();
    assert_eq!(registers.rtmr2, rtmr2::register(&cmdline, &read("initramfs.cpio.zst")));
    assert!(registers.mrtd.is_zero() && registers.rtmr0.is_zero() && registers.rtmr1.is_zero());

    // dstack's verifier: `sha256sum -c`, and the hash of the list.
    let list = String::from_utf8(read("sha256sum.txt")).unwrap();
    let listed: Vec<&str> = list.lines().map(|line| line.split_once("  ").unwrap().1).collect();
    assert_eq!(listed, ["ovmf.fd", "bzImage", "initramfs.cpio.zst", "metadata.json"]);
    for line in list.lines() {
        let (digest, name) = line.split_once("  ").unwrap();
        assert_eq!(digest, hex::encode(Sha256::digest(read(name))), "{name}");
    }
    assert_eq!(read("digest.txt"), format!("{}\n", hex::encode(Sha256::digest(&list))).as_bytes());
    let metadata: serde_json::Value = serde_json::from_slice(&read("metadata.json")).unwrap();
    assert_eq!(metadata["cmdline"], cmdline);
    assert_eq!((&metadata["is_dev"], &metadata["shared_ro"]), (&true.into(), &true.into()));
    for key in ["kernel", "initrd", "bios"] {
        assert!(listed.contains(&metadata[key].as_str().unwrap()), "{key}");
    }
}

#[test]
fn the_unified_image_carries_the_same_parts() {
    let (_dir, plan) = world();
    let built = run(&plan).unwrap();
    let read = |name: &str| fs::read(built.out.join(name)).unwrap();
    let file = read("casemate.efi");
    let pe = Pe::parse(View::from(file.as_slice())).unwrap();
    let section = |name: &str| {
        let section = pe.sections().iter().find(|section| section.name() == name.as_bytes()).unwrap();
        let start = section.raw_pointer as usize;
        file[start..start + section.virtual_size as usize].to_vec()
    };
    assert_eq!(section(".linux"), read("bzImage"));
    assert_eq!(section(".initrd"), read("initramfs.cpio.zst"));
    assert_eq!(section(".cmdline"), read("cmdline"));
    assert_eq!(section(".uname"), RELEASE.as_bytes());
    // What the stub would put into the initramfs is in it already, so PID 1 finds one tree in both boots.
    let archive = zstd::decode_all(&section(".initrd")[..]).unwrap();
    let records = cpio::records(&archive).unwrap();
    let os_release = records.iter().find(|record| record.path == ".extra/os-release").unwrap();
    assert_eq!(section(".osrel"), archive[os_release.content.clone()]);
    assert_eq!(os_release.mode, 0o100_444);
    assert!(String::from_utf8(section(".osrel")).unwrap().contains("\nVARIANT_ID=dev\n"));
}

#[test]
fn the_same_inputs_give_the_same_bytes() {
    let (dir, mut plan) = world();
    plan.workloads.push(workload(&dir));
    let first = run(&plan).unwrap().manifest;
    plan.out = dir.path().join("elsewhere/other");
    assert_eq!(run(&plan).unwrap().manifest, first);
    fs::write(dir.path().join("web/bin/tool"), "toll").unwrap();
    assert_ne!(run(&plan).unwrap().manifest, first);
}

#[test]
fn what_fails_midway_leaves_no_half_image_and_the_old_one_whole() {
    let (dir, mut plan) = world();
    let fail = |plan: &Plan| {
        let before = names(dir.path());
        let error = run(plan).unwrap_err();
        assert_eq!(names(dir.path()), before, "{error}");
        error.to_string()
    };
    // At the very end, after packing.
    plan.max_size = Some(1);
    assert!(fail(&plan).contains("expected at most 1 (--max-size)"));
    plan.max_size = None;
    run(&plan).unwrap();
    let old = fs::read(plan.out.join(MANIFEST)).unwrap();
    plan.flavor = Flavor::Prod;
    plan.max_size = Some(1);
    fail(&plan);
    // In the middle, when the compiler fails.
    let error =
        build(&plan, |_| Err(ImageError::Usage("no compiler".into())), &Progress::silent()).unwrap_err();
    assert_eq!(error.to_string(), "no compiler");
    assert_eq!(fs::read(plan.out.join(MANIFEST)).unwrap(), old);
    plan.max_size = None;
    run(&plan).unwrap();
    assert_ne!(fs::read(plan.out.join(MANIFEST)).unwrap(), old);
}

#[test]
fn one_flipped_bit_in_a_package_stops_the_build() {
    let (dir, plan) = world();
    let file = dir.path().join("debs").join(plan.lock.packages[1].pool_name());
    let good = fs::read(&file).unwrap();
    for at in [0, good.len() / 2, good.len() - 1] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        let error = run(&plan).unwrap_err().to_string();
        assert!(
            error.contains("not the pinned bytes of package pkg-modules 1:2.0-1~bpo13+1: SHA-256: expected "),
            "{error}"
        );
        assert!(!plan.out.exists());
    }
}

#[test]
fn a_kernel_and_modules_of_different_releases_are_refused() {
    let (dir, mut plan) = world();
    let other = deb("", &[("./vmlinuz-9", Regular, 0o644, fixture::kernel("9.9.9", 0))]);
    let pin = pinned(Role::Kernel, &other);
    fs::write(dir.path().join("debs").join(pin.pool_name()), other).unwrap();
    plan.lock.packages[0] = pin;
    let error = run(&plan).unwrap_err().to_string();
    assert!(
        error.contains("vermagic: expected the release of the pinned kernel, 9.9.9, found 7.3.4+test"),
        "{error}"
    );
}

#[test]
fn documents_and_workloads_are_checked_before_anything_is_fetched() {
    let (dir, mut plan) = world();
    plan.store = Store::at(dir.path().join("nothing"), Some(Mirror::Folder(dir.path().join("nowhere"))));
    plan.document = Some(dir.path().join("app-compose.json"));
    fs::write(plan.document.as_ref().unwrap(), "{\"a\": 1, \"a\": 2}").unwrap();
    assert!(matches!(run(&plan).unwrap_err(), ImageError::Document(_)));
    plan.document = None;
    plan.workloads = vec![workload(&dir), workload(&dir)];
    assert_eq!(run(&plan).unwrap_err().to_string(), "--workload web: given twice");
    plan.workloads.truncate(1);
    assert!(matches!(run(&plan).unwrap_err(), ImageError::Missing { .. }));
}

#[test]
fn a_docker_archive_is_a_workload() {
    let (dir, mut plan) = world();
    let layer = archive(&[("bin/tool", Regular, 0o755, "tool")]);
    let config = serde_json::json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex::encode(Sha256::digest(&layer)))]}});
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in [
        ("manifest.json", br#"[{"Config": "c", "Layers": ["l"]}]"#.to_vec()),
        ("c", config.to_string().into_bytes()),
        ("l", xz(&layer)),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &content[..]).unwrap();
    }
    let path = dir.path().join("web.tar");
    fs::write(&path, builder.into_inner().unwrap()).unwrap();
    plan.workloads.push(WorkloadSpec { name: DnsLabel::new("web").unwrap(), path });
    let built = run(&plan).unwrap();
    assert_eq!(built.manifest.inputs.last().unwrap().name, "web");
}
