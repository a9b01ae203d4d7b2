//! The process that reads the host share: devices and a memfd come as descriptors, one bounded answer goes into the memfd.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::ExitCode;

use anyhow::Context as _;

use super::ShareHandover;
use crate::confine::{self, Kernel, Profile, Reach};
use crate::{handover, share, sys};

/// The descriptor of the answer; the devices follow, in the order of the handover.
const ANSWER: i32 = handover::FIRST_EXTRA;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    let told: ShareHandover = handover::read().context("handover")?;
    let answer = File::from(sys::inherited(ANSWER).context("answer")?);
    let mut devices = Vec::new();
    for (number, name) in (ANSWER.saturating_add(1)..).zip(told.devices) {
        let device = sys::inherited(number).with_context(|| name.clone())?;
        devices.push((name, File::from(device)));
    }
    Reach::nothing().enter(Kernel::Pinned).context("Landlock")?;
    confine::enter(Profile::Share).context("seccomp")?;

    // Nothing of the host's was read before this line.
    match share::read(devices) {
        Ok(read) => {
            answer.write_all_at(&read.encode(), 0).context("answer")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            // PID 1 reads the status; the words are for the development console.
            drop(writeln!(io::stderr(), "{error}"));
            Ok(ExitCode::from(error.refusal().status()))
        }
    }
}
