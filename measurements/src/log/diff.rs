//! What a machine shows against what it should: per register the first event that differs, and the input that explains it.

use std::fmt;

use serde::Serialize;

use super::replay::{self, Comparison, Judged, Replay, bound_text};
use super::{Log, Place, Source};
use crate::register::Register;
use crate::tdx::event::fold;
use crate::tdx::{Alternative, Digest, Event, EventType, Expected, Rtmr};

/// The most alternatives of which pairs are tried, too: 64 of them are 2,016 pairs.
const PAIRED: usize = 64;

/// A comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Who says what the registers hold; `None`: only the log, by replay.
    pub source: Option<Source>,
    /// MRTD, MRCONFIGID if it is expected, RTMR0 to RTMR3.
    pub registers: Vec<Compared>,
    /// The log's own replay; `None` if there is no event in the file.
    pub replay: Option<Replay>,
}

impl Diff {
    /// Whether every register is pinned and as expected, and the log, if there is one, holds.
    pub fn is_equal(&self) -> bool {
        self.registers.iter().all(|compared| compared.verdict == Verdict::Equal)
            && self.replay.as_ref().is_none_or(Replay::holds)
    }
}

/// A measurement register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Name {
    /// MRTD
    Mrtd,
    /// MRCONFIGID
    MrConfigId,
    /// A runtime register.
    #[serde(untagged)]
    Rtmr(Rtmr),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mrtd => f.write_str("MRTD"),
            Self::MrConfigId => f.write_str("MRCONFIGID"),
            Self::Rtmr(rtmr) => rtmr.fmt(f),
        }
    }
}

/// One register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Which.
    pub register: Name,
    /// What it should hold; `None`: not pinned.
    pub expected: Option<Register>,
    /// What it holds; `None`: the file does not say.
    pub found: Option<Register>,
    /// So it is.
    pub verdict: Verdict,
    /// Inputs with which the whole register would be as it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub explained_by: Vec<String>,
    /// Events that differ, the first first; after one that is missing, added or of another kind none is compared.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub differences: Vec<Difference>,
    /// Events that nobody could expect a digest of, and what the log has there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unpinned: Vec<Difference>,
}

/// How a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As expected.
    Equal,
    /// Not as expected.
    Differs,
    /// An event of it is not pinned; the others are as expected, and lead to the register together with what the log says of
    /// that one.
    Unpinned,
    /// The file does not say what it holds.
    Absent,
}

/// An event that is not as expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its number among the register's events, from 0.
    pub nth: usize,
    /// What should be there; `None`: nothing.
    pub expected: Option<Event>,
    /// What is there; `None`: nothing.
    pub found: Option<Found>,
    /// Inputs with which the event would be as it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub explained_by: Vec<String>,
    /// What the event depends on, where no given input explains it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depends_on: Option<&'static str>,
}

/// An event of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// Its type.
    pub event_type: EventType,
    /// Its name, or what its payload says that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// With what it extended the register.
    pub digest: Register,
    /// The text that the digest is of, if the log has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// Compares a log, an answer or a quote with what is expected.
pub fn diff(expected: &Expected, actual: &Log) -> Diff {
    let replay = (!actual.events.is_empty()).then(|| replay::replay(actual));
    let mut registers = vec![mrtd(expected, actual)];
    if let Some(id) = &expected.mrconfigid {
        let found = actual.registers.as_ref().and_then(|registers| registers.mrconfigid);
        registers.push(whole(Name::MrConfigId, Register(id.0), found.map(|id| Register(id.0))));
    }
    registers.extend(Rtmr::ALL.into_iter().map(|rtmr| runtime(rtmr, expected, actual, replay.as_ref())));
    Diff { source: actual.registers.as_ref().map(|registers| registers.source), registers, replay }
}

fn mrtd(expected: &Expected, actual: &Log) -> Compared {
    let found = actual.registers.as_ref().map(|registers| registers.mrtd);
    let mut compared = whole(Name::Mrtd, expected.mrtd, found);
    if compared.verdict == Verdict::Differs {
        let explains = |other: &&Alternative| other.mrtd.is_some() && other.mrtd == found;
        compared.explained_by = labels(expected.alternatives.iter().filter(explains));
    }
    compared
}

/// A register without events.
fn whole(register: Name, expected: Register, found: Option<Register>) -> Compared {
    let verdict = match found {
        None => Verdict::Absent,
        Some(found) if found == expected => Verdict::Equal,
        Some(_) => Verdict::Differs,
    };
    let (explained_by, differences, unpinned) = (Vec::new(), Vec::new(), Vec::new());
    Compared { register, expected: Some(expected), found, verdict, explained_by, differences, unpinned }
}

fn labels<'a>(alternatives: impl Iterator<Item = &'a Alternative>) -> Vec<String> {
    alternatives.map(|alternative| alternative.label.clone()).collect()
}

fn runtime(rtmr: Rtmr, expected: &Expected, actual: &Log, replay: Option<&Replay>) -> Compared {
    let replayed = replay.and_then(|replay| replay.register(rtmr));
    let held = actual.registers.as_ref().and_then(|registers| {
        let index = usize::from(rtmr.index());
        registers.rtmr.get(index).copied()
    });
    // What the register holds, or else what the log leads to.
    let found = held.or_else(|| replayed.map(|replayed| replayed.register));
    let pinned = expected.register(rtmr);
    let (differences, unpinned) = match replay {
        Some(replay) => events(rtmr, expected, actual, replay),
        None => (Vec::new(), Vec::new()),
    };
    let replays = replayed.is_some_and(|replayed| !matches!(replayed.comparison, Comparison::Differs { .. }));
    let verdict = match (pinned, found) {
        (_, None) => Verdict::Absent,
        (Some(pinned), Some(found)) if pinned == found => Verdict::Equal,
        (Some(_), Some(_)) => Verdict::Differs,
        (None, Some(_)) if replay.is_none() || (replays && differences.is_empty()) => Verdict::Unpinned,
        (None, Some(_)) => Verdict::Differs,
    };
    let explained_by = match (verdict, found) {
        (Verdict::Differs, Some(found)) => explain_register(rtmr, expected, found),
        _ => Vec::new(),
    };
    Compared {
        register: Name::Rtmr(rtmr),
        expected: pinned,
        found,
        verdict,
        explained_by,
        differences,
        unpinned,
    }
}

/// The events that differ, and those that could not be expected.
fn events(
    rtmr: Rtmr,
    expected: &Expected,
    actual: &Log,
    replay: &Replay,
) -> (Vec<Difference>, Vec<Difference>) {
    let logged = actual.events.iter().zip(&replay.events).filter(|(event, _)| event.rtmr == rtmr);
    let mut logged = logged.map(|(event, judged)| found(judged, bound_text(event)));
    let mut wanted = expected.of(rtmr);
    let (mut differences, mut unpinned) = (Vec::new(), Vec::new());
    for nth in 0_usize.. {
        let (wanted, found) = (wanted.next(), logged.next());
        if wanted.is_none() && found.is_none() {
            break;
        }
        let goes_on = match (wanted, &found) {
            (Some(wanted), Some(found)) => wanted.event_type == found.event_type,
            _ => false,
        };
        match (wanted.map(|wanted| wanted.digest), &found) {
            (Some(Digest::Known(digest)), Some(found)) if digest == found.digest => {}
            (Some(Digest::Unpinned), Some(_)) if goes_on => {
                unpinned.push(difference(nth, wanted, found, expected));
            }
            _ => {
                differences.push(difference(nth, wanted, found, expected));
                if !goes_on {
                    break;
                }
            }
        }
    }
    (differences, unpinned)
}

fn found(event: &Judged, text: Option<String>) -> Found {
    Found {
        place: event.place,
        event_type: event.event_type,
        name: event.name.clone(),
        digest: event.digest,
        text,
    }
}

fn difference(nth: usize, wanted: Option<&Event>, found: Option<Found>, expected: &Expected) -> Difference {
    let explains = |other: &&Alternative| {
        let (Some(wanted), Some(found)) = (wanted, &found) else { return false };
        other.of(wanted.rtmr).any(|event| {
            event.name == wanted.name
                && event.digest != wanted.digest
                && event.digest == Digest::Known(found.digest)
        })
    };
    let explained_by = labels(expected.alternatives.iter().filter(explains));
    let depends_on = if explained_by.is_empty() { wanted.and_then(depends_on) } else { None };
    Difference { nth, expected: wanted.cloned(), found, explained_by, depends_on }
}

/// Inputs, or pairs of inputs, with which the register would be what it is.
fn explain_register(rtmr: Rtmr, expected: &Expected, found: Register) -> Vec<String> {
    let changed = || expected.alternatives.iter().filter(|other| other.of(rtmr).next().is_some());
    let single = labels(changed().filter(|other| fold(other.of(rtmr)) == Some(found)));
    if !single.is_empty() {
        return single;
    }
    let base: Vec<_> = expected.of(rtmr).collect();
    let some: Vec<_> = changed().take(PAIRED).collect();
    let mut pairs = Vec::new();
    for (nth, one) in some.iter().enumerate() {
        for other in some.iter().skip(nth.saturating_add(1)) {
            if both(rtmr, &base, one, other) == Some(found) {
                pairs.push(format!("{} and {}", one.label, other.label));
            }
        }
    }
    pairs
}

/// The register with two inputs changed, if they change different events of it.
fn both(rtmr: Rtmr, base: &[&Event], one: &Alternative, other: &Alternative) -> Option<Register> {
    let (one, other): (Vec<_>, Vec<_>) = (one.of(rtmr).collect(), other.of(rtmr).collect());
    if one.len() != base.len() || other.len() != base.len() {
        return None;
    }
    let merged = base.iter().zip(one).zip(other).map(|((base, one), other)| {
        if one.digest == base.digest {
            return Some(other);
        }
        (other.digest == base.digest).then_some(one)
    });
    fold(merged.collect::<Option<Vec<_>>>()?)
}

/// What an event depends on, for a person who has to look.
fn depends_on(event: &Event) -> Option<&'static str> {
    Some(match (event.event_type, event.name.as_str()) {
        (EventType::EFI_HANDOFF_TABLES | EventType::EFI_HANDOFF_TABLES2, name) if name.contains("SMBIOS") => {
            "the SMBIOS tables: memory, vCPUs, QEMU version"
        }
        (EventType::EFI_HANDOFF_TABLES2, _) => "the memory size, and where the firmware has its sections",
        (EventType::EFI_PLATFORM_FIRMWARE_BLOB2, _) => "the firmware file (its volume of variables)",
        (EventType::EFI_VARIABLE_DRIVER_CONFIG, _) => "the secure-boot variables in the firmware file",
        (EventType::EFI_VARIABLE_BOOT, _) => {
            "the firmware's boot options, and the boot order that the host gives"
        }
        (EventType::PLATFORM_CONFIG_FLAGS, _) => "vCPUs, devices, PCI windows (memory), and the QEMU version",
        (EventType::EFI_BOOT_SERVICES_APPLICATION, _) => {
            "the kernel file; with QEMU up to 10.1 also on memory size and initramfs length"
        }
        (EventType::EVENT_TAG, name) if name.to_ascii_lowercase().contains("initr") => "the initramfs file",
        (EventType::EVENT_TAG, _) => "the command line",
        (EventType::DSTACK_RUNTIME, "compose-hash") => "the measured document",
        (EventType::DSTACK_RUNTIME, "app-id") => "the measured document, or the app id that a KMS gave",
        (EventType::DSTACK_RUNTIME, "instance-id") => {
            "the machine: with key provider none it is drawn at each boot"
        }
        (EventType::DSTACK_RUNTIME, "key-provider") => "the key provider",
        (EventType::DSTACK_RUNTIME, "storage-fs") => "the data disk's file system",
        _ => return None,
    })
}
