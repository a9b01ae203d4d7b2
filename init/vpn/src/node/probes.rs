//! What we look like from outside: the probes' wishes carried out.

use std::time::Instant;

use serde::Serialize;
use tracing::info;

use super::Node;
use crate::netcheck::Action;
use crate::netmap::RegionId;
use crate::status::Asked;

/// The answer to `netcheck`.
#[derive(Serialize)]
struct Outside<'a> {
    udp: Option<bool>,
    /// Our addresses as servers see them.
    endpoints: Vec<std::net::SocketAddr>,
    mapping_varies: Option<bool>,
    home: Option<RegionId>,
    regions: Vec<Region<'a>>,
}

#[derive(Serialize)]
struct Region<'a> {
    region: RegionId,
    code: &'a str,
    latency_us: Option<u64>,
    connected: bool,
}

impl Node {
    /// Does what is due, and what the probes want done.
    pub(super) fn check(&mut self, now: Instant) {
        let mut wishes = std::mem::take(&mut self.wishes);
        self.netcheck.tick(now, &mut wishes);
        for wish in wishes.drain(..) {
            match wish {
                Action::Send { to, packet } => {
                    self.plane.send_outside(to, &packet);
                }
                Action::Resolve { host } => {
                    self.look_ups.begin(host, &self.dialer);
                }
                Action::TryRelays { regions } => {
                    for region in regions {
                        self.pool.probe(region);
                    }
                }
                Action::Finished => {
                    self.tell_endpoints(now);
                    for answer in std::mem::take(&mut self.netchecks) {
                        self.answer_netcheck(&answer);
                    }
                }
                Action::HomeChanged { home } => self.set_home(now, home),
            }
        }
        self.wishes = wishes;
    }

    fn set_home(&mut self, now: Instant, home: Option<RegionId>) {
        info!(home = home.map(|home| home.0), "home relay");
        self.pool.set_home(home);
        self.host.send_if_modified(|host| {
            let changed = host.home != home;
            host.home = home;
            changed
        });
        self.keeper.kept.home = home;
        self.keeper.touch(now);
    }

    /// Asks for a round and answers when it is over; if there is nobody to ask, at once.
    pub(super) fn ask_outside(&mut self, now: Instant, answer: Asked) {
        self.netcheck.request(now);
        self.netchecks.push(answer);
    }

    fn answer_netcheck(&self, answer: &Asked) {
        let report = self.netcheck.report();
        let connected = self.pool.status().connected;
        let regions = self.map.iter().flat_map(|map| map.derp.regions.values()).map(|region| Region {
            region: region.id,
            code: &region.code,
            latency_us: report
                .latency
                .get(&region.id)
                .and_then(|latency| u64::try_from(latency.as_micros()).ok()),
            connected: connected.contains(&region.id),
        });
        let outside = Outside {
            udp: report.udp,
            endpoints: report.endpoints().collect(),
            mapping_varies: report.mapping_varies,
            home: report.home,
            regions: regions.collect(),
        };
        if let Ok(line) = serde_json::to_string(&outside) {
            drop(answer.try_send(line));
        }
    }
}
