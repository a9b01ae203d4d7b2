//! The file of captured digests.

use std::fmt;
use std::num::NonZeroU16;

use casemate_measure::Register;
use serde::{Deserialize, Serialize};

use super::fw_cfg::Blobs;

/// Memory below 4 GiB, in MiB, which is where QEMU's PCI hole begins: all of it, or 2048 from 2816 on (QEMU
/// `hw/i386/pc_q35.c`, `pc_q35_init`: 0x80000000 from 0xb0000000 on). Nothing else of memory reaches the tables.
pub const fn low_memory_mib(memory_mib: u32) -> u32 {
    if memory_mib < 2816 { memory_mib } else { 2048 }
}

/// The format that this version reads and writes.
const VERSION: u32 = 1;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcpiTable {
    /// Format version, 1.
    version: u32,
    /// Sorted by what they were captured of.
    captures: Vec<Capture>,
}

/// The digests of one machine, and which machine that is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// QEMU's version, as its monitor greets: `11.1.3`.
    pub qemu: String,
    /// SHA-256 of the firmware.
    #[serde(with = "hex::serde")]
    pub firmware: [u8; 32],
    /// Machine options and devices ([`super::words`]).
    pub machine: String,
    /// Virtual CPUs.
    pub cpus: NonZeroU16,
    /// Memory below 4 GiB, in MiB ([`low_memory_mib`]).
    pub low_memory_mib: u32,
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
    /// The digests of blobs, for that machine.
    pub fn of(
        blobs: &Blobs,
        qemu: String,
        firmware: [u8; 32],
        machine: String,
        cpus: NonZeroU16,
        memory_mib: u32,
    ) -> Self {
        Self {
            qemu,
            firmware,
            machine,
            cpus,
            low_memory_mib: low_memory_mib(memory_mib),
            loader: Register::digest(&blobs.loader),
            rsdp: Register::digest(&blobs.rsdp),
            tables: Register::digest(&blobs.tables),
        }
    }

    fn of_the_same_machine(&self, other: &Self) -> bool {
        let digests = |capture: &Self| (capture.loader, capture.rsdp, capture.tables);
        let (loader, rsdp, tables) = digests(other);
        Self { loader, rsdp, tables, ..self.clone() } == *other
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
        let plural = if self.cpus.get() == 1 { "" } else { "s" };
        write!(f, "QEMU {}, {} vCPU{plural}, {} MiB below 4 GiB", self.qemu, self.cpus, self.low_memory_mib)
    }
}

impl Default for AcpiTable {
    fn default() -> Self {
        Self { version: VERSION, captures: Vec::new() }
    }
}

impl AcpiTable {
    /// Reads a file's text.
    ///
    /// # Errors
    /// If it is not such a file.
    pub fn read(text: &[u8]) -> Result<Self, serde_json::Error> {
        let table: Self = serde_json::from_slice(text)?;
        if table.version != VERSION {
            let wrong = format!("version: expected {VERSION}, found {}", table.version);
            return Err(serde::de::Error::custom(wrong));
        }
        Ok(table)
    }

    /// The file's text.
    ///
    /// # Errors
    /// Never, by its types; the serializer's signature wants it said.
    pub fn text(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }

    /// All captures, sorted.
    pub fn captures(&self) -> &[Capture] {
        &self.captures
    }

    /// Adds a capture; `false` if it was there already.
    ///
    /// # Errors
    /// If the same machine was captured before, and gave something else. Then one of the two is wrong, or something that
    /// matters is not among what captures are told apart by.
    pub fn add(&mut self, capture: Capture) -> Result<bool, Box<Mismatch>> {
        if let Some(known) = self.captures.iter().find(|known| known.of_the_same_machine(&capture)) {
            return known.mismatch(&capture).map_or(Ok(false), Err);
        }
        self.captures.push(capture);
        self.captures.sort();
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capture(cpus: u16, memory_mib: u32, tables: &[u8]) -> Capture {
        let blobs = Blobs { loader: vec![1], rsdp: vec![2], tables: tables.to_vec() };
        let cpus = NonZeroU16::new(cpus).unwrap();
        Capture::of(&blobs, "11.1.3".into(), [7; 32], "q35".into(), cpus, memory_mib)
    }

    #[test]
    fn a_table_survives_its_file_and_is_sorted() {
        let mut table = AcpiTable::default();
        for (cpus, memory) in [(4, 512), (1, 2048), (1, 512)] {
            assert_eq!(table.add(capture(cpus, memory, b"t")), Ok(true));
        }
        let order: Vec<_> = table.captures().iter().map(|c| (c.cpus.get(), c.low_memory_mib)).collect();
        assert_eq!(order, [(1, 512), (1, 2048), (4, 512)]);
        assert_eq!(AcpiTable::read(table.text().unwrap().as_bytes()).unwrap(), table);
    }

    #[test]
    fn memory_above_4_gib_is_not_seen() {
        let mut table = AcpiTable::default();
        for (memory, is_new) in [(2047, true), (2048, true), (2815, true), (2816, false), (65_536, false)] {
            assert_eq!(table.add(capture(1, memory, b"t")), Ok(is_new), "{memory}");
        }
    }

    #[test]
    fn another_result_for_the_same_machine_is_named_and_changes_nothing() {
        let mut table = AcpiTable::default();
        table.add(capture(2, 4096, b"t")).unwrap();
        let before = table.clone();
        let error = table.add(capture(2, 8192, b"u")).unwrap_err().to_string();
        let [expected, found] = [b"t", b"u"].map(|bytes| Register::digest(bytes));
        assert_eq!(
            error,
            format!(
                "QEMU 11.1.3, 2 vCPUs, 2048 MiB below 4 GiB: tables: expected {expected} as captured before, found {found}"
            )
        );
        assert_eq!(table, before);
    }

    #[test]
    fn other_files_are_refused() {
        let good = AcpiTable::default().text().unwrap();
        for (from, to, why) in [
            ("\"version\": 1", "\"version\": 2", "version: expected 1, found 2"),
            ("\"version\": 1,", "", "version"),
            ("\"captures\": []", "\"captures\": [], \"more\": 1", "unknown field"),
            ("[]", "[{\"qemu\": \"1\"}]", "missing field"),
        ] {
            let error = AcpiTable::read(good.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
