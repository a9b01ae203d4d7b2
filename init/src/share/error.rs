//! Why the share was refused: in words for people, and as an exit status for PID 1.

use super::fat::FatError;

/// Everything that can be wrong with the share.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// Nobody has the label.
    #[error("expected a disk with the FAT label DSTACKSHR, found {0} disks without it")]
    NoneLabelled(usize),
    /// Two have it.
    #[error("expected one disk with the FAT label DSTACKSHR, found {0} and {1}")]
    TwoLabelled(String, String),
    /// The device does not give what was asked for.
    #[error("{device}: {error}")]
    Device {
        /// Which.
        device: String,
        /// What the kernel says.
        error: std::io::Error,
    },
    /// The labelled file system is damaged.
    #[error("{device}: {why}")]
    FileSystem {
        /// Which.
        device: String,
        /// What is wrong.
        why: FatError,
    },
    /// There is no `app-compose.json`.
    #[error("app-compose.json: expected in the share's root directory, found no such file")]
    NoDocument,
    /// A file is too long to be read at all.
    #[error("{file}: expected at most {limit} bytes, found {found}")]
    TooLong {
        /// Which.
        file: &'static str,
        /// The limit in bytes.
        limit: u32,
        /// Its size in bytes.
        found: u32,
    },
    /// A field of one of the small files.
    #[error("{file}: {field}: expected {expected}, found {found}")]
    Field {
        /// Which file.
        file: &'static str,
        /// Which field; `(top level)` for all of it.
        field: String,
        /// What would be right.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl ShareError {
    pub(super) fn fat(device: &str, why: FatError) -> Self {
        let device = device.to_owned();
        match why {
            FatError::Io(error) => Self::Device { device, error },
            why => Self::FileSystem { device, why },
        }
    }

    /// What PID 1 is told.
    pub const fn refusal(&self) -> Refusal {
        match self {
            Self::NoneLabelled(_) => Refusal::NoneLabelled,
            Self::TwoLabelled(..) => Refusal::TwoLabelled,
            Self::Device { .. } => Refusal::Device,
            Self::FileSystem { .. } => Refusal::FileSystem,
            Self::NoDocument => Refusal::NoDocument,
            Self::TooLong { .. } => Refusal::TooLong,
            Self::Field { .. } => Refusal::Field,
        }
    }
}

/// The exit statuses of the process that reads the share. 0 is an answer; 1, 101 and 127 are taken by failures of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Refusal {
    /// No device carries the label.
    NoneLabelled = 10,
    /// More than one does.
    TwoLabelled = 11,
    /// The device failed to give its sectors, or more of them were needed than are ever read.
    Device = 12,
    /// The file system is damaged.
    FileSystem = 13,
    /// There is no `app-compose.json`.
    NoDocument = 14,
    /// A file is too long.
    TooLong = 15,
    /// A field is wrong.
    Field = 16,
}

impl Refusal {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::NoneLabelled,
        Self::TwoLabelled,
        Self::Device,
        Self::FileSystem,
        Self::NoDocument,
        Self::TooLong,
        Self::Field,
    ];

    /// The exit status.
    pub const fn status(self) -> u8 {
        self as u8
    }

    /// From the exit status.
    pub fn from_status(status: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|one| i32::from(one.status()) == status)
    }

    /// In a few plain words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::NoneLabelled => "no disk has the FAT label DSTACKSHR",
            Self::TwoLabelled => "more than one disk has the FAT label DSTACKSHR",
            Self::Device => "the disk could not be read",
            Self::FileSystem => "its file system is damaged",
            Self::NoDocument => "there is no app-compose.json on it",
            Self::TooLong => "a file on it is too long",
            Self::Field => "a field of a file on it is wrong",
        }
    }
}
