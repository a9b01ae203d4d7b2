//! The machine whose tables are captured: that of the TDX form, as far as it can be had without TDX.

use std::num::NonZeroU16;
use std::path::Path;

use casemate_measure::image::Flavor;

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

/// Machine options and devices in their slots, in the words by which captures are told apart:
/// `q35,hpet=off,smm=off,pic=off virtio-serial-pci@0x2 virtio-net-pci@0x3 virtio-blk-pci@0x4`. Made of the arguments, so that
/// another machine cannot go by the same words.
pub fn words(flavor: Flavor) -> String {
    let machine = Machine { cpus: NonZeroU16::MIN, memory_mib: 0, flavor };
    let args = argv(&machine, Path::new(""), Path::new(""), Sockets { monitor: 0, qtest: 0 });
    let devices = args.iter().zip(args.iter().skip(1)).filter(|(name, _)| *name == "-device");
    let places = devices.filter_map(|(_, device)| {
        let mut options = device.split(',');
        let driver = options.next()?;
        match options.find_map(|option| option.strip_prefix("addr=")) {
            Some(slot) => Some(format!(" {driver}@{slot}")),
            // On the ISA bus there are no slots; what hangs on a device of its own is not in the tables.
            None => driver.starts_with("isa-").then(|| format!(" {driver}")),
        }
    });
    places.fold(MACHINE.to_owned(), |words, place| words + &place)
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

    #[test]
    fn captures_are_told_apart_by_devices_and_slots() {
        let virtio =
            "q35,hpet=off,smm=off,pic=off virtio-serial-pci@0x2 virtio-net-pci@0x3 virtio-blk-pci@0x4";
        assert_eq!(words(Flavor::Prod), virtio);
        assert_eq!(words(Flavor::Dev), format!("{virtio} isa-serial"));
    }
}
