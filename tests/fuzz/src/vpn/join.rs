//! Joining: a server's answers, and what they make a node do.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use casemate_vpn::control::join::{
    Answer, AuthKey, Command, Event, Joiner, MAX_REFUSED, MIN_BACKOFF, MIN_INTERVAL, PIN_PAUSE, Refusal,
    RefusalKind, STATUS_PAUSE, VERSION_PAUSE,
};
use casemate_vpn::control::wire::{RegisterResponse, ServerKeys};

use crate::Verdict;

/// More steps than an input needs. Fewer than refusals that are remembered.
const MAX_STEPS: usize = 200;
/// How many node keys a new deployment looks for.
const DERIVED: u32 = 4;
/// HTTP's statuses for a version that is refused, and for a server that has trouble.
const BAD_REQUEST: u16 = 400;
const SERVER_ERROR: u16 = 500;

/// What was asked of the server and is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Register { key: usize, auth: Option<[u8; 32]> },
    Stream,
}

/// When was asked last: with a pre-auth key, and without one for which node keys, less than the interval apart.
#[derive(Clone, Debug, Default)]
struct Requests {
    with_key: Option<Instant>,
    without: Option<Instant>,
    together: Vec<u32>,
}

struct Run {
    joiner: Joiner,
    now: Instant,
    asked: Asked,
    offered: Option<[u8; 32]>,
    /// Keys that the server refused.
    refused: HashSet<[u8; 32]>,
    /// Our node keys by what they are, at the places that the joiner knows them by: each is followed by the next number.
    keys: Vec<u32>,
    /// The node key that the server said last has ended.
    ended: u32,
    expired: bool,
    /// The one that was made in its place, and was not taken yet.
    next: Option<u32>,
    /// The next node key cannot be made.
    barren: bool,
    requests: Requests,
    before: Requests,
    /// The server is left alone: until the first, or another key; until the second, whatever comes.
    left_alone: Option<Instant>,
    limited: Option<Instant>,
    joined: bool,
}

/// A word on the past (`K`: known before, `D`: perhaps, by one of the derived node keys, `N`: not), and lines of what happens; see
/// [`Run::step`].
///
/// Whatever the server says: a key that it refused is not sent again; no two requests with a key within a minute, and none without
/// but for another node key each; a server that will not talk, or has said when, is left alone so long; nothing is due again at
/// once. A node key that follows another is sent beside that one until it is taken, and no third is made meanwhile. The server's
/// words reach no log but without controls, cut, and without a key.
pub(crate) fn joining(input: &[u8]) -> Verdict {
    let (known, keys, lines) = match input.split_first() {
        Some((b'K', lines)) => (true, 1, lines),
        Some((b'D', lines)) => (true, DERIVED, lines),
        Some((b'N', lines)) => (false, 1, lines),
        Some((b'S', answer)) => {
            return Verdict::accepted(serde_json::from_slice::<ServerKeys>(answer).is_ok());
        }
        _ => return Verdict::Refused,
    };
    let keys: Vec<u32> = (0..keys).collect();
    let mut run = Run {
        joiner: Joiner::new(known, keys.len(), Vec::new(), 1),
        now: Instant::now(),
        asked: Asked::Nothing,
        offered: None,
        refused: HashSet::new(),
        keys,
        ended: 0,
        expired: false,
        next: None,
        barren: false,
        requests: Requests::default(),
        before: Requests::default(),
        left_alone: None,
        limited: None,
        joined: false,
    };
    run.settle();
    for line in lines.split(|byte| *byte == b'\n').take(MAX_STEPS) {
        run.step(line);
        run.settle();
        assert!(run.joiner.refused().len() <= MAX_REFUSED);
        if let Some(refusal) = run.joiner.refusal() {
            check(refusal);
        }
        for refused in run.joiner.refused() {
            check_text(&refused.text);
        }
    }
    Verdict::accepted(run.joined)
}

impl Run {
    /// One line: `+N` seconds pass; `o` and a key are offered; a JSON answer, `s` or `b` with a body of status 500 or 400, or `r`
    /// (429) comes for the request; `t` or `u`: the transport fails after or before it was sent; `m`, `4`, `e`: a map, no such node,
    /// the stream's end; `v`, `p` and words: another version, another server; `x`, `y`: our key has ended, or not; `f`: the next
    /// node key cannot be made; `n`: another network.
    fn step(&mut self, line: &[u8]) {
        let Some((kind, rest)) = line.split_first() else { return };
        let text = String::from_utf8_lossy(rest);
        let registering = matches!(self.asked, Asked::Register { .. });
        let streaming = self.asked == Asked::Stream;
        match kind {
            b'+' => self.now += Duration::from_secs(text.parse::<u16>().unwrap_or(1).into()),
            b'o' => {
                let key = AuthKey::new(&text);
                let digest = key.as_ref().map(AuthKey::digest);
                if digest != self.offered {
                    self.left_alone = None;
                }
                self.offered = digest;
                self.on(Event::Offered(key));
            }
            b'{' if registering => {
                let Ok(response) = serde_json::from_slice::<RegisterResponse>(line) else { return };
                self.answered(Answer::from(response));
            }
            b's' if registering => self.answered(Answer::Status(SERVER_ERROR, text.into_owned())),
            b'b' if registering => self.answered(Answer::Status(BAD_REQUEST, text.into_owned())),
            b'r' if self.asked != Asked::Nothing => {
                self.asked = Asked::Nothing;
                let after = text.parse().ok().map(Duration::from_secs);
                // Without a time, or a wrong one, it means something all the same.
                self.limited = Some(
                    self.now + after.unwrap_or(MIN_INTERVAL).clamp(MIN_BACKOFF, Duration::from_secs(3600)),
                );
                self.on(Event::RateLimited(after));
            }
            b't' if self.asked != Asked::Nothing => {
                self.asked = Asked::Nothing;
                self.on(Event::Transport { sent: true });
            }
            b'u' if self.asked != Asked::Nothing => {
                self.unsent();
                self.on(Event::Transport { sent: false });
            }
            b'v' | b'p' if self.asked != Asked::Nothing => {
                self.unsent();
                let (kind, pause) = if *kind == b'v' {
                    (RefusalKind::Version, VERSION_PAUSE)
                } else {
                    (RefusalKind::Pin, PIN_PAUSE)
                };
                self.left_alone = Some(self.now + pause);
                self.on(Event::Unwilling(kind, text.into_owned()));
            }
            b'm' if streaming => {
                self.joined = true;
                self.on(Event::MapReceived);
            }
            b'4' if streaming => {
                self.asked = Asked::Nothing;
                self.on(Event::MapNotFound);
            }
            b'e' if streaming => self.end(text.parse::<u16>().unwrap_or(0)),
            b'x' if streaming => {
                (self.expired, self.ended) = (true, *self.keys.first().unwrap_or(&0));
                self.on(Event::OwnKeyExpired(true));
            }
            b'y' if streaming => {
                self.expired = false;
                self.on(Event::OwnKeyExpired(false));
            }
            b'f' => self.barren = true,
            b'n' => {
                self.joiner.network_changed();
                // What was asked without a key in another network may be asked again in this one.
                self.requests.together.clear();
                self.before.together.clear();
            }
            _ => {}
        }
    }

    fn on(&mut self, event: Event) {
        self.joiner.on(event, self.now);
    }

    fn end(&mut self, lived: u16) {
        self.asked = Asked::Nothing;
        self.on(Event::StreamEnded(Duration::from_secs(lived.into())));
    }

    /// The request did not leave: it does not count.
    fn unsent(&mut self) {
        if matches!(self.asked, Asked::Register { .. }) {
            self.requests = self.before.clone();
        }
        self.asked = Asked::Nothing;
    }

    fn answered(&mut self, answer: Answer) {
        let Asked::Register { key, auth } = self.asked else { return };
        self.asked = Asked::Nothing;
        let node = self.node(key);
        match &answer {
            Answer::Authorized => {
                self.keys = vec![node];
                (self.expired, self.next) = (false, None);
            }
            Answer::Refused(_) | Answer::NotKnown | Answer::NotAuthorized => self.refused.extend(auth),
            Answer::NodeKeyExpired => {
                self.expired = true;
                if auth.is_some() && self.next == Some(node) {
                    self.refused.extend(auth);
                } else {
                    self.ended = node;
                    // It was taken once.
                    self.next = self.next.filter(|next| *next != node);
                }
            }
            // No word on the key.
            Answer::Status(status, _) => {
                let pause = if *status == BAD_REQUEST { VERSION_PAUSE } else { STATUS_PAUSE };
                self.left_alone = Some(self.now + pause);
            }
        }
        self.on(Event::Answered(answer));
    }

    /// Does what is to be done now.
    fn settle(&mut self) {
        if self.joiner.wants_stream_closed(self.now) {
            assert_eq!(self.asked, Asked::Stream, "a stream that is not open is to be closed");
            assert!(self.expired && self.has_key(), "a stream is closed for nothing");
            self.end(0);
        }
        for _ in 0..4 {
            match self.joiner.poll(self.now) {
                Command::Wait(at) => {
                    assert!(at.is_none_or(|at| at > self.now), "due again at once");
                    return;
                }
                Command::RotateNodeKey { after } => self.rotate(after),
                Command::Stream => self.ask(Asked::Stream),
                Command::Register { auth, key, after } => self.register(auth.as_ref(), key, after),
            }
        }
        panic!("it never waits");
    }

    /// A node key that is to be made is one that is needed, and that can be used.
    fn rotate(&mut self, after: usize) {
        let ended = self.node(after);
        assert!(self.expired && ended == self.ended, "{ended} has not ended: {}", self.ended);
        assert_eq!(self.next, None, "a further key although none was taken");
        assert!(self.has_key(), "a node key that cannot be registered");
        if std::mem::take(&mut self.barren) {
            return self.on(Event::RotationFailed);
        }
        let next = ended + 1;
        let key = self.keys.iter().position(|key| *key == next).unwrap_or_else(|| {
            self.keys.push(next);
            self.keys.len() - 1
        });
        self.next = Some(next);
        self.on(Event::Rotated { key });
    }

    fn register(&mut self, auth: Option<&AuthKey>, key: usize, after: Option<usize>) {
        let node = self.node(key);
        let beside = self.next.filter(|next| *next == node).map(|_| self.ended);
        assert_eq!(
            after.map(|after| self.node(after)),
            beside,
            "the next key is not beside the one that ended"
        );
        self.before = self.requests.clone();
        let recent = |last: Option<Instant>| last.is_some_and(|last| self.now - last < MIN_INTERVAL);
        if let Some(auth) = auth {
            assert!(!recent(self.requests.with_key), "a key again at once");
            assert_eq!(Some(auth.digest()), self.offered, "another key than the one offered");
            assert!(!self.refused.contains(&auth.digest()), "a refused key again");
            assert!(self.next.is_none_or(|next| next == node), "a key for {node}, which is not the next");
            self.requests.with_key = Some(self.now);
        } else {
            if !recent(self.requests.without) {
                self.requests.together.clear();
            }
            assert!(!self.requests.together.contains(&node), "asked again at once for {node}");
            self.requests.together.push(node);
            self.requests.without = Some(self.now);
        }
        self.ask(Asked::Register { key, auth: auth.map(AuthKey::digest) });
    }

    /// The node key at a place. There must be one.
    fn node(&self, key: usize) -> u32 {
        *self.keys.get(key).unwrap_or_else(|| panic!("no node key {key} in {:?}", self.keys))
    }

    fn has_key(&self) -> bool {
        self.offered.is_some_and(|offered| !self.refused.contains(&offered))
    }

    fn ask(&mut self, asked: Asked) {
        assert_eq!(self.asked, Asked::Nothing, "two at a time");
        for until in self.left_alone.iter().chain(&self.limited) {
            assert!(*until <= self.now, "asked while the server is to be left alone");
        }
        self.asked = asked;
    }
}

fn check(refusal: &Refusal) {
    check_text(&refusal.text);
    assert!(!refusal.kind.name().is_empty());
}

fn check_text(text: &str) {
    assert!(!text.chars().any(char::is_control), "{text:?}");
    // Each of the 200 characters may be escaped.
    assert!(text.len() <= 200 * 10, "{} bytes", text.len());
    // The digit of an escaped NUL is none of a key.
    let mut secret = text.replace("\\0", " ");
    // A public key may be shown as such: with its kind, and whole, or as much of it as there is where the text was cut.
    for kind in ["nodekey:", "mkey:", "discokey:"] {
        let mut parts = secret.split(kind);
        let mut rest: String = parts.next().unwrap_or_default().into();
        for part in parts {
            let digits = part.chars().take_while(char::is_ascii_hexdigit).count();
            let public = digits == 64 || digits == part.len();
            // What was before the kind and what is after it are two things.
            rest.push(' ');
            rest.push_str(if public { &part[digits..] } else { part });
        }
        secret = rest;
    }
    let longest = secret.split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max().unwrap_or(0);
    assert!(longest < 32 && !text.contains("hskey") && !text.contains("privkey:"), "a key: {text:?}");
}
