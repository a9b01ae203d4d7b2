//! Pings on request: disco over every way at once, as `tailscale ping` does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Node;
use crate::netmap::TailnetNode;
use crate::status::{Asked, PathStatus};

/// How long an answer may take, and the time between two pings.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often an answer is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// Callers that ping at a time.
const MAX_JOBS: usize = 16;
/// The most pings of one caller.
const MAX_COUNT: u32 = 1000;

/// One line of the answer.
#[derive(Serialize)]
struct Line<'a> {
    sequence: u32,
    name: &'a str,
    path: PathStatus,
    /// The round trip on that path, in microseconds; `null`: no answer.
    latency_us: Option<u64>,
}

/// A caller's pings.
pub(super) struct Job {
    peer: Arc<TailnetNode>,
    left: u32,
    sequence: u32,
    until_direct: bool,
    sent: Instant,
    pongs: u64,
    answered: bool,
    answer: Asked,
}

impl Node {
    /// Begins.
    pub(super) fn ping(&mut self, now: Instant, name: &str, count: u32, until_direct: bool, answer: Asked) {
        let Some(peer) = self.peer_named(name) else {
            say(
                &answer,
                &serde_json::json!({ "error": format!("expected the name or address of a peer, found {name:?}") }),
            );
            return;
        };
        if self.pings.len() >= MAX_JOBS || count == 0 || count > MAX_COUNT {
            say(
                &answer,
                &serde_json::json!({ "error": format!("expected a count of 1 to {MAX_COUNT}, and at most {MAX_JOBS} callers") }),
            );
            return;
        }
        let mut job = Job {
            peer,
            left: count,
            sequence: 0,
            until_direct,
            sent: now,
            pongs: 0,
            answered: false,
            answer,
        };
        self.send_ping(now, &mut job);
        self.pings.push(job);
    }

    fn send_ping(&mut self, now: Instant, job: &mut Job) {
        job.sequence += 1;
        job.left -= 1;
        job.sent = now;
        job.answered = false;
        job.pongs = self.pongs(now, &job.peer);
        self.paths.discover(now, &job.peer.key, &mut self.actions);
        self.act(now);
    }

    /// Looks for answers. `true` while somebody pings.
    pub(super) fn tend_pings(&mut self, now: Instant) {
        let mut jobs = std::mem::take(&mut self.pings);
        jobs.retain_mut(|job| self.tend(now, job));
        self.pings = jobs;
    }

    /// When to look again.
    pub(super) fn pings_due(&self, now: Instant) -> Option<Instant> {
        (!self.pings.is_empty()).then(|| now + LOOK)
    }

    fn tend(&mut self, now: Instant, job: &mut Job) -> bool {
        if !job.answered && self.pongs(now, &job.peer) != job.pongs {
            job.answered = true;
            let (path, latency) = self.measured(now, &job.peer);
            let direct = matches!(path, PathStatus::Direct { .. });
            line(job, path, latency);
            if job.until_direct && direct {
                say(&job.answer, &serde_json::json!({ "end": true }));
                return false;
            }
        }
        if now.duration_since(job.sent) < INTERVAL {
            return !job.answer.is_closed();
        }
        if !job.answered {
            line(job, self.path_status(now, &job.peer), None);
        }
        if job.left == 0 {
            say(&job.answer, &serde_json::json!({ "end": true }));
            return false;
        }
        self.send_ping(now, job);
        !job.answer.is_closed()
    }

    /// How many pings the peer has answered so far.
    fn pongs(&self, now: Instant, peer: &TailnetNode) -> u64 {
        self.paths.status(now, &peer.key).map_or(0, |path| path.pongs)
    }

    fn measured(&self, now: Instant, peer: &TailnetNode) -> (PathStatus, Option<u64>) {
        let path = self.path_status(now, peer);
        let latency = match &path {
            PathStatus::Direct { latency_us, .. } | PathStatus::Relayed { latency_us, .. } => *latency_us,
            PathStatus::None {} => self
                .paths
                .status(now, &peer.key)
                .and_then(|path| path.relay_latency)
                .and_then(|latency| u64::try_from(latency.as_micros()).ok()),
        };
        (path, latency)
    }
}

fn line(job: &Job, path: PathStatus, latency_us: Option<u64>) {
    say(&job.answer, &Line { sequence: job.sequence, name: &job.peer.name, path, latency_us });
}

/// A caller that does not read loses lines; the node does not wait for it.
fn say(answer: &Asked, line: &impl Serialize) {
    if let Ok(line) = serde_json::to_string(line) {
        drop(answer.try_send(line));
    }
}
