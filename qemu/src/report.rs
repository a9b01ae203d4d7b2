//! `status.json` of a run directory: the host's view of one machine, replaced whole at each change.

use std::path::PathBuf;

use casemate_measure::status::{Flavour, Frame};
use serde::{Deserialize, Serialize};

use crate::host::Runner;
use crate::outcome::Outcome;
use crate::shape::Forward;

/// The whole file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The process of `casemate-qemu boot`: SIGTERM stops the guest in order, a second one at once.
    pub pid: u32,
    /// QEMU's process.
    pub qemu_pid: u32,
    /// What runs the guest.
    pub runner: Runner,
    /// Why.
    pub why: String,
    /// Whether the guest said that everything runs, and has not begun to stop.
    pub ready: bool,
    /// The guest's last status frame.
    pub last: Option<LastFrame>,
    /// When that frame came, in seconds since 1970 by the host's clock.
    pub heard_unix: Option<u64>,
    /// How many frames came.
    pub frames: u64,
    /// How many bytes came on the status port that belong to no frame.
    pub skipped_bytes: u64,
    /// Host addresses that lead to the guest.
    pub forwards: Vec<Forward>,
    /// The log of the guest's console; the production flavour has none.
    pub console: Option<PathBuf>,
    /// QEMU's own log.
    pub qemu_log: PathBuf,
    /// The monitor's socket.
    pub qmp: PathBuf,
    /// The packet dump, if one was asked for.
    pub pcap: Option<PathBuf>,
    /// How it ended; `null` while it runs.
    pub ended: Option<Ended>,
}

/// A status frame with words beside its codes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LastFrame {
    /// `dev` or `prod`.
    pub flavour: String,
    /// The stage's code.
    pub stage: u8,
    /// The stage in words.
    pub stage_words: String,
    /// The reason's code.
    pub reason: u8,
    /// The reason in words.
    pub reason_words: String,
    /// Its number.
    pub sequence: u32,
    /// Frames that found no room in the guest so far.
    pub dropped: u32,
    /// Milliseconds since the kernel started.
    pub uptime_ms: u64,
    /// A number that belongs to the reason.
    pub detail: u64,
    /// The digest that belongs to it, in hex.
    pub digest: String,
}

/// How a machine ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ended {
    /// The exit status of `casemate-qemu boot`.
    pub exit_status: u8,
    /// In words.
    pub words: String,
}

impl LastFrame {
    /// Stage and reason, for a person.
    pub fn words(&self) -> String {
        format!("stage \"{}\": {}", self.stage_words, self.reason_words)
    }
}

impl From<&Frame> for LastFrame {
    fn from(frame: &Frame) -> Self {
        Self {
            flavour: match frame.flavour {
                Flavour::Dev => "dev".into(),
                Flavour::Prod => "prod".into(),
            },
            stage: frame.stage.code(),
            stage_words: frame.stage.words().into(),
            reason: frame.reason.code(),
            reason_words: frame.reason.words().into(),
            sequence: frame.sequence,
            dropped: frame.dropped,
            uptime_ms: frame.uptime_ms,
            detail: frame.detail,
            digest: hex::encode(frame.digest),
        }
    }
}

impl From<&Outcome> for Ended {
    fn from(outcome: &Outcome) -> Self {
        Self { exit_status: outcome.exit_status(), words: outcome.to_string() }
    }
}
