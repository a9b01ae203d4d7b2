//! The initramfs manifest: every file but `/init`, appended to the init ELF as a trailer.
//!
//! The kernel unpacks an initramfs member by member and runs `/init` even when a compressed archive is cut short, so
//! `/init` is the last member and checks the others against this list before anything else (design section 11).
//!
//! ```text
//! init ELF ‖ manifest (JSON) ‖ length of the manifest, u64 little endian ‖ MAGIC
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The last 16 bytes of an init binary that carries a manifest.
pub const MAGIC: &[u8; 16] = b"CASEMATE-MANIF1\n";

/// The longest manifest that is read: 16 MiB.
pub const MAX_LEN: usize = 16 << 20;

/// The fixed part at the end of a trailer: length and magic.
pub const FOOTER_LEN: usize = 24;

/// Where the baked document lies in the initramfs, if the image carries one.
pub const DOCUMENT_PATH: &str = "etc/casemate/app-compose.json";
/// The modules, in load order; each line is `GROUP FILE`, FILE relative to [`MODULES_DIR`].
pub const MODULES_ORDER_PATH: &str = "lib/modules/load-order";
/// Where the modules lie.
pub const MODULES_DIR: &str = "lib/modules";
/// What systemd-stub adds to the initramfs of a unified kernel image (systemd v257 `src/boot/stub.c`,
/// `generate_embedded_initrds`). Every initramfs of ours has the same already, with the stub's modes, so that PID 1 finds
/// one tree however the machine was booted.
pub const STUB_DIR: &str = ".extra";
/// The os-release file there.
pub const OS_RELEASE_PATH: &str = ".extra/os-release";
/// Where workload directories lie: `services/NAME`.
pub const SERVICES_DIR: &str = "services";

/// Which stage of the boot loads a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ModuleGroup {
    /// `tee`: before the document is hashed and extended.
    Tee,
    /// `share`: before the host share is read; an image with a baked document never loads it.
    Share,
    /// `lock`: before the egress lock.
    Lock,
    /// `late`: before the links come up, after which loading is disabled.
    Late,
}

impl ModuleGroup {
    /// The word of the load order.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tee => "tee",
            Self::Share => "share",
            Self::Lock => "lock",
            Self::Late => "late",
        }
    }

    /// The group of a word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Tee, Self::Share, Self::Lock, Self::Late].into_iter().find(|group| group.word() == word)
    }
}

/// Every member of the initramfs but `/init`, by path without a leading slash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitramfsManifest {
    /// Path to what is there.
    pub members: BTreeMap<String, Member>,
}

/// One member. Owner and group are 0 everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Member {
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// Its length in bytes.
        size: u64,
        /// SHA-256 of its content.
        #[serde(with = "hex::serde")]
        sha256: [u8; 32],
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: String,
    },
}

/// Why an init binary's trailer was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrailerError {
    /// There is no trailer.
    #[error("no manifest trailer: the last 16 bytes are not {}", String::from_utf8_lossy(MAGIC).trim_end())]
    NoMagic,
    /// The length does not fit.
    #[error("manifest length {0} does not fit: the limit is {MAX_LEN} and the file")]
    Length(u64),
    /// The JSON is not a manifest.
    #[error("manifest is not readable")]
    Json(#[from] serde_json::Error),
}

impl InitramfsManifest {
    /// The trailer to append to the init ELF.
    ///
    /// # Errors
    /// If the manifest is longer than [`MAX_LEN`].
    pub fn trailer(&self) -> Result<Vec<u8>, TrailerError> {
        let mut bytes = serde_json::to_vec(self)?;
        let length = bytes.len() as u64;
        if bytes.len() > MAX_LEN {
            return Err(TrailerError::Length(length));
        }
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(MAGIC);
        Ok(bytes)
    }

    /// How many bytes before the footer the manifest has.
    ///
    /// # Errors
    /// No magic, or a length beyond [`MAX_LEN`].
    pub fn length(footer: &[u8; FOOTER_LEN]) -> Result<usize, TrailerError> {
        let (length, magic) = footer.split_first_chunk::<8>().ok_or(TrailerError::NoMagic)?;
        if magic != MAGIC {
            return Err(TrailerError::NoMagic);
        }
        let claimed = u64::from_le_bytes(*length);
        usize::try_from(claimed).ok().filter(|l| *l <= MAX_LEN).ok_or(TrailerError::Length(claimed))
    }

    /// The manifest from its own bytes, those before the footer.
    ///
    /// # Errors
    /// JSON that is no manifest.
    pub fn from_json(json: &[u8]) -> Result<Self, TrailerError> {
        Ok(serde_json::from_slice(json)?)
    }

    /// The manifest at the end of an init binary.
    ///
    /// # Errors
    /// No magic, a length that does not fit, or JSON that is no manifest.
    pub fn from_init(binary: &[u8]) -> Result<Self, TrailerError> {
        let (rest, footer) = binary.split_last_chunk::<FOOTER_LEN>().ok_or(TrailerError::NoMagic)?;
        let length = Self::length(footer)?;
        let start = rest.len().checked_sub(length).ok_or(TrailerError::Length(length as u64))?;
        Self::from_json(rest.get(start..).unwrap_or_default())
    }
}
