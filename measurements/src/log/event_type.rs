//! Types of events whose data we read (TCG PC Client Platform Firmware Profile 1.05, section 10.4.1).

/// `EV_NO_ACTION`: extends nothing.
pub(super) const NO_ACTION: u32 = 0x3;
/// `EV_SEPARATOR`
pub(super) const SEPARATOR: u32 = 0x4;
/// `EV_EVENT_TAG`
pub(super) const EVENT_TAG: u32 = 0x6;
/// `EV_PLATFORM_CONFIG_FLAGS`
pub(super) const PLATFORM_CONFIG_FLAGS: u32 = 0xa;
/// `EV_EFI_VARIABLE_DRIVER_CONFIG`
pub(super) const VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
/// `EV_EFI_VARIABLE_BOOT`
pub(super) const VARIABLE_BOOT: u32 = 0x8000_0002;
/// `EV_EFI_BOOT_SERVICES_APPLICATION`
pub(super) const BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
/// `EV_EFI_ACTION`
pub(super) const ACTION: u32 = 0x8000_0007;
/// `EV_EFI_PLATFORM_FIRMWARE_BLOB2`
pub(super) const FIRMWARE_BLOB2: u32 = 0x8000_000a;
/// `EV_EFI_HANDOFF_TABLES2`
pub(super) const HANDOFF_TABLES2: u32 = 0x8000_000b;
/// `EV_EFI_VARIABLE_AUTHORITY`
pub(super) const VARIABLE_AUTHORITY: u32 = 0x8000_00e0;
