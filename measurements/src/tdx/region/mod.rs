//! Which part of which input can change which registers, and why: a table, and where its regions lie in a file.
//!
//! The README shows the table. The ranges are read from the files' formats and from nothing that computes a digest, so that
//! `tests/regions` can hold the one against the other, bit by bit.

mod firmware;
mod pe;
mod table;

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::ops::Range;

use super::bzimage::KernelSeen;
use super::event::Rtmr;
use super::expected::Expected;

pub use firmware::firmware;
pub use pe::{kernel, uki};
pub use table::Region;

/// What a quote shows, as far as an image and its document decide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shown {
    /// Firmware.
    Mrtd,
    /// Firmware configuration and ACPI.
    Rtmr0,
    /// Kernel.
    Rtmr1,
    /// Command line and initramfs.
    Rtmr2,
    /// Document and instance.
    Rtmr3,
    /// What the host bound at launch.
    MrConfigId,
}

impl Shown {
    /// All six.
    pub const ALL: [Self; 6] =
        [Self::Mrtd, Self::Rtmr0, Self::Rtmr1, Self::Rtmr2, Self::Rtmr3, Self::MrConfigId];

    /// Those in which two expectations differ.
    pub fn changed(one: &Expected, other: &Expected) -> BTreeSet<Self> {
        let rtmr = |rtmr| one.register(rtmr) != other.register(rtmr);
        let differs = |shown: &Self| match shown {
            Self::Mrtd => one.mrtd != other.mrtd,
            Self::Rtmr0 => rtmr(Rtmr::Rtmr0),
            Self::Rtmr1 => rtmr(Rtmr::Rtmr1),
            Self::Rtmr2 => rtmr(Rtmr::Rtmr2),
            Self::Rtmr3 => rtmr(Rtmr::Rtmr3),
            Self::MrConfigId => one.mrconfigid != other.mrconfigid,
        };
        Self::ALL.into_iter().filter(differs).collect()
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mrtd => "MRTD",
            Self::Rtmr0 => "RTMR0",
            Self::Rtmr1 => "RTMR1",
            Self::Rtmr2 => "RTMR2",
            Self::Rtmr3 => "RTMR3",
            Self::MrConfigId => "MRCONFIGID",
        })
    }
}

/// What a change of a region does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Each change changes exactly these.
    Exactly(&'static [Shown]),
    /// Each of these is changed by some change; one change may leave some or all of them as they were.
    Some(&'static [Shown]),
}

impl Effect {
    /// What can change.
    pub fn registers(self) -> BTreeSet<Shown> {
        let (Self::Exactly(registers) | Self::Some(registers)) = self;
        registers.iter().copied().collect()
    }

    /// Whether one change may change exactly these.
    pub fn allows(self, changed: &BTreeSet<Shown>) -> bool {
        match self {
            Self::Exactly(_) => *changed == self.registers(),
            Self::Some(_) => changed.is_subset(&self.registers()),
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Exactly(registers) | Self::Some(registers)) = self;
        let names: Vec<_> = registers.iter().map(Shown::to_string).collect();
        match (self, names.as_slice()) {
            (_, []) => f.write_str("none"),
            (Self::Exactly(_), names) => f.write_str(&names.join(", ")),
            (Self::Some(_), [one]) => write!(f, "{one} or none"),
            (Self::Some(_), names) => write!(f, "some of {}", names.join(", ")),
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The file, or the key of `SHAPE.json`, or what else is given.
    pub input: &'static str,
    /// What of it.
    pub part: &'static str,
    /// Where QEMU leaves the kernel's header alone.
    pub as_file: Effect,
    /// Where it fills it in.
    pub patched: Effect,
    /// Whether some changes make an input that is refused, so that there is no register at all.
    pub refused: bool,
    /// Because.
    pub why: &'static str,
}

impl Row {
    /// What a change does.
    pub const fn effect(&self, seen: KernelSeen) -> Effect {
        match seen {
            KernelSeen::AsFile => self.as_file,
            KernelSeen::Patched => self.patched,
        }
    }
}

/// Some bytes of a file, all of one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where they are; never empty.
    pub range: Range<usize>,
    /// What they are.
    pub region: Region,
}

/// The table as Markdown.
pub fn table() -> String {
    let mut table = "| input | part | changes | if QEMU fills in the header | or is refused | because |\n\
                     | --- | --- | --- | --- | --- | --- |\n"
        .to_owned();
    for region in Region::ALL {
        let Row { input, part, as_file, patched, refused, why } = region.row();
        let patched = if patched == as_file { "the same".to_owned() } else { patched.to_string() };
        let refused = if refused { "yes" } else { "no" };
        // Writing to a string cannot fail.
        let _: fmt::Result =
            writeln!(table, "| {input} | {part} | {as_file} | {patched} | {refused} | {why} |");
    }
    table
}

/// A file in parts, in order and without holes: each byte belongs to the first claim that has it, or to the rest.
fn parts(length: usize, claims: &[(Range<usize>, Region)], rest: Region) -> Vec<Part> {
    let ends = claims.iter().flat_map(|(range, _)| [range.start, range.end]);
    let cuts: BTreeSet<usize> = ends.chain([0, length]).filter(|cut| *cut <= length).collect();
    let mut parts: Vec<Part> = Vec::new();
    for (&start, &end) in cuts.iter().zip(cuts.iter().skip(1)) {
        let claim = claims.iter().find(|(range, _)| range.contains(&start));
        let region = claim.map_or(rest, |(_, region)| *region);
        match parts.last_mut() {
            Some(last) if last.region == region => last.range.end = end,
            _ => parts.push(Part { range: start..end, region }),
        }
    }
    parts
}

/// Little-endian numbers of a file that was parsed before; what is not there reads as zero.
#[derive(Clone, Copy)]
struct Fields<'f>(&'f [u8]);

impl Fields<'_> {
    fn array<const N: usize>(self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    fn u16(self, at: usize) -> usize {
        u16::from_le_bytes(self.array(at)).into()
    }

    fn u32(self, at: usize) -> usize {
        u32::from_le_bytes(self.array(at)) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readme_shows_the_table_of_the_code() {
        let readme = include_str!("../../../README.md");
        let (_, after) = readme.split_once("<!-- regions -->\n\n").unwrap();
        let shown = after.split_once("\n<!-- /regions -->").unwrap().0;
        assert!(
            shown == table(),
            "README.md: the table \"regions\" should be (`cargo measure reference`):\n{}",
            table()
        );
    }

    #[test]
    fn the_first_claim_of_a_byte_counts_and_neighbours_are_joined() {
        let (code, table, none) = (Region::FirmwareCode, Region::FirmwareTable, Region::FirmwareUnclaimed);
        let part = |range, region| Part { range, region };
        assert_eq!(parts(10, &[], none), [part(0..10, none)]);
        assert_eq!(parts(0, &[], none), []);
        assert_eq!(
            parts(10, &[(4..5, table), (2..6, code), (6..7, code), (9..30, table), (3..3, table)], none),
            [
                part(0..2, none),
                part(2..4, code),
                part(4..5, table),
                part(5..7, code),
                part(7..9, none),
                part(9..10, table),
            ]
        );
    }

    #[test]
    fn in_words() {
        use Shown::{Mrtd, Rtmr0};
        for (effect, words) in [
            (Effect::Exactly(&[]), "none"),
            (Effect::Exactly(&[Mrtd, Rtmr0]), "MRTD, RTMR0"),
            (Effect::Some(&[Mrtd]), "MRTD or none"),
            (Effect::Some(&[Mrtd, Rtmr0]), "some of MRTD, RTMR0"),
        ] {
            assert_eq!(effect.to_string(), words);
        }
    }
}
