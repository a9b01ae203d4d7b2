//! Why a process could not be confined. Each is fatal for it.

use landlock::RulesetError;

/// Why a process could not be confined.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfineError {
    /// A line of a profile's text is not one.
    #[error("{profile}.syscalls line {line}: expected {expected}, found {found:?}")]
    Line {
        /// The profile.
        profile: &'static str,
        /// From 1.
        line: usize,
        /// What may stand there.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// The compiler of filters refused a profile.
    #[error("{profile}.syscalls: {source}")]
    Compile {
        /// The profile.
        profile: &'static str,
        /// What it says.
        source: seccompiler::BackendError,
    },
    /// The kernel refused a filter.
    #[error("{profile}: the system call filter was not accepted: {source}")]
    Apply {
        /// The profile.
        profile: &'static str,
        /// What it says.
        source: seccompiler::Error,
    },
    /// `PR_SET_DUMPABLE`.
    #[error("PR_SET_DUMPABLE: {0}")]
    Dumpable(nix::Error),
    /// The kernel knows less of Landlock than the pinned kernel does, or refused a rule.
    #[error("Landlock: {0}")]
    Landlock(#[from] RulesetError),
    /// A path that the process shall reach cannot be opened.
    #[error("Landlock: {0}")]
    Path(#[from] landlock::PathFdError),
    /// The kernel enforces less than was asked for.
    #[error("Landlock: expected full enforcement, found {0:?}")]
    Enforcement(landlock::RulesetStatus),
}
