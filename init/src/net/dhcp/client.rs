//! The client's states, RFC 2131 figure 5, as a function of time and bytes. No clock, no socket.
//!
//! Every message goes to 255.255.255.255:67, renewals too, so that the egress lock can let exactly that through and a
//! server's identifier never becomes a destination.

use std::net::Ipv4Addr;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::lease::Report;
use super::reply::{Grant, Kind, Refusal, Reply};
use super::request::{self, MESSAGE_LEN, Question};

/// The state machine. `now` is time since any fixed moment, and never goes back.
#[derive(Debug)]
pub struct Client {
    mac: [u8; 6],
    random: Random,
    state: State,
    /// When [`Client::tick`] has something to do.
    deadline: Duration,
    /// Of the exchange under way.
    xid: u32,
    began: Duration,
    /// Exchanges since the last success that a server ended with a NAK or by silence after its offer.
    failures: u32,
}

/// What there is to do: at most one of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Broadcast these bytes.
    pub send: Option<[u8; MESSAGE_LEN]>,
    /// Tell PID 1.
    pub report: Option<Report>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Waits for the deadline to begin.
    Init,
    /// Has sent DISCOVER this often.
    Selecting { sent: u32 },
    /// Has sent REQUEST for an offer this often.
    Requesting { address: Ipv4Addr, server: Ipv4Addr, sent: u32 },
    /// Has a lease; waits for T1.
    Bound(Held),
    /// Asks the server of the lease for more.
    Renewing(Held),
    /// Asks any server for more.
    Rebinding(Held),
}

#[derive(Clone, Copy, Debug)]
struct Held {
    address: Ipv4Addr,
    server: Ipv4Addr,
    renew: Duration,
    rebind: Duration,
    expire: Duration,
}

impl Client {
    /// A client that begins at once. `seed` feeds transaction ids and jitter.
    pub const fn new(mac: [u8; 6], seed: [u8; 32], now: Duration) -> Self {
        Self {
            mac,
            random: Random { seed, drawn: 0 },
            state: State::Init,
            deadline: now,
            xid: 0,
            began: now,
            failures: 0,
        }
    }

    /// When to call [`Self::tick`] at the latest.
    pub const fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Does what is due. Call it before [`Self::receive`] with the same `now`.
    pub fn tick(&mut self, now: Duration) -> Output {
        if now < self.deadline {
            return Output::default();
        }
        match self.state {
            State::Init => self.discover(now),
            State::Selecting { sent } => {
                self.state = State::Selecting { sent: sent.saturating_add(1) };
                self.deadline = now + self.back_off(sent);
                self.send(now, Question::Discover)
            }
            State::Requesting { sent, .. } if sent >= MAX_REQUESTS => {
                self.failed(now);
                // The back-off stands in the deadline; nothing to send yet.
                Output::default()
            }
            State::Requesting { address, server, sent } => {
                self.state = State::Requesting { address, server, sent: sent.saturating_add(1) };
                self.deadline = now + self.back_off(sent);
                self.send(now, Question::Take { address, server })
            }
            State::Bound(held) | State::Renewing(held) | State::Rebinding(held) if now >= held.expire => {
                let output = self.discover(now);
                Output { report: Some(Report::Lost), ..output }
            }
            State::Bound(held) | State::Renewing(held) if now >= held.rebind => {
                self.begin(now);
                self.rebind(now, held)
            }
            State::Bound(held) => {
                self.begin(now);
                self.renew(now, held)
            }
            State::Renewing(held) => self.renew(now, held),
            State::Rebinding(held) => self.rebind(now, held),
        }
    }

    /// Takes a message from the wire.
    ///
    /// # Errors
    /// Why it was ignored; then nothing has changed.
    pub fn receive(&mut self, now: Duration, bytes: &[u8]) -> Result<Output, Refusal> {
        let reply = Reply::parse(bytes, self.xid, self.mac)?;
        match (self.state, reply.kind) {
            (State::Selecting { .. }, Kind::Offer) => {
                // Checked now, so that a bad offer does not keep us from a better one.
                reply.grant()?;
                let Reply { address, server, .. } = reply;
                self.state = State::Requesting { address, server, sent: 1 };
                self.deadline = now + self.back_off(0);
                Ok(self.send(now, Question::Take { address, server }))
            }
            (State::Requesting { server, .. }, Kind::Nak) => {
                same_server(&reply, server)?;
                self.failed(now);
                Ok(Output::default())
            }
            (State::Requesting { address, server, .. }, Kind::Ack) => {
                same_server(&reply, server)?;
                self.bind(&reply, address)
            }
            (State::Renewing(held), kind @ (Kind::Ack | Kind::Nak)) if now < held.expire => {
                same_server(&reply, held.server)?;
                self.prolonged(now, &reply, kind, held)
            }
            (State::Rebinding(held), kind @ (Kind::Ack | Kind::Nak)) if now < held.expire => {
                self.prolonged(now, &reply, kind, held)
            }
            _ => Err(Refusal::OutOfTurn),
        }
    }

    fn prolonged(&mut self, now: Duration, reply: &Reply, kind: Kind, held: Held) -> Result<Output, Refusal> {
        if kind == Kind::Ack {
            return self.bind(reply, held.address);
        }
        self.failed(now);
        Ok(Output { report: Some(Report::Lost), ..Output::default() })
    }

    fn bind(&mut self, reply: &Reply, asked: Ipv4Addr) -> Result<Output, Refusal> {
        if reply.address != asked {
            return Err(Refusal::OtherAddress(reply.address));
        }
        let Grant { lease, renewal, rebinding } = reply.grant()?;
        // RFC 2131 section 4.4.1: time counts from when it was asked for; from the first time, since we cannot know
        // which of our messages was answered.
        let at = |seconds: u32| self.began + Duration::from_secs(seconds.into());
        let held = Held {
            address: asked,
            server: reply.server,
            renew: at(renewal),
            rebind: at(rebinding),
            expire: at(lease.seconds()),
        };
        self.state = State::Bound(held);
        self.deadline = held.renew;
        self.failures = 0;
        Ok(Output { report: Some(Report::Lease(lease)), ..Output::default() })
    }

    fn discover(&mut self, now: Duration) -> Output {
        self.begin(now);
        self.state = State::Selecting { sent: 1 };
        self.deadline = now + self.back_off(0);
        self.send(now, Question::Discover)
    }

    fn renew(&mut self, now: Duration, held: Held) -> Output {
        self.state = State::Renewing(held);
        self.deadline = half_way(now, held.rebind);
        self.send(now, Question::Prolong { address: held.address })
    }

    fn rebind(&mut self, now: Duration, held: Held) -> Output {
        self.state = State::Rebinding(held);
        self.deadline = half_way(now, held.expire);
        self.send(now, Question::Prolong { address: held.address })
    }

    /// Starts over after a pause that grows with each failure, so that offers and NAKs in turn make no storm.
    fn failed(&mut self, now: Duration) {
        self.state = State::Init;
        self.deadline = now + self.back_off(self.failures);
        self.failures = self.failures.saturating_add(1);
    }

    fn begin(&mut self, now: Duration) {
        self.xid = self.random.draw();
        self.began = now;
    }

    fn send(&self, now: Duration, question: Question) -> Output {
        let secs = u16::try_from(now.saturating_sub(self.began).as_secs()).unwrap_or(u16::MAX);
        Output { send: Some(request::encode(question, self.xid, secs, self.mac)), report: None }
    }

    /// 1, 2, 4 … 64 s, each by up to a quarter more or less. RFC 2131 section 4.1 suggests 4 s at first; a boot waits
    /// for this, and the first message is easily lost while the link is coming up.
    fn back_off(&mut self, tries: u32) -> Duration {
        let full = FIRST_WAIT_MS << tries.min(MAX_DOUBLINGS);
        let jitter = self.random.draw() % (full / 2 + 1);
        Duration::from_millis((full - full / 4 + jitter).into())
    }
}

fn same_server(reply: &Reply, server: Ipv4Addr) -> Result<(), Refusal> {
    if reply.server == server { Ok(()) } else { Err(Refusal::OtherServer(reply.server)) }
}

/// RFC 2131 section 4.4.5: half of what remains, at least a minute; never past the end.
fn half_way(now: Duration, end: Duration) -> Duration {
    let wait = (end.saturating_sub(now) / 2).max(MIN_RENEWAL_WAIT);
    (now + wait).min(end)
}

/// SHA-256 of seed and counter, 32 bits of it. The ids are sent in the clear; they only have to be no other machine's
/// guess before that.
#[derive(Debug)]
struct Random {
    seed: [u8; 32],
    drawn: u64,
}

impl Random {
    fn draw(&mut self) -> u32 {
        self.drawn += 1;
        let digest = Sha256::new().chain_update(self.seed).chain_update(self.drawn.to_be_bytes()).finalize();
        digest.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
    }
}

const FIRST_WAIT_MS: u32 = 1_000;
const MAX_DOUBLINGS: u32 = 6;
/// How often an offer is taken up before we look for another: 1 + 2 + 4 + 8 s.
const MAX_REQUESTS: u32 = 4;
const MIN_RENEWAL_WAIT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
