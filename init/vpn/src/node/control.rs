//! What the coordination server's session tells.

use std::time::Instant;

use tracing::{debug, info, warn};

use super::{Node, NodeError, identity};
use crate::control::join::Phase;
use crate::control::map::PolicyState;
use crate::control::session::ControlEvent;

/// Refused pre-auth keys that are kept.
const MAX_REFUSED: usize = 64;

impl Node {
    pub(super) async fn on_control(&mut self, now: Instant, event: ControlEvent) -> Result<(), NodeError> {
        match event {
            ControlEvent::Connected { server } => {
                self.asked = true;
                self.heard = Some(now);
                self.server = Some(server);
                debug!(%server, "the coordination server answers");
            }
            ControlEvent::Disconnected { reason } => {
                self.connected = false;
                info!(reason, "the coordination server is away");
            }
            ControlEvent::Joining { phase, refusal } => {
                info!(?phase, ?refusal, "joining");
                self.phase = phase;
                self.refusal = refusal;
                self.connected &= phase != Phase::Unwilling;
            }
            ControlEvent::KeyRefused(refused) => {
                let kept = &mut self.keeper.kept.refused;
                kept.push(refused);
                let surplus = kept.len().saturating_sub(MAX_REFUSED);
                kept.drain(..surplus);
                self.keeper.touch(now);
            }
            ControlEvent::NodeKeyNeeded { reply } => {
                let generation = self.keeper.kept.node.generation.wrapping_add(1);
                let node = identity::node_key(&self.config, generation).await?;
                // Kept before it is used: a key that the server knows and we do not is a lost node.
                self.keeper.kept.node = node.clone();
                self.keeper.kept.map = None;
                self.keeper.write(&self.parent)?;
                info!(node = %node.secret.public(), generation, "a new node key");
                // The plane and the relays know us by the key that the server admits: see Admitted.
                drop(reply.send(node.secret));
            }
            ControlEvent::Admitted { node } => {
                let secret = self.keeper.kept.node.secret.clone();
                if node != secret.public() {
                    return Err(NodeError::Ended("the session's idea of our key"));
                }
                if self.keeper.kept.server != self.server {
                    info!(%node, "admitted");
                    self.keeper.kept.server = self.server;
                    self.keeper.write(&self.parent)?;
                }
                if self.relays.key() != node {
                    self.plane.set_key(&secret);
                    self.paths.set_own(node);
                    self.relays.set_key(&secret)?;
                    self.pool = self.relays.pool();
                    if let Some(map) = &self.map {
                        self.pool.set_map(std::sync::Arc::clone(&map.derp));
                    }
                    self.pool.set_home(self.host.borrow().home);
                }
            }
            ControlEvent::Netmap { map, changes, policy, drops } => {
                self.heard = Some(now);
                self.connected = true;
                if self.policy != policy {
                    match policy {
                        PolicyState::Policy => {}
                        PolicyState::AllowAll => {
                            warn!("the network has no policy: every peer may send us everything")
                        }
                        PolicyState::AllowAllRefused => {
                            warn!("the network has no policy, which is required: every peer is refused")
                        }
                        PolicyState::Unreadable => {
                            warn!("the packet filter does not read: every peer is refused")
                        }
                    }
                    self.policy = policy;
                }
                self.map_drops = drops;
                self.apply(now, map, &changes).await;
            }
            ControlEvent::Alive => {
                self.heard = Some(now);
                self.connected = true;
            }
        }
        Ok(())
    }
}
