//! What a machine looks like, apart from where its files lie: the part that its registers depend on.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;
use std::str::FromStr;

use casemate_measure::{LaunchRegisters, MrConfigId};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmShape {
    /// What runs its instructions and loads its first bytes.
    pub platform: Platform,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Virtual CPUs.
    pub cpus: NonZeroU16,
    /// What only the development flavour gets; `None` for production.
    pub dev: Option<DevExtras>,
    /// What its one NIC is connected to.
    pub network: Network,
}

/// What runs the guest. A TD without its firmware, or with SeaBIOS, cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Platform {
    /// QEMU's own translator: slow, works everywhere.
    Tcg(Firmware),
    /// KVM without a TEE.
    Kvm(Firmware),
    /// A trust domain; always the image's OVMF.
    Tdx(TdxLaunch),
}

impl Platform {
    /// In a few words.
    pub const fn words(&self) -> &'static str {
        match self {
            Self::Tcg(_) => "TCG (software emulation)",
            Self::Kvm(_) => "KVM, no TEE",
            Self::Tdx(_) => "Intel TDX",
        }
    }
}

/// Which firmware a machine without a TEE starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// The image's `ovmf.fd`.
    Ovmf,
    /// QEMU's own SeaBIOS: a few seconds faster under TCG.
    Seabios,
}

/// What the host binds into a trust domain at launch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TdxLaunch {
    /// MRCONFIGID; zero is left out, which is what QEMU makes of it anyway.
    pub mrconfigid: MrConfigId,
    /// The vsock port of the host's quote generation service, at CID 2. Intel's `qgsd` and dstack use 4050.
    pub quote_port: u32,
}

/// The port of Intel's quote generation service (dstack reference 3.7, `qgs.conf`).
pub const QUOTE_PORT: u32 = 4050;

/// A serial console, and launch registers for the simulated TEE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DevExtras {
    /// Told to the guest as SMBIOS type 11 strings (design section 11).
    pub registers: LaunchRegisters,
}

/// What the NIC is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// QEMU's user network: DHCP gives 10.0.2.15, the host answers as 10.0.2.2.
    User(Vec<Forward>),
    /// A QEMU `-netdev` of a kind that a test can hold the other end of.
    Socket(SocketNetdev),
}

/// A host address whose TCP connections go to a port of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Where the host listens; the user network of QEMU 7.2 forwards IPv4 only. Port 0 must be replaced by a free one
    /// before the machine starts.
    pub host: SocketAddrV4,
    /// The guest's port.
    pub guest: u16,
}

impl FromStr for Forward {
    type Err = Error;

    /// `HOST_PORT:GUEST_PORT` (on 127.0.0.1) or `IPV4_ADDRESS:HOST_PORT:GUEST_PORT`.
    fn from_str(text: &str) -> Result<Self, Error> {
        let parse = || {
            let (host, guest) = text.rsplit_once(':')?;
            let guest = guest.parse().ok().filter(|port| *port != 0)?;
            let host = match host.parse() {
                Ok(port) => SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
                Err(_) => host.parse().ok()?,
            };
            Some(Self { host, guest })
        };
        parse().ok_or_else(|| Error::Forward(text.into()))
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> guest port {}", self.host, self.guest)
    }
}

/// `socket:OPTIONS`, `dgram:OPTIONS` or `stream:OPTIONS`, in QEMU's own spelling of the options.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SocketNetdev {
    kind: String,
    options: String,
}

impl SocketNetdev {
    /// The value of `-netdev` with that id.
    pub(crate) fn value(&self, id: &str) -> String {
        format!("{},id={id},{}", self.kind, self.options)
    }
}

impl FromStr for SocketNetdev {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once(':') {
            Some((kind @ ("socket" | "dgram" | "stream"), options)) if !options.is_empty() => {
                Ok(Self { kind: kind.into(), options: options.into() })
            }
            _ => Err(Error::Netdev(text.into())),
        }
    }
}

impl TryFrom<String> for SocketNetdev {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<SocketNetdev> for String {
    fn from(netdev: SocketNetdev) -> Self {
        format!("{}:{}", netdev.kind, netdev.options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read() {
        let plain: Forward = "8443:443".parse().unwrap();
        assert_eq!(plain, Forward { host: "127.0.0.1:8443".parse().unwrap(), guest: 443 });
        assert_eq!("0.0.0.0:0:81".parse::<Forward>().unwrap().host, "0.0.0.0:0".parse().unwrap());
        for bad in ["", "443", "8443:", ":443", "8443:0", "8443:65536", "host:1:2", "1:2:3", "[::1]:80:81"] {
            let error = bad.parse::<Forward>().unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn only_socket_netdevs_are_taken() {
        let netdev: SocketNetdev = "socket:listen=127.0.0.1:1".parse().unwrap();
        assert_eq!(netdev.value("net0"), "socket,id=net0,listen=127.0.0.1:1");
        for bad in ["tap:ifname=x", "socket:", "socket", "user:", ""] {
            assert!(bad.parse::<SocketNetdev>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shapes_survive_json() {
        let shape = VmShape {
            platform: Platform::Tdx(TdxLaunch { mrconfigid: MrConfigId::ZERO, quote_port: QUOTE_PORT }),
            memory_mib: 512,
            cpus: NonZeroU16::MIN,
            dev: None,
            network: Network::Socket("dgram:local.type=inet".parse().unwrap()),
        };
        let json = serde_json::to_string(&shape).unwrap();
        assert_eq!(serde_json::from_str::<VmShape>(&json).unwrap(), shape);
        assert!(serde_json::from_str::<VmShape>(&json.replace("memory_mib", "memory")).is_err());
    }
}
