//! The two messages of the handshake: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` (WireGuard paper sections 5.4.2 to 5.4.5; Noise
//! revision 34), without a pre-shared key: a tailnet has none.

use blake2::{Blake2s256, Digest as _};
use casemate_aead::TAG;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::Identity;
use super::stamp::Stamp;
use crate::key::{KEY_LEN, Node, Public, Secret};
use crate::noise::handshake::{hkdf, hmac};

/// The length of a beginning.
pub(super) const INITIATION: usize = 148;
/// The length of its answer.
pub(super) const RESPONSE: usize = 92;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
const IDENTITY: usize = KEY_LEN + TAG;
const STAMP: usize = 12 + TAG;

type Key = Zeroizing<[u8; KEY_LEN]>;

/// What a handshake gives: the keys of both directions, and what the peer calls its end.
pub(super) struct Keys {
    pub(super) send: Key,
    pub(super) receive: Key,
    pub(super) theirs: u32,
}

/// Noise's symmetric state (section 5.2 there).
#[derive(Clone)]
struct Symmetric {
    hash: [u8; 32],
    chaining: Key,
}

impl Symmetric {
    fn new(responder: &Public<Node>) -> Self {
        let hash: [u8; 32] = Blake2s256::digest(CONSTRUCTION).into();
        let mut state = Self { hash, chaining: Zeroizing::new(hash) };
        state.mix_hash(IDENTIFIER);
        state.mix_hash(responder.bytes());
        state
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = Blake2s256::new().chain_update(self.hash).chain_update(data).finalize().into();
    }

    fn mix_key(&mut self, input: &[u8]) -> Key {
        let (chaining, key) = hkdf(&self.chaining, input);
        self.chaining = chaining;
        key
    }

    fn mix_ephemeral(&mut self, key: &Public<Node>) {
        self.mix_hash(key.bytes());
        self.mix_key(key.bytes());
    }

    /// The pre-shared key that there is not: 32 zeroes. Noise's `MixKeyAndHash`, with three outputs.
    fn mix_nothing(&mut self) -> Key {
        let pseudorandom = hmac(&self.chaining, &[&[0; KEY_LEN]]);
        let first = hmac(&pseudorandom, &[&[1]]);
        let second = hmac(&pseudorandom, &[first.as_ref(), &[2]]);
        let third = hmac(&pseudorandom, &[second.as_ref(), &[3]]);
        self.chaining = first;
        self.mix_hash(second.as_ref());
        third
    }

    /// Seals what lies before the room for the tag.
    fn seal(&mut self, key: &Key, place: &mut [u8]) -> Option<()> {
        let (plain, room) = place.split_at_mut_checked(place.len().checked_sub(TAG)?)?;
        let tag = aead(key)?.seal_in_place_separate_tag(once(), Aad::from(self.hash), plain).ok()?;
        room.copy_from_slice(tag.as_ref());
        self.mix_hash(place);
        Some(())
    }

    fn open<const N: usize>(&mut self, key: &Key, sealed: &[u8]) -> Option<[u8; N]> {
        let mut room = [0; IDENTITY];
        let place = room.get_mut(..sealed.len())?;
        place.copy_from_slice(sealed);
        let plain = aead(key)?.open_in_place(once(), Aad::from(self.hash), place).ok()?;
        let plain = <[u8; N]>::try_from(&*plain).ok()?;
        self.mix_hash(sealed);
        Some(plain)
    }
}

/// A beginning of ours that waits for its answer.
pub(super) struct Initiated {
    state: Symmetric,
    ephemeral: Secret<Node>,
}

impl Initiated {
    /// The message, all but its MACs; `None` without randomness, or to a key that makes no secret.
    pub(super) fn begin(
        ours: &Secret<Node>,
        peer: &Public<Node>,
        index: u32,
        stamp: Stamp,
    ) -> Option<(Self, [u8; INITIATION])> {
        let ephemeral = Secret::<Node>::generate().ok()?;
        let mut state = Symmetric::new(peer);
        let public = ephemeral.public();
        state.mix_ephemeral(&public);
        let key = state.mix_key(ephemeral.agree(peer)?.as_ref());
        let mut identity = [0; IDENTITY];
        identity.first_chunk_mut().map(|place: &mut [u8; KEY_LEN]| *place = *ours.public().bytes())?;
        state.seal(&key, &mut identity)?;
        let key = state.mix_key(ours.agree(peer)?.as_ref());
        let mut time = [0; STAMP];
        time.first_chunk_mut().map(|place: &mut Stamp| *place = stamp)?;
        state.seal(&key, &mut time)?;

        let mut message = [0; INITIATION];
        let parts = [&[1, 0, 0, 0][..], &index.to_le_bytes(), public.bytes(), &identity, &time];
        put(&mut message, &parts)?;
        Some((Self { state, ephemeral }, message))
    }

    /// The keys, if the answer is the peer's. One that is not leaves everything as it was.
    pub(super) fn finish(&self, ours: &Secret<Node>, response: &[u8; RESPONSE]) -> Option<Keys> {
        let (_, rest) = response.split_first_chunk::<4>()?;
        let (theirs, rest) = rest.split_first_chunk::<4>()?;
        let (_, rest) = rest.split_first_chunk::<4>()?;
        let (ephemeral, rest) = rest.split_first_chunk::<KEY_LEN>()?;
        let nothing = rest.first_chunk::<TAG>()?;
        let ephemeral = Public::<Node>::new(*ephemeral);
        let mut state = self.state.clone();
        state.mix_ephemeral(&ephemeral);
        state.mix_key(self.ephemeral.agree(&ephemeral)?.as_ref());
        state.mix_key(ours.agree(&ephemeral)?.as_ref());
        let key = state.mix_nothing();
        let [] = state.open(&key, nothing)?;
        let (send, receive) = hkdf(&state.chaining, &[]);
        Some(Keys { send, receive, theirs: u32::from_le_bytes(*theirs) })
    }
}

/// A beginning of somebody's: who it claims to be from is known, and not proven.
pub struct Initiation {
    key: Public<Node>,
    state: Symmetric,
    ephemeral: Public<Node>,
    sender: u32,
    stamp: [u8; STAMP],
}

impl std::fmt::Debug for Initiation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a beginning in the name of {}", self.key.short())
    }
}

impl Initiation {
    pub(super) fn read(ours: &Secret<Node>, message: &[u8; INITIATION]) -> Option<Self> {
        let (_, rest) = message.split_first_chunk::<4>()?;
        let (sender, rest) = rest.split_first_chunk::<4>()?;
        let (ephemeral, rest) = rest.split_first_chunk::<KEY_LEN>()?;
        let (identity, rest) = rest.split_first_chunk::<IDENTITY>()?;
        let stamp = *rest.first_chunk::<STAMP>()?;
        let ephemeral = Public::<Node>::new(*ephemeral);
        let mut state = Symmetric::new(&ours.public());
        state.mix_ephemeral(&ephemeral);
        let key = state.mix_key(ours.agree(&ephemeral)?.as_ref());
        let key = Public::new(state.open(&key, identity)?);
        Some(Self { key, state, ephemeral, sender: u32::from_le_bytes(*sender), stamp })
    }

    /// Who it claims to be from.
    pub const fn key(&self) -> Public<Node> {
        self.key
    }

    /// Makes sure that it is from there. That it is not an old one is for who keeps the times.
    pub fn prove(mut self, identity: &Identity) -> Option<Proven> {
        let key = self.state.mix_key(identity.secret.agree(&self.key)?.as_ref());
        let stamp = self.state.open(&key, &self.stamp)?;
        Some(Proven { initiation: self, stamp })
    }
}

/// A beginning that is from who it says.
#[derive(Debug)]
pub struct Proven {
    initiation: Initiation,
    stamp: Stamp,
}

impl Proven {
    /// When it was made: what is not later than an earlier one is that, or older.
    pub const fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The answer, all but its MACs.
    pub(super) fn respond(self, index: u32) -> Option<(Keys, [u8; RESPONSE])> {
        let Initiation { key: peer, mut state, ephemeral: theirs, sender, .. } = self.initiation;
        let ephemeral = Secret::<Node>::generate().ok()?;
        let public = ephemeral.public();
        state.mix_ephemeral(&public);
        state.mix_key(ephemeral.agree(&theirs)?.as_ref());
        state.mix_key(ephemeral.agree(&peer)?.as_ref());
        let key = state.mix_nothing();
        let mut nothing = [0; TAG];
        state.seal(&key, &mut nothing)?;
        let mut message = [0; RESPONSE];
        let parts =
            [&[2, 0, 0, 0][..], &index.to_le_bytes(), &sender.to_le_bytes(), public.bytes(), &nothing];
        put(&mut message, &parts)?;
        let (receive, send) = hkdf(&state.chaining, &[]);
        Some((Keys { send, receive, theirs: sender }, message))
    }
}

/// A key that is used once, so that its counter is zero (section 5.4: each key is mixed anew).
fn aead(key: &Key) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.as_ref()).ok()?))
}

fn once() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// Puts parts one after another.
pub(super) fn put(mut room: &mut [u8], parts: &[&[u8]]) -> Option<()> {
    for part in parts {
        let (place, rest) = std::mem::take(&mut room).split_at_mut_checked(part.len())?;
        place.copy_from_slice(part);
        room = rest;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points of a small order (`cr.yp.to/ecdh.html`): with one of them anybody knows the secret, which is zero.
    fn of_low_order() -> [Public<Node>; 3] {
        let eight = "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800";
        let mut one = [0; KEY_LEN];
        one[0] = 1;
        [Public::zero(), Public::new(one), Public::new(hex::decode(eight).unwrap().try_into().unwrap())]
    }

    #[test]
    fn a_secret_that_everybody_knows_begins_and_answers_nothing() {
        let (ours, peer) = (Secret::<Node>::new([1; KEY_LEN]), Secret::<Node>::new([2; KEY_LEN]));
        for low in of_low_order() {
            assert!(Initiated::begin(&ours, &low, 7, [0; 12]).is_none());
            // Without the peer's key, and with one that makes everything known that the first part is sealed with.
            let pretended = |ephemeral: &Public<Node>, secret: &[u8; KEY_LEN]| {
                let mut state = Symmetric::new(&ours.public());
                state.mix_ephemeral(ephemeral);
                let key = state.mix_key(secret);
                let mut identity = [0; IDENTITY];
                identity[..KEY_LEN].copy_from_slice(peer.public().bytes());
                state.seal(&key, &mut identity).unwrap();
                let mut message = [0; INITIATION];
                put(&mut message, &[&[1, 0, 0, 0], &[7; 4], ephemeral.bytes(), &identity]).unwrap();
                message
            };
            assert!(Initiation::read(&ours, &pretended(&low, &[0; KEY_LEN])).is_none());
            // The same with a key that is none of these is read, as far as it is known.
            let good = Secret::<Node>::new([3; KEY_LEN]);
            let secret = good.agree(&ours.public()).unwrap();
            let read = Initiation::read(&ours, &pretended(&good.public(), &secret)).unwrap();
            assert_eq!(read.key(), peer.public());
            assert!(read.prove(&Identity::new(&ours, std::sync::Arc::default())).is_none());
        }
    }
}
