//! What finds paths goes in and out: disco and STUN, by UDP and by relays.

use std::time::Instant;

use bytes::Bytes;
use tracing::{debug, trace, warn};

use super::Node;
use crate::derp;
use crate::disco::{Kind, classify};
use crate::path::{Action, Outcome, Source, Via};
use crate::plane;

impl Node {
    /// A datagram of the UDP sockets that is not WireGuard.
    pub(super) fn on_outside(&mut self, now: Instant, outside: &plane::Outside) {
        match classify(&outside.bytes) {
            Kind::Stun => match self.netcheck.on_stun(now, outside.from, &outside.bytes, &mut self.wishes) {
                Ok(true) => self.check(now),
                Ok(false) => trace!(from = %outside.from, "an answer of STUN that nobody asked for"),
                Err(error) => trace!(%error, from = %outside.from, "no answer of STUN"),
            },
            Kind::Disco => self.on_disco(now, &outside.bytes, Source::Udp(outside.from)),
            // The plane hands on nothing else.
            Kind::Geneve | Kind::WireGuard | Kind::Other => {}
        }
    }

    /// A disco message, from wherever.
    pub(super) fn on_disco(&mut self, now: Instant, bytes: &[u8], source: Source) {
        let (sender, message) = match self.boxes.open(bytes) {
            Ok(opened) => opened,
            Err(why) => {
                trace!(?why, ?source, "no disco message for us");
                self.disco_refused += 1;
                return;
            }
        };
        let outcome = self.paths.on_disco(now, &sender, source, &message, &mut self.actions);
        if outcome != Outcome::Taken {
            trace!(?outcome, ?source, "a disco message without effect");
            self.disco_refused += 1;
        }
        self.act(now);
    }

    /// What happened at the relays, but for packets.
    pub(super) fn on_relay(&mut self, now: Instant, event: derp::Event) {
        match event {
            derp::Event::Received { region, packets } => {
                for packet in packets {
                    self.on_disco(now, &packet.packet, Source::Relay { region, node: packet.src });
                }
            }
            derp::Event::Connected { region, took } => {
                debug!(region = region.0, ?took, "relay connected");
                self.netcheck.relay_connected(now, region, took, &mut self.wishes);
            }
            derp::Event::Disconnected { region, why } => {
                debug!(region = region.0, why, "relay disconnected");
                self.paths.region_lost(now, region, &mut self.actions);
                if why.is_some() {
                    self.netcheck.relay_lost(now, region, &mut self.wishes);
                }
            }
            derp::Event::PeerGone { region, peer, reason } => {
                trace!(region = region.0, %peer, ?reason, "a relay does not have a peer");
                self.paths.peer_gone(now, region, &peer, &mut self.actions);
            }
        }
        self.act(now);
    }

    /// What the plane saw.
    pub(super) fn on_plane(&mut self, now: Instant, event: plane::Event) {
        match event {
            plane::Event::Wanted(peer) => {
                self.paths.wanted(now, &peer, &mut self.actions);
                self.set_route(&peer);
            }
            plane::Event::Authentic(peer, source) => {
                let via = match source {
                    plane::Source::Udp(from) => Via::Udp(from),
                    plane::Source::Relay(region, _) => Via::Relay(region),
                };
                self.paths.received(now, &peer, via, &mut self.actions);
            }
            // Somebody has a session with us that we have not: after a restart of ours it goes on at once, if we begin a new one.
            plane::Event::Unknown(source) => {
                let peer = match source {
                    plane::Source::Relay(_, peer) => Some(peer),
                    plane::Source::Udp(from) => self.peer_at(from),
                };
                // A session that stands is not given up for the word of whoever can write an address.
                if let Some(peer) =
                    peer.and_then(|key| self.plane.peer(&key)).filter(|peer| !self.plane.has_session(peer))
                {
                    self.plane.initiate(&peer.key());
                }
            }
        }
        self.act(now);
    }

    /// Does what the paths want done.
    pub(super) fn act(&mut self, now: Instant) {
        let mut actions = std::mem::take(&mut self.actions);
        for action in actions.drain(..) {
            match action {
                Action::Disco { peer, to, message } => {
                    let Some(disco) = self.paths.disco(&peer) else { continue };
                    self.sealed.clear();
                    match self.boxes.seal(&message, &disco, &mut self.sealed) {
                        Ok(true) => {}
                        // A key that gives a secret that everybody knows: there is nothing to send, and nothing would be a relay's probe.
                        Ok(false) => continue,
                        Err(error) => {
                            warn!(%error, "a disco message is not sent");
                            continue;
                        }
                    }
                    match to {
                        Via::Udp(address) => {
                            self.plane.send_outside(address, &self.sealed);
                        }
                        Via::Relay(region) => {
                            self.pool.send(region, peer, Bytes::copy_from_slice(&self.sealed), 0);
                        }
                    }
                }
                Action::NeedEndpoints => self.netcheck.request(now),
                Action::RouteChanged { peer } => {
                    let route = self.paths.route(&peer).unwrap_or_default();
                    self.plane.set_route(&peer, route);
                    if let Some(direct) =
                        self.paths.status(now, &peer).filter(|path| path.trusted).and_then(|path| path.best)
                        && self.reached.note(&mut self.keeper.kept.paths, peer, direct.0)
                    {
                        self.keeper.touch(now);
                    }
                }
            }
        }
        self.actions = actions;
    }
}
