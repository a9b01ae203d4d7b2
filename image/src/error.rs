//! What can go wrong, each error naming file, field, expectation and finding.

use std::path::{Path, PathBuf};

use casemate_measure::manifest::TrailerError;

/// Why no image, lock or workload was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A file or directory could not be used.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that we read does not have the form that it must have.
    #[error("{file}: {field}: expected {expected}, found {found}")]
    Form {
        /// The file, or the member of an archive.
        file: String,
        /// What in it.
        field: String,
        /// What it must be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A file's bytes are not those that were pinned.
    #[error(
        "{file}: not the pinned bytes of package {package}: {field}: expected {expected}, found {found}; delete that file \
         and run again to fetch it anew"
    )]
    Pinned {
        /// The file.
        file: PathBuf,
        /// Package and version.
        package: String,
        /// `size in bytes` or `SHA-256`.
        field: &'static str,
        /// What the lock says.
        expected: String,
        /// What the file is.
        found: String,
    },
    /// An archive member that an image must not carry.
    #[error("{archive}: {member}: refused: {why}")]
    Member {
        /// The archive or directory.
        archive: String,
        /// Its member.
        member: String,
        /// Why.
        why: String,
    },
    /// More than the bounds allow.
    #[error("{what}: larger than the limit of {limit} {unit}")]
    TooLarge {
        /// What.
        what: String,
        /// How much is allowed.
        limit: u64,
        /// Bytes, members.
        unit: &'static str,
    },
    /// Packages that neither the cache, nor the mirror, nor apt gave.
    #[error(
        "packages that the image needs are missing:\n{missing}\nwhy: {why}\nwhat to do: connect this machine to its Debian \
         mirror and run again; or put these files into a folder and name it with --mirror DIR or CASEMATE_DEB_CACHE"
    )]
    Missing {
        /// One line for each.
        missing: String,
        /// What stopped the fetch.
        why: String,
    },
    /// The archive no longer has a pinned version.
    #[error(
        "package {package} {version} is not in suite {suite} any more; what to do: take the pinned file from a folder or \
         a snapshot mirror with --mirror DIR|URL or CASEMATE_DEB_CACHE, or pin what the suite has now with \
         `cargo image lock --update`"
    )]
    Gone {
        /// Its name.
        package: String,
        /// The pinned version.
        version: String,
        /// The suite it was pinned from.
        suite: String,
    },
    /// This machine's apt sources name no Debian archive.
    #[error(
        "no Debian archive among this machine's apt sources ({looked_at}); what to do: name a Debian mirror with --mirror \
         URL, or a folder with the packages with --mirror DIR or CASEMATE_DEB_CACHE"
    )]
    NoDebianSource {
        /// Which files were read.
        looked_at: String,
    },
    /// A program that we started failed.
    #[error("{program} failed ({status}): {output}")]
    Program {
        /// Its name and what it was to do.
        program: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        output: String,
    },
    /// A module that the image needs is not in the packages.
    #[error("kernel module {module}, needed by {by}, is neither in package {package} nor built in")]
    NoModule {
        /// Its name.
        module: String,
        /// Who needs it.
        by: String,
        /// Where we looked.
        package: String,
    },
    /// Modules that need each other in a circle.
    #[error("kernel modules need each other in a circle: {0}")]
    ModuleCycle(String),
    /// The measured document was refused.
    #[error("{0}")]
    Document(String),
    /// The document names a workload that was not given.
    #[error(
        "{document}: services: {service}: rootfs: expected one of the workloads given with --workload ({given}), found {found:?}"
    )]
    NoWorkload {
        /// The document's file.
        document: String,
        /// The service.
        service: String,
        /// What was given.
        given: String,
        /// What it names.
        found: String,
    },
    /// The image is larger than it may be.
    #[error("kernel and initramfs are {found} bytes together: expected at most {limit} (--max-size)")]
    TooBig {
        /// Kernel plus initramfs, bytes.
        found: u64,
        /// What was asked for, bytes.
        limit: u64,
    },
    /// The output folder exists and is not one of ours.
    #[error("{path}: exists and has no {marker} in it: not replaced", path = path.display())]
    NotReplaced {
        /// The folder.
        path: PathBuf,
        /// What one of ours has.
        marker: String,
    },
    /// The manifest is too long for the init binary.
    #[error(transparent)]
    Trailer(#[from] TrailerError),
    /// Two builds that should be the same differ.
    #[error("not reproducible: {0}")]
    Differs(String),
    /// Something about the command line.
    #[error("{0}")]
    Usage(String),
}

/// Shorthand.
pub type Result<T> = std::result::Result<T, ImageError>;

impl ImageError {
    /// For `map_err`: an I/O error at a path.
    pub(crate) fn at(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.as_ref().to_owned(), source }
    }

    pub(crate) fn form(
        file: impl Into<String>,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Form { file: file.into(), field: field.into(), expected: expected.into(), found: found.into() }
    }

    pub(crate) fn member(archive: &str, member: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Member { archive: archive.into(), member: member.into(), why: why.into() }
    }
}
