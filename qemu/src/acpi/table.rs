//! The file of captured digests, in the form that `casemate-measure` reads.

use std::fmt;

use casemate_measure::Register;
use serde::{Deserialize, Serialize};

use super::fw_cfg::Blobs;

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcpiTable {
    /// Sorted by what they were captured of.
    entries: Vec<Capture>,
}

/// The digests of one machine, and which machine that is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// QEMU's version, as its monitor greets: `11.1.3`.
    pub qemu: String,
    /// The machine ([`super::Machine::shape`]).
    pub shape: String,
    /// SHA-384 of `etc/table-loader`.
    pub loader: Register,
    /// SHA-384 of `etc/acpi/rsdp`.
    pub rsdp: Register,
    /// SHA-384 of `etc/acpi/tables`.
    pub tables: Register,
}

/// Two captures of the same machine that differ.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{capture}: {field}: expected {expected} as captured before, found {found}")]
pub struct Mismatch {
    capture: String,
    field: &'static str,
    expected: Register,
    found: Register,
}

impl Capture {
    /// The digests of a machine's blobs.
    pub fn of(qemu: String, shape: String, blobs: &Blobs) -> Self {
        let [loader, rsdp, tables] = [&blobs.loader, &blobs.rsdp, &blobs.tables].map(|b| Register::digest(b));
        Self { qemu, shape, loader, rsdp, tables }
    }

    /// The first digest that differs.
    fn mismatch(&self, found: &Self) -> Option<Box<Mismatch>> {
        let fields = [
            ("loader", self.loader, found.loader),
            ("rsdp", self.rsdp, found.rsdp),
            ("tables", self.tables, found.tables),
        ];
        let (field, expected, found) = fields.into_iter().find(|(_, expected, found)| expected != found)?;
        Some(Box::new(Mismatch { capture: self.to_string(), field, expected, found }))
    }
}

impl fmt::Display for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QEMU {}, {}", self.qemu, self.shape)
    }
}

impl AcpiTable {
    /// Reads a file's text.
    ///
    /// # Errors
    /// If it is not such a file.
    pub fn read(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// The file's text.
    ///
    /// # Errors
    /// Never, by its types; the serializer's signature wants it said.
    pub fn text(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// All captures, sorted.
    pub fn entries(&self) -> &[Capture] {
        &self.entries
    }

    /// Adds a capture; `false` if it was there already.
    ///
    /// # Errors
    /// If the same machine was captured before, and gave something else. Then one of the two is wrong, or something that
    /// matters is not among what captures are told apart by.
    pub fn add(&mut self, capture: Capture) -> Result<bool, Box<Mismatch>> {
        let same = |known: &&Capture| (&known.qemu, &known.shape) == (&capture.qemu, &capture.shape);
        if let Some(known) = self.entries.iter().find(same) {
            return known.mismatch(&capture).map_or(Ok(false), Err);
        }
        self.entries.push(capture);
        self.entries.sort();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(qemu: &str, shape: &str, tables: &[u8]) -> Capture {
        let blobs = Blobs { loader: vec![1], rsdp: vec![2], tables: tables.to_vec() };
        Capture::of(qemu.into(), shape.into(), &blobs)
    }

    #[test]
    fn a_table_survives_its_file_and_is_sorted() {
        let mut table = AcpiTable::default();
        for (qemu, shape) in [("11.1.3", "b"), ("11.1.3", "a"), ("10.0.13", "c")] {
            assert_eq!(table.add(capture(qemu, shape, b"t")), Ok(true));
            assert_eq!(table.add(capture(qemu, shape, b"t")), Ok(false));
        }
        let order: Vec<_> = table.entries().iter().map(|entry| entry.shape.as_str()).collect();
        assert_eq!(order, ["c", "a", "b"]);
        assert_eq!(AcpiTable::read(table.text().unwrap().as_bytes()).unwrap(), table);
    }

    #[test]
    fn another_result_for_the_same_machine_is_named_and_changes_nothing() {
        let mut table = AcpiTable::default();
        table.add(capture("11.1.3", "casemate cpus=2", b"t")).unwrap();
        let before = table.clone();
        let error = table.add(capture("11.1.3", "casemate cpus=2", b"u")).unwrap_err().to_string();
        let [expected, found] = [b"t", b"u"].map(|bytes| Register::digest(bytes));
        assert_eq!(
            error,
            format!(
                "QEMU 11.1.3, casemate cpus=2: tables: expected {expected} as captured before, found {found}"
            )
        );
        assert_eq!(table, before);
    }

    #[test]
    fn other_files_are_refused() {
        for (text, why) in [
            ("{}", "missing field `entries`"),
            ("{\"entries\": [], \"more\": 1}", "unknown field"),
            ("{\"entries\": [{\"qemu\": \"1\"}]}", "missing field"),
            (
                "{\"entries\": [{\"qemu\": \"1\", \"shape\": \"s\", \"loader\": \"0\"}]}",
                "expected 96 hex digits",
            ),
            ("", "EOF"),
        ] {
            let error = AcpiTable::read(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
