//! The three ACPI blobs that QEMU hands over and OVMF measures before it uses them (edk2
//! `OvmfPkg/Library/AcpiPlatformLib/QemuFwCfgAcpi.c`).
//!
//! They follow from QEMU's version, the devices and how the firmware placed them; there is no closed form. So their
//! digests come from a table: one that somebody gives, or one of captures (`cargo qemu acpi`). What is in neither is not
//! known, and is never taken from the log that is to be judged.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::fields::{Fields, NAME, list, name, text};
use super::vm::{QemuVersion, Vm};
use crate::document::json::Value;
use crate::document::{DocumentError, Problem, path};
use crate::register::Register;

/// The most entries of a table.
pub const MAX_ENTRIES: usize = 4096;

/// SHA-384 of the blobs as fw_cfg serves them once the firmware has placed the devices, before the firmware links them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcpiDigests {
    /// `etc/table-loader`.
    pub loader: Register,
    /// `etc/acpi/rsdp`.
    pub rsdp: Register,
    /// `etc/acpi/tables`.
    pub tables: Register,
}

impl AcpiDigests {
    /// Of the blobs themselves.
    pub fn of(loader: &[u8], rsdp: &[u8], tables: &[u8]) -> Self {
        Self {
            loader: Register::digest(loader),
            rsdp: Register::digest(rsdp),
            tables: Register::digest(tables),
        }
    }
}

/// Digests and the machine that they belong to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AcpiEntry {
    /// Exactly this QEMU.
    pub qemu: QemuVersion,
    /// Exactly this machine: [`Vm::shape_key`].
    pub shape: String,
    /// What it measures.
    #[serde(flatten)]
    pub digests: AcpiDigests,
}

/// A table of digests, each machine once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AcpiTable {
    entries: Vec<AcpiEntry>,
}

impl AcpiTable {
    /// Reads a table: `{"entries": [{"qemu", "shape", "loader", "rsdp", "tables"}, …]}`. `file` is only named in errors.
    ///
    /// # Errors
    /// The first thing that is wrong: file, path, expectation, finding.
    pub fn parse(file: &str, table: &[u8]) -> Result<Self, DocumentError> {
        read(table).map_err(|problem| DocumentError { file: file.to_owned(), problem })
    }

    /// Of entries, of which a later one takes the place of an earlier one for the same machine.
    pub fn new(entries: impl IntoIterator<Item = AcpiEntry>) -> Self {
        let mut table = Self::default();
        for entry in entries {
            table.entries.retain(|old| (old.qemu, &old.shape) != (entry.qemu, &entry.shape));
            table.entries.push(entry);
        }
        table
    }

    /// The entries.
    pub fn entries(&self) -> &[AcpiEntry] {
        &self.entries
    }

    /// What `cargo qemu acpi` captured for this version: Debian's QEMU 10.0 and 11.1, the pinned firmware, the usual sizes.
    pub fn captured() -> Self {
        // A test holds that it is read.
        Self::parse("acpi.json", include_bytes!("../../acpi.json")).unwrap_or_default()
    }

    /// The digests of exactly that QEMU, machine and firmware, which goes by its SHA-256.
    pub fn find(&self, vm: &Vm, firmware: &[u8; 32]) -> Option<AcpiDigests> {
        let shape = vm.shape_key(firmware);
        self.entries.iter().find(|entry| entry.qemu == vm.qemu && entry.shape == shape).map(|e| e.digests)
    }
}

fn read(table: &[u8]) -> Result<AcpiTable, Problem> {
    let value = Value::read(table)?;
    let top = Fields::of("", &value, &["entries"])?;
    let items = top.need("entries", "a list", list)?;
    if items.len() > MAX_ENTRIES {
        let expected = format!("a list of at most {MAX_ENTRIES}");
        return Err(Problem::invalid("entries", expected, format!("a list of {}", items.len())));
    }
    let mut seen = BTreeSet::new();
    let mut entries = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let at = path::index("entries", index);
        let entry = entry(&at, item)?;
        if !seen.insert((entry.qemu, entry.shape.clone())) {
            return Err(Problem::invalid(&at, "each QEMU and shape once", "this one again"));
        }
        entries.push(entry);
    }
    Ok(AcpiTable { entries })
}

fn entry(at: &str, item: &Value) -> Result<AcpiEntry, Problem> {
    let fields = Fields::of(at, item, &["qemu", "shape", "loader", "rsdp", "tables"])?;
    let digest = |key| fields.need(key, "96 hex digits", |value| Register::from_hex(text(value)?));
    Ok(AcpiEntry {
        qemu: fields.need("qemu", QemuVersion::FORM, |value| text(value)?.parse().ok())?,
        shape: fields.need("shape", &format!("printable text of 1 to {NAME} bytes"), name)?.to_owned(),
        digests: AcpiDigests { loader: digest("loader")?, rsdp: digest("rsdp")?, tables: digest("tables")? },
    })
}

/// Where the digests come from, which the event's origin says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiSource {
    /// From a table that the user gave.
    Given(AcpiDigests),
    /// From a capture of ours.
    Captured(AcpiDigests),
    /// From nowhere.
    Unpinned,
}

impl AcpiSource {
    /// The given table first, then our captures.
    pub fn choose(
        given: Option<&AcpiTable>,
        captured: Option<&AcpiTable>,
        vm: &Vm,
        firmware: &[u8; 32],
    ) -> Self {
        let find = |table: Option<&AcpiTable>| table.and_then(|table| table.find(vm, firmware));
        let given = find(given).map(Self::Given);
        given.or_else(|| find(captured).map(Self::Captured)).unwrap_or(Self::Unpinned)
    }

    /// The digests, if there are any.
    pub const fn digests(&self) -> Option<&AcpiDigests> {
        match self {
            Self::Given(digests) | Self::Captured(digests) => Some(digests),
            Self::Unpinned => None,
        }
    }

    /// In words.
    pub fn words(&self, vm: &Vm) -> String {
        match self {
            Self::Given(_) => "given by the user".to_owned(),
            Self::Captured(_) => format!("captured from QEMU {} ({})", vm.qemu, vm.shape()),
            Self::Unpinned => {
                format!("unpinned: no digest for QEMU {} ({}) and this firmware", vm.qemu, vm.shape())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRMWARE: [u8; 32] = [0x44; 32];
    const HEX: [&str; 3] = ["11", "22", "33"];

    fn digests() -> AcpiDigests {
        let [loader, rsdp, tables] = [0x11, 0x22, 0x33].map(|byte| Register([byte; 48]));
        AcpiDigests { loader, rsdp, tables }
    }

    fn vm() -> Vm {
        Vm::new("10.0.13".parse().unwrap(), 2048, 2)
    }

    fn table() -> String {
        let [loader, rsdp, tables] = HEX.map(|byte| byte.repeat(48));
        let shape = vm().shape_key(&FIRMWARE);
        format!(
            r#"{{"entries":[{{"qemu":"10.0.13","shape":"{shape}","loader":"{loader}","rsdp":"{rsdp}","tables":"{tables}"}}]}}"#
        )
    }

    #[test]
    fn a_table_is_read_as_it_is_written_and_found_by_the_exact_machine() {
        let read = AcpiTable::parse("acpi.json", table().as_bytes()).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), table());
        assert_eq!(read.find(&vm(), &FIRMWARE), Some(digests()));
        let machines = [
            Vm::new("10.0.12".parse().unwrap(), 2048, 2),
            Vm::new("10.0.13".parse().unwrap(), 2049, 2),
            Vm::new("10.0.13".parse().unwrap(), 2048, 3),
            Vm { machine: "another".into(), ..vm() },
        ];
        for other in machines {
            assert_eq!(read.find(&other, &FIRMWARE), None, "{other:?}");
        }
    }

    #[test]
    fn what_was_captured_is_all_read() {
        let file = include_bytes!("../../acpi.json");
        let captured = AcpiTable::captured();
        assert_eq!(AcpiTable::parse("acpi.json", file), Ok(captured.clone()));
        // Another reader of JSON finds as many, and the same.
        let value: serde_json::Value = serde_json::from_slice(file).unwrap();
        let entries = value["entries"].as_array().unwrap();
        assert!(!entries.is_empty());
        assert_eq!(serde_json::to_value(&captured).unwrap()["entries"].as_array(), Some(entries));
    }

    #[test]
    fn the_users_table_comes_before_ours_and_nothing_after_it() {
        let entry = |digests| AcpiEntry { qemu: vm().qemu, shape: vm().shape_key(&FIRMWARE), digests };
        let other = AcpiDigests { rsdp: Register([0x44; 48]), ..digests() };
        let ours = AcpiTable::new([entry(digests()), entry(other)]);
        assert_eq!(ours.entries().len(), 1, "the later entry takes the place of the earlier one");
        let theirs = AcpiTable::new([entry(digests())]);
        let choose = |given, captured| AcpiSource::choose(given, captured, &vm(), &FIRMWARE);
        assert_eq!(choose(Some(&theirs), Some(&ours)), AcpiSource::Given(digests()));
        let empty = AcpiTable::default();
        assert_eq!(choose(Some(&empty), Some(&ours)), AcpiSource::Captured(other));
        assert_eq!(choose(None, None), AcpiSource::Unpinned);
    }

    #[test]
    fn a_wrong_table_is_refused_where_it_is_wrong() {
        let twice = table().replace("]}", &format!(",{}", table().split_once('[').unwrap().1));
        let cases = [
            ("[]".to_owned(), "acpi.json: (top level): expected an object, found []"),
            ("{}".to_owned(), "acpi.json: entries: expected a list, found nothing"),
            (r#"{"entries":{}}"#.to_owned(), "acpi.json: entries: expected a list, found {}"),
            (r#"{"entries":[["10.0.13"]]}"#.to_owned(), "entries[0]: expected an object, found a list of 1"),
            (
                table().replace("rsdp", "rsdq"),
                "entries[0].rsdq: expected one of the keys qemu, shape, loader",
            ),
            (table().replace("10.0.13", "10.0"), "entries[0].qemu: expected a release such as"),
            (table().replace("22", "2"), "entries[0].rsdp: expected 96 hex digits, found"),
            (table().replace("22", "2g"), "entries[0].rsdp: expected 96 hex digits, found"),
            (table().replace("casemate", "\\u001b"), "entries[0].shape: expected printable text"),
            (table().replace("\"shape\"", "\"qemu\""), "entries[0].qemu: expected each key once"),
            (twice, "entries[1]: expected each QEMU and shape once, found this one again"),
            (
                format!(r#"{{"entries":[{}0]}}"#, "0,".repeat(MAX_ENTRIES)),
                "a list of at most 4096, found a list of 4097",
            ),
        ];
        for (document, says) in cases {
            let error = AcpiTable::parse("acpi.json", document.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(says), "expected {says:?}, found {error}");
        }
    }
}
