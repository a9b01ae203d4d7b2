//! The flows of UDP and SCTP: whose answers we wait for.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::packet::{Flow, Kind};

/// Who began which flow: fixed in size, without a lock, shared by all threads.
///
/// The Go client notes each packet that we send, so that our own replies keep a peer's flow open after its rule is gone.
/// Here a flow belongs to who began it: one that a rule let in is noted as the peer's, and what we send on it does not make it
/// ours. So revoking a rule cuts it with the next packet, and what we began survives every change of the rules.
///
/// The two kinds lie apart: peers cannot push out our flows. A full bucket gives up its oldest flow. A peer that *is* let in
/// could push out its own flow by opening thousands of others, and our next reply would then count as our beginning: it gains that
/// one flow, as long as we go on replying.
#[derive(Debug)]
pub struct FlowTable {
    /// With keys of this process: nobody outside can aim at a bucket or find a second flow with an equal fingerprint.
    hasher: RandomState,
    ours: Table,
    theirs: Table,
}

impl Default for FlowTable {
    fn default() -> Self {
        Self::new()
    }
}

impl FlowTable {
    /// An empty table.
    pub fn new() -> Self {
        Self { hasher: RandomState::new(), ours: Table::new(), theirs: Table::new() }
    }

    /// Notes what we send, `now` in seconds of a clock that never goes back.
    pub fn record_outbound(&self, flow: &Flow, now: u32) {
        self.outbound(flow, now, || false);
    }

    /// As [`Self::record_outbound`], but a flow that is not known may be the peer's.
    pub(super) fn outbound(&self, flow: &Flow, now: u32, is_theirs: impl FnOnce() -> bool) {
        if !keeps_state(flow) {
            return;
        }
        let key = self.inbound_key(&flow.reversed());
        if self.theirs.touch(key, now, THEIRS_SECONDS) || self.ours.touch(key, now, OURS_SECONDS) {
            return;
        }
        if is_theirs() {
            self.theirs.record(key, now, THEIRS_SECONDS);
        } else {
            self.ours.record(key, now, OURS_SECONDS);
        }
    }

    /// Whether a packet that comes in belongs to a flow that we began.
    pub fn expects(&self, flow: &Flow, now: u32) -> bool {
        keeps_state(flow) && self.ours.touch(self.inbound_key(flow), now, OURS_SECONDS)
    }

    /// Judges a packet that comes in: as an answer, or by the rules, and then notes whose flow it is.
    pub(super) fn inbound(&self, flow: &Flow, now: u32, admits: impl FnOnce() -> bool) -> bool {
        let key = self.inbound_key(flow);
        if self.ours.touch(key, now, OURS_SECONDS) {
            return true;
        }
        let admitted = admits();
        if admitted {
            self.theirs.record(key, now, THEIRS_SECONDS);
        }
        admitted
    }

    /// Forgets all flows, for a node that became another.
    pub fn clear(&self) {
        self.ours.clear();
        self.theirs.clear();
    }

    fn inbound_key(&self, flow: &Flow) -> u64 {
        let (remote, local) = ((flow.source, flow.source_port), (flow.destination, flow.destination_port));
        self.key(flow.peer, flow.protocol, remote, local)
    }

    /// A flow's fingerprint, never 0. A peer's identity is in it: who has its address after it has none of its flows.
    fn key(&self, peer: u64, protocol: u8, remote: (IpAddr, u16), local: (IpAddr, u16)) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u64(peer);
        for (address, port) in [remote, local] {
            let (bits, family) = match address {
                IpAddr::V4(address) => (u128::from(address.to_bits()), 4),
                IpAddr::V6(address) => (address.to_bits(), 6),
            };
            hasher.write_u128(bits);
            hasher.write_u32((u32::from(port) << 16) | (family << 8) | u32::from(protocol));
        }
        hasher.finish().max(1)
    }
}

fn keeps_state(flow: &Flow) -> bool {
    matches!(flow.kind, Kind::Udp | Kind::Sctp)
}

/// Buckets of eight. A reader that meets a writer sees the flow or does not; it never sees another one. Two writers that meet in one
/// slot leave one of their flows there, and the other comes with its next packet.
#[derive(Debug)]
struct Table(Box<[[Slot; WAYS]]>);

/// One flow. A key of 0 is no flow.
#[derive(Debug, Default)]
struct Slot {
    key: AtomicU64,
    used: AtomicU32,
}

impl Table {
    fn new() -> Self {
        Self((0..BUCKETS).map(|_| Default::default()).collect())
    }

    fn bucket(&self, key: u64) -> &[Slot] {
        // The remainder is below the number of buckets, which is 512.
        let index = usize::try_from(key % BUCKETS as u64).unwrap_or_default();
        self.0.get(index).map_or(&[], |bucket| bucket.as_slice())
    }

    /// Whether the flow is there and not too old; makes it young again.
    fn touch(&self, key: u64, now: u32, seconds: u32) -> bool {
        let Some(slot) = self.bucket(key).iter().find(|slot| slot.key.load(Ordering::Acquire) == key) else {
            return false;
        };
        let used = slot.used.load(Ordering::Relaxed);
        // Threads read the clock each for itself: one may be a second behind.
        let fresh = now.saturating_sub(used) <= seconds;
        if fresh && used < now {
            slot.used.store(now, Ordering::Relaxed);
        }
        fresh
    }

    fn record(&self, key: u64, now: u32, seconds: u32) {
        if self.touch(key, now, seconds) {
            return;
        }
        let oldest = self.bucket(key).iter().min_by_key(|slot| match slot.key.load(Ordering::Relaxed) {
            found if found == key => (0, 0),
            0 => (1, 0),
            _ => (2, slot.used.load(Ordering::Relaxed)),
        });
        if let Some(slot) = oldest {
            // Not the old flow with the new time, not for a moment.
            slot.key.store(0, Ordering::Release);
            slot.used.store(now, Ordering::Release);
            slot.key.store(key, Ordering::Release);
        }
    }

    fn clear(&self) {
        for slot in self.0.iter().flatten() {
            slot.key.store(0, Ordering::Release);
        }
    }
}

/// With [`WAYS`] 4,096 flows of each kind; the Go client keeps 512 (`wgengine/filter/filter.go`, `lruMax`).
const BUCKETS: usize = 512;
const WAYS: usize = 8;
/// How long our flow waits for an answer: what RFC 4787, REQ-5, recommends. The Go client knows no time.
const OURS_SECONDS: u32 = 300;
/// How long a flow is remembered as the peer's after its last packet in either direction: longer than any usual timer of a service.
pub(super) const THEIRS_SECONDS: u32 = 900;
