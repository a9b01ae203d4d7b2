//! The machine whose tables are captured: that of the TDX form, as far as it can be had without TDX.

use std::num::NonZeroU16;
use std::path::Path;

use casemate_measure::image::Flavor;
use casemate_measure::tdx::{QemuVersion, Vm};

use crate::argv::{self, Args};
use crate::shape::Network;

/// Options of the machine that reach the tables. `hpet` and `smm` are those of the TDX form. `pic` is not said there, because
/// QEMU switches it off by itself in a trust domain (QEMU `target/i386/kvm/tdx.c`, `tdx_kvm_init`); elsewhere its default is
/// on, and from QEMU 10.0 on the MADT says so (`hw/i386/acpi-common.c`).
const MACHINE: &str = "q35,hpet=off,smm=off,pic=off";
/// No TDX host shows a guest fewer than 46 physical address bits, and OVMF uses no more with four levels of page tables (edk2
/// `OvmfPkg/Library/PlatformInitLib/MemDetect.c`, `PlatformAddressWidthFromCpuid`). They decide where the 64-bit PCI window
/// lies, and so the DSDT. QEMU's own 40 bits would give another window.
const CPU: &str = "max,phys-bits=46";
/// One thread for all virtual CPUs: with one each, QEMU 7.2 is unreliable.
const ACCEL: &str = "tcg,thread=single";

/// What of a machine its tables depend on, besides QEMU and firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Virtual CPUs.
    pub cpus: NonZeroU16,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// The development flavour has a serial console.
    pub flavor: Flavor,
}

/// Numbers of the two connected sockets that QEMU inherits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sockets {
    pub(crate) monitor: i32,
    pub(crate) qtest: i32,
}

/// All arguments, without the program. The guest's power-off leaves the machine standing, so that it can be read; a reset
/// ends like one, so that what was served to firmware is never made anew.
pub(crate) fn argv(machine: &Machine, firmware: &Path, program: &Path, sockets: Sockets) -> Vec<String> {
    let mut args = Args::default();
    args.flags(&["-nodefaults", "-no-user-config"]);
    args.pair("-display", "none");
    args.pair("-action", "reboot=shutdown,shutdown=pause");
    args.pair("-machine", format!("{MACHINE},memory-backend=ram"));
    args.pair("-accel", ACCEL);
    args.pair("-cpu", CPU);
    args.pair("-bios", argv::plain(firmware));
    args.pair("-smp", machine.cpus.to_string());
    args.pair("-m", format!("{}M", machine.memory_mib));
    // Not reserved: the firmware touches little of it, so that a small host can capture for a large machine.
    args.pair("-object", format!("memory-backend-ram,id=ram,size={}M,reserve=off", machine.memory_mib));
    args.pair("-kernel", argv::plain(program));
    args.pair("-chardev", format!("socket,id=monitor,fd={}", sockets.monitor));
    args.pair("-qmp", "chardev:monitor");
    args.pair("-chardev", format!("socket,id=qtest,fd={}", sockets.qtest));
    args.pair("-qtest", "chardev:qtest");
    args.pair("-qtest-log", "none");
    argv::devices(&mut args, "null,id=status".into(), &Network::User(Vec::new()), None);
    if machine.flavor == Flavor::Dev {
        argv::console(&mut args, "null,id=console".into());
    }
    args.0
}

impl Machine {
    /// What captures are told apart by, besides QEMU's version ([`Vm::shape_key`]). A test holds which machine options, devices
    /// and slots the first word stands for.
    pub fn shape(&self, firmware: &[u8; 32]) -> String {
        let devices = match self.flavor {
            Flavor::Prod => "casemate",
            Flavor::Dev => "casemate-dev",
        };
        // The version is not part of it.
        let qemu = QemuVersion::new(0, 0, 0);
        let vm = Vm { machine: devices.into(), ..Vm::new(qemu, self.memory_mib, self.cpus.get()) };
        vm.shape_key(firmware)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::argv::{BootFiles, Channel, Wiring};
    use crate::shape::{DevExtras, Platform, QUOTE_PORT, TdxLaunch, VmShape};
    use casemate_measure::{LaunchRegisters, MrConfigId};

    fn values<'a>(args: &'a [String], name: &str) -> Vec<&'a str> {
        args.windows(2).filter(|pair| pair[0] == name).map(|pair| pair[1].as_str()).collect()
    }

    fn captured(flavor: Flavor) -> Vec<String> {
        let machine = Machine { cpus: NonZeroU16::new(4).unwrap(), memory_mib: 3072, flavor };
        argv(
            &machine,
            Path::new("/image/ovmf.fd"),
            Path::new("/tmp/off.efi"),
            Sockets { monitor: 5, qtest: 7 },
        )
    }

    fn tdx(flavor: Flavor) -> Vec<String> {
        let shape = VmShape {
            platform: Platform::Tdx(TdxLaunch { mrconfigid: MrConfigId::ZERO, quote_port: QUOTE_PORT }),
            memory_mib: 3072,
            cpus: NonZeroU16::new(4).unwrap(),
            dev: (flavor == Flavor::Dev).then_some(DevExtras { registers: LaunchRegisters::ZERO }),
            network: Network::User(Vec::new()),
        };
        let files = BootFiles {
            kernel: "/image/bzImage".into(),
            initramfs: "/image/initramfs.cpio.zst".into(),
            firmware: "/image/ovmf.fd".into(),
            cmdline: String::new(),
        };
        let wiring = Wiring {
            status: Channel::Descriptor(5),
            control: Channel::Descriptor(7),
            qmp: "/run/qmp.sock".into(),
            console: "/run/console.log".into(),
            pcap: None,
            share: None,
        };
        argv::argv(&shape, &files, &wiring)
    }

    /// What is the same, to the word, and what is not, exactly.
    #[test]
    fn it_is_the_machine_of_the_tdx_form() {
        for flavor in [Flavor::Prod, Flavor::Dev] {
            let (captured, tdx) = (captured(flavor), tdx(flavor));
            for same in ["-device", "-netdev", "-blockdev", "-smp", "-m", "-bios", "-display"] {
                let expected = values(&tdx, same);
                assert!(!expected.is_empty(), "{same}");
                assert_eq!(values(&captured, same), expected, "{same}");
            }
            let options = |args: &[String]| -> Vec<String> {
                let [machine] = values(args, "-machine")[..] else { panic!("{args:?}") };
                machine.split(',').map(str::to_owned).collect()
            };
            let (captured, tdx) = (options(&captured), options(&tdx));
            let only = |these: &[String], others: &[String]| -> Vec<String> {
                these.iter().filter(|option| !others.contains(option)).cloned().collect()
            };
            assert_eq!(only(&tdx, &captured), ["kernel-irqchip=split", "confidential-guest-support=tdx"]);
            assert_eq!(only(&captured, &tdx), ["pic=off", "memory-backend=ram"]);
        }
    }

    /// Whoever changes them changes the tables: then the word must be another, and `measurements/acpi.json` made anew.
    #[test]
    fn the_words_for_devices_stand_for_exactly_these() {
        let virtio = ["virtio-serial-pci 0x2", "virtserialport", "virtio-net-pci 0x3", "virtio-blk-pci 0x4"];
        for (flavor, word, more) in
            [(Flavor::Prod, "casemate", None), (Flavor::Dev, "casemate-dev", Some("isa-serial"))]
        {
            let args = captured(flavor);
            let devices = values(&args, "-device").into_iter().map(|device| {
                let driver = device.split(',').next().unwrap();
                let slot = device.split(',').find_map(|option| option.strip_prefix("addr="));
                [Some(driver), slot].into_iter().flatten().collect::<Vec<_>>().join(" ")
            });
            assert_eq!(devices.collect::<Vec<_>>(), virtio.into_iter().chain(more).collect::<Vec<_>>());
            assert_eq!(values(&args, "-machine"), ["q35,hpet=off,smm=off,pic=off,memory-backend=ram"]);
            let machine = Machine { cpus: NonZeroU16::new(4).unwrap(), memory_mib: 3072, flavor };
            let firmware = "0a".repeat(32);
            assert_eq!(machine.shape(&[10; 32]), format!("{word} cpus=4 memory=2048M firmware={firmware}"));
        }
    }
}
