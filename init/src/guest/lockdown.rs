//! Whether the kernel is locked down: the command line asks for it, and here the kernel says that it took it.
//!
//! Under `confidentiality` not even root reads or writes the kernel's memory (no /dev/mem, kprobes, kexec, unsigned modules,
//! debugfs), which Debian's configuration would allow.

use std::fs;
use std::io;
use std::path::Path;

use casemate_measure::status::Reason;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::boot::Failure;

/// Where sysfs keeps a place for it.
const SECURITYFS: &str = "/sys/kernel/security";
/// security/lockdown/lockdown.c; the level in force stands in brackets.
const EXPECTED: &str = "confidentiality";

/// Mounts securityfs for one look, takes it away again, and judges.
pub(super) fn check() -> Result<(), Failure> {
    let failed = |error: &io::Error| Failure::errno(Reason::NotLockedDown, SECURITYFS, error);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    let nothing: Option<&str> = None;
    mount(Some("securityfs"), SECURITYFS, Some("securityfs"), flags, nothing)
        .map_err(|error| failed(&error.into()))?;
    let read = fs::read_to_string(Path::new(SECURITYFS).join("lockdown"));
    umount2(SECURITYFS, MntFlags::empty()).map_err(|error| failed(&error.into()))?;
    judge(&read.map_err(|error| failed(&error))?)
}

fn judge(text: &str) -> Result<(), Failure> {
    let in_force = text.split_ascii_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    if in_force == Some(EXPECTED) {
        return Ok(());
    }
    let text = format!("{SECURITYFS}/lockdown: expected [{EXPECTED}], found {:?}", text.trim_end());
    Err(Failure::new(Reason::NotLockedDown, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_level_in_brackets_counts() {
        judge("none integrity [confidentiality]\n").unwrap();
        let others = [
            "[none] integrity confidentiality\n",
            "none [integrity] confidentiality\n",
            "none integrity confidentiality\n",
            "[none] [confidentiality]\n",
            "[confidentiality2]\n",
            "",
        ];
        for text in others {
            let failure = judge(text).unwrap_err();
            assert_eq!(failure.reason, Reason::NotLockedDown);
            assert!(
                failure.text.starts_with("/sys/kernel/security/lockdown: expected [confidentiality], found ")
            );
        }
    }
}
