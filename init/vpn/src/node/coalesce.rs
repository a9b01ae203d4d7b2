//! Maps that come fast take effect together: a server that changes one peer after another would have us build everything anew for
//! each.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::map::Changes;
use crate::netmap::Netmap;

/// Between two maps that take effect.
const INTERVAL: Duration = Duration::from_millis(100);

/// The newest map that has not taken effect yet, and what changed since the last one that has.
#[derive(Debug, Default)]
pub(super) struct Coalescer {
    last: Option<Instant>,
    waiting: Option<(Arc<Netmap>, Changes)>,
}

impl Coalescer {
    /// Takes a map, with what changed from the one before.
    pub(super) fn push(&mut self, map: Arc<Netmap>, changes: Changes) {
        match &mut self.waiting {
            Some((newest, all)) => {
                *newest = map;
                all.then(changes);
            }
            None => self.waiting = Some((map, changes)),
        }
    }

    /// When [`Self::take`] has something.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.as_ref()?;
        // The first after a while is due at once, which any time that has passed says.
        self.last.map(|last| last + INTERVAL)
    }

    /// What is to take effect now.
    pub(super) fn take(&mut self, now: Instant) -> Option<(Arc<Netmap>, Changes)> {
        if self.last.is_some_and(|last| now < last + INTERVAL) {
            return None;
        }
        let taken = self.waiting.take()?;
        self.last = Some(now);
        Some(taken)
    }

    /// What waits, whether its time has come or not.
    pub(super) fn flush(&mut self, now: Instant) -> Option<(Arc<Netmap>, Changes)> {
        let taken = self.waiting.take()?;
        self.last = Some(now);
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

    use super::*;
    use crate::control::map::{MapSettings, MapState};
    use crate::key::{Node, Public};

    fn key(n: u8) -> Public<Node> {
        Public::new([n; 32])
    }

    fn peer(n: u8, port: u16) -> serde_json::Value {
        serde_json::json!({ "ID": n, "Key": key(n), "Addresses": [format!("100.64.0.{n}/32")], "Endpoints": [format!("192.0.2.1:{port}")] })
    }

    #[test]
    fn maps_within_a_tenth_of_a_second_take_effect_as_one() {
        let start = Instant::now();
        let settings =
            MapSettings { prefixes: vec!["100.64.0.0/10".parse().unwrap()], require_policy: false };
        let mut state = MapState::new(settings, key(1), None);
        let mut update = |message: serde_json::Value| {
            let message = serde_json::from_str(&message.to_string()).unwrap();
            state.apply(message, start).unwrap().unwrap()
        };
        let mut coalescer = Coalescer::default();
        assert!(coalescer.due().is_none() && coalescer.take(start).is_none());
        let first = update(serde_json::json!({ "Node": peer(1, 1), "Peers": [peer(2, 1), peer(3, 1)] }));
        coalescer.push(first.map, first.changes);
        assert_eq!(coalescer.take(start).unwrap().0.peers.len(), 2, "the first at once");

        let mut map = None;
        for message in [
            serde_json::json!({ "PeersChanged": [peer(4, 1)] }),
            serde_json::json!({ "PeersRemoved": [4, 2] }),
            serde_json::json!({ "PeersChanged": [peer(2, 9)] }),
            serde_json::json!({ "PeersChanged": [peer(3, 9)] }),
            serde_json::json!({ "PeersRemoved": [3] }),
        ] {
            let next = update(message);
            map = Some(Arc::clone(&next.map));
            coalescer.push(next.map, next.changes);
            assert!(coalescer.take(start + INTERVAL / 2).is_none());
        }
        assert_eq!(coalescer.due(), Some(start + INTERVAL));
        let (last, changes) = coalescer.take(start + INTERVAL).unwrap();
        assert!(Arc::ptr_eq(&last, &map.unwrap()), "the newest");
        // Who takes the removals first has the peers of the map: number 2 went, and came again.
        assert_eq!(changes.removed, [key(2), key(3), key(4)]);
        assert_eq!(changes.changed, [key(2)]);
        assert!(coalescer.due().is_none());
        assert!(coalescer.flush(start).is_none());
    }
}
