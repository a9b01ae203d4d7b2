//! What the guest said of its times in one boot.

use std::path::Path;

use anyhow::{Context as _, ensure};
use casemate_measure::status::Stage;
use serde::Deserialize;

use crate::machine::boot;

/// What the guest's clock counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clock {
    /// Instructions, one nanosecond each; idle time is jumped over.
    Instructions,
    /// The host's time.
    Host,
}

impl Clock {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Instructions => "icount",
            Self::Host => "plain",
        }
    }

    const fn arguments(self) -> &'static str {
        match self {
            Self::Instructions => "-icount shift=0,sleep=off",
            Self::Host => "",
        }
    }
}

/// One boot, in milliseconds of guest time.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// When userspace started, since the kernel did.
    pub(crate) start_ms: f64,
    /// When the init was done.
    end_ms: f64,
    /// Of that, while loading modules.
    pub(crate) modules_ms: f64,
    /// Stages and how long each took.
    pub(crate) stages: Vec<(String, f64)>,
}

impl Run {
    /// From the start of userspace to the end.
    pub(crate) fn total_ms(&self) -> f64 {
        self.end_ms - self.start_ms
    }
}

/// Boots an image with our init until it is ready.
pub(crate) fn ours(image: &Path, clock: Clock) -> anyhow::Result<Run> {
    let status: Status = boot(image, clock.arguments(), |console| {
        let documents = console.lines().filter_map(|line| line.trim_end().strip_prefix("casemate: status "));
        let status = documents.filter_map(|json| serde_json::from_str::<Status>(json).ok()).next_back()?;
        status.stages.iter().any(|entry| entry.stage == Stage::Ready.words()).then_some(status)
    })?;
    let start = status.stages.first().context("status: no stages")?.entered_ms;
    let ready = status.stages.last().filter(|entry| entry.stage == Stage::Ready.words());
    let pairs = status.stages.iter().zip(status.stages.iter().skip(1));
    Ok(Run {
        start_ms: start,
        end_ms: ready.context("status: stages after ready")?.entered_ms,
        modules_ms: status.module_ms,
        stages: pairs.map(|(one, next)| (one.stage.clone(), next.entered_ms - one.entered_ms)).collect(),
    })
}

/// The part of the status document that has times, in ms since the kernel started.
#[derive(Deserialize)]
struct Status {
    stages: Vec<StageTime>,
    module_ms: f64,
}

#[derive(Deserialize)]
struct StageTime {
    stage: String,
    entered_ms: f64,
}

/// Boots an image with the C init until it says its times.
pub(crate) fn c_init(image: &Path, clock: Clock) -> anyhow::Result<Run> {
    let line = boot(image, clock.arguments(), |console| {
        let line = console.lines().find_map(|line| line.trim_end().strip_prefix("cinit: "))?;
        // Not while it is still being written.
        line.contains("failed=").then(|| line.to_owned())
    })?;
    let number = |name: &str| {
        let words = line.split(' ').filter_map(|word| word.split_once('='));
        let found = words.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse::<f64>().ok());
        found.with_context(|| format!("C init: expected {name}=…, found {line:?}"))
    };
    ensure!(number("failed")? == 0.0 && number("loaded")? > 0.0, "C init: {line}");
    Ok(Run {
        start_ms: number("start_us")? / 1000.0,
        end_ms: number("end_us")? / 1000.0,
        modules_ms: number("modules_us")? / 1000.0,
        stages: Vec::new(),
    })
}
