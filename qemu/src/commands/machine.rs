//! The arguments that describe a machine, common to `boot` and `argv`.

use std::num::NonZeroU16;
use std::path::PathBuf;

use anyhow::anyhow;
use casemate_measure::image::Flavor;
use casemate_measure::{LaunchRegisters, MrConfigId};
use casemate_qemu::Error;
use casemate_qemu::binding::{self, Bound, ConfigId, HostFile, HostFiles, VmFacts};
use casemate_qemu::host::{Choice, Runner, TeeRequest};
use casemate_qemu::image::CheckedImage;
use casemate_qemu::io::probe;
use casemate_qemu::shape::{
    DevExtras, Firmware, Forward, Network, Platform, QUOTE_PORT, SocketNetdev, TdxLaunch, VmShape,
};
use clap::{Args, ValueEnum};

#[derive(Debug, Args)]
pub(super) struct Machine {
    /// Image directory, as `cargo image build` makes it
    #[arg(long, value_name = "DIR")]
    pub(super) image: PathBuf,
    /// Which TEE to run the guest in
    #[arg(long, value_enum, default_value_t = Tee::Auto)]
    tee: Tee,
    /// Firmware of a machine without a TEE
    #[arg(long, value_enum, default_value_t = FirmwareArg::Ovmf)]
    firmware: FirmwareArg,
    /// Memory, in MiB (`512M`) or GiB (`2G`)
    #[arg(long, default_value = "512M", value_parser = memory)]
    memory: u32,
    /// Virtual CPUs; 1 is the default under TCG, where QEMU 7.2 is unreliable with more, else 2
    #[arg(long)]
    cpus: Option<NonZeroU16>,
    /// Forward a TCP port of the host, 127.0.0.1 unless an address is given; host port 0 picks a free one
    #[arg(long, value_name = "[ADDRESS:]HOST:GUEST", conflicts_with = "netdev")]
    forward: Vec<Forward>,
    /// Connect the NIC to a QEMU socket netdev instead of the user network (for tests)
    #[arg(long, value_name = "socket|dgram|stream:OPTIONS")]
    netdev: Option<SocketNetdev>,
    /// The measured document, on the host share: for an image that was built without one
    #[arg(long, value_name = "FILE")]
    document: Option<PathBuf>,
    /// `.sys-config.json` of the share; without one, one that describes the machine is made
    #[arg(long, value_name = "FILE", requires = "document")]
    sys_config: Option<PathBuf>,
    /// `.instance_info` of the share
    #[arg(long, value_name = "FILE", requires = "document")]
    instance_info: Option<PathBuf>,
    /// What the host binds at launch: auto is v1 of --document, else the image's own `registers.json`
    #[arg(long, value_name = "auto|v1|v2|v3|zero|HEX", default_value = "auto")]
    mrconfigid: ConfigId,
    /// Give the guest document and share files as they are, however bad (for tests: the guest must refuse them)
    #[arg(long)]
    unchecked: bool,
    /// vsock port of the host's quote generation service
    #[arg(long, default_value_t = QUOTE_PORT)]
    quote_port: u32,
    /// QEMU's program
    #[arg(long, value_name = "PROGRAM", default_value = "qemu-system-x86_64")]
    pub(super) qemu: String,
    /// Write the NIC's frames to this file, in pcap form
    #[arg(long, value_name = "FILE")]
    pub(super) pcap: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Tee {
    None,
    Tdx,
    Auto,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FirmwareArg {
    Ovmf,
    Seabios,
}

pub(super) fn memory(text: &str) -> anyhow::Result<u32> {
    let number =
        |digits: &str, unit: u32| digits.parse::<u32>().ok()?.checked_mul(unit).filter(|mib| *mib >= 128);
    let mib = match (text.strip_suffix('M'), text.strip_suffix('G')) {
        (Some(digits), _) => number(digits, 1),
        (_, Some(digits)) => number(digits, 1024),
        _ => None,
    };
    mib.ok_or_else(|| anyhow!("expected at least 128M, as `512M` or `2G`"))
}

impl Machine {
    /// The image, checked, before anything is asked of the host.
    pub(super) fn image(&self) -> Result<CheckedImage, Error> {
        CheckedImage::open(&self.image)
    }

    /// What runs the guest on this host.
    pub(super) fn choose(&self, flavor: Flavor) -> Result<Choice, Error> {
        let request = match self.tee {
            Tee::None => TeeRequest::None,
            Tee::Tdx => TeeRequest::Tdx,
            Tee::Auto => TeeRequest::Auto,
        };
        probe::facts(&self.qemu).choose(request, flavor)
    }

    /// What was asked for on the command line, whether this host can do it or not; `auto` is TDX.
    pub(super) const fn asked(&self) -> Runner {
        match self.tee {
            Tee::None => Runner::Kvm,
            Tee::Tdx | Tee::Auto => Runner::Tdx,
        }
    }

    /// The share's files, checked against the image, and what the host binds.
    pub(super) fn bind(&self, image: &CheckedImage, runner: Runner) -> Result<Bound, Error> {
        let files = match &self.document {
            None => None,
            Some(document) => Some(HostFiles {
                document: HostFile::read(document)?,
                sys_config: self.sys_config.as_deref().map(HostFile::read).transpose()?,
                instance_info: self.instance_info.as_deref().map(HostFile::read).transpose()?,
            }),
        };
        let vm = VmFacts { cpus: self.cpus(runner).get(), memory_mib: self.memory };
        binding::bind(image, files, self.mrconfigid, vm, self.unchecked)
    }

    fn cpus(&self, runner: Runner) -> NonZeroU16 {
        let default = if runner == Runner::Tcg { 1 } else { 2 };
        self.cpus.unwrap_or_else(|| NonZeroU16::new(default).unwrap_or(NonZeroU16::MIN))
    }

    /// The machine, on that runner.
    pub(super) fn shape(&self, image: &CheckedImage, runner: Runner, mrconfigid: MrConfigId) -> VmShape {
        let firmware = match self.firmware {
            FirmwareArg::Ovmf => Firmware::Ovmf,
            FirmwareArg::Seabios => Firmware::Seabios,
        };
        let registers = LaunchRegisters { mrconfigid, ..*image.registers() };
        let platform = match runner {
            Runner::Tcg => Platform::Tcg(firmware),
            Runner::Kvm => Platform::Kvm(firmware),
            Runner::Tdx => Platform::Tdx(TdxLaunch { mrconfigid, quote_port: self.quote_port }),
        };
        VmShape {
            platform,
            memory_mib: self.memory,
            cpus: self.cpus(runner),
            dev: (image.flavor() == Flavor::Dev).then_some(DevExtras { registers }),
            network: match &self.netdev {
                Some(netdev) => Network::Socket(netdev.clone()),
                None => Network::User(self.forward.clone()),
            },
        }
    }
}
