//! One peer's WireGuard: its sessions, its handshakes, and what the clock asks for (WireGuard paper section 6).
//!
//! Three locks that hardly ever meet: who sends holds one for as long as it takes to clone an [`Arc`], who receives holds another
//! for its batch, and a third is for handshakes. They are taken in the order handshake, receivers, sender. Times are
//! milliseconds of one clock that never goes back; zero is "never".

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cookie::{Cookie, Judged};
use super::handshake::{INITIATION, Initiated, Keys, Proven, RESPONSE};
use super::session::{REJECT_AFTER_TIME, Receiver, Sender};
use super::{Identity, Opened, Refused, Tick};
use crate::key::{Node, Public, fill_random};

/// Section 6.1, as all that follow.
const REKEY_AFTER_TIME: u64 = 120_000;
const REKEY_ATTEMPT_TIME: u64 = 90_000;
const REKEY_TIMEOUT: u64 = 5_000;
const KEEPALIVE_TIMEOUT: u64 = 10_000;
/// So that two that began together do not begin again together (section 6.4).
const MOST_JITTER: u64 = 333;
/// A peer does not begin more often (Linux `drivers/net/wireguard/messages.h`, `INITIATIONS_PER_SECOND`).
const BEGINS_EVERY: u64 = 20;
/// For so long a beginning may still be answered: by another way it goes as it is.
const REPEATED_FOR: u64 = 1_000;

/// One peer's WireGuard, shared by all threads.
pub struct Tunnel {
    identity: Arc<Identity>,
    peer: Public<Node>,
    slot: u32,
    sender: Mutex<Option<Arc<Sender>>>,
    receivers: Mutex<Receivers>,
    handshake: Mutex<Handshake>,
    clocks: Clocks,
}

/// What can be opened with. An answer of ours makes a session that the peer has not confirmed: we do not send by it before.
#[derive(Default)]
struct Receivers {
    current: Option<Receiver>,
    /// The newest first.
    previous: Vec<Receiver>,
    next: Option<(Receiver, Arc<Sender>)>,
}

/// How many sessions before the current one open. Linux and Go have one, and never two that are sent by: who answers there forgets its
/// own beginning. Here both may come about where both began at once, and each side sends by its own: the peer's is an older one to us
/// then. If both begin at once again, what is under way by it comes behind the one that was ours and the new one of the peer's.
const PREVIOUS: usize = 3;

struct Handshake {
    /// Our beginnings, the newest first. The answer to the one before may be under way.
    pending: [Option<Pending>; 2],
    /// Since when we try; zero: we do not.
    begun: u64,
    /// When we try again.
    retry: u64,
    /// When anything was tried or answered last.
    last: u64,
    /// When a beginning was answered last.
    answered: u64,
    index: u8,
    cookie: Cookie,
}

/// A beginning of ours.
struct Pending {
    index: u32,
    begun: u64,
    state: Initiated,
    message: [u8; INITIATION],
}

#[derive(Default)]
struct Clocks {
    data_sent: AtomicU64,
    data_received: AtomicU64,
    /// Since when what we sent is not answered.
    unanswered: AtomicU64,
    /// Since when what we got is not answered.
    owed: AtomicU64,
    /// When the session that we send by was made.
    made: AtomicU64,
    /// When the peer was first heard by the last session that it began.
    confirmed: AtomicU64,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the tunnel to {}", self.peer.short())
    }
}

impl Tunnel {
    pub(super) fn new(now: u64, identity: Arc<Identity>, peer: &Public<Node>, slot: u32) -> Self {
        // So that messages of an earlier tunnel are hardly ever taken for this one's.
        let mut index = [0];
        let _unchanged = fill_random(&mut index);
        let [index] = index;
        Self {
            identity,
            peer: *peer,
            slot,
            sender: Mutex::default(),
            receivers: Mutex::default(),
            handshake: Mutex::new(Handshake {
                pending: [None, None],
                begun: 0,
                retry: 0,
                last: now,
                answered: 0,
                index,
                cookie: Cookie::new(peer),
            }),
            clocks: Clocks::default(),
        }
    }

    /// What seals; `None` if there is no session.
    pub fn sender(&self, now: u64) -> Option<Arc<Sender>> {
        lock(&self.sender).as_ref().filter(|sender| sender.is_usable(now)).map(Arc::clone)
    }

    /// Packets were sealed and sent.
    pub fn sent(&self, now: u64) {
        self.clocks.sent(now, true);
    }

    /// What opens data, for a batch.
    pub fn opener(&self, now: u64) -> Opener<'_> {
        Opener { tunnel: self, receivers: lock(&self.receivers), now }
    }

    /// When the session that we send by was made; zero: there never was one.
    pub fn made(&self) -> u64 {
        self.clocks.made.load(Ordering::Relaxed)
    }

    /// Begins a handshake, unless one is under way.
    pub fn initiate(&self, now: u64) -> Option<[u8; INITIATION]> {
        let mut handshake = lock(&self.handshake);
        if handshake.begun != 0 {
            return None;
        }
        self.begin(now, &mut handshake)
    }

    /// For another way than the last one went, which may lead nowhere: the beginning that is under way, or a new one.
    ///
    /// The same bytes again are nothing to a peer that has them. A second beginning would end the session that the first one
    /// made there (wireguard-go `device/noise-protocol.go`, `BeginSymmetricSession`), which we may be sending by already.
    pub fn initiate_elsewhere(&self, now: u64) -> Option<[u8; INITIATION]> {
        let mut handshake = lock(&self.handshake);
        let Handshake { pending: [newest, _], begun, retry, cookie, .. } = &mut *handshake;
        let young = newest.as_mut().filter(|newest| now.saturating_sub(newest.begun) < REPEATED_FOR);
        match young {
            Some(newest) if *begun != 0 => {
                // A cookie may have come meanwhile.
                cookie.sign(now, newest.index, &mut newest.message)?;
                // If the peer has it, and only its answer was lost, the next one is not to wait for long.
                *retry = (*retry).min(now + REPEATED_FOR);
                Some(newest.message)
            }
            _ => self.begin(now, &mut handshake),
        }
    }

    fn begin(&self, now: u64, handshake: &mut Handshake) -> Option<[u8; INITIATION]> {
        let index = handshake.next_index(self.slot);
        let stamp = self.identity.stamper.next();
        let (state, mut message) = Initiated::begin(&self.identity.secret, &self.peer, index, stamp)?;
        handshake.cookie.sign(now, index, &mut message)?;
        let [newest, before] = &mut handshake.pending;
        *before = newest.replace(Pending { index, begun: now, state, message });
        if handshake.begun == 0 {
            handshake.begun = now;
        }
        handshake.retry = now + REKEY_TIMEOUT + jitter();
        handshake.last = now;
        self.clocks.sent(now, false);
        Some(message)
    }

    /// Answers a beginning of the peer's: a session that waits for its first message. That it is later than all before is for
    /// the caller to know.
    ///
    /// # Errors
    /// If they come too often, or the peer's key makes no secret.
    pub fn respond(&self, now: u64, proven: Proven) -> Result<[u8; RESPONSE], Refused> {
        let mut handshake = lock(&self.handshake);
        if handshake.answered != 0 && now.saturating_sub(handshake.answered) < BEGINS_EVERY {
            return Err(Refused::UnderLoad);
        }
        let index = handshake.next_index(self.slot);
        let (keys, mut message) = proven.respond(index).ok_or(Refused::Malformed)?;
        handshake.cookie.sign(now, index, &mut message).ok_or(Refused::Malformed)?;
        let (receiver, sender) = halves(&keys, index, now, false).ok_or(Refused::Malformed)?;
        handshake.answered = now;
        handshake.last = now;
        lock(&self.receivers).next = Some((receiver, sender));
        self.clocks.received(now, false);
        self.clocks.sent(now, false);
        Ok(message)
    }

    /// Takes an answer, or a cookie, to a beginning of ours. What is to be sent in turn lies in the slot.
    pub fn shake(&self, now: u64, from: SocketAddr, message: &[u8], slot: &mut [u8]) -> Opened {
        let taken = match (message.first(), message.len()) {
            (Some(2), RESPONSE) => self.finish(now, from, message, slot),
            (Some(3), _) => self.take_cookie(now, message),
            _ => Err(Refused::Malformed),
        };
        taken.unwrap_or_else(Opened::Refused)
    }

    fn finish(&self, now: u64, from: SocketAddr, message: &[u8], slot: &mut [u8]) -> Result<Opened, Refused> {
        let message = <&[u8; RESPONSE]>::try_from(message).map_err(|_| Refused::Malformed)?;
        let [_, _, _, _, _, _, _, _, a, b, c, d, ..] = *message;
        let index = u32::from_le_bytes([a, b, c, d]);
        let mut handshake = lock(&self.handshake);
        let ours = |one: &Pending| one.index == index && now.saturating_sub(one.begun) < REKEY_ATTEMPT_TIME;
        let at = handshake.pending.iter().position(|one| one.as_ref().is_some_and(ours));
        let at = at.ok_or(Refused::NoSession)?;
        // An answer to nothing of ours is no load.
        match self.identity.limiter.judge(now, from, message) {
            Judged::Good => {}
            Judged::Forged => return Err(Refused::Forged),
            Judged::TooMany => return Err(Refused::UnderLoad),
            Judged::Cookie(reply) => {
                let place = slot.first_chunk_mut().ok_or(Refused::Malformed)?;
                *place = reply;
                return Ok(Opened::Cookie(reply.len()));
            }
        }
        let initiated = handshake.pending.get(at).and_then(Option::as_ref).ok_or(Refused::NoSession)?;
        let keys = initiated.state.finish(&self.identity.secret, message).ok_or(Refused::Forged)?;
        let (receiver, sender) = halves(&keys, index, now, true).ok_or(Refused::Malformed)?;
        let keepalive = sender.seal(&[], slot).ok_or(Refused::Malformed)?;
        // A newer beginning, if there is one, may have reached the peer, which then waits for us to use its session and has
        // forgotten this one: its answer is waited for, and it is tried again.
        for old in handshake.pending.iter_mut().skip(at) {
            *old = None;
        }
        if at == 0 {
            handshake.begun = 0;
        }
        handshake.last = now;
        {
            let mut receivers = lock(&self.receivers);
            let unconfirmed = receivers.next.take().map(|(unconfirmed, _)| unconfirmed);
            receivers.replace(receiver);
            if let Some(unconfirmed) = unconfirmed {
                receivers.keep(unconfirmed);
            }
            self.send_by(sender);
        }
        self.clocks.received(now, false);
        self.clocks.sent(now, false);
        Ok(Opened::Answer(keepalive))
    }

    fn take_cookie(&self, now: u64, message: &[u8]) -> Result<Opened, Refused> {
        let reply = message.try_into().map_err(|_| Refused::Malformed)?;
        lock(&self.handshake).cookie.take(now, reply).ok_or(Refused::Forged)?;
        Ok(Opened::Nothing)
    }

    /// The receivers are held: who opens by a session finds that it is sent by.
    fn send_by(&self, sender: Arc<Sender>) {
        self.clocks.made.store(sender.made(), Ordering::Relaxed);
        *lock(&self.sender) = Some(sender);
    }

    fn open(
        &self,
        receivers: &mut Receivers,
        now: u64,
        message: &[u8],
        slot: &mut [u8],
    ) -> Result<Opened, Refused> {
        let index = message.get(4..8).and_then(<[u8]>::first_chunk).ok_or(Refused::Malformed)?;
        let index = u32::from_le_bytes(*index);
        let receiver = receivers.find(index, now).ok_or(Refused::NoSession)?;
        let length = receiver.open(message, slot)?;
        if let Some(sender) = receivers.confirm(index) {
            set(&self.clocks.confirmed, now);
            self.send_by(sender);
        }
        self.clocks.received(now, length > 0);
        if length == 0 {
            return Ok(Opened::Nothing);
        }
        let packet = slot.get(..length).and_then(packet_len).ok_or(Refused::Malformed)?;
        Ok(Opened::Packet(packet))
    }

    /// To be called four times a second or so; what is to be sent lies in the slot.
    pub fn tick(&self, now: u64, slot: &mut [u8]) -> Tick {
        let (sender, alive) = self.expire(now);
        let (begins, idle) = {
            let mut handshake = lock(&self.handshake);
            // The peer's own handshake came about meanwhile: there is nothing left to try for. An answer that is under way is still
            // taken, for the peer sends by its session then; one that somebody kept back is not.
            let confirmed = self.clocks.confirmed.load(Ordering::Relaxed);
            let newest = handshake.pending.first().and_then(Option::as_ref).map_or(0, |newest| newest.begun);
            if confirmed > newest {
                handshake.begun = 0;
                if now.saturating_sub(confirmed) >= REKEY_TIMEOUT {
                    handshake.pending = [None, None];
                }
            }
            let mut gave_up = false;
            if handshake.begun != 0 && now.saturating_sub(handshake.begun) >= REKEY_ATTEMPT_TIME {
                handshake.pending = [None, None];
                handshake.begun = 0;
                gave_up = true;
            }
            let due = match handshake.begun {
                0 => !gave_up && self.clocks.wants_handshake(now, sender.as_deref()),
                _ => now >= handshake.retry,
            };
            let message = if due { self.begin(now, &mut handshake) } else { None };
            let quiet = gave_up || now.saturating_sub(handshake.last) >= REKEY_ATTEMPT_TIME;
            (message, handshake.begun == 0 && quiet)
        };
        if let Some(message) = begins
            && let Some(place) = slot.first_chunk_mut()
        {
            *place = message;
            return Tick::Send(message.len());
        }
        let owed = self.clocks.owed.load(Ordering::Relaxed);
        if owed != 0
            && now.saturating_sub(owed) >= KEEPALIVE_TIMEOUT
            && let Some(length) = sender.and_then(|sender| sender.seal(&[], slot))
        {
            self.clocks.sent(now, false);
            return Tick::Send(length);
        }
        if idle && !alive { Tick::Ended } else { Tick::Nothing }
    }

    /// Whether nothing is left of it: neither a session nor an attempt at one.
    pub fn is_over(&self, now: u64) -> bool {
        let (_, alive) = self.expire(now);
        !alive && lock(&self.handshake).begun == 0
    }

    /// Drops what is too old; tells what seals, and whether anything is left.
    fn expire(&self, now: u64) -> (Option<Arc<Sender>>, bool) {
        let mut receivers = lock(&self.receivers);
        let _old = receivers.current.take_if(|receiver| !receiver.is_usable(now));
        receivers.previous.retain(|receiver| receiver.is_usable(now));
        drop(receivers.next.take_if(|(receiver, _)| !receiver.is_usable(now)));
        let left = receivers.current.is_some() || !receivers.previous.is_empty() || receivers.next.is_some();
        let mut sender = lock(&self.sender);
        drop(sender.take_if(|sender| !sender.is_usable(now)));
        (sender.clone(), left || sender.is_some())
    }
}

/// Opens data of one peer: nobody else does meanwhile.
pub struct Opener<'a> {
    tunnel: &'a Tunnel,
    receivers: MutexGuard<'a, Receivers>,
    now: u64,
}

impl std::fmt::Debug for Opener<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "opens {:?}", self.tunnel)
    }
}

impl Opener<'_> {
    /// Opens a message into a slot at least as long.
    pub fn open(&mut self, message: &[u8], slot: &mut [u8]) -> Opened {
        let opened = self.tunnel.open(&mut self.receivers, self.now, message, slot);
        opened.unwrap_or_else(Opened::Refused)
    }
}

impl Receivers {
    fn find(&mut self, index: u32, now: u64) -> Option<&mut Receiver> {
        let next = self.next.as_mut().map(|(receiver, _)| receiver);
        self.current
            .iter_mut()
            .chain(&mut self.previous)
            .chain(next)
            .find(|receiver| receiver.ours() == index && receiver.is_usable(now))
    }

    /// Another session is the current one.
    fn replace(&mut self, receiver: Receiver) {
        if let Some(old) = self.current.replace(receiver) {
            self.keep(old);
        }
    }

    /// Keeps one that is not the current one, for what is under way.
    fn keep(&mut self, old: Receiver) {
        self.previous.truncate(PREVIOUS - 1);
        // Most peers never have more than one or two, and each is big.
        self.previous.reserve_exact(1);
        self.previous.insert(0, old);
    }

    /// The peer uses a session: if it is the one that waits for that, it is the one from now on.
    fn confirm(&mut self, index: u32) -> Option<Arc<Sender>> {
        let (receiver, sender) = self.next.take_if(|(receiver, _)| receiver.ours() == index)?;
        self.replace(receiver);
        Some(sender)
    }
}

impl Handshake {
    fn next_index(&mut self, slot: u32) -> u32 {
        self.index = self.index.wrapping_add(1);
        slot << 8 | u32::from(self.index)
    }
}

impl Clocks {
    fn sent(&self, now: u64, data: bool) {
        set(&self.owed, 0);
        if data {
            set(&self.data_sent, now);
            if self.unanswered.load(Ordering::Relaxed) == 0 {
                set(&self.unanswered, now);
            }
        }
    }

    fn received(&self, now: u64, data: bool) {
        set(&self.unanswered, 0);
        if data {
            set(&self.data_received, now);
            if self.owed.load(Ordering::Relaxed) == 0 {
                set(&self.owed, now);
            }
        }
    }

    /// Sections 6.2 and 6.5: the session is old and used, or what we send is not answered.
    fn wants_handshake(&self, now: u64, sender: Option<&Sender>) -> bool {
        let unanswered = self.unanswered.load(Ordering::Relaxed);
        if unanswered != 0 && now.saturating_sub(unanswered) >= KEEPALIVE_TIMEOUT + REKEY_TIMEOUT {
            set(&self.unanswered, 0);
            return true;
        }
        let Some(sender) = sender else { return false };
        let after = |clock: &AtomicU64, age| clock.load(Ordering::Relaxed) >= sender.made() + age;
        let receiving = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT;
        sender.is_worn()
            || sender.initiator()
                && (after(&self.data_sent, REKEY_AFTER_TIME) || after(&self.data_received, receiving))
    }
}

/// Most often nothing changes: then the other direction's copy of the line stays good.
fn set(clock: &AtomicU64, value: u64) {
    if clock.load(Ordering::Relaxed) != value {
        clock.store(value, Ordering::Relaxed);
    }
}

fn halves(keys: &Keys, index: u32, now: u64, initiator: bool) -> Option<(Receiver, Arc<Sender>)> {
    let sender = Sender::new(&keys.send, keys.theirs, now, initiator)?;
    Some((Receiver::new(&keys.receive, index, now)?, Arc::new(sender)))
}

/// How long a packet is by its own header: senders fill up to sixteen bytes (section 5.4.6).
fn packet_len(bytes: &[u8]) -> Option<usize> {
    let (least, length) = match *bytes {
        [first, _, high, low, ..] if first >> 4 == 4 => (20, usize::from(u16::from_be_bytes([high, low]))),
        [first, _, _, _, high, low, ..] if first >> 4 == 6 => {
            (40, 40 + usize::from(u16::from_be_bytes([high, low])))
        }
        _ => return None,
    };
    (least <= length && length <= bytes.len()).then_some(length)
}

fn jitter() -> u64 {
    let mut random = [0; 2];
    let _unchanged = fill_random(&mut random);
    u64::from(u16::from_le_bytes(random)) % (MOST_JITTER + 1)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
