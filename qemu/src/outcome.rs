//! How a machine ended, in words and as an exit status. The table is in README.md; a test holds the two equal.

use std::fmt;

use casemate_measure::status::{Frame, Reason};

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Powered off in order.
    Orderly,
    /// QEMU itself failed.
    QemuFailed {
        /// How it ended.
        how: String,
        /// What it said last.
        said: String,
    },
    /// The guest powered off without a single frame.
    Silent {
        /// QEMU's word for how: `guest-shutdown`, …
        reason: String,
    },
    /// The guest powered off after frames none of which says why.
    Vanished {
        /// The last of them.
        last: Frame,
        /// QEMU's word for how.
        reason: String,
    },
    /// The guest powered off, and what it wrote to its status port was no frame.
    Garbled {
        /// How many bytes.
        bytes: u64,
    },
    /// The machine reset itself, which nothing in an image of ours does but a kernel that panics (`panic=-1`), or said that
    /// its kernel panicked.
    KernelPanic {
        /// The last frame, if one came.
        last: Option<Frame>,
        /// What the kernel said of it, where that can be had: one line, printable.
        said: Option<String>,
    },
    /// The guest named its failure.
    Failed(Frame),
    /// Not ready in time.
    NotReady {
        /// The last frame, if one came.
        last: Option<Frame>,
        /// How long it had, in seconds.
        seconds: u64,
        /// How many bytes came that are no frame.
        skipped: u64,
        /// Whether the monitor had stopped it.
        paused: bool,
    },
    /// Ready, and then no frame for too long.
    Hung {
        /// The last frame.
        last: Frame,
        /// How long it had, in seconds.
        seconds: u64,
    },
    /// Asked to power off, it did not in time.
    Deaf {
        /// How long it had, in seconds.
        seconds: u64,
    },
    /// Ended at once, because somebody on the host asked for it.
    Cut(Cut),
    /// A signal from the host ended QEMU.
    Killed {
        /// Which, in words.
        how: String,
    },
    /// The hypervisor could not go on with the guest.
    Hypervisor {
        /// The run state, such as `internal-error`.
        state: String,
    },
}

/// Who ended a machine at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// A second signal to `casemate-qemu boot`.
    Signal,
    /// `quit` on the monitor.
    Quit,
    /// `system_reset` on the monitor: a machine of ours does not start again.
    Reset,
}

impl Outcome {
    /// The exit status.
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Orderly => 0,
            Self::QemuFailed { .. } => 2,
            Self::Silent { .. } => 4,
            Self::Vanished { .. } => 5,
            Self::NotReady { last: Some(_), .. } => 6,
            Self::NotReady { last: None, .. } => 7,
            Self::Deaf { .. } => 8,
            Self::Cut(_) => 9,
            Self::Hypervisor { .. } => 11,
            Self::KernelPanic { .. } => 13,
            Self::Killed { .. } => 14,
            Self::Hung { .. } => 15,
            Self::Garbled { .. } => 16,
            // From 32 on: the reason's own code. A test keeps it apart from usage, 64.
            Self::Failed(frame) => frame.reason.code(),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orderly => f.write_str("the guest powered off in order"),
            Self::QemuFailed { how, said } if said.is_empty() => {
                write!(f, "QEMU failed ({how}) and said nothing")
            }
            Self::QemuFailed { how, said } => write!(f, "QEMU failed ({how}): {said}"),
            Self::Silent { reason } => {
                write!(f, "the guest ended ({}) without a single status frame", plain(reason))
            }
            Self::Vanished { last, reason } => write!(
                f,
                "the guest ended ({}) without saying why; its last frame: {}",
                plain(reason),
                frame_words(last)
            ),
            Self::Failed(frame) => write!(f, "the guest powered off by itself: {}", frame_words(frame)),
            Self::Garbled { bytes } => {
                write!(
                    f,
                    "the guest powered off, and the {bytes} bytes on its status port are no status frame"
                )
            }
            Self::KernelPanic { last, said } => {
                f.write_str("the guest's kernel panicked (the machine reset itself); ")?;
                match last {
                    Some(last) => write!(f, "its last frame: {}", frame_words(last))?,
                    None => f.write_str("not a single status frame came")?,
                }
                said.iter().try_for_each(|said| write!(f, "; it said: {said}"))
            }
            Self::NotReady { last, seconds, skipped, paused } => {
                write!(f, "not ready within {seconds} s")?;
                match last {
                    Some(last) => write!(f, "; the last frame: {}", frame_words(last))?,
                    None => f.write_str(", and not a single status frame came")?,
                }
                if *skipped > 0 {
                    write!(f, "; {skipped} bytes on the status port are no frame")?;
                }
                if *paused { f.write_str("; the monitor had stopped it") } else { Ok(()) }
            }
            Self::Hung { last, seconds } => {
                write!(
                    f,
                    "it was ready, and then gave no sign of life for {seconds} s; its last frame: {}",
                    frame_words(last)
                )
            }
            Self::Deaf { seconds } => {
                write!(f, "asked to power off, the guest did not within {seconds} s; ended it")
            }
            Self::Cut(Cut::Signal) => f.write_str("ended at once, as a second signal asked"),
            Self::Cut(Cut::Quit) => f.write_str("ended at once, as its monitor was told (quit)"),
            Self::Cut(Cut::Reset) => f.write_str("ended at once, as its monitor was told (system_reset)"),
            Self::Killed { how } => write!(f, "QEMU was killed on the host ({how})"),
            Self::Hypervisor { state } => write!(f, "the hypervisor gave the guest up: {state}"),
        }
    }
}

fn plain(reason: &str) -> &str {
    match reason {
        "guest-shutdown" => "it powered itself off",
        other => other,
    }
}

/// A frame in words: stage, reason, and the numbers that belong to it.
pub fn frame_words(frame: &Frame) -> String {
    let mut words = match frame.reason {
        Reason::Entered => format!("stage \"{}\"", frame.stage.words()),
        Reason::Ready | Reason::PoweredOff => frame.reason.words().to_owned(),
        // Its detail has words of its own.
        Reason::Alive => {
            return match frame.detail {
                0 => frame.reason.words().to_owned(),
                missing => format!("{}; processes that are not ready: {missing}", frame.reason.words()),
            };
        }
        reason => format!("stage \"{}\": {}", frame.stage.words(), reason.words()),
    };
    if frame.detail != 0 {
        words.push_str(&format!(" (detail {})", frame.detail));
    }
    if frame.reason == Reason::ManifestMismatch {
        words.push_str(&format!(" (SHA-256 of its path: {})", hex::encode(frame.digest)));
    }
    words
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use casemate_measure::status::{Flavour, Stage};

    use super::*;

    fn frame(reason: Reason) -> Frame {
        Frame {
            flavour: Flavour::Dev,
            stage: Stage::Modules,
            reason,
            sequence: 3,
            dropped: 0,
            uptime_ms: 1,
            detail: 2,
            digest: [0xab; 32],
        }
    }

    fn one_of_each() -> Vec<Outcome> {
        let last = frame(Reason::Entered);
        vec![
            Outcome::Orderly,
            Outcome::QemuFailed { how: String::new(), said: String::new() },
            Outcome::Silent { reason: "guest-shutdown".into() },
            Outcome::Vanished { last, reason: "guest-shutdown".into() },
            Outcome::Garbled { bytes: 1 },
            Outcome::KernelPanic { last: None, said: None },
            Outcome::NotReady { last: Some(last), seconds: 1, skipped: 0, paused: false },
            Outcome::NotReady { last: None, seconds: 1, skipped: 0, paused: false },
            Outcome::Hung { last, seconds: 1 },
            Outcome::Deaf { seconds: 1 },
            Outcome::Cut(Cut::Signal),
            Outcome::Killed { how: String::new() },
            Outcome::Hypervisor { state: "internal-error".into() },
        ]
    }

    /// `| 7 | words |` lines of the section "Exit status".
    fn readme_table() -> BTreeMap<u8, String> {
        include_str!("../README.md")
            .lines()
            .filter_map(|line| {
                let mut cells = line.split('|').map(str::trim).skip(1);
                Some((cells.next()?.parse().ok()?, cells.next()?.to_owned()))
            })
            .collect()
    }

    #[test]
    fn every_status_is_in_the_readme_and_means_one_thing() {
        let table = readme_table();
        let mut seen = std::collections::BTreeSet::new();
        for outcome in one_of_each() {
            let status = outcome.exit_status();
            assert!(table.contains_key(&status), "{status} is not in README.md");
            assert!(seen.insert(status), "{status} means two things");
            assert!(status < 32);
        }
        for status in [1, 3, 10, 12, 64] {
            assert!(table.contains_key(&status), "{status} is not in README.md");
            assert!(seen.insert(status), "{status} means two things");
        }
        for reason in Reason::ALL.iter().filter(|r| r.is_failure()) {
            let status = Outcome::Failed(frame(*reason)).exit_status();
            assert!(
                (32..=127).contains(&status) && status != 64,
                "{reason:?}: 64 is usage, from 128 on shells say signals"
            );
            assert_eq!(table.get(&status).map(String::as_str), Some(reason.words()), "{status}");
            assert!(seen.insert(status));
        }
        assert_eq!(table.keys().copied().collect::<Vec<_>>(), seen.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn words_name_stage_and_reason() {
        let words = Outcome::Failed(frame(Reason::ModuleFailed)).to_string();
        assert!(words.contains("modules") && words.contains("a kernel module failed"), "{words}");
        assert!(words.contains("detail 2"), "{words}");
        let words = Outcome::Failed(frame(Reason::ManifestMismatch)).to_string();
        assert!(words.contains(&"ab".repeat(32)), "{words}");
        let said = Some("Kernel panic - not syncing: x".into());
        let words = Outcome::KernelPanic { last: Some(frame(Reason::Entered)), said }.to_string();
        assert!(
            words.contains("stage \"modules\"") && words.ends_with("it said: Kernel panic - not syncing: x"),
            "{words}"
        );
        let alive = Frame { detail: 0, ..frame(Reason::Alive) };
        assert_eq!(frame_words(&alive), "alive");
        assert_eq!(frame_words(&frame(Reason::Alive)), "alive; processes that are not ready: 2");
        let words = Outcome::NotReady { last: None, seconds: 7, skipped: 3, paused: true }.to_string();
        for part in ["within 7 s", "not a single status frame", "3 bytes", "the monitor had stopped it"] {
            assert!(words.contains(part), "{words}");
        }
    }
}
