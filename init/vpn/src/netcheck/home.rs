//! The choice of the home region.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::netmap::{DerpMap, RegionId};

/// What the choice is made of.
#[derive(Clone, Copy, Debug)]
pub struct HomeInputs<'a> {
    /// The time.
    pub now: Instant,
    /// The home until now.
    pub before: Option<RegionId>,
    /// Regions that may be home, and what their latency is multiplied with, in thousandths.
    pub eligible: &'a BTreeMap<RegionId, u32>,
    /// This round's latencies.
    pub latency: &'a BTreeMap<RegionId, Duration>,
    /// The best of the last five minutes.
    pub recent: &'a BTreeMap<RegionId, Duration>,
    /// When the old home's relay last sent a frame.
    pub alive: Option<Instant>,
}

/// The home region: the nearest that answers now, judged by its best of the last minutes; the old one stays if it lives and the new
/// one is not clearly nearer (tailscale `net/netcheck/netcheck.go`, `addReportHistoryAndSetPreferredDERP`).
pub fn choose_home(inputs: &HomeInputs<'_>) -> Option<RegionId> {
    let HomeInputs { now, before, eligible, latency, recent, alive } = *inputs;
    let before = before.filter(|home| eligible.contains_key(home));
    if let (1, Some(only)) = (eligible.len(), eligible.keys().next()) {
        return Some(*only);
    }
    let scored = |region: &RegionId, latency: Duration| {
        let score = eligible.get(region).copied().filter(|score| *score > 0).unwrap_or(1000);
        latency.mul_f64(f64::from(score) / 1000.0)
    };
    let answering = latency.iter().filter(|(region, _)| eligible.contains_key(region));
    let best = answering
        .map(|(region, now)| (scored(region, recent.get(region).copied().unwrap_or(*now).min(*now)), *region))
        .min();
    let Some((best_latency, best)) = best else { return before };
    let Some(old) = before.filter(|old| *old != best) else { return Some(best) };
    let old_now = latency.get(&old).map(|latency| scored(&old, *latency));
    let heard = alive.is_some_and(|at| now.duration_since(at) <= ALIVE);
    let keep = match old_now {
        Some(old_now) => {
            old_now.saturating_sub(best_latency) < MIN_DIFFERENCE || best_latency > old_now * 2 / 3
        }
        // STUN did not get through to it, but its relay lives.
        None => heard,
    };
    Some(if keep { old } else { best })
}

/// The latencies of the last rounds.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<(Instant, BTreeMap<RegionId, Duration>)>);

impl History {
    pub(super) fn add(&mut self, now: Instant, latency: BTreeMap<RegionId, Duration>) {
        self.0.push_back((now, latency));
        while self.0.front().is_some_and(|(at, _)| now.duration_since(*at) > MAX_AGE) || self.0.len() > ROUNDS
        {
            self.0.pop_front();
        }
    }

    pub(super) fn keep(&mut self, map: &DerpMap) {
        for (_, latency) in &mut self.0 {
            latency.retain(|region, _| map.regions.contains_key(region));
        }
    }

    pub(super) fn best(&self, now: Instant) -> BTreeMap<RegionId, Duration> {
        let mut best = BTreeMap::new();
        for (region, latency) in self
            .0
            .iter()
            .filter(|(at, _)| now.duration_since(*at) <= MAX_AGE)
            .flat_map(|(_, latency)| latency)
        {
            let found = best.entry(*region).or_insert(*latency);
            *found = (*found).min(*latency);
        }
        best
    }
}

/// `preferredDERPAbsoluteDiff`.
const MIN_DIFFERENCE: Duration = Duration::from_millis(10);
/// `PreferredDERPFrameTime`.
const ALIVE: Duration = Duration::from_secs(8);
/// How long a latency counts.
const MAX_AGE: Duration = Duration::from_secs(300);
/// Rounds within that, at one each 20 s, and those that were asked for.
const ROUNDS: usize = 64;
