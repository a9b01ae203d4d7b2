//! Where the kernel keeps what a TDX guest has.

use std::path::{Path, PathBuf};

/// The files of one machine, below a root folder: `/`, or a test's tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

/// The one report directory that PID 1 makes (any name: Documentation/ABI/testing/configfs-tsm-report).
const REPORT: &str = "sys/kernel/config/tsm/report/casemate";
/// Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest.
const MEASUREMENTS: &str = "sys/devices/virtual/misc/tdx_guest/measurements";

impl Paths {
    /// Below `root`.
    pub fn under(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The root folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The TDX guest driver's device, for TDREPORTs.
    pub fn device(&self) -> PathBuf {
        self.root.join("dev/tdx_guest")
    }

    /// Where configfs is mounted.
    pub fn configfs(&self) -> PathBuf {
        self.root.join("sys/kernel/config")
    }

    /// The directory of one report: a folder made in it is a report, too, of somebody else.
    pub fn report(&self) -> PathBuf {
        self.root.join(REPORT)
    }

    /// What the quote is to carry: the one attribute that the agent may write.
    pub fn inblob(&self) -> PathBuf {
        self.report().join("inblob")
    }

    /// The quote.
    pub fn outblob(&self) -> PathBuf {
        self.report().join("outblob")
    }

    /// Counts writes.
    pub fn generation(&self) -> PathBuf {
        self.report().join("generation")
    }

    /// Who makes the report.
    pub fn provider(&self) -> PathBuf {
        self.report().join("provider")
    }

    /// RTMR`index`, 48 bytes; what is written extends it. Root's alone.
    pub fn rtmr(&self, index: u8) -> PathBuf {
        self.root.join(MEASUREMENTS).join(format!("rtmr{index}:sha384"))
    }

    /// The firmware's event log (ACPI 6.5, table CCEL), readable by root alone.
    pub fn boot_log(&self) -> PathBuf {
        self.root.join("sys/firmware/acpi/tables/data/CCEL")
    }
}
