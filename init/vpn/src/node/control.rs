//! What the coordination server's session tells.

use std::time::Instant;

use tokio::sync::oneshot;
use tracing::{debug, info, warn};

use super::{Node, NodeError, identity};
use crate::control::join::{MAX_REFUSED, Phase};
use crate::control::map::PolicyState;
use crate::control::session::ControlEvent;
use crate::key::{Node as NodeKind, Public, Secret};
use crate::state::NodeKey;

/// A node key that was asked for, and who waits for it.
pub(super) struct MadeKey {
    key: Result<NodeKey, NodeError>,
    reply: oneshot::Sender<Secret<NodeKind>>,
}

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
                // A map can show our node key as one that has ended and one that has not in turn.
                if let Some(unsaid) = self.log.line_at(now) {
                    info!(?phase, ?refusal, unsaid, "joining");
                }
                self.phase = phase;
                if let Some(registering) = &mut self.registering {
                    registering.look_at(phase);
                }
                self.refusal = refusal;
                self.connected &= phase != Phase::Unwilling;
            }
            ControlEvent::KeyRefused(refused) => {
                let kept = &mut self.keeper.kept.refused;
                kept.push(refused);
                let surplus = kept.len().saturating_sub(MAX_REFUSED);
                kept.drain(..surplus);
                // Now: whatever becomes of us in the next moment, it is not sent again. There is one in a minute at most.
                if let Err(error) = self.keeper.write(now, &self.parent) {
                    warn!(%error, "that a key was refused is not kept yet");
                }
            }
            ControlEvent::NodeKeyNeeded { after, reply } => self.make_node_key(&after, reply),
            ControlEvent::Admitted { node } => {
                // What came for the key before takes effect before it goes.
                if let Some((map, changes)) = self.maps.flush(now) {
                    self.apply(now, map, &changes);
                }
                let Some(admitted) = self.known_key(&node) else {
                    return Err(NodeError::Ended("the session's idea of our key"));
                };
                let secret = admitted.secret.clone();
                let kept = &mut self.keeper.kept;
                if kept.server != self.server || kept.node.secret.public() != node || kept.next.is_some() {
                    info!(%node, generation = admitted.generation, "admitted");
                    kept.server = self.server;
                    kept.promote(admitted);
                    if let Err(error) = self.keeper.write(now, &self.parent) {
                        // Both keys are kept already: a restart asks under each.
                        warn!(%error, "that we are admitted is not kept yet");
                        self.keeper.touch(now);
                    }
                }
                self.others.clear();
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
                self.set_policy(now, policy);
                self.map_drops = drops;
                self.maps.push(map, changes);
            }
            ControlEvent::Expired { map, changes } => {
                info!(peers = changes.changed.len(), own = map.node.expired, "keys have ended");
                self.maps.push(map, changes);
            }
            ControlEvent::Alive => {
                self.heard = Some(now);
                self.connected = true;
            }
        }
        Ok(())
    }

    /// What the filter in force is, which is said when it is another than before.
    pub(super) fn set_policy(&mut self, now: Instant, policy: PolicyState) {
        if std::mem::replace(&mut self.policy, policy) == policy {
            return;
        }
        let what = match policy {
            PolicyState::Policy => return,
            PolicyState::AllowAll => "the network has no policy: every peer may send us everything",
            PolicyState::AllowAllRefused => {
                "the network has no policy, which is required: every peer is refused"
            }
            PolicyState::Unreadable => "the packet filter does not read: every peer is refused",
        };
        if let Some(unsaid) = self.log.line_at(now) {
            warn!(unsaid, "{what}");
        }
    }

    /// One of our node keys.
    fn known_key(&self, key: &Public<NodeKind>) -> Option<NodeKey> {
        let kept = &self.keeper.kept;
        let mut ours = std::iter::once(&kept.node).chain(&kept.next).chain(&self.others);
        ours.find(|ours| ours.secret.public() == *key).cloned()
    }

    /// Makes the node key that follows another one. In a task: the agent may be slow, and packets are not.
    fn make_node_key(&self, after: &Public<NodeKind>, reply: oneshot::Sender<Secret<NodeKind>>) {
        let Some(before) = self.known_key(after) else {
            warn!(%after, "a new key is asked for in place of one that is none of ours");
            return;
        };
        let (config, next, done) = (self.config.clone(), self.keeper.kept.next.clone(), self.made.clone());
        tokio::spawn(async move {
            let key = identity::following(&config, &before, next).await;
            drop(done.send(MadeKey { key, reply }).await);
        });
    }

    /// A new node key is kept beside the other before it is used: a key that the server knows and we do not is a lost node, and so is
    /// one whose successor the server refuses. If it cannot be, the reply is dropped, and what is in force stays.
    pub(super) fn on_made_key(&mut self, now: Instant, made: MadeKey) {
        let key = match made.key {
            Ok(key) => key,
            Err(error) => return warn!(%error, "no new node key: the old one stays"),
        };
        let (node, generation) = (key.secret.public(), key.generation);
        let secret = key.secret.clone();
        // A server that took the one before, and whose answer was lost, may yet admit us under it.
        let before = self.keeper.kept.next.replace(key);
        self.others.extend(before.filter(|before| before.secret.public() != node));
        if let Err(error) = self.keeper.write(now, &self.parent) {
            return warn!(%error, "a new node key cannot be kept: the old one stays");
        }
        info!(%node, generation, "a new node key");
        drop(made.reply.send(secret));
    }
}
