//! Shape and file names to QEMU's exact arguments. Pure; held by `tests/golden/`.
//!
//! Registers depend on the ACPI tables, and those on the devices and their slots. So every shape has the same devices in
//! the same slots, nothing by default, no option ROM, no HPET, no SMM; a status port that nobody reads is still there.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use casemate_measure::status::PORT_NAME;
use casemate_measure::{MrConfigId, smbios};

use crate::shape::{Firmware, Network, Platform, TdxLaunch, VmShape};
use crate::share;

/// PCI slot of the virtio-serial controller on `pcie.0`. The lowest, so that the kernel calls the port `vport0p1`.
const SERIAL_SLOT: &str = "0x2";
/// PCI slot of the NIC.
const NIC_SLOT: &str = "0x3";
/// PCI slot of the host share, `0000:00:04.0` in the guest. It is there in every shape, with a document or without (then it
/// reads as zeros), because a device more or less is another ACPI table and so another RTMR0.
const SHARE_SLOT: &str = "0x4";
/// The NIC's address: locally administered, fixed.
const MAC: &str = "52:54:00:ca:5e:01";
/// What every virtio device gets: no transitional device, and DMA through the platform's rules, without which a TD's
/// private memory cannot be reached (VIRTIO_F_ACCESS_PLATFORM).
const VIRTIO: &str = "disable-legacy=on,iommu_platform=on";

/// The image's files, as QEMU is told of them.
#[derive(Clone, Debug)]
pub struct BootFiles {
    /// `bzImage`.
    pub kernel: PathBuf,
    /// `initramfs.cpio.zst`.
    pub initramfs: PathBuf,
    /// `ovmf.fd`.
    pub firmware: PathBuf,
    /// The content of `cmdline`.
    pub cmdline: String,
}

/// The other end of a character device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Channel {
    /// A connected socket that QEMU inherits under this number.
    Descriptor(i32),
    /// A unix socket that QEMU listens on: for a command line that a person pastes.
    Listen(PathBuf),
}

impl Channel {
    fn options(&self) -> String {
        match self {
            Self::Descriptor(fd) => format!("fd={fd}"),
            Self::Listen(path) => format!("path={},server=on,wait=off", escaped(path)),
        }
    }
}

/// Where the machine's lines to the host end.
#[derive(Clone, Debug)]
pub struct Wiring {
    /// The status port.
    pub status: Channel,
    /// The monitor of whoever started the machine.
    pub control: Channel,
    /// A second monitor, for `casemate-qemu stop` and scripts.
    pub qmp: PathBuf,
    /// Where the console of the development flavour is written.
    pub console: PathBuf,
    /// Where the NIC's frames are written, in pcap form.
    pub pcap: Option<PathBuf>,
    /// The host share's image, which is only read; without one the device holds zeros.
    pub share: Option<PathBuf>,
}

/// All arguments, without the program.
pub fn argv(shape: &VmShape, files: &BootFiles, wiring: &Wiring) -> Vec<String> {
    let mut args = Args::default();
    args.flags(&["-nodefaults", "-no-user-config", "-no-reboot"]);
    args.pair("-display", "none");
    platform(&mut args, &shape.platform, files);
    args.pair("-smp", shape.cpus.to_string());
    args.pair("-m", format!("{}M", shape.memory_mib));
    args.pair("-kernel", plain(&files.kernel));
    args.pair("-initrd", plain(&files.initramfs));
    args.pair("-append", files.cmdline.as_str());
    args.pair("-chardev", format!("socket,id=control,{}", wiring.control.options()));
    // Not -mon, which QEMU 11.1 calls deprecated for an object that 7.2 does not have.
    args.pair("-qmp", "chardev:control");
    args.pair("-chardev", format!("socket,id=qmp,path={},server=on,wait=off", escaped(&wiring.qmp)));
    args.pair("-qmp", "chardev:qmp");
    let status = format!("socket,id=status,{}", wiring.status.options());
    devices(&mut args, status, &shape.network, wiring.share.as_deref());
    if let Some(pcap) = &wiring.pcap {
        args.pair("-object", format!("filter-dump,id=dump,netdev=net0,file={}", escaped(pcap)));
    }
    if let Some(dev) = &shape.dev {
        console(&mut args, format!("file,id=console,path={}", escaped(&wiring.console)));
        for string in smbios::strings(&dev.registers) {
            args.pair("-smbios", format!("type=11,value={string}"));
        }
    }
    args.0
}

fn platform(args: &mut Args, platform: &Platform, files: &BootFiles) {
    // ACPI is the same with and without kernel-irqchip=split; TDX demands it, and KVM follows TDX.
    let (machine, accel, cpu, firmware) = match platform {
        Platform::Tcg(firmware) => ("q35,hpet=off,smm=off", "tcg", "max", *firmware),
        Platform::Kvm(firmware) => ("q35,kernel-irqchip=split,hpet=off,smm=off", "kvm", "host", *firmware),
        Platform::Tdx(launch) => {
            args.pair("-object", tdx_guest(launch));
            let machine = "q35,kernel-irqchip=split,confidential-guest-support=tdx,hpet=off,smm=off";
            (machine, "kvm", "host", Firmware::Ovmf)
        }
    };
    args.pair("-machine", machine);
    args.pair("-accel", accel);
    args.pair("-cpu", cpu);
    if firmware == Firmware::Ovmf {
        args.pair("-bios", plain(&files.firmware));
    }
}

/// The `tdx-guest` object in JSON (QEMU `qapi/qom.json`, since 10.1): a vsock socket for quotes as dstack's host has it.
/// Written out, because the order in which serde_json keeps a map depends on what other packages ask of it; nothing in it
/// needs escaping.
fn tdx_guest(launch: &TdxLaunch) -> String {
    let mrconfigid = match launch.mrconfigid {
        MrConfigId::ZERO => String::new(),
        id => format!(r#""mrconfigid":"{}","#, STANDARD.encode(id.0)),
    };
    let socket = format!(r#"{{"type":"vsock","cid":"2","port":"{}"}}"#, launch.quote_port);
    format!(
        r#"{{"qom-type":"tdx-guest","id":"tdx",{mrconfigid}"sept-ve-disable":true,"quote-generation-socket":{socket}}}"#
    )
}

/// The devices of every shape, with what is behind the status port.
pub(crate) fn devices(args: &mut Args, status: String, network: &Network, share: Option<&Path>) {
    args.pair("-chardev", status);
    args.pair(
        "-device",
        format!("virtio-serial-pci,id=serial,bus=pcie.0,addr={SERIAL_SLOT},max_ports=2,{VIRTIO}"),
    );
    args.pair("-device", format!("virtserialport,bus=serial.0,nr=1,chardev=status,name={PORT_NAME}"));
    args.pair("-netdev", netdev(network));
    args.pair(
        "-device",
        format!("virtio-net-pci,netdev=net0,bus=pcie.0,addr={NIC_SLOT},mac={MAC},romfile=,{VIRTIO}"),
    );
    args.pair("-blockdev", blockdev(share));
    args.pair("-device", format!("virtio-blk-pci,drive=share,bus=pcie.0,addr={SHARE_SLOT},{VIRTIO}"));
}

/// The serial port of the development flavour, with what is behind it.
pub(crate) fn console(args: &mut Args, chardev: String) {
    args.pair("-chardev", chardev);
    args.pair("-device", "isa-serial,chardev=console");
}

/// The share's drive, read-only for QEMU itself.
fn blockdev(share: Option<&Path>) -> String {
    match share {
        Some(path) => {
            format!(
                "driver=raw,node-name=share,read-only=on,file.driver=file,file.filename={}",
                escaped(path)
            )
        }
        None => format!("driver=null-co,node-name=share,read-only=on,read-zeroes=on,size={}", share::SIZE),
    }
}

fn netdev(network: &Network) -> String {
    match network {
        Network::User(forwards) => forwards.iter().fold(String::from("user,id=net0"), |value, forward| {
            format!("{value},hostfwd=tcp:{}:{}-:{}", forward.host.ip(), forward.host.port(), forward.guest)
        }),
        Network::Socket(netdev) => netdev.value("net0"),
    }
}

/// A path as one option's value: QEMU ends a value at a comma unless it is doubled.
fn escaped(path: &Path) -> String {
    plain(path).replace(',', ",,")
}

/// Paths that are not UTF-8 were refused where they came in ([`crate::image`], [`crate::rundir`]).
pub(crate) fn plain(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[derive(Default)]
pub(crate) struct Args(pub(crate) Vec<String>);

impl Args {
    pub(crate) fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(ToString::to_string));
    }

    pub(crate) fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.0.push(name.into());
        self.0.push(value.into());
    }
}

/// One line that a POSIX shell reads back as exactly these words.
pub fn shell_quoted<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    let quote = |word: &str| match word {
        word if !word.is_empty() && word.chars().all(safe) => word.to_owned(),
        word => format!("'{}'", word.replace('\'', r"'\''")),
    };
    words.into_iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_read_the_words_back() {
        let words = ["", "a b", "it's", "x=$HOME", "-m", "{\"a\":1}"];
        let line = format!("printf '%s\\n' {}", shell_quoted(words));
        let out = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8(out.stdout).unwrap(), words.map(|w| format!("{w}\n")).concat());
    }

    #[test]
    fn a_comma_in_a_path_stays_in_it() {
        assert_eq!(Channel::Listen("/a,b".into()).options(), "path=/a,,b,server=on,wait=off");
    }
}
