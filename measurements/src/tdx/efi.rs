//! What UEFI firmware measures in its own forms: variables, boot options, separators and action strings.

use std::fmt;

use sha2::{Digest as _, Sha384};

use crate::register::Register;

/// A GUID as it lies in memory: its first three fields little-endian (UEFI 2.10, appendix A).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// Of its fields, as edk2 writes them: `{ 0x8be4df61, 0x93ca, 0x11d2, { 0xaa, … } }`.
    pub const fn new(first: u32, second: u16, third: u16, rest: [u8; 8]) -> Self {
        let [a, b, c, d] = first.to_le_bytes();
        let [e, f] = second.to_le_bytes();
        let [g, h] = third.to_le_bytes();
        let [i, j, k, l, m, n, o, p] = rest;
        Self([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f5, g, h, i, j, k, l, m, n, o, p] = self.0;
        let (first, second, third) =
            (u32::from_le_bytes([a, b, c, d]), u16::from_le_bytes([e, f5]), u16::from_le_bytes([g, h]));
        write!(
            f,
            "{first:08x}-{second:04x}-{third:04x}-{i:02x}{j:02x}-{k:02x}{l:02x}{m:02x}{n:02x}{o:02x}{p:02x}"
        )
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guid({self})")
    }
}

/// A variable by its vendor and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Whose it is.
    pub vendor: Guid,
    /// Its name, without the terminator.
    pub name: &'static str,
}

impl Variable {
    /// `SecureBoot`: 1 while images are verified.
    pub const SECURE_BOOT: Self = Self { vendor: GLOBAL_VARIABLE, name: "SecureBoot" };
    /// The platform key.
    pub const PK: Self = Self { vendor: GLOBAL_VARIABLE, name: "PK" };
    /// Keys that may change the databases.
    pub const KEK: Self = Self { vendor: GLOBAL_VARIABLE, name: "KEK" };
    /// Who may be started.
    pub const DB: Self = Self { vendor: IMAGE_SECURITY_DATABASE, name: "db" };
    /// Who may not.
    pub const DBX: Self = Self { vendor: IMAGE_SECURITY_DATABASE, name: "dbx" };
    /// Timestamps by which revoked signatures are still good; measured only where it exists.
    pub const DBT: Self = Self { vendor: IMAGE_SECURITY_DATABASE, name: "dbt" };

    /// The digest of an `EV_EFI_VARIABLE_DRIVER_CONFIG` event: of a whole `UEFI_VARIABLE_DATA` (TCG PC Client Platform
    /// Firmware Profile 1.06, section 10.2.6). A variable that does not exist is measured as one without data.
    pub fn digest(&self, data: &[u8]) -> Register {
        let name = utf16(self.name);
        let mut hasher = Sha384::new()
            .chain_update(self.vendor.0)
            .chain_update(length(name.len() / 2))
            .chain_update(length(data.len()));
        hasher.update(name);
        hasher.update(data);
        Register(hasher.finalize().into())
    }
}

/// A boot option (`EFI_LOAD_OPTION`, UEFI 2.10 section 3.1.3) for a file of a firmware volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOption {
    /// `LOAD_OPTION_*` bits.
    pub attributes: u32,
    /// What a menu shows.
    pub description: &'static str,
    /// The firmware volume's name.
    pub volume: Guid,
    /// The file's name.
    pub file: Guid,
}

impl LoadOption {
    /// What OVMF before edk2-stable202505 registers as boot manager menu: UiApp, hidden (edk2
    /// `MdeModulePkg/Library/UefiBootManagerLib/BmBoot.c`, `OvmfPkg/OvmfPkgX64.dsc` `PcdBootManagerMenuFile`).
    pub const UI_APP: Self = Self {
        attributes: ACTIVE | HIDDEN | CATEGORY_APP,
        description: "UiApp",
        volume: DXE_VOLUME,
        file: UI_APP_FILE,
    };

    /// What it registers from edk2-stable202505 on (edk2 9d9e3a2ba820).
    pub const BOOT_MANAGER_MENU: Self = Self {
        attributes: ACTIVE | HIDDEN | CATEGORY_APP,
        description: "BootManagerMenuApp",
        volume: DXE_VOLUME,
        file: BOOT_MANAGER_MENU_FILE,
    };

    /// UiApp, as it is registered beside that (edk2 `OvmfPkg/Library/PlatformBootManagerLib/BdsPlatform.c`).
    pub const FIRMWARE_SETUP: Self = Self {
        attributes: ACTIVE | CATEGORY_APP,
        description: "EFI Firmware Setup",
        volume: DXE_VOLUME,
        file: UI_APP_FILE,
    };

    /// Its bytes: attributes, length of the device path, description, device path.
    pub fn bytes(&self) -> Vec<u8> {
        // Media device path (type 4), PIWG firmware volume (7) and file (6), each 20 bytes; the end is 4 bytes
        // (UEFI PI 1.8, volume 3 section 8; UEFI 2.10 section 10.3.1).
        let mut path = vec![0x04, 0x07, 20, 0];
        path.extend(self.volume.0);
        path.extend([0x04, 0x06, 20, 0]);
        path.extend(self.file.0);
        path.extend([0x7f, 0xff, 4, 0]);
        let mut bytes = self.attributes.to_le_bytes().to_vec();
        bytes.extend(u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend(utf16(self.description));
        bytes.extend([0, 0]);
        bytes.extend(path);
        bytes
    }
}

/// The content of `BootOrder`: the options' numbers, in order (UEFI 2.10 section 3.1.1).
pub fn boot_order(options: &[u16]) -> Vec<u8> {
    options.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// The digest of an `EV_SEPARATOR` event without an error: of four zero bytes (profile section 10.4.1).
pub fn separator() -> Register {
    Register::digest(&[0; 4])
}

/// The digest of an `EV_EFI_ACTION` event: of the string, without a terminator (profile section 10.4.4).
pub fn action(text: &str) -> Register {
    Register::digest(text.as_bytes())
}

/// The first attempt to start a boot option (edk2 `MdePkg/Include/IndustryStandard/UefiTcgPlatform.h`, as those below).
pub const CALLING_EFI_APPLICATION: &str = "Calling EFI Application from Boot Option";
/// A boot option came back.
pub const RETURNING_FROM_EFI_APPLICATION: &str = "Returning from EFI Application from Boot Option";
/// The operating system wants the firmware gone.
pub const EXIT_BOOT_SERVICES_INVOCATION: &str = "Exit Boot Services Invocation";
/// It is gone.
pub const EXIT_BOOT_SERVICES_SUCCEEDED: &str = "Exit Boot Services Returned with Success";
/// It is not.
pub const EXIT_BOOT_SERVICES_FAILED: &str = "Exit Boot Services Returned with Failure";

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn length(count: usize) -> [u8; 8] {
    u64::try_from(count).unwrap_or(u64::MAX).to_le_bytes()
}

/// `EFI_GLOBAL_VARIABLE` (UEFI 2.10 section 3.3).
pub const GLOBAL_VARIABLE: Guid =
    Guid::new(0x8be4_df61, 0x93ca, 0x11d2, [0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c]);

/// `EFI_IMAGE_SECURITY_DATABASE_GUID` (UEFI 2.10 section 32.4.1).
pub const IMAGE_SECURITY_DATABASE: Guid =
    Guid::new(0xd719_b2cb, 0x3d3a, 0x4596, [0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f]);

/// The name of OVMF's DXE firmware volume (edk2 `OvmfPkg/OvmfPkgX64.fdf`, `DXEFV` `FvNameGuid`).
pub const DXE_VOLUME: Guid =
    Guid::new(0x7cb8_bdc9, 0xf8eb, 0x4f34, [0xaa, 0xea, 0x3e, 0xe4, 0xaf, 0x65, 0x16, 0xa1]);

/// edk2 `MdeModulePkg/Application/UiApp/UiApp.inf` `FILE_GUID`.
pub const UI_APP_FILE: Guid =
    Guid::new(0x462c_aa21, 0x7614, 0x4503, [0x83, 0x6e, 0x8a, 0xb6, 0xf4, 0x66, 0x23, 0x31]);

/// edk2 `MdeModulePkg/Application/BootManagerMenuApp/BootManagerMenuApp.inf` `FILE_GUID`.
pub const BOOT_MANAGER_MENU_FILE: Guid =
    Guid::new(0xeec2_5bdc, 0x67f2, 0x4d95, [0xb1, 0xd5, 0xf8, 0x1b, 0x20, 0x39, 0xd1, 0x1d]);

/// `LOAD_OPTION_ACTIVE` (UEFI 2.10 section 3.1.3, as those below).
const ACTIVE: u32 = 0x1;
/// `LOAD_OPTION_HIDDEN`.
const HIDDEN: u32 = 0x8;
/// `LOAD_OPTION_CATEGORY_APP`.
const CATEGORY_APP: u32 = 0x100;

#[cfg(test)]
mod tests {
    use super::*;

    fn register(hex: &str) -> Register {
        Register::from_hex(hex).unwrap()
    }

    #[test]
    fn a_guid_is_written_as_its_fields() {
        assert_eq!(GLOBAL_VARIABLE.to_string(), "8be4df61-93ca-11d2-aa0d-00e098032b8c");
        assert_eq!(hex::encode(GLOBAL_VARIABLE.0), "61dfe48bca93d211aa0d00e098032b8c");
        assert_eq!(IMAGE_SECURITY_DATABASE.to_string(), "d719b2cb-3d3a-4596-a3bc-dad00e67656f");
    }

    /// Digests of a real log: dstack's fixture `quote-report.json` (Dstack-TEE/dstack, Apache-2.0), RTMR0 events 3 to 7.
    #[test]
    fn absent_secure_boot_variables_have_the_digests_of_a_real_log() {
        for (variable, digest) in [
            (
                Variable::SECURE_BOOT,
                "9dc3a1f80bcec915391dcda5ffbb15e7419f77eab462bbf72b42166fb70d50325e37b36f93537a863769bcf9bedae6fb",
            ),
            (
                Variable::PK,
                "6f2e3cbc14f9def86980f5f66fd85e99d63e69a73014ed8a5633ce56eca5b64b692108c56110e22acadcef58c3250f1b",
            ),
            (
                Variable::KEK,
                "d607c0efb41c0d757d69bca0615c3a9ac0b1db06c557d992e906c6b7dee40e0e031640c7bfd7bcd35844ef9edeadc6f9",
            ),
            (
                Variable::DB,
                "08a74f8963b337acb6c93682f934496373679dd26af1089cb4eaf0c30cf260a12e814856385ab8843e56a9acea19e127",
            ),
            (
                Variable::DBX,
                "18cc6e01f0c6ea99aa23f8a280423e94ad81d96d0aeb5180504fc0f7a40cb3619dd39bd6a95ec1680a86ed6ab0f9828d",
            ),
        ] {
            assert_eq!(variable.digest(&[]), register(digest), "{}", variable.name);
        }
    }

    /// Computed with Python's `hashlib` from the definition: SHA-384 of
    /// `guid ‖ u64 10 ‖ u64 1 ‖ UTF-16LE "SecureBoot" ‖ 01`.
    #[test]
    fn the_content_of_a_variable_is_in_its_digest() {
        assert_eq!(Variable::SECURE_BOOT.digest(&[1]), register(SECURE_BOOT_ON));
        assert_ne!(Variable::DB.digest(&[1]), Variable::DBX.digest(&[1]));
    }

    const SECURE_BOOT_ON: &str =
        "2cded0c6f453d4c6f59c5e14ec61abc6b018314540a2367cba326a52aa2b315ccc08ce68a816ce09c6ef2ac7e514ae1f";

    /// The content of a real `Boot0000` of each kind: events of `quote-report.json` and of dstack's simulator fixture
    /// `sdk/simulator/attestation.bin` (a real log of 0.5.9 or later), with the digests beside them.
    #[test]
    fn boot_options_are_those_of_real_logs() {
        for (option, bytes, digest) in [
            (
                LoadOption::UI_APP,
                "090100002c0055006900410070007000000004071400c9bdb87cebf8344faaea3ee4af6516a10406140021aa2c4614760345836e8ab6f46623317fff0400",
                "23ada07f5261f12f34a0bd8e46760962d6b4d576a416f1fea1c64bc656b1d28eacf7047ae6e967c58fd2a98bfa74c298",
            ),
            (
                LoadOption::BOOT_MANAGER_MENU,
                "090100002c0042006f006f0074004d0061006e0061006700650072004d0065006e007500410070007000000004071400c9bdb87cebf8344faaea3ee4af6516a104061400dc5bc2eef267954db1d5f81b2039d11d7fff0400",
                "5068e6a9ded2a1c3a8ebb5d26004410ea8670742d8f444c5c3d161b76c66fa23a7b1d2fb3f9840570b675384b5818f2d",
            ),
            (
                LoadOption::FIRMWARE_SETUP,
                "010100002c0045004600490020004600690072006d007700610072006500200053006500740075007000000004071400c9bdb87cebf8344faaea3ee4af6516a10406140021aa2c4614760345836e8ab6f46623317fff0400",
                "dd424f2eeb35f3e8a2c2f50f6cc87ff90b7577e92ce63e13a22869d07d104fd5ea9800e6e4f12c5058fc4eaa78374f20",
            ),
        ] {
            assert_eq!(hex::encode(option.bytes()), bytes, "{}", option.description);
            assert_eq!(Register::digest(&option.bytes()), register(digest), "{}", option.description);
        }
    }

    #[test]
    fn boot_orders_separators_and_actions_are_those_of_real_logs() {
        for (found, digest) in [
            (
                Register::digest(&boot_order(&[0])),
                "1dd6f7b457ad880d840d41c961283bab688e94e4b59359ea45686581e90feccea3c624b1226113f824f315eb60ae0a7c",
            ),
            (
                Register::digest(&boot_order(&[0, 1])),
                "52b9a02de946b947364b57d8210c63113b9058996e2a3ba7cead54af11ae0873b085d1e52bc01e4febe57ca05ca1332b",
            ),
            (
                separator(),
                "394341b7182cd227c5c6b07ef8000cdfd86136c4292b8e576573ad7ed9ae41019f5818b4b971c9effc60e1ad9f1289f0",
            ),
            (
                action(CALLING_EFI_APPLICATION),
                "77a0dab2312b4e1e57a84d865a21e5b2ee8d677a21012ada819d0a98988078d3d740f6346bfe0abaa938ca20439a8d71",
            ),
            (
                action(RETURNING_FROM_EFI_APPLICATION),
                "31fddb567dadf4b80770255fa9fde526a6d33dfae40693baf1cb3f8840458e27b60fec855775ec516e6585260d772281",
            ),
            (
                action(EXIT_BOOT_SERVICES_INVOCATION),
                "214b0bef1379756011344877743fdc2a5382bac6e70362d624ccf3f654407c1b4badf7d8f9295dd3dabdef65b27677e0",
            ),
            (
                action(EXIT_BOOT_SERVICES_SUCCEEDED),
                "0a2e01c85deae718a530ad8c6d20a84009babe6c8989269e950d8cf440c6e997695e64d455c4174a652cd080f6230b74",
            ),
        ] {
            assert_eq!(found, register(digest));
        }
    }
}
