//! Everything that can go wrong before a guest runs, or beside it. How a guest ends is [`crate::outcome`].

use std::path::PathBuf;

/// An error of this library.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A file that should hold JSON of a known form does not.
    #[error("{path}: expected {expected}: {source}")]
    Json {
        /// Which file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
        /// Where the reader stopped.
        source: serde_json::Error,
    },
    /// The image directory is not what its manifest says, or the manifest says too little.
    #[error("{path}: {field}: expected {expected}, found {found}")]
    Image {
        /// Which file.
        path: PathBuf,
        /// Which field, or which property of the file.
        field: String,
        /// What was expected.
        expected: String,
        /// What is there.
        found: String,
    },
    /// `--forward` is not readable.
    #[error("forward: expected HOST_PORT:GUEST_PORT or IPV4_ADDRESS:HOST_PORT:GUEST_PORT, found {0:?}")]
    Forward(String),
    /// `--netdev` is not readable.
    #[error("netdev: expected socket:OPTIONS, dgram:OPTIONS or stream:OPTIONS, found {0:?}")]
    Netdev(String),
    /// `--mrconfigid` is not readable.
    #[error("mrconfigid: expected auto, v1, v2, v3, zero or 96 hex digits, found {0:?}")]
    ConfigId(String),
    /// The measured document is not one that a guest of ours takes.
    #[error(transparent)]
    Document(casemate_measure::DocumentError),
    /// What is to go on the share does not fit together, or does not fit the image.
    #[error("{path}: expected {expected}, found {found}")]
    Share {
        /// Which file, or which image.
        path: PathBuf,
        /// What was expected of it.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A path that QEMU cannot be told of.
    #[error("{0}: expected a path in UTF-8")]
    PathText(PathBuf),
    /// A unix socket's path has at most 107 bytes (Linux `UNIX_PATH_MAX` less the NUL).
    #[error("{0}: too long for a unix socket: expected at most 107 bytes; choose a shorter --run-dir")]
    SocketPath(PathBuf),
    /// Somebody else uses the run directory.
    #[error("{0}: another machine runs here; stop it first, or choose another --run-dir")]
    Busy(PathBuf),
    /// A share has to be written somewhere.
    #[error("argv with --document: expected --run-dir, where the share is written")]
    NoRunDir,
    /// No machine runs there.
    #[error("{0}: no machine runs here")]
    NotRunning(PathBuf),
    /// The host cannot do what was asked of it.
    #[error("this host cannot do what was asked: {0}")]
    Host(String),
    /// QEMU could not be started at all.
    #[error("{program}: {source}")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The monitor did not speak QMP, or refused a command.
    #[error("QMP: {0}")]
    Qmp(String),
    /// The operating system refused something else.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// ACPI tables could not be captured.
    #[error("ACPI capture: {0}")]
    Capture(String),
    /// A file of captures has something else for the same machine.
    #[error("{path}: {source}")]
    Captures {
        /// Which file.
        path: PathBuf,
        /// Which machine, and what differs.
        source: Box<crate::acpi::Mismatch>,
    },
    /// A packet dump is not readable.
    #[error("{path}: byte {offset}: expected {expected}, found {found}")]
    Pcap {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        offset: usize,
        /// What was expected there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
}

impl Error {
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }

    pub(crate) fn system<E: Into<std::io::Error>>(what: &'static str) -> impl FnOnce(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }

    /// The exit status of a command that ends with this error (see the table in README.md).
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Json { .. } | Self::Image { .. } => 3,
            Self::Start { .. } | Self::Capture(_) => 2,
            Self::Host(_) => 10,
            Self::Document(_) | Self::Share { .. } => 12,
            Self::Forward(_) | Self::Netdev(_) | Self::ConfigId(_) | Self::NoRunDir => 64,
            _ => 1,
        }
    }
}
