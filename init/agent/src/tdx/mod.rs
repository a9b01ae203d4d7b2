//! Intel TDX: quotes through configfs-tsm, registers through the guest driver's TDREPORT and sysfs, the firmware's log.
//!
//! PID 1 uses [`Device`] as root (it extends RTMR3 and reads the log); the agent's process uses it through [`Tee`], with no
//! right but to write one `inblob` and to open the device.

mod boot_log;
mod device;
mod error;
mod paths;
mod registers;
mod sys;
#[cfg(test)]
mod tests;

use casemate_measure::{LaunchRegisters, Register};
use casemate_verify::quote::TdReport;

use crate::tee::{Owner, Tee, TeeError, TeeKind};

pub use boot_log::{BOOT_LOG_MAX, BootEvent, boot_events};
pub use device::Device;
pub use error::TdxError;
pub use paths::Paths;
pub use registers::Registers;
pub use sys::{Kernel, Linux, REPORT_DATA_LEN, TDREPORT_LEN};

/// The TDX module of this machine.
#[derive(Debug)]
pub struct TdxTee {
    device: Device,
    registers: Registers,
    boot_events: Vec<BootEvent>,
}

impl TdxTee {
    /// Reads the registers, and checks the firmware's log against them (an empty one is none).
    ///
    /// # Errors
    /// If the TEE does not answer, or the log leads elsewhere.
    pub fn open(device: Device, boot_log: &[u8]) -> Result<Self, TdxError> {
        let registers = device.registers()?;
        device.check_provider()?;
        let boot_events = boot_log::read(boot_log, &registers.launch)?;
        Ok(Self { device, registers, boot_events })
    }

    /// Nobody who reads a quote shall be the first to see that it is not the one that was asked for.
    fn judge(&self, quote: &[u8], report_data: &[u8; REPORT_DATA_LEN]) -> Result<(), TdxError> {
        let found = TdReport::of_quote(quote)?;
        let (launch, ours) = (found.launch(), &self.registers);
        let registers = [
            ("MRTD", launch.mrtd.0, ours.launch.mrtd.0),
            ("RTMR0", launch.rtmr0.0, ours.launch.rtmr0.0),
            ("RTMR1", launch.rtmr1.0, ours.launch.rtmr1.0),
            ("RTMR2", launch.rtmr2.0, ours.launch.rtmr2.0),
            ("RTMR3", found.rtmr3().0, ours.rtmr3.0),
            ("MRCONFIGID", launch.mrconfigid.0, ours.launch.mrconfigid.0),
            ("MROWNER", found.mr_owner.0, ours.owner.id.0),
            ("MROWNERCONFIG", found.mr_owner_config.0, ours.owner.config.0),
        ];
        let differ = |field, expected: &[u8], found: &[u8]| {
            let what = format_args!("the TEE's quote: {field}");
            Err(TdxError::unexpected(what, hex::encode(expected), hex::encode(found)))
        };
        if found.report_data != *report_data {
            return differ("report data", report_data, &found.report_data);
        }
        match registers.iter().find(|(_, found, expected)| found != expected) {
            Some((field, found, expected)) => differ(field, expected, found),
            None => Ok(()),
        }
    }
}

impl Tee for TdxTee {
    fn kind(&self) -> TeeKind {
        TeeKind::Tdx
    }

    fn launch(&self) -> LaunchRegisters {
        self.registers.launch
    }

    fn owner(&self) -> Owner {
        self.registers.owner
    }

    fn rtmr3(&self) -> Register {
        self.registers.rtmr3
    }

    fn boot_events(&self) -> &[BootEvent] {
        &self.boot_events
    }

    fn quote(&self, report_data: &[u8; REPORT_DATA_LEN]) -> Result<Vec<u8>, TeeError> {
        let quote = self.device.quote(report_data)?;
        self.judge(&quote, report_data)?;
        Ok(quote)
    }
}
