#![doc = include_str!("README.md")]

mod error;
mod profile;
mod reach;

pub use error::ConfineError;
pub use profile::{Filter, Profile};
pub use reach::{Kernel, Reach};

use seccompiler::BpfProgram;

/// Refuses every system call that the profile does not list, in all threads of this process, for good; and makes the process
/// undumpable, so that its memory and descriptors cannot be reached through /proc.
///
/// The last step before a process says that it is ready: sockets are open, [`Reach::enter`] has been called before the first
/// thread was started. An unlisted call ends one of our own processes (SIGSYS) and gives a service EPERM.
///
/// # Errors
/// If the profile does not compile (a test compiles them all) or the kernel refuses. The process must end then.
pub fn enter(profile: Profile) -> Result<(), ConfineError> {
    let Filter { answers, main } = profile.filter()?;
    nix::sys::prctl::set_dumpable(false).map_err(ConfineError::Dumpable)?;
    // The answers first: the main filter may not list `seccomp`. Where both have a verdict, the stricter one counts.
    answers.as_ref().map_or(Ok(()), |answers| apply(profile, answers))?;
    apply(profile, &main)
}

fn apply(profile: Profile, program: &BpfProgram) -> Result<(), ConfineError> {
    seccompiler::apply_filter_all_threads(program)
        .map_err(|source| ConfineError::Apply { profile: profile.name(), source })
}
