//! One box per peer that we know, made when it is first needed and kept.

use std::collections::HashMap;

use crypto_box::SalsaBox;

use super::{DiscoError, Message, open, seal, sender, shared_box};
use crate::key::{Disco, NoRandom, Public, Secret};

/// The boxes between us and the disco keys of the map. What comes from any other key costs no multiplication.
pub struct Boxes {
    ours: Secret<Disco>,
    known: HashMap<Public<Disco>, Shared>,
}

enum Shared {
    Unmade,
    Made(Box<SalsaBox>),
    /// The peer's key gives a secret that everybody knows.
    Weak,
}

/// Why a packet gave no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unopened {
    /// Its sender is not in the map.
    Stranger,
    /// It is broken.
    Broken(DiscoError),
}

impl Boxes {
    /// For our key; nobody is known yet.
    pub fn new(ours: Secret<Disco>) -> Self {
        Self { ours, known: HashMap::new() }
    }

    /// Our own key.
    pub const fn public(&self) -> Public<Disco> {
        self.ours.public()
    }

    /// The keys of the map now: boxes of others are dropped, those that stay are kept.
    pub fn set_known(&mut self, keys: impl IntoIterator<Item = Public<Disco>>) {
        let mut before = std::mem::take(&mut self.known);
        self.known = keys
            .into_iter()
            .filter(|key| !key.is_zero())
            .map(|key| (key, before.remove(&key).unwrap_or(Shared::Unmade)))
            .collect();
    }

    /// Who sent a packet and what it says.
    ///
    /// # Errors
    /// If the sender is unknown or the packet broken.
    pub fn open(&mut self, packet: &[u8]) -> Result<(Public<Disco>, Message), Unopened> {
        let from = sender(packet).ok_or(Unopened::Broken(DiscoError::NotDisco))?;
        let shared = self.shared(&from).ok_or(Unopened::Stranger)?;
        open(packet, shared).map(|message| (from, message)).map_err(Unopened::Broken)
    }

    /// Seals a message for a known key and appends it to `out`; `false` if the key is not known.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn seal(
        &mut self,
        message: &Message,
        to: &Public<Disco>,
        out: &mut Vec<u8>,
    ) -> Result<bool, NoRandom> {
        let from = self.ours.public();
        match self.shared(to) {
            Some(shared) => seal(message, &from, shared, out).map(|()| true),
            None => Ok(false),
        }
    }

    fn shared(&mut self, key: &Public<Disco>) -> Option<&SalsaBox> {
        let slot = self.known.get_mut(key)?;
        if matches!(slot, Shared::Unmade) {
            *slot = shared_box(&self.ours, key).map_or(Shared::Weak, |made| Shared::Made(Box::new(made)));
        }
        match slot {
            Shared::Made(shared) => Some(shared),
            Shared::Unmade | Shared::Weak => None,
        }
    }
}

impl std::fmt::Debug for Boxes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} boxes of {}", self.known.len(), self.ours.public())
    }
}
