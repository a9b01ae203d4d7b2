//! The exact command line of each kind of machine, against `golden/`: one argument a line.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use casemate_measure::{ComposeHash, LaunchRegisters, MrConfigId, Register};
use casemate_qemu::argv::{BootFiles, Channel, Wiring, argv};
use casemate_qemu::shape::{DevExtras, Firmware, Network, Platform, QUOTE_PORT, TdxLaunch, VmShape};

fn files() -> BootFiles {
    BootFiles {
        kernel: "/image/bzImage".into(),
        initramfs: "/image/initramfs.cpio.zst".into(),
        firmware: "/image/ovmf.fd".into(),
        cmdline: "panic=-1 quiet".into(),
    }
}

fn wiring(pcap: Option<PathBuf>) -> Wiring {
    Wiring {
        status: Channel::Descriptor(5),
        control: Channel::Descriptor(7),
        qmp: "/run/qmp.sock".into(),
        console: "/run/console.log".into(),
        pcap,
        share: None,
    }
}

fn shape(platform: Platform, dev: Option<DevExtras>, network: Network) -> VmShape {
    VmShape { platform, memory_mib: 512, cpus: NonZeroU16::MIN, dev, network }
}

fn dev() -> DevExtras {
    DevExtras { registers: LaunchRegisters { rtmr2: Register([0xab; 48]), ..LaunchRegisters::ZERO } }
}

fn tdx() -> TdxLaunch {
    TdxLaunch { mrconfigid: MrConfigId::v1(&ComposeHash([0x11; 32])), quote_port: QUOTE_PORT }
}

fn assert_golden(name: &str, shape: &VmShape, wiring: &Wiring) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let found = argv(shape, &files(), wiring).join("\n") + "\n";
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{}", path.display());
}

#[test]
fn tcg_with_ovmf_for_development() {
    let network = Network::User(vec!["8443:443".parse().unwrap(), "0.0.0.0:8080:80".parse().unwrap()]);
    let shape = shape(Platform::Tcg(Firmware::Ovmf), Some(dev()), network);
    assert_golden("tcg-dev.argv", &shape, &wiring(Some("/run/a,b.pcap".into())));
}

#[test]
fn kvm_with_seabios_on_a_socket() {
    let network = Network::Socket("socket:listen=127.0.0.1:4000".parse().unwrap());
    let shape = VmShape {
        cpus: NonZeroU16::new(4).unwrap(),
        memory_mib: 2048,
        ..shape(Platform::Kvm(Firmware::Seabios), None, network)
    };
    assert_golden("kvm-prod.argv", &shape, &wiring(None));
}

#[test]
fn tdx_for_production() {
    let wiring = Wiring { share: Some("/run/a,b.img".into()), ..wiring(None) };
    assert_golden("tdx-prod.argv", &shape(Platform::Tdx(tdx()), None, Network::User(vec![])), &wiring);
}

/// Everything that reaches the ACPI tables is the same on every platform and for both flavours but the console.
#[test]
fn virtio_devices_and_slots_do_not_depend_on_the_platform() {
    let platforms = [Platform::Tcg(Firmware::Ovmf), Platform::Kvm(Firmware::Seabios), Platform::Tdx(tdx())];
    let devices = platforms.into_iter().flat_map(|platform| {
        [None, Some(dev())].map(|dev| {
            let args = argv(&shape(platform.clone(), dev, Network::User(vec![])), &files(), &wiring(None));
            let pairs = args.windows(2).filter(|pair| pair[0] == "-device");
            pairs
                .map(|pair| pair[1].clone())
                .filter(|value| !value.starts_with("isa-serial"))
                .collect::<Vec<_>>()
        })
    });
    let devices: Vec<_> = devices.collect();
    assert_eq!(devices[0].len(), 4);
    assert!(devices.windows(2).all(|pair| pair[0] == pair[1]));
    let pci = devices[0].iter().filter(|device| device.contains("bus=pcie.0"));
    let pci: Vec<_> = pci.collect();
    assert_eq!(pci.len(), 3);
    for device in pci {
        assert!(device.contains("disable-legacy=on") && device.contains("iommu_platform=on"), "{device}");
        assert!(device.contains(",addr=0x"), "{device}");
    }
}

/// A document on the share is no other machine: nothing but the drive's backing changes.
#[test]
fn the_share_changes_its_drive_alone() {
    let shape = shape(Platform::Tcg(Firmware::Ovmf), Some(dev()), Network::User(vec![]));
    let without = argv(&shape, &files(), &wiring(None));
    let with = argv(&shape, &files(), &Wiring { share: Some("/run/share.img".into()), ..wiring(None) });
    assert_eq!(without.len(), with.len());
    let changed: Vec<_> = without.iter().zip(&with).filter(|(a, b)| a != b).collect();
    assert_eq!(changed.len(), 1, "{changed:?}");
    assert!(
        changed[0].0.starts_with("driver=null-co,") && changed[0].1.contains("/run/share.img"),
        "{changed:?}"
    );
    for arg in [changed[0].0, changed[0].1] {
        assert!(arg.contains("node-name=share,read-only=on"), "{arg}");
    }
}

#[test]
fn a_zero_mrconfigid_is_left_out_and_production_gets_no_smbios_string() {
    let launch = TdxLaunch { mrconfigid: MrConfigId::ZERO, quote_port: 1 };
    let args = argv(&shape(Platform::Tdx(launch), None, Network::User(vec![])), &files(), &wiring(None));
    assert!(
        !args.iter().any(|arg| arg.contains("mrconfigid") || arg == "-smbios" || arg.contains("isa-serial"))
    );
}
