//! The registers of a TD, from a TDREPORT.

use casemate_measure::{LaunchRegisters, MrConfigId, Register};

use super::error::TdxError;
use super::sys::{REPORT_DATA_LEN, TDREPORT_LEN};
use crate::tee::Owner;

/// Offsets inside a TDREPORT, bytes (Intel TDX Module ABI Specification, TDREPORT_STRUCT: a REPORTMACSTRUCT, the TEE's TCB
/// information, and from 512 on TDINFO_STRUCT).
mod offset {
    /// REPORTTYPE.TYPE.
    pub(super) const TYPE: usize = 0;
    /// REPORTDATA.
    pub(super) const REPORT_DATA: usize = 128;
    /// TDINFO: ATTRIBUTES, 8 bytes.
    pub(super) const ATTRIBUTES: usize = 512;
    /// TDINFO: MRTD, after ATTRIBUTES and XFAM; MRCONFIGID, MROWNER, MROWNERCONFIG and RTMR0 to RTMR3 follow.
    pub(super) const MRTD: usize = 528;
}

/// REPORTTYPE.TYPE of a TD.
const TYPE_TDX: u8 = 0x81;

/// What a TD shows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// TD attributes; bit 0 of the first byte is DEBUG.
    pub attributes: [u8; 8],
    /// What was launched.
    pub launch: LaunchRegisters,
    /// What the host said of the owner.
    pub owner: Owner,
    /// RTMR3.
    pub rtmr3: Register,
}

impl Registers {
    /// Reads a TDREPORT that was asked for with this report data.
    ///
    /// # Errors
    /// If it is another TEE's, or was asked for with other data.
    pub fn of_report(report: &[u8; TDREPORT_LEN], asked: &[u8; REPORT_DATA_LEN]) -> Result<Self, TdxError> {
        let [kind] = bytes(report, offset::TYPE)?;
        if kind != TYPE_TDX {
            return Err(TdxError::unexpected("TDREPORT: type", "0x81 (TDX)", format_args!("{kind:#04x}")));
        }
        let found: [u8; REPORT_DATA_LEN] = bytes(report, offset::REPORT_DATA)?;
        if found != *asked {
            return Err(TdxError::unexpected(
                "TDREPORT: report data",
                hex::encode(asked),
                hex::encode(found),
            ));
        }
        let registers: [u8; 8 * 48] = bytes(report, offset::MRTD)?;
        let (registers, _) = registers.as_chunks::<48>();
        let [mrtd, config_id, owner, owner_config, rtmr0, rtmr1, rtmr2, rtmr3] = *registers else {
            return Err(TdxError::unexpected("TDREPORT", "8 registers", registers.len()));
        };
        Ok(Self {
            attributes: bytes(report, offset::ATTRIBUTES)?,
            launch: LaunchRegisters {
                mrtd: Register(mrtd),
                rtmr0: Register(rtmr0),
                rtmr1: Register(rtmr1),
                rtmr2: Register(rtmr2),
                mrconfigid: MrConfigId(config_id),
            },
            owner: Owner { id: Register(owner), config: Register(owner_config) },
            rtmr3: Register(rtmr3),
        })
    }

    /// Whether the host may read the TD's memory.
    pub const fn is_debug(&self) -> bool {
        let [first, ..] = self.attributes;
        first & 1 != 0
    }
}

fn bytes<const N: usize>(report: &[u8], at: usize) -> Result<[u8; N], TdxError> {
    let found = report.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().ok_or_else(|| TdxError::unexpected("TDREPORT", at.saturating_add(N), report.len()))
}
