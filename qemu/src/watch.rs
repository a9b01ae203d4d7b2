//! The life of one machine as a state machine: what happened and when in, what to do out. No clock, no descriptor.

use std::time::Duration;

use casemate_measure::status::{Frame, Reason};

use crate::outcome::{Cut, Outcome};
use crate::qmp::{self, Message};
use crate::text::printable;

/// How long QEMU has to end after `quit` before it is killed.
const QUIT_GRACE: Duration = Duration::from_secs(5);

/// How long the guest may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From power-on to ready.
    pub ready: Duration,
    /// From the request to power off, or from the frame that says why it will, to the end.
    pub stop: Duration,
    /// From one frame of a machine that is ready to the next. PID 1 sends one at least every 10 seconds
    /// ([`Reason::Alive`]). `None`: it is not judged.
    pub alive: Option<Duration>,
}

/// Where the machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// On the way to ready.
    Booting,
    /// Ready, or (status unread) running without saying so.
    Running,
    /// On the way off.
    Stopping,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The guest sent a frame.
    Frame(Frame),
    /// The guest sent bytes that are no frame.
    Skipped(usize),
    /// The monitor said something.
    Qmp(Message),
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
    /// QEMU ended; everything it and the guest had sent came before this.
    Exited {
        /// Whether with status 0.
        success: bool,
        /// Whether by a signal that another process sends, and not by one that a fault of its own raises.
        killed: bool,
        /// How, in words.
        how: String,
        /// The end of its log.
        said: String,
        /// The kernel's line on the console about its panic, if there is one.
        panic: Option<String>,
    },
    /// Time passed.
    Tick,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Show that the guest got to another stage.
    Progress(Frame),
    /// Show a line.
    Note(String),
    /// The guest is ready: show its addresses.
    Ready,
    /// Write this to the monitor.
    Send(&'static str),
    /// Kill QEMU.
    Kill,
    /// It is over.
    Over(Outcome),
}

/// One machine's life.
#[derive(Debug)]
pub struct Watch {
    limits: Limits,
    status_read: bool,
    phase: Phase,
    since: Duration,
    last: Option<Frame>,
    /// The last frame that says why the machine ends; others may come after it.
    closing: Option<Frame>,
    /// When the last frame came.
    heard: Duration,
    paused: bool,
    frames: u64,
    skipped: u64,
    ended_by: Option<String>,
    panicked: Option<Option<String>>,
    verdict: Option<Outcome>,
    quit_at: Option<Duration>,
}

impl Watch {
    /// A machine that is switched on now. Without `status_read` nothing is known of its readiness.
    pub const fn new(limits: Limits, status_read: bool) -> Self {
        Self {
            limits,
            status_read,
            phase: if status_read { Phase::Booting } else { Phase::Running },
            since: Duration::ZERO,
            last: None,
            closing: None,
            heard: Duration::ZERO,
            paused: false,
            frames: 0,
            skipped: 0,
            ended_by: None,
            panicked: None,
            verdict: None,
            quit_at: None,
        }
    }

    /// Where the machine is.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// The guest's last frame.
    pub const fn last(&self) -> Option<&Frame> {
        self.last.as_ref()
    }

    /// How many frames came, and how many bytes that are none.
    pub const fn counts(&self) -> (u64, u64) {
        (self.frames, self.skipped)
    }

    /// Takes what happened, `now` after power-on.
    pub fn on(&mut self, now: Duration, event: Event) -> Vec<Action> {
        match event {
            Event::Frame(frame) => self.on_frame(now, frame),
            Event::Skipped(count) => {
                let first = self.skipped == 0;
                self.skipped = self.skipped.saturating_add(count as u64);
                let note = "the status port carries bytes that are no status frame; they are skipped";
                if first { vec![Action::Note(note.into())] } else { Vec::new() }
            }
            Event::Qmp(message) => self.on_message(now, message),
            Event::Signal => self.on_signal(now),
            Event::Exited { success, killed, how, said, panic } => {
                vec![Action::Over(self.outcome(success, killed, how, said, panic))]
            }
            Event::Tick => self.on_tick(now),
        }
    }

    fn on_frame(&mut self, now: Duration, frame: Frame) -> Vec<Action> {
        self.frames = self.frames.saturating_add(1);
        let moved = self.last.is_none_or(|last| (last.stage, last.reason) != (frame.stage, frame.reason));
        self.last = Some(frame);
        self.heard = now;
        if frame.reason.is_failure() || frame.reason == Reason::PoweredOff {
            self.closing = Some(frame);
        }
        let mut actions = Vec::new();
        if moved {
            actions.push(Action::Progress(frame));
        }
        match frame.reason {
            Reason::Ready if self.phase == Phase::Booting => {
                self.enter(Phase::Running, now);
                actions.push(Action::Ready);
            }
            Reason::Stopping | Reason::PoweredOff => self.enter(Phase::Stopping, now),
            reason if reason.is_failure() => self.enter(Phase::Stopping, now),
            _ => {}
        }
        actions
    }

    fn on_message(&mut self, now: Duration, message: Message) -> Vec<Action> {
        match message {
            Message::Powerdown => {
                self.enter(Phase::Stopping, now);
                Vec::new()
            }
            Message::Shutdown(reason) => {
                self.ended_by = Some(reason);
                Vec::new()
            }
            Message::Stop => vec![Action::Send(qmp::QUERY_STATUS)],
            Message::RunState(state) if matches!(state.as_str(), "internal-error" | "io-error") => {
                self.end(now, Outcome::Hypervisor { state })
            }
            Message::RunState(state) if state == "guest-panicked" => {
                let said = self.panicked.clone().flatten();
                self.end(now, Outcome::KernelPanic { last: self.last, said })
            }
            Message::RunState(state) if state == "paused" && !self.paused => {
                self.paused = true;
                vec![Action::Note("the monitor has stopped the machine".into())]
            }
            Message::Resume if self.paused => {
                self.paused = false;
                // It could not say anything until now.
                self.heard = now;
                vec![Action::Note("the machine goes on".into())]
            }
            Message::Panicked(said) => {
                self.panicked = Some(said.as_deref().map(printable));
                Vec::new()
            }
            Message::Refused(why) => vec![Action::Note(format!("QEMU's monitor refused a command: {why}"))],
            Message::NotQmp(line) => {
                vec![Action::Note(format!("QEMU's monitor said something else than QMP: {line}"))]
            }
            Message::Greeting
            | Message::RunState(_)
            | Message::Resume
            | Message::Done
            | Message::Other(_) => Vec::new(),
        }
    }

    fn on_signal(&mut self, now: Duration) -> Vec<Action> {
        if self.phase == Phase::Stopping {
            return self.end(now, Outcome::Cut(Cut::Signal));
        }
        self.enter(Phase::Stopping, now);
        vec![
            Action::Note("asking the guest to power off; once more ends it at once".into()),
            Action::Send(qmp::POWERDOWN),
        ]
    }

    fn on_tick(&mut self, now: Duration) -> Vec<Action> {
        if let Some(quit_at) = self.quit_at {
            return if now.saturating_sub(quit_at) >= QUIT_GRACE { vec![Action::Kill] } else { Vec::new() };
        }
        let spent = now.saturating_sub(self.since);
        match self.phase {
            Phase::Booting if spent >= self.limits.ready => {
                let outcome = Outcome::NotReady {
                    last: self.last,
                    seconds: self.limits.ready.as_secs(),
                    skipped: self.skipped,
                    paused: self.paused,
                };
                self.end(now, outcome)
            }
            Phase::Running => self.hung(now).map_or_else(Vec::new, |outcome| self.end(now, outcome)),
            Phase::Stopping if spent >= self.limits.stop => {
                let outcome = match self.closing {
                    Some(frame) if frame.reason.is_failure() => Outcome::Failed(frame),
                    _ => Outcome::Deaf { seconds: self.limits.stop.as_secs() },
                };
                self.end(now, outcome)
            }
            _ => Vec::new(),
        }
    }

    fn hung(&self, now: Duration) -> Option<Outcome> {
        let limit = self.limits.alive.filter(|_| !self.paused)?;
        // Without a frame nobody reads the port.
        let last = self.last?;
        let silent = now.saturating_sub(self.heard) >= limit;
        silent.then_some(Outcome::Hung { last, seconds: limit.as_secs() })
    }

    fn enter(&mut self, phase: Phase, now: Duration) {
        if self.phase != phase {
            self.phase = phase;
            self.since = now;
        }
    }

    /// The verdict stands; QEMU only has to go.
    fn end(&mut self, now: Duration, verdict: Outcome) -> Vec<Action> {
        self.verdict.get_or_insert(verdict);
        self.quit_at.get_or_insert(now);
        vec![Action::Send(qmp::QUIT)]
    }

    fn outcome(
        &mut self,
        success: bool,
        killed: bool,
        how: String,
        said: String,
        panic: Option<String>,
    ) -> Outcome {
        if let Some(verdict) = self.verdict.take() {
            return verdict;
        }
        if !success {
            return if killed { Outcome::Killed { how } } else { Outcome::QemuFailed { how, said } };
        }
        // QEMU `qapi/run-state.json`, ShutdownCause. The host's hand comes first, then the guest's own words. A signal that
        // comes before QEMU has read a line from its monitor has no event, only a line in QEMU's log (`system/runstate.c`).
        let in_log = if said.contains("terminating on signal") { "host-signal" } else { "unknown" };
        let reason = self.ended_by.take().unwrap_or_else(|| in_log.into());
        match reason.as_str() {
            "host-qmp-quit" => return Outcome::Cut(Cut::Quit),
            "host-qmp-system-reset" => return Outcome::Cut(Cut::Reset),
            "host-signal" => return Outcome::Killed { how: "it was asked to end by a signal".into() },
            _ => {}
        }
        let reset = matches!(reason.as_str(), "guest-reset" | "guest-panic");
        match (self.closing, self.last) {
            (Some(frame), _) if frame.reason.is_failure() => Outcome::Failed(frame),
            (_, last) if reset => {
                Outcome::KernelPanic { last, said: self.panicked.take().flatten().or(panic) }
            }
            (Some(_), _) => Outcome::Orderly,
            (None, Some(last)) => Outcome::Vanished { last, reason },
            // Nobody read its frames; that it powered off when asked to is all there is to know.
            (None, None)
                if !self.status_read && self.phase == Phase::Stopping && reason == "guest-shutdown" =>
            {
                Outcome::Orderly
            }
            (None, None) if self.skipped > 0 => Outcome::Garbled { bytes: self.skipped },
            (None, None) => Outcome::Silent { reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use casemate_measure::status::{Flavour, Stage};

    use super::*;

    const LIMITS: Limits = Limits {
        ready: Duration::from_secs(100),
        stop: Duration::from_secs(10),
        alive: Some(Duration::from_secs(30)),
    };

    const EXITED: Event =
        Event::Exited { success: true, killed: false, how: String::new(), said: String::new(), panic: None };

    fn frame(stage: Stage, reason: Reason) -> Frame {
        Frame {
            flavour: Flavour::Dev,
            stage,
            reason,
            sequence: 0,
            dropped: 0,
            uptime_ms: 0,
            detail: 0,
            digest: [0; 32],
        }
    }

    struct Run(Watch, Vec<Action>);

    impl Run {
        fn new(status_read: bool) -> Self {
            Self(Watch::new(LIMITS, status_read), Vec::new())
        }

        fn at(mut self, seconds: u64, event: Event) -> Self {
            self.1 = self.0.on(Duration::from_secs(seconds), event);
            self
        }

        fn frame(self, seconds: u64, stage: Stage, reason: Reason) -> Self {
            self.at(seconds, Event::Frame(frame(stage, reason)))
        }

        fn shutdown(self, seconds: u64, reason: &str) -> Self {
            self.at(seconds, Event::Qmp(Message::Shutdown(reason.into())))
        }

        fn exit(self, seconds: u64) -> Outcome {
            self.exit_as(seconds, EXITED)
        }

        fn exit_as(self, seconds: u64, exited: Event) -> Outcome {
            match self.at(seconds, exited).1.pop() {
                Some(Action::Over(outcome)) => outcome,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn ready_then_off_in_order() {
        let run =
            Run::new(true).frame(1, Stage::Early, Reason::Entered).frame(2, Stage::Ready, Reason::Ready);
        assert!(run.1.contains(&Action::Ready));
        let run = (1..=50).fold(run, |run, turn| {
            let run = run.frame(2 + 10 * turn, Stage::Ready, Reason::Ready).at(11 + 10 * turn, Event::Tick);
            assert!(run.1.is_empty(), "a ready guest that says so has no limit: {:?}", run.1);
            run
        });
        let run = run.at(512, Event::Signal);
        assert!(run.1.contains(&Action::Send(qmp::POWERDOWN)));
        let run =
            run.frame(513, Stage::Shutdown, Reason::Stopping).frame(514, Stage::Shutdown, Reason::PoweredOff);
        assert_eq!(run.shutdown(514, "guest-shutdown").exit(514), Outcome::Orderly);
    }

    #[test]
    fn a_second_signal_cuts_and_a_stuck_qemu_is_killed() {
        let run = Run::new(true).at(1, Event::Signal).at(2, Event::Signal);
        assert_eq!(run.1, [Action::Send(qmp::QUIT)]);
        let run = run.at(4, Event::Tick);
        assert!(run.1.is_empty());
        let run = run.at(7, Event::Tick);
        assert_eq!(run.1, [Action::Kill]);
        assert_eq!(run.exit(7), Outcome::Cut(Cut::Signal));
    }

    #[test]
    fn a_guest_that_never_gets_ready() {
        let run = Run::new(true).at(99, Event::Tick);
        assert!(run.1.is_empty());
        let run = run.at(100, Event::Tick);
        assert_eq!(run.1, [Action::Send(qmp::QUIT)]);
        let not_ready = |last, skipped, paused| Outcome::NotReady { last, seconds: 100, skipped, paused };
        assert_eq!(run.shutdown(100, "host-qmp-quit").exit(101), not_ready(None, 0, false));
        let run = Run::new(true).frame(5, Stage::Lock, Reason::Entered).at(100, Event::Tick);
        let last = Some(frame(Stage::Lock, Reason::Entered));
        assert_eq!(run.exit(101), not_ready(last, 0, false));
        let paused = Event::Qmp(Message::RunState("paused".into()));
        let run = Run::new(true).at(3, Event::Skipped(5)).at(4, paused).at(100, Event::Tick);
        assert_eq!(run.exit(101), not_ready(None, 5, true));
    }

    #[test]
    fn a_deaf_guest_is_ended() {
        let run = Run::new(true).frame(5, Stage::Ready, Reason::Ready).at(6, Event::Qmp(Message::Powerdown));
        assert_eq!(run.0.phase(), Phase::Stopping);
        let run = run.at(16, Event::Tick);
        assert_eq!(run.exit(17), Outcome::Deaf { seconds: 10 });
    }

    #[test]
    fn failures_are_the_guests_own_words() {
        let run = Run::new(true).frame(5, Stage::Modules, Reason::ModuleFailed).shutdown(6, "guest-shutdown");
        assert_eq!(run.exit(6), Outcome::Failed(frame(Stage::Modules, Reason::ModuleFailed)));
        let run = Run::new(true).frame(5, Stage::Lock, Reason::LockFailed).at(15, Event::Tick);
        assert_eq!(run.1, [Action::Send(qmp::QUIT)], "it said so and did not go");
        assert_eq!(run.exit(16), Outcome::Failed(frame(Stage::Lock, Reason::LockFailed)));
    }

    #[test]
    fn a_failure_stays_the_reason_whatever_is_said_after_it() {
        let run = Run::new(true)
            .frame(5, Stage::Ready, Reason::Ready)
            .frame(6, Stage::Ready, Reason::LockFailed)
            .frame(7, Stage::Ready, Reason::Restarting)
            .shutdown(8, "guest-shutdown");
        assert_eq!(run.exit(8), Outcome::Failed(frame(Stage::Ready, Reason::LockFailed)));
    }

    #[test]
    fn ends_without_words_are_told_apart() {
        let silent = Run::new(true).shutdown(3, "guest-shutdown").exit(3);
        assert_eq!(silent, Outcome::Silent { reason: "guest-shutdown".into() });
        let last = frame(Stage::Links, Reason::Entered);
        let said_links = || Run::new(true).frame(2, Stage::Links, Reason::Entered);
        let vanished = said_links().shutdown(3, "guest-shutdown").exit(3);
        assert_eq!(vanished, Outcome::Vanished { last, reason: "guest-shutdown".into() });
        let garbled = Run::new(true).at(2, Event::Skipped(9)).shutdown(3, "guest-shutdown").exit(3);
        assert_eq!(garbled, Outcome::Garbled { bytes: 9 });
        let panic = Some("Kernel panic".to_owned());
        let exited = Event::Exited {
            success: true,
            killed: false,
            how: String::new(),
            said: String::new(),
            panic: panic.clone(),
        };
        let reset = said_links().shutdown(3, "guest-reset").exit_as(3, exited);
        assert_eq!(reset, Outcome::KernelPanic { last: Some(last), said: panic });
        let at_the_end =
            said_links().frame(3, Stage::Shutdown, Reason::PoweredOff).shutdown(3, "guest-reset");
        let last = Some(frame(Stage::Shutdown, Reason::PoweredOff));
        assert_eq!(at_the_end.exit(4), Outcome::KernelPanic { last, said: None }, "it did not power off");
    }

    #[test]
    fn a_kernel_that_can_say_that_it_panicked() {
        let said = Event::Qmp(Message::Panicked(Some("a\u{1b}[2Jb".into())));
        let run = Run::new(true).at(2, said.clone()).shutdown(3, "guest-panic");
        let said_so = Outcome::KernelPanic { last: None, said: Some("a\\u{1b}[2Jb".into()) };
        assert_eq!(run.exit(3), said_so);
        let run = Run::new(true).at(2, said).at(2, Event::Qmp(Message::RunState("guest-panicked".into())));
        assert_eq!(run.1, [Action::Send(qmp::QUIT)]);
        assert_eq!(run.exit(3), said_so);
    }

    #[test]
    fn the_hosts_hand_is_not_taken_for_the_guests() {
        let ready = || Run::new(true).frame(2, Stage::Ready, Reason::Ready);
        assert_eq!(ready().shutdown(3, "host-qmp-quit").exit(3), Outcome::Cut(Cut::Quit));
        assert_eq!(ready().shutdown(3, "host-qmp-system-reset").exit(3), Outcome::Cut(Cut::Reset));
        assert_eq!(ready().shutdown(3, "host-signal").exit(3).exit_status(), 14);
        let early = Event::Exited {
            success: true,
            killed: false,
            how: String::new(),
            said: "qemu-system-x86_64: terminating on signal 15 from pid 1".into(),
            panic: None,
        };
        assert_eq!(Run::new(true).exit_as(1, early).exit_status(), 14);
        let exited = |killed| Event::Exited {
            success: false,
            killed,
            how: "how".into(),
            said: "said".into(),
            panic: None,
        };
        assert_eq!(ready().exit_as(3, exited(true)), Outcome::Killed { how: "how".into() });
        let failed = Outcome::QemuFailed { how: "how".into(), said: "said".into() };
        assert_eq!(ready().exit_as(3, exited(false)), failed);
    }

    #[test]
    fn a_ready_guest_that_says_nothing_more_has_hung() {
        let ready = || Run::new(true).frame(10, Stage::Ready, Reason::Ready);
        let run = ready().at(39, Event::Tick);
        assert!(run.1.is_empty());
        let run = run.at(40, Event::Tick);
        assert_eq!(run.1, [Action::Send(qmp::QUIT)]);
        let last = frame(Stage::Ready, Reason::Ready);
        assert_eq!(run.exit(41), Outcome::Hung { last, seconds: 30 });

        let run = ready().at(11, Event::Qmp(Message::Stop));
        assert_eq!(run.1, [Action::Send(qmp::QUERY_STATUS)]);
        let run = run.at(11, Event::Qmp(Message::RunState("paused".into())));
        assert!(matches!(run.1.as_slice(), [Action::Note(_)]));
        let run = run.at(400, Event::Tick);
        assert!(run.1.is_empty(), "who is stopped cannot speak");
        let run = run.at(401, Event::Qmp(Message::Resume)).at(430, Event::Tick);
        assert!(run.1.is_empty(), "from then on it has its time");
        assert_eq!(run.at(431, Event::Tick).1, [Action::Send(qmp::QUIT)]);

        let mut unjudged = Watch::new(Limits { alive: None, ..LIMITS }, true);
        unjudged.on(Duration::ZERO, Event::Frame(last));
        assert!(unjudged.on(Duration::from_secs(9999), Event::Tick).is_empty());
    }

    #[test]
    fn an_internal_error_of_the_hypervisor_does_not_hang() {
        let run = Run::new(true).at(1, Event::Qmp(Message::Stop));
        assert_eq!(run.1, [Action::Send(qmp::QUERY_STATUS)]);
        let run = run.at(1, Event::Qmp(Message::RunState("internal-error".into())));
        assert_eq!(run.1, [Action::Send(qmp::QUIT)]);
        assert_eq!(run.exit(2), Outcome::Hypervisor { state: "internal-error".into() });
    }

    #[test]
    fn unread_status_means_that_only_a_requested_power_off_is_orderly() {
        let run = Run::new(false).at(500, Event::Tick);
        assert!(run.1.is_empty());
        let asked = run.at(501, Event::Signal).shutdown(502, "guest-shutdown").exit(502);
        assert_eq!(asked, Outcome::Orderly);
        let unasked = Run::new(false).shutdown(2, "guest-shutdown").exit(2);
        assert_eq!(unasked, Outcome::Silent { reason: "guest-shutdown".into() });
    }

    #[test]
    fn garbage_is_said_once() {
        let run = Run::new(true).at(1, Event::Skipped(3));
        assert!(matches!(run.1.as_slice(), [Action::Note(_)]));
        let run = run.at(1, Event::Skipped(4));
        assert!(run.1.is_empty());
        assert_eq!(run.0.counts(), (0, 7));
    }
}
