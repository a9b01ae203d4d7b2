//! What we say of ourselves: the status document, and the parent's report.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use time::format_description::well_known::Rfc3339;

use super::Node;
use super::totals::Bytes;
use crate::control::CAPABILITY_VERSION;
use crate::control::join::{Phase, RefusalKind};
use crate::control::map::PolicyState;
use crate::netmap::TailnetNode;
use crate::parent::message::{Report, Standing};
use crate::registration::Trouble;
use crate::status::{
    ControlStatus, DerpStatus, FilterStatus, PathStatus, PeerStatus, Refusal, SelfStatus, Status,
};

impl Node {
    /// How we stand, in one word.
    pub(super) fn standing(&self) -> Standing {
        if let Some((kind, _)) = self.trouble() {
            return match kind {
                Trouble::Pin => Standing::PinMismatch,
                Trouble::Unreachable => Standing::KeyNeeded,
                Trouble::Limited | Trouble::Refused | Trouble::Answer => Standing::Refused,
            };
        }
        let kind = self.refusal.as_ref().map(|refusal| refusal.kind);
        match (self.phase, kind) {
            (_, Some(RefusalKind::Pin)) => Standing::PinMismatch,
            (Phase::Unwilling, _) => Standing::Refused,
            // Who never belonged and asks is not refused: it has no key yet.
            (Phase::KeyNeeded, Some(RefusalKind::NotKnown)) if self.keeper.kept.server.is_none() => {
                Standing::KeyNeeded
            }
            (Phase::KeyNeeded, Some(_)) => Standing::Refused,
            (Phase::KeyNeeded, None) => Standing::KeyNeeded,
            _ if self.policy == PolicyState::AllowAllRefused => Standing::NoPolicy,
            _ if self.map.is_some() => Standing::Running,
            (Phase::Joining | Phase::Joined, _) if self.asked => Standing::Joining,
            _ => Standing::Starting,
        }
    }

    /// Why the registration gives no key, where one is needed and nothing else is in force.
    fn trouble(&self) -> Option<(Trouble, &str)> {
        let needed = self.phase == Phase::KeyNeeded && self.map.is_none();
        self.registering.as_ref().filter(|_| needed)?.trouble()
    }

    /// Who refused us last: the registration, if it should give a key and does not; else the login server.
    fn last_refusal(&self) -> Option<Refusal> {
        let (kind, text) = self.trouble().map(|(kind, text)| (kind.name(), text)).or_else(|| {
            let refusal = self.refusal.as_ref()?;
            Some((refusal.kind.name(), refusal.text.as_str()))
        })?;
        Some(Refusal { kind: kind.to_owned(), text: text.to_owned() })
    }

    /// For the parent.
    pub(super) fn parent_report(&self, now: Instant) -> Report {
        let map = self.map.as_ref();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let direct = self.paths.trusted(now);
        Report {
            standing: self.standing(),
            connected: self.connected,
            key: *self.keeper.kept.node.secret.public().bytes(),
            peers: number(map.map_or(0, |map| map.peers.len())),
            direct: number(direct),
            home: self.host.borrow().home.map_or(0, |home| home.0),
            domain: self.zone.load().base_domain().unwrap_or_default().to_owned(),
            name: map.and_then(|map| map.node.name.split('.').next().map(str::to_owned)).unwrap_or_default(),
            tags: map.map(|map| map.node.tags.clone()).unwrap_or_default(),
        }
    }

    /// The whole document.
    pub(super) fn status(&self, now: Instant) -> Status {
        let map = self.map.as_ref();
        let pool = self.relays.status();
        let mut peers: Vec<PeerStatus> =
            map.iter().flat_map(|map| map.peers.values()).map(|peer| self.peer_status(now, peer)).collect();
        peers.sort_by(|a, b| a.name.cmp(&b.name));
        let counters = self.plane.counters();
        let mut drops: BTreeMap<String, u64> =
            counters.nonzero().map(|(reason, count)| (reason.name().to_owned(), count)).collect();
        for (name, count) in [
            ("relay-out", pool.dropped_out),
            ("relay-in", pool.dropped_in),
            ("disco-refused", self.disco_refused),
        ] {
            if count > 0 {
                drops.insert(name.to_owned(), count);
            }
        }
        for (reason, count) in self.map_drops.iter().filter(|&(_, count)| count > 0) {
            drops.insert(reason.name().replace('_', "-"), count);
        }
        let dns = self.dns_counters.counts();
        Status {
            state: self.standing().word().to_owned(),
            refusal: self.last_refusal(),
            node: map.map(|map| SelfStatus {
                name: map.node.name.clone(),
                id: map.node.id,
                key: map.node.key,
                addresses: map.node.addresses.clone(),
                addresses_refused: self.assignment.failure().map(str::to_owned),
                tags: map.node.tags.clone(),
                key_expiry: map.node.key_expiry.and_then(|expiry| expiry.format(&Rfc3339).ok()),
            }),
            capability_version: CAPABILITY_VERSION,
            control: ControlStatus {
                connected: self.connected,
                server_key: self.server.or(self.keeper.kept.server),
                last_map_seconds: self.heard.map(|heard| now.duration_since(heard).as_secs()),
            },
            derp: DerpStatus { home: self.host.borrow().home, connected: pool.connected },
            endpoints: self.host.borrow().endpoints.iter().map(|(address, _)| *address).collect(),
            peers,
            filter: FilterStatus {
                allow_all: self.policy == PolicyState::AllowAll,
                rules: map.map_or(0, |map| map.filter.rules()),
                dropped: crate::filter::Reason::ALL
                    .into_iter()
                    .map(|reason| (reason.as_str().to_owned(), counters.by_filter(reason)))
                    .filter(|(_, count)| *count > 0)
                    .collect(),
            },
            drops,
            dns: [
                ("answered", dns.answered),
                ("refused", dns.refused),
                ("forwarded", dns.forwarded),
                ("failed", dns.failed),
            ]
            .into_iter()
            .map(|(name, count)| (name.to_owned(), count))
            .collect(),
        }
    }

    fn peer_status(&self, now: Instant, peer: &TailnetNode) -> PeerStatus {
        let traffic = self.plane.peer(&peer.key).map(|peer| peer.traffic()).unwrap_or_default();
        let bytes = self.totals.of(&peer.key, Bytes { rx: traffic.rx_bytes, tx: traffic.tx_bytes });
        let since_start = now.saturating_duration_since(self.plane.started()).as_secs();
        PeerStatus {
            name: peer.name.clone(),
            key: peer.key,
            addresses: peer.addresses.clone(),
            path: self.path_status(now, peer),
            last_handshake_seconds: (traffic.last_handshake > 0)
                .then(|| since_start.saturating_sub(traffic.last_handshake / 1000)),
            rx_bytes: bytes.rx,
            tx_bytes: bytes.tx,
            online: peer.online,
        }
    }

    /// How a peer is reached now.
    pub(super) fn path_status(&self, now: Instant, peer: &TailnetNode) -> PathStatus {
        let Some(path) = self.paths.status(now, &peer.key) else { return PathStatus::None {} };
        let microseconds = |time: Duration| u64::try_from(time.as_micros()).ok();
        match (path.best.filter(|_| path.trusted), path.relay) {
            (Some((address, latency)), _) => {
                PathStatus::Direct { address, latency_us: microseconds(latency) }
            }
            (None, Some(region)) => {
                PathStatus::Relayed { region, latency_us: path.relay_latency.and_then(microseconds) }
            }
            (None, None) => PathStatus::None {},
        }
    }
}
