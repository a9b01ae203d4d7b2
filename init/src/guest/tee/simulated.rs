//! The simulated TEE of the development image.

use casemate_measure::LaunchRegisters;
use casemate_measure::status::Reason;

use crate::boot::Failure;

/// What it shows at launch. Its RTMR3 lives in the agent, which extends it from the event log.
#[derive(Debug)]
pub(in crate::guest) struct SimulatedGuest {
    launch: LaunchRegisters,
}

/// SMBIOS type 11, the first structure (drivers/firmware/dmi-sysfs.c).
const OEM_STRINGS: &str = "/sys/firmware/dmi/entries/11-0/raw";

impl SimulatedGuest {
    /// Its launch registers are in the SMBIOS OEM strings that `casemate-qemu` passes.
    pub(super) fn find() -> Result<Self, Failure> {
        let launch = match std::fs::read(OEM_STRINGS) {
            Ok(raw) => casemate_measure::smbios::registers(&raw)
                .map_err(|error| Failure::new(Reason::NoTee, format!("SMBIOS OEM strings: {error}")))?,
            // Nobody measured anything: all zero, and the evidence says so.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => LaunchRegisters::ZERO,
            Err(error) => return Err(Failure::errno(Reason::NoTee, OEM_STRINGS, &error)),
        };
        Ok(Self { launch })
    }

    pub(super) const fn launch(&self) -> LaunchRegisters {
        self.launch
    }
}
