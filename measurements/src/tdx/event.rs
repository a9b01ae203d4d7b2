//! One extension of a runtime register, as we expect it: which register, what kind, which digest, and where from.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::register::Register;

/// A runtime register of a trust domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rtmr {
    /// Firmware configuration, ACPI, boot variables (TPM PCR 1 and 7; UEFI 2.10 section 38.4.1).
    Rtmr0,
    /// Boot applications: the kernel (PCR 2 to 6).
    Rtmr1,
    /// Command line and initramfs (PCR 8 to 15).
    Rtmr2,
    /// What the guest's own software measures.
    Rtmr3,
}

impl Rtmr {
    /// All four, in order.
    pub const ALL: [Self; 4] = [Self::Rtmr0, Self::Rtmr1, Self::Rtmr2, Self::Rtmr3];

    /// 0 to 3.
    pub const fn index(self) -> u8 {
        self as u8
    }

    /// Of an index from 0 to 3.
    pub fn from_index(index: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|rtmr| u32::from(rtmr.index()) == index)
    }
}

impl fmt::Display for Rtmr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RTMR{}", self.index())
    }
}

/// The type of an event in a TCG log (TCG PC Client Platform Firmware Profile 1.06, section 10.4.1 "Event Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventType(pub u32);

macro_rules! event_types {
    ($($name:ident = $value:literal, $tcg:literal, $doc:literal;)+) => {
        impl EventType {
            $(
                #[doc = concat!("`", $tcg, "`: ", $doc)]
                pub const $name: Self = Self($value);
            )+

            /// Its name in the profile (or dstack's, for dstack's own type); `None` for a type that neither knows.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($tcg),)+
                    _ => None,
                }
            }

            /// Every type that has a name.
            pub const NAMED: &'static [Self] = &[$(Self::$name,)+];
        }
    };
}

event_types! {
    PREBOOT_CERT = 0x0, "EV_PREBOOT_CERT", "Reserved.";
    POST_CODE = 0x1, "EV_POST_CODE", "Firmware code, before there were blobs.";
    NO_ACTION = 0x3, "EV_NO_ACTION", "Information in the log: extends nothing.";
    SEPARATOR = 0x4, "EV_SEPARATOR", "The line between firmware and what it starts, or an error.";
    ACTION = 0x5, "EV_ACTION", "A string: something was done.";
    EVENT_TAG = 0x6, "EV_EVENT_TAG", "Tagged data; the Linux EFI stub uses it for command line and initramfs.";
    S_CRTM_CONTENTS = 0x7, "EV_S_CRTM_CONTENTS", "The static root of trust's code.";
    S_CRTM_VERSION = 0x8, "EV_S_CRTM_VERSION", "The static root of trust's version.";
    CPU_MICROCODE = 0x9, "EV_CPU_MICROCODE", "A microcode patch.";
    PLATFORM_CONFIG_FLAGS = 0xa, "EV_PLATFORM_CONFIG_FLAGS", "Configuration; OVMF uses it for ACPI blobs and other fw_cfg items.";
    TABLE_OF_DEVICES = 0xb, "EV_TABLE_OF_DEVICES", "A table of devices.";
    COMPACT_HASH = 0xc, "EV_COMPACT_HASH", "A hash of something that the caller knows.";
    IPL = 0xd, "EV_IPL", "Code of a boot loader, or what a boot loader measured.";
    IPL_PARTITION_DATA = 0xe, "EV_IPL_PARTITION_DATA", "Data of a boot loader's partition.";
    NONHOST_CODE = 0xf, "EV_NONHOST_CODE", "Code that other processors run.";
    NONHOST_CONFIG = 0x10, "EV_NONHOST_CONFIG", "Configuration of other processors.";
    NONHOST_INFO = 0x11, "EV_NONHOST_INFO", "Information about other processors.";
    OMIT_BOOT_DEVICE_EVENTS = 0x12, "EV_OMIT_BOOT_DEVICE_EVENTS", "Boot devices are not logged.";
    POST_CODE2 = 0x13, "EV_POST_CODE2", "Firmware code, with a description.";
    EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001, "EV_EFI_VARIABLE_DRIVER_CONFIG", "A variable, name and all: the secure boot policy.";
    EFI_VARIABLE_BOOT = 0x8000_0002, "EV_EFI_VARIABLE_BOOT", "The content of a boot variable.";
    EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003, "EV_EFI_BOOT_SERVICES_APPLICATION", "An application's Authenticode digest: the kernel.";
    EFI_BOOT_SERVICES_DRIVER = 0x8000_0004, "EV_EFI_BOOT_SERVICES_DRIVER", "A boot driver's Authenticode digest.";
    EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005, "EV_EFI_RUNTIME_SERVICES_DRIVER", "A runtime driver's Authenticode digest.";
    EFI_GPT_EVENT = 0x8000_0006, "EV_EFI_GPT_EVENT", "A partition table.";
    EFI_ACTION = 0x8000_0007, "EV_EFI_ACTION", "A string: what the firmware did.";
    EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008, "EV_EFI_PLATFORM_FIRMWARE_BLOB", "A piece of firmware.";
    EFI_HANDOFF_TABLES = 0x8000_0009, "EV_EFI_HANDOFF_TABLES", "Tables handed on; OVMF uses it for SMBIOS.";
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000a, "EV_EFI_PLATFORM_FIRMWARE_BLOB2", "A piece of firmware, with a description: the configuration volume.";
    EFI_HANDOFF_TABLES2 = 0x8000_000b, "EV_EFI_HANDOFF_TABLES2", "Tables handed on, with a description: the TD HOB.";
    EFI_VARIABLE_BOOT2 = 0x8000_000c, "EV_EFI_VARIABLE_BOOT2", "A boot variable, name and all.";
    EFI_GPT_EVENT2 = 0x8000_000d, "EV_EFI_GPT_EVENT2", "A partition table without what is unique to the disk.";
    EFI_HCRTM_EVENT = 0x8000_0010, "EV_EFI_HCRTM_EVENT", "The hardware root of trust.";
    EFI_VARIABLE_AUTHORITY = 0x8000_00e0, "EV_EFI_VARIABLE_AUTHORITY", "The entry of a secure boot variable that let an image start.";
    EFI_SPDM_FIRMWARE_BLOB = 0x8000_00e1, "EV_EFI_SPDM_FIRMWARE_BLOB", "A device's firmware.";
    EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00e2, "EV_EFI_SPDM_FIRMWARE_CONFIG", "A device's configuration.";
    EFI_SPDM_DEVICE_POLICY = 0x8000_00e3, "EV_EFI_SPDM_DEVICE_POLICY", "The policy by which devices are judged.";
    EFI_SPDM_DEVICE_AUTHORITY = 0x8000_00e4, "EV_EFI_SPDM_DEVICE_AUTHORITY", "What vouched for a device.";
    DSTACK_RUNTIME = 0x0800_0001, "DSTACK_RUNTIME_EVENT", "What dstack's guest measures (dstack `cc-eventlog/src/runtime_events.rs`).";
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#010x}", self.0),
        }
    }
}

/// What the firmware or the guest extended a register with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Digest {
    /// Computed from its definition.
    Known(Register),
    /// Nobody gave the input that it depends on: the register cannot be known either.
    Unpinned,
}

/// One expected extension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Into which register.
    pub rtmr: Rtmr,
    /// Its type in the log.
    pub event_type: EventType,
    /// What it is, in a few words: `TD HOB`, `SecureBoot`, `kernel`.
    pub name: String,
    /// With what.
    pub digest: Digest,
    /// What the digest came from: a file, a value, a constant and its definition.
    pub origin: String,
}

/// A register as events make it, from zero; `None` if one of them is not pinned.
pub fn fold<'a>(events: impl IntoIterator<Item = &'a Event>) -> Option<Register> {
    events.into_iter().try_fold(Register::ZERO, |register, event| match &event.digest {
        Digest::Known(digest) => Some(register.extended(digest)),
        Digest::Unpinned => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_the_names_of_the_profile_and_each_only_one() {
        for (value, name) in [
            (0x4, "EV_SEPARATOR"),
            (0x6, "EV_EVENT_TAG"),
            (0xa, "EV_PLATFORM_CONFIG_FLAGS"),
            (0x8000_0001, "EV_EFI_VARIABLE_DRIVER_CONFIG"),
            (0x8000_0007, "EV_EFI_ACTION"),
            (0x8000_000b, "EV_EFI_HANDOFF_TABLES2"),
            (0x8000_00e0, "EV_EFI_VARIABLE_AUTHORITY"),
            (0x0800_0001, "DSTACK_RUNTIME_EVENT"),
        ] {
            assert_eq!(EventType(value).name(), Some(name));
            assert_eq!(EventType(value).to_string(), name);
        }
        assert_eq!(EventType(0x8000_00ff).name(), None);
        assert_eq!(EventType(0x8000_00ff).to_string(), "0x800000ff");
        let names: std::collections::BTreeSet<_> = EventType::NAMED.iter().map(|t| t.name()).collect();
        assert_eq!(names.len(), EventType::NAMED.len());
    }

    #[test]
    fn one_unpinned_event_unpins_the_register() {
        let event = |digest| Event {
            rtmr: Rtmr::Rtmr0,
            event_type: EventType::SEPARATOR,
            name: "separator".into(),
            digest,
            origin: "four zero bytes".into(),
        };
        let known = Register::digest(&[0; 4]);
        assert_eq!(fold(&[]), Some(Register::ZERO));
        let both = [event(Digest::Known(known)), event(Digest::Known(known))];
        assert_eq!(fold(&both), Some(Register::ZERO.extended(&known).extended(&known)));
        assert_eq!(fold(&[event(Digest::Known(known)), event(Digest::Unpinned)]), None);
    }
}
