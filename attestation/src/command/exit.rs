//! Exit codes.

use std::process::ExitCode;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// 0: trusted under the policy; or the policy was written.
    Trusted,
    /// 1: not trusted. Authentic evidence that no policy judged is not trusted either.
    NotTrusted,
    /// 2: no connection, no answer, or nothing to judge an authentic quote by.
    Undecided,
    /// 64: wrong arguments, or a file that cannot be used (`EX_USAGE` of sysexits.h).
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Trusted => 0,
            Exit::NotTrusted => 1,
            Exit::Undecided => 2,
            Exit::Usage => 64,
        })
    }
}
