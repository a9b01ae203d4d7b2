//! Joining: a server's answers, and what they make a node do.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use casemate_vpn::control::join::{
    Answer, AuthKey, Command, Event, Joiner, MAX_REFUSED, MIN_INTERVAL, Refusal, RefusalKind,
};
use casemate_vpn::control::wire::{RegisterResponse, ServerKeys};

use crate::Verdict;

/// More steps than an input needs. Fewer than refusals that are remembered.
const MAX_STEPS: usize = 200;

/// What was asked of the server and is not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Register(Option<[u8; 32]>),
    Stream,
}

struct Run {
    joiner: Joiner,
    now: Instant,
    asked: Asked,
    offered: Option<[u8; 32]>,
    /// Keys that the server refused.
    refused: HashSet<[u8; 32]>,
    with_key: Option<Instant>,
    without: Option<Instant>,
    before: (Option<Instant>, Option<Instant>),
    joined: bool,
}

/// A word on the past (`K`: known before, `N`: not), and lines of what happens; see [`Run::step`].
///
/// Whatever the server says: a key that it refused is not sent again; no two requests with a key, or without, within a minute;
/// nothing is due again at once; its words reach no log but without controls, cut, and without a key.
pub(crate) fn joining(input: &[u8]) -> Verdict {
    let (known, lines) = match input.split_first() {
        Some((b'K', lines)) => (true, lines),
        Some((b'N', lines)) => (false, lines),
        Some((b'S', answer)) => {
            return Verdict::accepted(serde_json::from_slice::<ServerKeys>(answer).is_ok());
        }
        _ => return Verdict::Refused,
    };
    let mut run = Run {
        joiner: Joiner::new(known, Vec::new(), 1),
        now: Instant::now(),
        asked: Asked::Nothing,
        offered: None,
        refused: HashSet::new(),
        with_key: None,
        without: None,
        before: (None, None),
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
    /// One line: `+N` seconds pass; `o` and a key are offered; a JSON answer, `s` with a body of status 500, or `r` (429) comes for
    /// the request; `t` or `u`: the transport fails after or before it was sent; `m`, `4`, `e`: a map, no such node, the stream's
    /// end; `v`, `p`: another version, another server; `x`, `y`: our key has ended, or not.
    fn step(&mut self, line: &[u8]) {
        let Some((kind, rest)) = line.split_first() else { return };
        let text = String::from_utf8_lossy(rest);
        let registering = matches!(self.asked, Asked::Register(_));
        let streaming = self.asked == Asked::Stream;
        match kind {
            b'+' => self.now += Duration::from_secs(text.parse::<u16>().unwrap_or(1).into()),
            b'o' => {
                let key = AuthKey::new(&text);
                self.offered = key.as_ref().map(AuthKey::digest);
                self.on(Event::Offered(key));
            }
            b'{' if registering => {
                let Ok(response) = serde_json::from_slice::<RegisterResponse>(line) else { return };
                self.answered(Answer::from(response));
            }
            b's' if registering => self.answered(Answer::Status(500, text.into_owned())),
            b'r' if self.asked != Asked::Nothing => {
                self.asked = Asked::Nothing;
                self.on(Event::RateLimited(text.parse().ok().map(Duration::from_secs)));
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
                let kind = if *kind == b'v' { RefusalKind::Version } else { RefusalKind::Pin };
                self.on(Event::Unwilling(kind));
            }
            b'm' if streaming => {
                self.joined = true;
                self.on(Event::MapReceived);
            }
            b'4' if streaming => {
                self.asked = Asked::Nothing;
                self.on(Event::MapNotFound);
            }
            b'e' if streaming => {
                self.asked = Asked::Nothing;
                self.on(Event::StreamEnded(Duration::from_secs(text.parse::<u16>().unwrap_or(0).into())));
            }
            b'x' | b'y' if streaming => self.on(Event::OwnKeyExpired(*kind == b'x')),
            _ => {}
        }
    }

    fn on(&mut self, event: Event) {
        self.joiner.on(event, self.now);
    }

    /// The request did not leave: it does not count.
    fn unsent(&mut self) {
        if matches!(self.asked, Asked::Register(_)) {
            (self.with_key, self.without) = self.before;
        }
        self.asked = Asked::Nothing;
    }

    fn answered(&mut self, answer: Answer) {
        let refuses = matches!(
            answer,
            Answer::Refused(_) | Answer::NotKnown | Answer::NotAuthorized | Answer::Status(..)
        );
        if let (Asked::Register(Some(digest)), true) = (self.asked, refuses) {
            self.refused.insert(digest);
        }
        self.asked = Asked::Nothing;
        self.on(Event::Answered(answer));
    }

    /// Does what is to be done now.
    fn settle(&mut self) {
        for _ in 0..4 {
            match self.joiner.poll(self.now) {
                Command::Wait(at) => {
                    assert!(at.is_none_or(|at| at > self.now), "due again at once");
                    return;
                }
                Command::RotateNodeKey => self.on(Event::Rotated),
                Command::Stream => self.ask(Asked::Stream),
                Command::Register(None) => {
                    self.before = (self.with_key, self.without);
                    let last = self.without.replace(self.now);
                    assert!(last.is_none_or(|last| self.now - last >= MIN_INTERVAL), "asked again at once");
                    self.ask(Asked::Register(None));
                }
                Command::Register(Some(key)) => {
                    self.before = (self.with_key, self.without);
                    let last = self.with_key.replace(self.now);
                    assert!(last.is_none_or(|last| self.now - last >= MIN_INTERVAL), "a key again at once");
                    assert_eq!(Some(key.digest()), self.offered, "another key than the one offered");
                    assert!(!self.refused.contains(&key.digest()), "a refused key again");
                    self.ask(Asked::Register(Some(key.digest())));
                }
            }
        }
        panic!("it never waits");
    }

    fn ask(&mut self, asked: Asked) {
        assert_eq!(self.asked, Asked::Nothing, "two at a time");
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
    let longest =
        text.replace("\\0", " ").split(|c: char| !c.is_ascii_hexdigit()).map(str::len).max().unwrap_or(0);
    assert!(longest < 32 && !text.contains("hskey") && !text.contains("privkey:"), "a key: {text:?}");
}
