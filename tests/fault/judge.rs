//! What a machine said, against what a row of the table expects.

use casemate_measure::status::{Frame, Reason, Stage};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::console::process;
use crate::machine::Ended;

/// What must follow a fault. Only what comes after the fault counts, and of a process only what comes before the next fault
/// that is about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Frames about this process with exactly these reasons, the first of them at this stage; and the machine goes on.
    Says(Stage, &'static str, &'static [Reason]),
    /// The same at whatever stage the machine has got to meanwhile.
    SaysLater(&'static str, &'static [Reason]),
    /// Frames with these reasons among all about this process; and the machine goes on.
    Repeats(&'static str, &'static [Reason]),
    /// No frame about this process, and the machine goes on.
    Nothing(&'static str),
    /// Nothing, either; and every status document from some time on says this of its health.
    Health(&'static str, &'static str),
    /// No frame about anything, but a line on the console.
    Line(&'static str),
    /// The last `look` before the next fault found that file whole, and between so many and so many seconds old.
    Age(&'static str, u64, u64),
    /// The last frame, and its exit status: the machine is off.
    Off(Stage, Reason),
}

/// `casemate-qemu`'s exit status for a machine that powered itself off without a reason that it counts as one.
const VANISHED: u8 = 5;

/// What a machine said, as far as it is judged.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    pub(crate) frames: Vec<Frame>,
    pub(crate) console: Vec<String>,
    pub(crate) statuses: Vec<Value>,
    pub(crate) exit_status: u8,
}

impl From<&Ended> for Said {
    fn from(ended: &Ended) -> Self {
        Self {
            frames: ended.all_frames.clone(),
            console: ended.console.clone(),
            statuses: ended.statuses.clone(),
            exit_status: ended.exit_status,
        }
    }
}

/// The faults of one machine, each with what must follow.
pub(crate) type Faults = &'static [(&'static str, Expected)];

impl Expected {
    /// Which process it is about.
    pub(crate) const fn process(self) -> Option<&'static str> {
        match self {
            Self::Says(_, process, _)
            | Self::SaysLater(process, _)
            | Self::Repeats(process, _)
            | Self::Nothing(process)
            | Self::Health(process, _) => Some(process),
            Self::Line(_) | Self::Age(..) | Self::Off(..) => None,
        }
    }
}

/// When it was carried out, in milliseconds since the kernel started, and on which line of the console. What happens of itself
/// (its name is in parentheses) happens from the beginning.
pub(crate) fn carried_out(fault: &str, console: &[String]) -> Option<(u64, usize)> {
    if fault.starts_with('(') {
        return Some((0, 0));
    }
    let wanted = format!("fault {fault} carried out at ");
    console.iter().enumerate().find_map(|(number, line)| {
        let at = line.split_once(&wanted)?.1.strip_suffix(" ms")?;
        Some((at.parse().ok()?, number))
    })
}

/// Whether what followed one of a machine's faults is as expected: one line for the log, or the same as an error.
pub(crate) fn judge(number: usize, faults: &[(&str, Expected)], said: &Said) -> Result<String, String> {
    let (fault, expected) = faults[number];
    let Some((from, line)) = carried_out(fault, &said.console) else {
        return Err(format!("fault {fault}: it was not carried out"));
    };
    let others = faults.iter().filter(|(_, other)| other.process().is_some());
    let others = others.filter(|(_, other)| other.process() == expected.process());
    let times = others.filter_map(|(other, _)| Some(carried_out(other, &said.console)?.0));
    let next = times.filter(|at| *at > from).min();
    let until = next.filter(|_| !fault.starts_with('(')).unwrap_or(u64::MAX);
    let reasons = |process: &str| {
        let all = about(&said.frames, process).filter(|frame| (from..until).contains(&frame.uptime_ms));
        all.copied().collect::<Vec<_>>()
    };
    let after = said.console.get(line..).unwrap_or_default();
    let (wanted, found, good) = match expected {
        Expected::Says(stage, process, wanted) => {
            let frames = reasons(process);
            let first = frames.first().map(|frame| frame.stage);
            let found = words(&frames);
            let at = first.map_or_else(|| found.clone(), |stage| format!("{found} at \"{}\"", stage.words()));
            (
                format!("{} at \"{}\"", list(wanted), stage.words()),
                at,
                said_only(&frames, wanted) && first == Some(stage) && goes_on(said, from),
            )
        }
        Expected::SaysLater(process, wanted) => {
            let frames = reasons(process);
            (list(wanted), words(&frames), said_only(&frames, wanted) && goes_on(said, from))
        }
        Expected::Repeats(process, wanted) => {
            let frames = reasons(process);
            let all: Vec<_> = frames.iter().map(|frame| frame.reason).collect();
            let good = all.windows(wanted.len()).any(|window| window == wanted);
            (list(wanted), words(&frames), good && goes_on(said, from))
        }
        Expected::Nothing(process) => {
            let frames = reasons(process);
            (format!("nothing of {process}"), words(&frames), frames.is_empty() && goes_on(said, from))
        }
        Expected::Health(name, wanted) => {
            let frames = reasons(name);
            let health = |status: &Value| process(status, name)["health"].as_str().map(str::to_owned);
            let running = said.statuses.iter().filter(|status| status["stage"] == "ready");
            let health: Vec<_> = running.map(health).skip_while(Option::is_none).collect();
            let good = !health.is_empty() && health.iter().all(|health| health.as_deref() == Some(wanted));
            let found = health.last().cloned().flatten().unwrap_or_else(|| "nothing".into());
            (
                format!("{name} {wanted}, and nothing of it"),
                format!("{name} {found}, {}", words(&frames)),
                good && frames.is_empty() && goes_on(said, from),
            )
        }
        Expected::Line(wanted) => {
            let found = after.iter().any(|line| line.contains(wanted));
            let word = if found { "so" } else { "nothing" };
            (format!("{wanted:?}"), word.into(), found && goes_on(said, from))
        }
        Expected::Age(path, least, most) => {
            let wanted = format!("look at {path}: whole, ");
            let look = said.console[..line].iter().rev().find_map(|line| line.split_once(&wanted));
            let age = look.and_then(|(_, age)| age.strip_suffix(" s old")?.parse::<u64>().ok());
            let found = age.map_or_else(|| "not whole".into(), |age| format!("{age} s old"));
            let good = age.is_some_and(|age| (least..=most).contains(&age));
            (format!("{path} whole and {least} to {most} s old"), found, good && goes_on(said, from))
        }
        Expected::Off(stage, reason) => {
            let last = said.frames.last().map(|frame| (frame.stage, frame.reason, frame.uptime_ms));
            let found = last
                .map_or_else(|| "no frame".into(), |(stage, reason, _)| end(stage, reason, said.exit_status));
            let status = exit_status(reason);
            let good = last.is_some_and(|last| (last.0, last.1) == (stage, reason) && last.2 >= from);
            (end(stage, reason, status), found, good && said.exit_status == status)
        }
    };
    let line = format!("fault {fault}: expected {wanted}, found {found}");
    if good { Ok(line) } else { Err(line) }
}

fn said_only(frames: &[Frame], wanted: &[Reason]) -> bool {
    frames.iter().map(|frame| frame.reason).eq(wanted.iter().copied())
}

/// Those about a process.
pub(crate) fn about<'a>(frames: &'a [Frame], process: &str) -> impl Iterator<Item = &'a Frame> {
    let digest = <[u8; 32]>::from(Sha256::digest(process));
    frames.iter().filter(move |frame| frame.digest == digest)
}

/// It got ready, and said that it is alive after the fault.
fn goes_on(said: &Said, from: u64) -> bool {
    let alive = said.frames.iter().any(|frame| frame.reason == Reason::Alive && frame.uptime_ms > from);
    alive && said.frames.iter().any(|frame| frame.reason == Reason::Ready)
}

/// `casemate-qemu`'s, for a machine whose last frame this is.
pub(crate) const fn exit_status(reason: Reason) -> u8 {
    match reason {
        reason if reason.is_failure() => reason.code(),
        Reason::PoweredOff => 0,
        _ => VANISHED,
    }
}

/// All of them, a line for each.
pub(crate) fn frames(said: &Said) -> String {
    said.frames.iter().fold(String::new(), |all, frame| {
        let Frame { stage, reason, uptime_ms, detail, .. } = frame;
        let digest = hex::encode(&frame.digest[..4]);
        format!(
            "{all}{uptime_ms} ms: {reason:?} at \"{}\", detail {detail}, digest {digest}\n",
            stage.words()
        )
    })
}

fn words(frames: &[Frame]) -> String {
    list(&frames.iter().map(|frame| frame.reason).collect::<Vec<_>>())
}

fn list(reasons: &[Reason]) -> String {
    let all: Vec<_> = reasons.iter().map(|reason| format!("{reason:?}")).collect();
    if all.is_empty() { "nothing".into() } else { all.join(", ") }
}

fn end(stage: Stage, reason: Reason, status: u8) -> String {
    format!("{reason:?} at \"{}\", off, exit status {status}", stage.words())
}

/// Expectations that are wrong where this one is right.
pub(crate) fn wrong(expected: Expected) -> Vec<Expected> {
    const OTHER: &[Reason] = &[Reason::GivenUp];
    const TWICE: &[Reason] = &[Reason::Restarting, Reason::Restarting];
    match expected {
        Expected::Says(stage, process, _) => vec![
            Expected::Says(Stage::Early, process, &[Reason::Restarting]),
            Expected::Says(stage, "nobody", &[Reason::Restarting]),
            Expected::Says(stage, process, OTHER),
            Expected::Says(stage, process, TWICE),
            Expected::Nothing(process),
            Expected::Off(stage, Reason::Deadline),
        ],
        Expected::SaysLater(process, _) => vec![
            Expected::SaysLater("nobody", &[Reason::Restarting]),
            Expected::SaysLater(process, OTHER),
            Expected::SaysLater(process, TWICE),
            Expected::Nothing(process),
        ],
        Expected::Repeats(process, _) => vec![
            Expected::Repeats(process, &[Reason::ForbiddenCall]),
            Expected::Repeats("nobody", &[Reason::Restarting]),
            Expected::Nothing(process),
        ],
        Expected::Nothing(process) | Expected::Health(process, _) => vec![
            Expected::SaysLater(process, &[Reason::Restarting]),
            Expected::Repeats(process, &[Reason::Restarting]),
            Expected::Off(Stage::Ready, Reason::Deadline),
        ],
        Expected::Line(_) => vec![Expected::Line("a line that nobody writes")],
        Expected::Age(path, least, most) => {
            vec![Expected::Age(path, most + 1, u64::MAX), Expected::Age("/run/other", least, most)]
        }
        Expected::Off(stage, reason) => {
            vec![Expected::Off(Stage::Early, reason), Expected::Off(stage, Reason::MountFailed)]
        }
    }
}

/// What the machine said, but for what this expectation is about.
pub(crate) fn weakened(fault: &str, expected: Expected, said: &Said) -> Vec<(Said, &'static str)> {
    let without = |keep: &dyn Fn(&Frame) -> bool| {
        let frames = said.frames.iter().copied().filter(keep).collect();
        Said { frames, ..said.clone() }
    };
    let digest = |process: &str| <[u8; 32]>::from(Sha256::digest(process));
    match expected {
        Expected::Says(_, process, _) | Expected::SaysLater(process, _) | Expected::Repeats(process, _) => {
            let of = digest(process);
            vec![(without(&|frame| frame.digest != of), "without a frame about it")]
        }
        Expected::Nothing(process) => {
            // As if it had been started again.
            let mut more = said.clone();
            let uptime_ms = carried_out(fault, &said.console).map_or(0, |(at, _)| at);
            let last = more.frames.last().copied();
            let one =
                |frame| Frame { reason: Reason::Restarting, digest: digest(process), uptime_ms, ..frame };
            more.frames.extend(last.map(one));
            let same = Said { frames: said.frames[..1].to_vec(), ..said.clone() };
            vec![(more, "with a frame about it"), (same, "with a machine that says no more")]
        }
        Expected::Health(..) => vec![(Said { statuses: Vec::new(), ..said.clone() }, "without a document")],
        Expected::Line(line) => {
            let mut less = said.clone();
            less.console.iter_mut().for_each(|one| *one = one.replace(line, ""));
            vec![(less, "without that line")]
        }
        Expected::Age(..) => {
            let mut less = said.clone();
            less.console.iter_mut().for_each(|one| *one = one.replace(": whole", ": not whole"));
            vec![(less, "with half a file")]
        }
        Expected::Off(..) => {
            let mut less = said.clone();
            less.frames.pop();
            vec![
                (less, "without its last frame"),
                (Said { exit_status: said.exit_status + 1, ..said.clone() }, "with another exit status"),
            ]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_measure::status::Flavour;

    fn frame(stage: Stage, reason: Reason, process: &str, uptime_ms: u64) -> Frame {
        Frame {
            flavour: Flavour::Dev,
            stage,
            reason,
            sequence: 0,
            dropped: 0,
            uptime_ms,
            detail: 0,
            digest: Sha256::digest(process).into(),
        }
    }

    const RESTARTED: &[Reason] = &[Reason::Hung, Reason::Restarting];
    const AGAIN: &[Reason] = &[Reason::Restarting];

    fn said() -> Said {
        let frames = [
            (Stage::Mesh, Reason::Hung, "agent", 110),
            (Stage::Mesh, Reason::Restarting, "agent", 110),
            (Stage::Ready, Reason::Ready, "", 200),
            (Stage::Ready, Reason::Restarting, "web", 310),
            (Stage::Ready, Reason::Alive, "", 400),
            (Stage::Ready, Reason::Restarting, "agent", 510),
            (Stage::Ready, Reason::Alive, "", 600),
            (Stage::Shutdown, Reason::PoweredOff, "", 700),
        ];
        let console = [
            "casemate: fault stop:agent@mesh carried out at 100 ms",
            "casemate: fault kill:web@ready carried out at 300 ms",
            "casemate: look at /run/x: whole, 70 s old",
            "casemate: fault look:/run/x@ready carried out at 450 ms",
            "casemate: fault kill:agent@ready carried out at 500 ms",
            "casemate: /run/x: no room",
        ];
        Said {
            frames: frames.into_iter().map(|(stage, reason, of, at)| frame(stage, reason, of, at)).collect(),
            console: console.map(str::to_owned).into(),
            statuses: vec![serde_json::json!({
                "stage": "ready", "processes": [{ "name": "mute", "health": "not listening on 1" }]
            })],
            exit_status: 0,
        }
    }

    fn one(fault: &'static str, expected: Expected) -> Result<String, String> {
        // The others of the machine are always there.
        let others =
            ["stop:agent@mesh", "kill:agent@ready"].map(|other| (other, Expected::SaysLater("agent", AGAIN)));
        let mut faults = vec![(fault, expected)];
        faults.extend(others.into_iter().filter(|(other, _)| *other != fault));
        judge(0, &faults, &said())
    }

    #[test]
    fn what_follows_a_fault_is_told_from_what_follows_another() {
        let good = [
            ("stop:agent@mesh", Expected::Says(Stage::Mesh, "agent", RESTARTED)),
            ("stop:agent@mesh", Expected::SaysLater("agent", RESTARTED)),
            ("kill:agent@ready", Expected::Says(Stage::Ready, "agent", AGAIN)),
            ("kill:web@ready", Expected::Says(Stage::Ready, "web", AGAIN)),
            ("kill:web@ready", Expected::Nothing("mesh")),
            ("(by itself)", Expected::Repeats("agent", &[Reason::Hung])),
            ("(by itself)", Expected::Health("mute", "not listening on 1")),
            ("kill:agent@ready", Expected::Line("/run/x: no room")),
            ("look:/run/x@ready", Expected::Age("/run/x", 60, 80)),
            ("stop:agent@mesh", Expected::Off(Stage::Shutdown, Reason::PoweredOff)),
        ];
        for (fault, expected) in good {
            let line = one(fault, expected).unwrap();
            assert!(line.starts_with(&format!("fault {fault}: expected ")), "{line}");
            for wrong in wrong(expected) {
                assert!(one(fault, wrong).is_err(), "{fault}: {wrong:?}");
            }
            for (weaker, what) in weakened(fault, expected, &said()) {
                assert!(judge(0, &[(fault, expected)], &weaker).is_err(), "{fault}: {expected:?} {what}");
            }
        }
        for (fault, expected) in [
            // Another fault's frames, before and after.
            ("stop:agent@mesh", Expected::SaysLater("agent", AGAIN)),
            ("kill:agent@ready", Expected::SaysLater("agent", RESTARTED)),
            ("kill:web@ready", Expected::SaysLater("agent", RESTARTED)),
            ("stop:agent@mesh", Expected::Says(Stage::Ready, "agent", RESTARTED)),
            ("stop:agent@mesh", Expected::SaysLater("agent", &[Reason::Restarting, Reason::Hung])),
            ("stop:agent@mesh", Expected::SaysLater("agent", &[Reason::Hung])),
            ("(by itself)", Expected::Health("mute", "listening")),
            // Written before the fault.
            ("kill:agent@ready", Expected::Line("fault kill:web@ready")),
            // Looked at after it.
            ("kill:web@ready", Expected::Age("/run/x", 60, 80)),
        ] {
            assert!(one(fault, expected).is_err(), "{fault}: {expected:?}");
        }
    }

    #[test]
    fn a_machine_that_ends_otherwise_does_not_go_on() {
        let faults = &[("kill:web@ready", Expected::Says(Stage::Ready, "web", AGAIN))];
        let mut ended = said();
        ended.frames.retain(|frame| frame.reason != Reason::Alive);
        assert!(judge(0, faults, &ended).is_err());
        let mut ended = said();
        ended.frames.retain(|frame| frame.reason != Reason::Ready);
        assert!(judge(0, faults, &ended).is_err());
        let mut ended = said();
        ended.console.remove(1);
        assert_eq!(judge(0, faults, &ended).unwrap_err(), "fault kill:web@ready: it was not carried out");
        let off = &[("kill:web@ready", Expected::Off(Stage::Shutdown, Reason::PoweredOff))];
        assert!(judge(0, off, &Said { exit_status: 5, ..said() }).is_err());
        // Its last word came before the fault.
        let mut ended = said();
        ended.frames = vec![frame(Stage::Shutdown, Reason::PoweredOff, "", 200)];
        assert!(judge(0, off, &ended).is_err());
        assert!(judge(0, off, &Said { frames: Vec::new(), ..said() }).is_err());
    }
}
