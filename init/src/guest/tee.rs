//! The TEE: the simulated one of the development image. TDX hardware is not carried out in this version, so a
//! production image powers off here.

use casemate_measure::status::Reason;
use casemate_measure::{MrConfigId, Register};

use crate::boot::Failure;

/// What PID 1 does with the TEE; quotes are the agent's.
#[cfg(feature = "dev")]
#[derive(Debug)]
pub(super) struct GuestTee {
    launch: casemate_measure::LaunchRegisters,
    rtmr3: Register,
}

/// No production image of this version has one: there is no value of this type.
#[cfg(not(feature = "dev"))]
#[derive(Debug)]
pub(super) enum GuestTee {}

#[cfg(feature = "dev")]
impl GuestTee {
    /// The simulated TEE, its launch registers from the SMBIOS OEM strings that `casemate-qemu` passes.
    pub(super) fn find() -> Result<Self, Failure> {
        /// SMBIOS type 11, the first structure (drivers/firmware/dmi-sysfs.c).
        const OEM_STRINGS: &str = "/sys/firmware/dmi/entries/11-0/raw";
        let launch = match std::fs::read(OEM_STRINGS) {
            Ok(raw) => casemate_measure::smbios::registers(&raw)
                .map_err(|error| Failure::new(Reason::NoTee, format!("SMBIOS OEM strings: {error}")))?,
            // Nobody measured anything: all zero, and the evidence says so.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                casemate_measure::LaunchRegisters::ZERO
            }
            Err(error) => return Err(Failure::errno(Reason::NoTee, OEM_STRINGS, &error)),
        };
        Ok(Self { launch, rtmr3: Register::ZERO })
    }

    /// Extends RTMR3.
    #[expect(clippy::unnecessary_wraps, reason = "hardware can refuse; the simulator cannot")]
    pub(super) fn extend(&mut self, digest: &Register) -> Result<(), Failure> {
        self.rtmr3 = self.rtmr3.extended(digest);
        Ok(())
    }

    /// MRCONFIGID.
    pub(super) const fn mr_config_id(&self) -> MrConfigId {
        self.launch.mrconfigid
    }

    /// What the agent needs to quote.
    pub(super) const fn handover(&self) -> casemate_agent::TeeHandover {
        casemate_agent::TeeHandover::Simulator { launch: self.launch }
    }

    /// The registers at launch.
    pub(super) const fn launch(&self) -> casemate_measure::LaunchRegisters {
        self.launch
    }
}

#[cfg(not(feature = "dev"))]
#[expect(clippy::needless_pass_by_ref_mut, reason = "the signature of the one that exists")]
impl GuestTee {
    /// There is none that this version can use.
    pub(super) fn find() -> Result<Self, Failure> {
        Err(Failure::new(Reason::NoTee, "the TDX backend is not implemented in this version"))
    }

    pub(super) fn extend(&mut self, _: &Register) -> Result<(), Failure> {
        match *self {}
    }

    pub(super) const fn mr_config_id(&self) -> MrConfigId {
        match *self {}
    }
}
