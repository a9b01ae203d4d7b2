//! Peers, and whoever writes datagrams in their names: the WireGuard engine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use casemate_vpn::engine::{
    Beginning, Identity, MIN_SLOT, Message, OVERHEAD, Opened, Refused, Stamp, Tick, Tunnel,
};
use casemate_vpn::key::{Node, Secret};

use crate::Verdict;

const OURS: [u8; 32] = [7; 32];
const THEIRS: [u8; 32] = [9; 32];
const FROM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 41_641);
/// More steps than an input needs, and fewer messages than may be late.
const MAX_STEPS: usize = 200;

/// `B` and a beginning, as we read it; `A` and an answer or a cookie, to a beginning of ours; or `S` and steps of two sides that have
/// a session, four bytes each: seal a packet, deliver one, perhaps again or with a byte changed, let time pass, begin by another way
/// and lose the handshake at any place.
///
/// Nothing forged is believed. A message opens once, as what was sealed; without a new session in between, or half of one, it does
/// open. And whatever was lost, one handshake that is not makes a session for both.
pub(crate) fn wireguard(input: &[u8]) -> Verdict {
    match input.split_first() {
        Some((b'B', bytes)) => beginning(bytes),
        Some((b'A', bytes)) => answer(bytes),
        Some((b'S', steps)) => session(steps),
        _ => Verdict::Refused,
    }
}

fn identity(secret: [u8; 32]) -> Arc<Identity> {
    Arc::new(Identity::new(&Secret::new(secret), Arc::default()))
}

fn beginning(bytes: &[u8]) -> Verdict {
    const AUTHENTIC: &[u8] = include_bytes!("../../seeds/wireguard/beginning");
    let ours = identity(OURS);
    let Beginning::From(initiation) = ours.beginning(1, FROM, bytes) else { return Verdict::Refused };
    // All but the second MAC, which is looked at under load alone.
    assert_eq!(AUTHENTIC.get(1..133), bytes.get(..132), "a forged beginning was read");
    let peer = Secret::<Node>::new(THEIRS).public();
    assert_eq!(initiation.key(), peer);
    let Some(proven) = initiation.prove(&ours) else { panic!("a good beginning is not proven") };
    let answered = ours.tunnel(1, &peer, 5).respond(1, proven);
    assert!(answered.is_ok(), "{answered:?}");
    Verdict::Accepted
}

fn answer(bytes: &[u8]) -> Verdict {
    let tunnel = identity(OURS).tunnel(1, &Secret::<Node>::new(THEIRS).public(), 5);
    let begins = tunnel.initiate(1).unwrap_or_else(|| panic!("nothing begins"));
    // As if it were to ours.
    let mut message = bytes.to_vec();
    let place = if message.first() == Some(&3) { 4..8 } else { 8..12 };
    if let Some(place) = message.get_mut(place) {
        place.copy_from_slice(&begins[4..8]);
    }
    let shaken = tunnel.shake(2, FROM, &message, &mut [0; MIN_SLOT]);
    assert!(matches!(shaken, Opened::Refused(_)), "a forged answer was believed: {shaken:?}");
    let opened = tunnel.opener(2).open(&message, &mut vec![0; message.len()]);
    assert!(matches!(opened, Opened::Refused(_)), "data without a session: {opened:?}");
    assert!(tunnel.sender(2).is_none());
    Verdict::Refused
}

fn session(steps: &[u8]) -> Verdict {
    let mut world = World::new();
    world.join();
    for step in steps.as_chunks().0.iter().take(MAX_STEPS) {
        world.step(*step);
    }
    let opened = world.opened;
    world.now += 2000;
    world.join();
    for side in [0, 1] {
        world.seal(side, 100);
        world.deliver(world.sent.len() - 1, 0, 0);
    }
    assert_eq!(world.opened, opened + 2, "after a handshake that was not lost, nothing comes through");
    Verdict::accepted(opened > 0)
}

struct End {
    identity: Arc<Identity>,
    tunnel: Tunnel,
    /// The time of the last beginning that was taken, as the plane keeps it.
    latest: Stamp,
}

/// A sealed packet under way.
struct Sent {
    to: usize,
    packet: Vec<u8>,
    message: Vec<u8>,
    came: bool,
}

struct World {
    ends: [End; 2],
    now: u64,
    sent: Vec<Sent>,
    opened: usize,
    /// From which of them on the sides have one session; `None`: one may have another than the other.
    fresh: Option<usize>,
}

impl World {
    fn new() -> Self {
        let (ours, theirs) = (identity(OURS), identity(THEIRS));
        let tunnels = [ours.tunnel(1, &theirs.key(), 5), theirs.tunnel(1, &ours.key(), 6)];
        let mut identities = [ours, theirs].into_iter();
        let ends = tunnels.map(|tunnel| {
            let identity = identities.next().unwrap_or_else(|| panic!("two of each"));
            End { identity, tunnel, latest: [0; 12] }
        });
        Self { ends, now: 1, sent: Vec::new(), opened: 0, fresh: None }
    }

    /// A handshake of the first side, of which nothing is lost.
    fn join(&mut self) {
        let begins = self.ends[0].tunnel.initiate_elsewhere(self.now);
        self.carry(0, &begins.unwrap_or_else(|| panic!("nothing begins")), usize::MAX);
        assert!(self.fresh.is_some(), "a handshake that was not lost makes no session");
    }

    fn step(&mut self, [what, which, place, change]: [u8; 4]) {
        let (side, lost) = (usize::from(place & 1), place & 2 != 0);
        match what % 4 {
            0 => self.seal(side, which),
            1 if self.sent.is_empty() => {}
            1 => self.deliver(usize::from(which) % self.sent.len(), place.into(), change),
            2 => {
                self.now += u64::from(which) * 1000;
                self.fresh = self.fresh.map(|_| self.sent.len());
                self.tick(lost);
            }
            _ => {
                // The beginning, its answer, and what confirms that.
                let most = if lost { usize::from(place >> 2 & 3) } else { usize::MAX };
                if let Some(begins) = self.ends[side].tunnel.initiate_elsewhere(self.now) {
                    self.carry(side, &begins, most);
                }
            }
        }
    }

    fn seal(&mut self, side: usize, more: u8) {
        let Some(sender) = self.ends[side].tunnel.sender(self.now) else { return };
        let length = 20 + u16::from(more);
        let mut packet = vec![more; length.into()];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        let mut message = vec![0; packet.len() + OVERHEAD];
        assert_eq!(sender.seal(&packet, &mut message), Some(message.len()));
        self.ends[side].tunnel.sent(self.now);
        self.sent.push(Sent { to: 1 - side, packet, message, came: false });
    }

    fn deliver(&mut self, which: usize, place: usize, change: u8) {
        let sent = &mut self.sent[which];
        let mut message = sent.message.clone();
        let place = place % message.len();
        message[place] ^= change;
        if !matches!(Message::of(&message), Some(Message::Data(_))) {
            return;
        }
        let mut slot = vec![0; message.len()];
        match self.ends[sent.to].tunnel.opener(self.now).open(&message, &mut slot) {
            Opened::Packet(length) => {
                assert_eq!(change, 0, "a message opened whose byte {place} was changed");
                assert!(!sent.came, "a message opened twice");
                assert_eq!(slot.get(..length), Some(&*sent.packet));
                sent.came = true;
                self.opened += 1;
            }
            Opened::Refused(why) => {
                let must = change == 0 && !sent.came && self.fresh.is_some_and(|fresh| which >= fresh);
                assert!(!must, "a good message is refused: {why:?}");
            }
            other => panic!("a packet is {other:?}"),
        }
    }

    /// What the clock asks for goes to the other side, or is lost.
    fn tick(&mut self, lost: bool) {
        for side in [0, 1] {
            let mut slot = [0; MIN_SLOT];
            match self.ends[side].tunnel.tick(self.now, &mut slot) {
                Tick::Send(length) if !lost => self.carry(side, &slot[..length], usize::MAX),
                Tick::Send(_) | Tick::Nothing => {}
                Tick::Ended => assert!(self.ends[side].tunnel.sender(self.now).is_none()),
            }
        }
    }

    /// Hands over what a side says, and what is answered to that, up to so many messages; the others are lost.
    fn carry(&mut self, from: usize, message: &[u8], most: usize) {
        let (mut to, mut next, mut confirms) = (1 - from, Some(message.to_vec()), false);
        for _ in 0..most {
            let Some(message) = next.take() else { break };
            let tunnel = &self.ends[to].tunnel;
            let mut slot = [0; MIN_SLOT];
            next = match Message::of(&message) {
                Some(Message::Initiation) => self.begins(to, &message),
                Some(Message::Response(_) | Message::Cookie(_)) => {
                    match tunnel.shake(self.now, FROM, &message, &mut slot) {
                        Opened::Answer(length) => {
                            (self.fresh, confirms) = (None, true);
                            Some(slot[..length].to_vec())
                        }
                        Opened::Cookie(length) => Some(slot[..length].to_vec()),
                        Opened::Packet(_) | Opened::Nothing | Opened::Refused(_) => None,
                    }
                }
                Some(Message::Data(_)) => {
                    let opened = tunnel.opener(self.now).open(&message, &mut slot);
                    assert!(!matches!(opened, Opened::Packet(_)), "a packet that nobody sealed");
                    // What confirms a new session; one that is owed says nothing of the other direction's.
                    if confirms && opened == Opened::Nothing {
                        self.fresh = Some(self.sent.len());
                    }
                    None
                }
                None => panic!("a side sends what is no message"),
            };
            to = 1 - to;
        }
    }

    fn begins(&mut self, to: usize, message: &[u8]) -> Option<Vec<u8>> {
        let End { identity, tunnel, latest } = &mut self.ends[to];
        match identity.beginning(self.now, FROM, message) {
            Beginning::From(initiation) => {
                let proven = initiation.prove(identity);
                let proven = proven.unwrap_or_else(|| panic!("a side's own beginning is not proven"));
                // It may be the same again, by another way.
                if proven.stamp() <= *latest {
                    return None;
                }
                *latest = proven.stamp();
                tunnel.respond(self.now, proven).ok().map(|answer| answer.to_vec())
            }
            Beginning::Cookie(reply) => Some(reply.to_vec()),
            Beginning::Refused(why) => {
                assert_eq!(why, Refused::UnderLoad, "a side's own beginning");
                None
            }
        }
    }
}
