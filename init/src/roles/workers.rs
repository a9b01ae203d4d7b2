//! Whether the threads of a runtime get on: a heartbeat is one task, which any of them can run while another is stuck.

use std::time::Duration;

use tokio::runtime::RuntimeMetrics;

/// What each thread had done when it was last looked at.
#[derive(Debug)]
pub(super) struct Workers {
    metrics: RuntimeMetrics,
    before: Vec<Progress>,
}

/// Both grow as a thread goes from task to task (tokio's scheduler/multi_thread/worker.rs): the first when it rests, the second
/// every 61 tasks if it never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    /// Odd while it rests.
    rests: u64,
    busy: Duration,
}

impl Workers {
    pub(super) const fn of(metrics: RuntimeMetrics) -> Self {
        Self { metrics, before: Vec::new() }
    }

    /// Whether one of them has been in the same task since the last look.
    pub(super) fn any_stuck(&mut self) -> bool {
        let metrics = &self.metrics;
        let now: Vec<_> = (0..metrics.num_workers())
            .map(|worker| Progress {
                rests: metrics.worker_park_unpark_count(worker),
                busy: metrics.worker_total_busy_duration(worker),
            })
            .collect();
        let stuck = now.iter().zip(&self.before).any(|(now, before)| now == before && now.rests % 2 == 0);
        self.before = now;
        stuck
    }
}
