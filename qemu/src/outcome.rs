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
    /// The guest ended without a single frame.
    Silent {
        /// QEMU's word for how: `guest-reset`, `guest-shutdown`, …
        reason: String,
    },
    /// The guest ended after frames none of which says why.
    Vanished {
        /// The last of them.
        last: Frame,
        /// QEMU's word for how.
        reason: String,
    },
    /// The guest named its failure.
    Failed(Frame),
    /// Not ready in time.
    NotReady {
        /// The last frame, if one came.
        last: Option<Frame>,
        /// How long it had, in seconds.
        seconds: u64,
    },
    /// Asked to power off, it did not in time.
    Deaf {
        /// How long it had, in seconds.
        seconds: u64,
    },
    /// Ended at once, because a second signal asked for it.
    Cut,
    /// The hypervisor could not go on with the guest.
    Hypervisor {
        /// The run state, such as `internal-error`.
        state: String,
    },
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
            Self::Cut => 9,
            Self::Hypervisor { .. } => 11,
            // 32 to 63: the reason's own code. A test keeps the codes below 64.
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
            Self::NotReady { last: Some(last), seconds } => {
                write!(f, "not ready within {seconds} s; the last frame: {}", frame_words(last))
            }
            Self::NotReady { last: None, seconds } => {
                write!(f, "not ready within {seconds} s, and not a single status frame came")
            }
            Self::Deaf { seconds } => {
                write!(f, "asked to power off, the guest did not within {seconds} s; ended it")
            }
            Self::Cut => f.write_str("ended at once, as asked"),
            Self::Hypervisor { state } => write!(f, "the hypervisor gave the guest up: {state}"),
        }
    }
}

fn plain(reason: &str) -> &str {
    match reason {
        "guest-reset" => "it reset itself, as a kernel panic does",
        "guest-shutdown" => "it powered itself off",
        "guest-panic" => "its kernel panicked",
        "host-qmp-quit" => "the monitor was told to quit",
        "host-signal" => "QEMU got a signal",
        other => other,
    }
}

/// A frame in words: stage, reason, and the numbers that belong to it.
pub fn frame_words(frame: &Frame) -> String {
    let mut words = match frame.reason {
        Reason::Entered => format!("stage \"{}\"", frame.stage.words()),
        Reason::Ready | Reason::PoweredOff => frame.reason.words().to_owned(),
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
            Outcome::Silent { reason: "guest-reset".into() },
            Outcome::Vanished { last, reason: "guest-reset".into() },
            Outcome::NotReady { last: Some(last), seconds: 1 },
            Outcome::NotReady { last: None, seconds: 1 },
            Outcome::Deaf { seconds: 1 },
            Outcome::Cut,
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
            assert!((32..64).contains(&status), "{reason:?}");
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
    }
}
