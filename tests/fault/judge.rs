//! Frames against what a row of the table expects.

use casemate_measure::status::{Frame, Reason, Stage};
use sha2::{Digest as _, Sha256};

/// What must follow a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// Frames with these reasons about this process, in this order, at this stage; and the machine gets ready.
    Says(Stage, &'static str, &'static [Reason]),
    /// The same at whatever stage the machine has got to meanwhile.
    SaysLater(&'static str, &'static [Reason]),
    /// No frame about this process at this stage, and the machine gets ready.
    Nothing(Stage, &'static str),
    /// The last frame: the machine is off.
    Off(Stage, Reason),
}

/// Whether what was found is as expected: one line for the log, or the same as an error.
pub(crate) fn judge(name: &str, expected: Expected, frames: &[Frame]) -> Result<String, String> {
    let (wanted, found, good) = match expected {
        Expected::Says(stage, process, reasons) => {
            let found: Vec<_> = about(frames, process).filter(|frame| frame.stage == stage).collect();
            let said: Vec<_> = found.iter().map(|frame| frame.reason).collect();
            let good = said.windows(reasons.len()).any(|window| window == reasons) && ready(frames);
            (format!("{} at \"{}\"", words(reasons), stage.words()), words(&said), good)
        }
        Expected::SaysLater(process, reasons) => {
            let said: Vec<_> = about(frames, process).map(|frame| frame.reason).collect();
            let good = said.windows(reasons.len()).any(|window| window == reasons) && ready(frames);
            (words(reasons), words(&said), good)
        }
        Expected::Nothing(stage, process) => {
            let found = about(frames, process).filter(|frame| frame.stage == stage);
            let said: Vec<_> = found.map(|frame| frame.reason).collect();
            (
                format!("nothing of {process} at \"{}\"", stage.words()),
                words(&said),
                said.is_empty() && ready(frames),
            )
        }
        Expected::Off(stage, reason) => {
            let last = frames.last().map(|frame| (frame.stage, frame.reason));
            let found = last.map_or_else(|| "no frame".into(), |(stage, reason)| end(stage, reason));
            (end(stage, reason), found, last == Some((stage, reason)))
        }
    };
    let line = format!("fault {name}: expected {wanted}, found {found}");
    if good { Ok(line) } else { Err(line) }
}

fn about<'a>(frames: &'a [Frame], process: &str) -> impl Iterator<Item = &'a Frame> {
    let digest = <[u8; 32]>::from(Sha256::digest(process));
    frames.iter().filter(move |frame| frame.digest == digest)
}

fn ready(frames: &[Frame]) -> bool {
    frames.iter().any(|frame| frame.reason == Reason::Ready)
}

fn words(reasons: &[Reason]) -> String {
    let all: Vec<_> = reasons.iter().map(|reason| format!("{reason:?}")).collect();
    if all.is_empty() { "nothing".into() } else { all.join(", ") }
}

fn end(stage: Stage, reason: Reason) -> String {
    format!("{reason:?} at \"{}\", off", stage.words())
}

#[cfg(test)]
mod tests {
    use super::*;
    use casemate_measure::status::Flavour;

    fn frame(stage: Stage, reason: Reason, process: &str) -> Frame {
        Frame {
            flavour: Flavour::Dev,
            stage,
            reason,
            sequence: 0,
            dropped: 0,
            uptime_ms: 0,
            detail: 0,
            digest: Sha256::digest(process).into(),
        }
    }

    #[test]
    fn a_wrong_expectation_fails() {
        const RESTARTED: &[Reason] = &[Reason::Hung, Reason::Restarting];
        let frames = [
            frame(Stage::Mesh, Reason::Hung, "agent"),
            frame(Stage::Mesh, Reason::Restarting, "agent"),
            frame(Stage::Ready, Reason::Ready, ""),
            frame(Stage::Ready, Reason::Restarting, "web"),
            frame(Stage::Shutdown, Reason::PoweredOff, ""),
        ];
        let ok = |expected| judge("x", expected, &frames).is_ok();
        assert!(ok(Expected::Says(Stage::Mesh, "agent", RESTARTED)));
        assert!(ok(Expected::Says(Stage::Ready, "web", &[Reason::Restarting])));
        assert!(ok(Expected::SaysLater("agent", RESTARTED)));
        assert!(ok(Expected::Nothing(Stage::Ready, "mesh")));
        assert!(ok(Expected::Off(Stage::Shutdown, Reason::PoweredOff)));
        for wrong in [
            Expected::Says(Stage::Ready, "agent", RESTARTED),
            Expected::Says(Stage::Mesh, "mesh", RESTARTED),
            Expected::Says(Stage::Mesh, "agent", &[Reason::Restarting, Reason::Hung]),
            Expected::Says(Stage::Mesh, "agent", &[Reason::OutOfMemory, Reason::Restarting]),
            Expected::SaysLater("mesh", RESTARTED),
            Expected::SaysLater("web", RESTARTED),
            Expected::Nothing(Stage::Mesh, "agent"),
            Expected::Nothing(Stage::Ready, "web"),
            Expected::Off(Stage::Mesh, Reason::MeshFailed),
            Expected::Off(Stage::Ready, Reason::PoweredOff),
        ] {
            let line = judge("x", wrong, &frames).unwrap_err();
            assert!(line.starts_with("fault x: expected "), "{line}");
        }
        let never_ready = &frames[..2];
        assert!(judge("x", Expected::Says(Stage::Mesh, "agent", RESTARTED), never_ready).is_err());
        assert!(judge("x", Expected::Nothing(Stage::Mesh, "web"), never_ready).is_err());
        assert!(judge("x", Expected::Off(Stage::Mesh, Reason::MeshFailed), &[]).is_err());
    }
}
