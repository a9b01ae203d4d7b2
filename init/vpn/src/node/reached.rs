//! Where peers were last reached, as far as that is kept over a restart.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use crate::key::{Node, Public};

/// Peers of which that is kept: the record has a bound, and whoever was not heard of for so long is found anew.
const MAX_KEPT: usize = 1024;

/// In which order they were reached in this run. What an earlier run kept is older.
#[derive(Debug, Default)]
pub(super) struct Reached {
    last: HashMap<Public<Node>, u64>,
    count: u64,
}

impl Reached {
    /// A peer is reached at an address. Whether anything of `kept` changed.
    pub(super) fn note(
        &mut self,
        kept: &mut BTreeMap<Public<Node>, SocketAddr>,
        peer: Public<Node>,
        address: SocketAddr,
    ) -> bool {
        self.count += 1;
        self.last.insert(peer, self.count);
        let changed = kept.insert(peer, address) != Some(address);
        while kept.len() > MAX_KEPT {
            let age = |key: &Public<Node>| self.last.get(key).copied().unwrap_or(0);
            let Some(oldest) = kept.keys().copied().min_by_key(age) else { break };
            self.forget(kept, &oldest);
        }
        changed
    }

    /// A peer is gone.
    pub(super) fn forget(&mut self, kept: &mut BTreeMap<Public<Node>, SocketAddr>, peer: &Public<Node>) {
        self.last.remove(peer);
        kept.remove(peer);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests {
    use super::*;

    fn peer(number: u16) -> Public<Node> {
        let mut bytes = [0; 32];
        let [high, low] = number.to_be_bytes();
        (bytes[0], bytes[1]) = (high, low);
        Public::new(bytes)
    }

    #[test]
    fn the_newest_are_kept() {
        let address = "192.0.2.1:41641".parse().unwrap();
        let other = "192.0.2.2:41641".parse().unwrap();
        let mut kept: BTreeMap<_, _> = (2000..2100).map(|number| (peer(number), address)).collect();
        let mut reached = Reached::default();
        assert!(reached.note(&mut kept, peer(0), address));
        for number in 1..1024 {
            assert!(reached.note(&mut kept, peer(number), address));
        }
        assert_eq!(kept.len(), MAX_KEPT);
        assert!(!kept.contains_key(&peer(2000)), "an earlier run's are the oldest");
        // Reached again, the first is no longer the oldest.
        assert!(!reached.note(&mut kept, peer(0), address), "nothing new");
        assert!(reached.note(&mut kept, peer(0), other));
        reached.note(&mut kept, peer(5000), address);
        assert_eq!((kept.get(&peer(0)), kept.get(&peer(1)), kept.len()), (Some(&other), None, MAX_KEPT));
        assert_eq!(reached.last.len(), MAX_KEPT);
        reached.forget(&mut kept, &peer(0));
        assert!(!kept.contains_key(&peer(0)));
    }
}
