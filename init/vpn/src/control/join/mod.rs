//! Joining as a state machine: answers and time in, what to send out. It never looks at the server's texts.
//!
//! - An `AuthURL` or an `Error` for a request with a pre-auth key refuses that key: its digest and the text are kept, and it is
//!   not sent again. Then we wait for another key.
//! - So does a map that shows the node key that the key was taken for as one that has ended: the next would be no better.
//! - Not more than one request with a key a minute, and not more than one without, unless the network became another meanwhile.
//! - `NodeKeyExpired` needs a new node key, which needs a pre-auth key; without one everything stays as it is. The new node key
//!   stands beside the old one until a server has taken it; if it is refused, the old one goes on.
//! - An unknown node (404 on the map) asks once without a key, then as above.
//! - A restart asks without a key, under each node key that may be known, one after another. Nothing ever logs out.
//! - An HTTP status is no word on the key: 400 refuses our version, with any other we wait.

mod event;
mod refusal;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use event::{Command, Event, Phase};
pub use refusal::{AuthKey, Refusal, RefusalKind};

use super::wire::RegisterResponse;
use crate::state::Refused;

/// Between two requests to join with a key, and between two without.
pub const MIN_INTERVAL: Duration = Duration::from_secs(60);
/// How often a node that waits for a key asks whether it is known again: a database may be put back, an expiry undone.
pub const ASK_AGAIN: Duration = Duration::from_secs(600);
/// How long we leave a server alone that refuses our version.
pub const VERSION_PAUSE: Duration = Duration::from_secs(600);
/// How long we leave a server alone that has another key than the pinned one. Not for long: what it shows at `/key` is not
/// authenticated, so that whoever is on the way can make us believe it.
pub const PIN_PAUSE: Duration = Duration::from_secs(300);
/// How long we leave a server alone that answered a request to join with a status that is no answer.
pub const STATUS_PAUSE: Duration = Duration::from_secs(300);
/// How long after no new node key could be made.
pub const ROTATION_PAUSE: Duration = Duration::from_secs(60);
/// HTTP's "bad request", which Headscale answers to a version in the body that it refuses (`hscontrol/noise.go`).
const BAD_REQUEST: u16 = 400;
/// The shortest back-off after a failed transport.
pub const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// The longest.
pub const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// A stream that lived this long makes the next back-off the shortest.
const GOOD_STREAM: Duration = Duration::from_secs(60);
/// What a 429 without a time means, and the most that it can mean.
const DEFAULT_RETRY: Duration = Duration::from_secs(60);
const MAX_RETRY: Duration = Duration::from_secs(3600);
/// Of a 429's time, the part that is added at random: those who were turned away together do not come back together.
const RETRY_JITTER: f64 = 0.25;
/// How many refused keys are remembered; at one a minute, the last four hours'. The oldest are forgotten.
pub const MAX_REFUSED: usize = 256;

/// What a register request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// We belong to the network.
    Authorized,
    /// `Error`, with its text.
    Refused(String),
    /// `AuthURL`: we are not known.
    NotKnown,
    /// The node key has ended.
    NodeKeyExpired,
    /// None of these: a person has yet to let us in.
    NotAuthorized,
    /// An HTTP status that is no answer, with the body's head.
    Status(u16, String),
}

impl From<RegisterResponse> for Answer {
    /// The order matters: an expired node can be "authorized" as well (tailscale `controlclient/direct.go`, `doLogin`).
    fn from(response: RegisterResponse) -> Self {
        if !response.error.is_empty() {
            Self::Refused(response.error)
        } else if !response.auth_url.is_empty() {
            Self::NotKnown
        } else if response.node_key_expired {
            Self::NodeKeyExpired
        } else if response.machine_authorized {
            Self::Authorized
        } else {
            Self::NotAuthorized
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// Ask without a key whether we belong.
    Ask,
    /// Join with the offered key.
    UseKey,
    /// Maps.
    Stream,
    /// A key that was not refused.
    AwaitKey,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InFlight {
    Register { key: usize, digest: Option<[u8; 32]>, before: Option<Instant> },
    Rotation,
    Stream,
}

/// The state machine.
#[derive(Debug)]
pub struct Joiner {
    goal: Goal,
    in_flight: Option<InFlight>,
    offered: Option<AuthKey>,
    refused: VecDeque<Refused>,
    refusal: Option<Refusal>,
    /// Not before this: back-off, or the server's word.
    not_before: Option<Instant>,
    last_with_key: Option<Instant>,
    last_without: Option<Instant>,
    ask_again: Option<Instant>,
    backoff: Duration,
    /// What the last back-off set `not_before` to.
    backed_off: Option<Instant>,
    jitter: u64,
    /// The 429s in a row: with each, the shortest pause doubles.
    limited: u32,
    /// Whether a server has ever known us, so that asking without a key makes sense.
    known: bool,
    /// The server says that our node key has ended.
    expired: bool,
    /// The map said so: then it serves us still.
    served_expired: bool,
    /// How many node keys we have.
    keys: usize,
    /// The one that has ended.
    ended: usize,
    /// The one that was made in its place, which no server has taken yet.
    next: Option<usize>,
    /// The node keys that are yet to be asked for, the next one last.
    questions: Vec<usize>,
    /// The next question belongs to the one before it.
    at_once: bool,
    /// Before this, no new node key is asked for.
    rotate_after: Option<Instant>,
    /// A 404 was answered by asking, and no map came since.
    asked_after_404: bool,
    /// The key that let us in, until a map comes.
    admitted_by: Option<[u8; 32]>,
    /// Since when maps come, if they do.
    maps: Option<Instant>,
    unwilling: bool,
    /// `not_before` is of our own choice: another key to join with ends it.
    left_alone: bool,
}

impl Joiner {
    /// A node that a server has known before, or not; with so many node keys that it may be known by, and the pre-auth keys that
    /// were refused in a former life, the oldest first.
    pub fn new(known: bool, keys: usize, mut refused: Vec<Refused>, seed: u64) -> Self {
        refused.drain(..refused.len().saturating_sub(MAX_REFUSED));
        let mut joiner = Self {
            goal: Goal::UseKey,
            in_flight: None,
            offered: None,
            refused: refused.into(),
            refusal: None,
            not_before: None,
            last_with_key: None,
            last_without: None,
            ask_again: None,
            backoff: MIN_BACKOFF * 2,
            backed_off: None,
            jitter: seed | 1,
            limited: 0,
            known,
            expired: false,
            served_expired: false,
            keys: keys.max(1),
            ended: 0,
            next: None,
            questions: Vec::new(),
            at_once: false,
            rotate_after: None,
            asked_after_404: false,
            admitted_by: None,
            maps: None,
            unwilling: false,
            left_alone: false,
        };
        if known {
            joiner.ask(0);
        }
        joiner
    }

    /// The last refusal, until it is overcome.
    pub const fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }

    /// The refused keys, to be kept over a restart.
    pub const fn refused(&self) -> &VecDeque<Refused> {
        &self.refused
    }

    /// The network under us is another: what failed in the old one need not be waited for, nor what was asked there without a key,
    /// which costs nothing. What the server said stands.
    pub fn network_changed(&mut self) {
        self.backoff = MIN_BACKOFF * 2;
        self.last_without = None;
        if self.not_before == self.backed_off {
            self.not_before = None;
        }
    }

    /// Where we are.
    pub fn phase(&self) -> Phase {
        if self.unwilling {
            Phase::Unwilling
        } else if self.maps.is_some() {
            if self.expired && self.usable_key().is_none() { Phase::KeyNeeded } else { Phase::Joined }
        } else if matches!(self.goal, Goal::AwaitKey | Goal::UseKey) && self.usable_key().is_none() {
            Phase::KeyNeeded
        } else {
            Phase::Joining
        }
    }

    /// Whether the stream should be closed so that a new node key can be registered.
    pub fn wants_stream_closed(&self, now: Instant) -> bool {
        self.in_flight == Some(InFlight::Stream) && self.can_rotate(now)
    }

    /// Whether there is what it takes to go from a node key that has ended to a new one, and it may be sent now: until then, the
    /// stream of the old one is worth more than a wait.
    fn can_rotate(&self, now: Instant) -> bool {
        let earliest = self.rotate_after.max(self.not_before).max(interval(self.last_with_key));
        self.expired && self.usable_key().is_some() && earliest.is_none_or(|earliest| earliest <= now)
    }

    /// What to do now.
    pub fn poll(&mut self, now: Instant) -> Command {
        if self.in_flight.is_some() {
            return Command::Wait(None);
        }
        if self.goal == Goal::AwaitKey {
            if self.usable_key().is_some() {
                self.goal = Goal::UseKey;
            } else if self.known && self.ask_again.is_some_and(|at| at <= now) {
                self.ask_again = None;
                self.ask(0);
            } else {
                return Command::Wait(self.ask_again.filter(|_| self.known));
            }
        }
        let allowed = match self.goal {
            Goal::Ask if self.at_once => self.not_before,
            Goal::Ask => self.not_before.max(interval(self.last_without)),
            Goal::UseKey => self.not_before.max(interval(self.last_with_key)),
            Goal::Stream | Goal::AwaitKey => self.not_before,
        };
        if let Some(at) = allowed.filter(|at| *at > now) {
            return Command::Wait(Some(at));
        }
        (self.unwilling, self.left_alone) = (false, false);
        match self.goal {
            Goal::Ask => {
                self.at_once = false;
                let key = self.questions.last().copied().unwrap_or_default();
                let before = self.last_without.replace(now);
                self.in_flight = Some(InFlight::Register { key, digest: None, before });
                Command::Register { auth: None, key, after: self.replaced_by(key) }
            }
            Goal::UseKey => {
                let Some(key) = self.usable_key().cloned() else {
                    self.keep_what_we_have(now);
                    return self.poll(now);
                };
                if self.expired && self.next.is_none() {
                    self.in_flight = Some(InFlight::Rotation);
                    return Command::RotateNodeKey { after: self.ended };
                }
                let before = self.last_with_key.replace(now);
                let node = self.next.unwrap_or_default();
                self.in_flight = Some(InFlight::Register { key: node, digest: Some(key.digest()), before });
                Command::Register { auth: Some(key), key: node, after: self.replaced_by(node) }
            }
            Goal::Stream => {
                self.in_flight = Some(InFlight::Stream);
                Command::Stream
            }
            Goal::AwaitKey => Command::Wait(None),
        }
    }

    /// Takes what happened.
    pub fn on(&mut self, event: Event, now: Instant) {
        match event {
            Event::Offered(key) => self.offer(key),
            Event::OwnKeyExpired(expired) => self.own_key(expired),
            Event::FirstMapExpired => {
                // The key let us in under a node key that is served as one that has ended: another node key would be too.
                if let Some(digest) = self.admitted_by.take() {
                    self.refuse(digest, String::new());
                }
            }
            Event::MapReceived => {
                self.maps = Some(now);
                self.known = true;
                self.limited = 0;
                self.asked_after_404 = false;
                self.admitted_by = None;
                // A node key that has ended is served, but not overcome.
                self.refusal = self.refusal.take().filter(|_| self.expired);
            }
            Event::Answered(answer) => self.answered(answer, now),
            Event::Rotated { key } => {
                self.in_flight = None;
                self.keys = self.keys.max(key.saturating_add(1));
                self.next = Some(key);
            }
            Event::RotationFailed => {
                self.in_flight = None;
                self.rotate_after = Some(now + ROTATION_PAUSE);
                self.not_before = self.rotate_after;
                if self.served_expired {
                    self.goal = Goal::Stream;
                    self.back_off(now);
                }
            }
            Event::MapNotFound => self.map_not_found(now),
            Event::RateLimited(after) => {
                self.in_flight = None;
                self.maps = None;
                let after = limited_pause(after, self.limited);
                self.limited = self.limited.saturating_add(1);
                self.not_before = Some(now + after + after.mul_f64(RETRY_JITTER * self.random()));
            }
            Event::Transport { sent } => self.transport_failed(sent, now),
            Event::StreamEnded(lived) => {
                self.in_flight = None;
                self.maps = None;
                if self.can_rotate(now) {
                    self.goal = Goal::UseKey;
                    return;
                }
                self.lived(lived);
                self.back_off(now);
            }
            Event::Unwilling(kind, text) => self.unwilling(kind, &text, now),
        }
    }

    fn offer(&mut self, key: Option<AuthKey>) {
        if self.offered == key {
            return;
        }
        self.offered = key;
        // Whoever offers another one wants it tried.
        if std::mem::take(&mut self.left_alone) {
            self.unwilling = false;
            self.not_before = None;
        }
        if self.refusal.is_none() && self.phase() == Phase::KeyNeeded {
            self.refusal = self.former_refusal();
        }
    }

    /// What a server said of the offered key, in a former life perhaps.
    fn former_refusal(&self) -> Option<Refusal> {
        let digest = self.offered.as_ref()?.digest();
        let former = self.refused.iter().find(|refused| refused.digest == digest)?;
        Some(Refusal::new(RefusalKind::Refused, &former.text))
    }

    fn unwilling(&mut self, kind: RefusalKind, text: &str, now: Instant) {
        self.transport_failed(false, now);
        self.leave_alone(if kind == RefusalKind::Pin { PIN_PAUSE } else { VERSION_PAUSE }, now);
        self.refusal = Some(Refusal::new(kind, text));
        self.unwilling = true;
    }

    fn leave_alone(&mut self, pause: Duration, now: Instant) {
        self.not_before = Some(now + pause);
        self.left_alone = true;
    }

    fn own_key(&mut self, expired: bool) {
        let refused = self.refusal.as_ref().is_some_and(|refusal| refusal.kind == RefusalKind::Refused);
        if expired {
            self.served_expired = true;
            self.ended = 0;
            // Why the key that was to help did not, says more.
            if !(self.expired && refused) {
                self.refusal = Some(Refusal { kind: RefusalKind::NodeKeyExpired, text: String::new() });
            }
        } else if self.expired {
            self.refusal = None;
            self.served_expired = false;
        }
        self.expired = expired;
    }

    fn answered(&mut self, answer: Answer, now: Instant) {
        let Some(InFlight::Register { key, digest, .. }) = self.in_flight.take() else {
            return;
        };
        self.not_before = None;
        self.limited = 0;
        let (kind, text) = match answer {
            Answer::Authorized => {
                self.refusal = None;
                self.expired = false;
                self.served_expired = false;
                (self.keys, self.ended, self.next) = (1, 0, None);
                self.questions.clear();
                self.known = true;
                self.admitted_by = digest;
                self.goal = Goal::Stream;
                return;
            }
            Answer::NodeKeyExpired => {
                self.refusal = Some(Refusal { kind: RefusalKind::NodeKeyExpired, text: String::new() });
                self.expired = true;
                match digest {
                    // Even a new node key, with a key: the machine itself is locked out. This key will not help.
                    Some(digest) if self.next == Some(key) => {
                        self.refuse(digest, String::new());
                        self.keep_what_we_have(now);
                    }
                    _ => {
                        self.ended = key;
                        // It was taken once, so it is none that a server has yet to take.
                        self.next = self.next.filter(|next| *next != key);
                        self.goal = Goal::UseKey;
                    }
                }
                return;
            }
            Answer::Status(BAD_REQUEST, text) => return self.unwilling(RefusalKind::Version, &text, now),
            Answer::Status(status, text) => {
                self.refusal = Some(Refusal::new(RefusalKind::Status(status), &text));
                return self.leave_alone(STATUS_PAUSE, now);
            }
            Answer::Refused(text) => (RefusalKind::Refused, text),
            Answer::NotKnown => (RefusalKind::NotKnown, String::new()),
            Answer::NotAuthorized => (RefusalKind::NotAuthorized, String::new()),
        };
        let mut refusal = Refusal::new(kind, &text);
        match digest {
            Some(digest) => {
                self.refuse(digest, refusal.text.clone());
                self.keep_what_we_have(now);
            }
            None => {
                self.questions.pop();
                self.at_once = !self.questions.is_empty();
                if !self.at_once {
                    self.goal = Goal::UseKey;
                    // That we are not known says less than why the key that we have does not help.
                    refusal = self.former_refusal().unwrap_or(refusal);
                }
            }
        }
        self.refusal = Some(refusal);
    }

    /// There is no key that could help. A server that serves us although our node key has ended goes on with it; else we wait for another.
    fn keep_what_we_have(&mut self, now: Instant) {
        if self.served_expired {
            self.goal = Goal::Stream;
        } else {
            self.await_key(now);
        }
    }

    /// Asks without a pre-auth key whether we belong: under this node key first, then under the others.
    fn ask(&mut self, first: usize) {
        self.goal = Goal::Ask;
        self.at_once = false;
        self.questions = (0..self.keys).rev().filter(|key| *key != first).chain([first]).collect();
    }

    /// The node key that this one stands in place of.
    fn replaced_by(&self, key: usize) -> Option<usize> {
        (self.next == Some(key)).then_some(self.ended)
    }

    fn map_not_found(&mut self, now: Instant) {
        self.in_flight = None;
        self.maps = None;
        self.served_expired = false;
        self.refusal = Some(Refusal { kind: RefusalKind::NotKnown, text: String::new() });
        if !self.asked_after_404 {
            self.asked_after_404 = true;
            self.ask(0);
            return;
        }
        // The server said that we belong, and knows us not: the key that it took so has done nothing.
        if let Some(digest) = self.admitted_by.take() {
            self.refuse(digest, String::new());
        }
        self.await_key(now);
    }

    fn transport_failed(&mut self, sent: bool, now: Instant) {
        // An update may fail beside a stream.
        if let Some(since) = self.maps.take() {
            self.lived(now.saturating_duration_since(since));
        }
        match self.in_flight.take() {
            Some(InFlight::Register { key, digest: Some(_), before }) => {
                if sent {
                    // It may have been taken: then the node is known now, and the key may be used up.
                    self.known = true;
                    self.ask(key);
                } else {
                    self.last_with_key = before;
                }
            }
            Some(InFlight::Register { digest: None, before, .. }) if !sent => self.last_without = before,
            _ => {}
        }
        self.back_off(now);
    }

    /// A stream ended that lived for so long: what failed before a long one counts no more.
    fn lived(&mut self, lived: Duration) {
        if lived >= GOOD_STREAM {
            self.backoff = MIN_BACKOFF * 2;
        }
    }

    fn back_off(&mut self, now: Instant) {
        let half = (self.backoff / 2).max(MIN_BACKOFF);
        self.not_before = Some(now + half + half.mul_f64(self.random()));
        self.backed_off = self.not_before;
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
    }

    /// A number from 0 to 1 (xorshift64: jitter, not a secret).
    fn random(&mut self) -> f64 {
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        f64::from((self.jitter >> 40) as u32 & 0xff_ffff) / f64::from(0x100_0000)
    }

    fn await_key(&mut self, now: Instant) {
        self.goal = Goal::AwaitKey;
        self.ask_again = Some(now + ASK_AGAIN);
    }

    fn refuse(&mut self, digest: [u8; 32], text: String) {
        if self.refused.len() >= MAX_REFUSED {
            self.refused.pop_front();
        }
        self.refused.push_back(Refused { digest, text });
    }

    fn usable_key(&self) -> Option<&AuthKey> {
        self.offered.as_ref().filter(|key| !self.refused.iter().any(|refused| refused.digest == key.digest()))
    }
}

/// How long a 429 means, after so many others in a row. A server that is busy may say "at once": that is believed once.
pub(super) fn limited_pause(after: Option<Duration>, before: u32) -> Duration {
    let shortest = (MIN_BACKOFF * 2u32.pow(before.min(6))).min(DEFAULT_RETRY);
    after.unwrap_or(DEFAULT_RETRY).clamp(shortest, MAX_RETRY)
}

/// When the next request of a kind may be sent.
fn interval(last: Option<Instant>) -> Option<Instant> {
    last.map(|last| last + MIN_INTERVAL)
}
