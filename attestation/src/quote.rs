//! The TD report inside a TDX quote (Intel TDX DCAP Quoting Library API, quote version 4, appendix A.3). Reading is not
//! verifying: a [`TdReport`] from [`TdReport::of_quote`] is what somebody claims.

mod diagnosis;
mod pck;
mod shape;

use casemate_measure::{LaunchRegisters, MrConfigId, Register};

use crate::error::EvidenceError;

pub(crate) use diagnosis::{NO_CHAIN, class as class_of_refusal, is_of_some_chain};
pub(crate) use shape::{certificate_chain, is_one};

/// Bytes of the quote header.
pub const HEADER_LEN: usize = 48;
/// Bytes of a TD report in a version 4 quote.
pub const TD_REPORT_LEN: usize = 584;
/// The TEE type of TDX in the quote header.
pub const TEE_TYPE_TDX: u32 = 0x81;

/// Offsets inside a version 4 quote, bytes. The TD report follows the header directly.
pub mod offset {
    /// Version, u16 LE.
    pub const VERSION: usize = 0;
    /// Attestation key type, u16 LE; 2 is ECDSA P-256.
    pub const KEY_TYPE: usize = 2;
    /// TEE type, u32 LE.
    pub const TEE_TYPE: usize = 4;
    /// Quoting enclave vendor, 16 bytes.
    pub const QE_VENDOR_ID: usize = 12;
    /// TDX module and SEAM loader versions, 16 bytes.
    pub const TEE_TCB_SVN: usize = 48;
    /// Measurement of the TDX module, 48 bytes.
    pub const MR_SEAM: usize = 64;
    /// Signer of the TDX module, 48 bytes; zero for Intel's.
    pub const MR_SIGNER_SEAM: usize = 112;
    /// Attributes of the TDX module, 8 bytes.
    pub const SEAM_ATTRIBUTES: usize = 160;
    /// TD attributes, 8 bytes; bit 0 of the first is DEBUG.
    pub const TD_ATTRIBUTES: usize = 168;
    /// Extended features, 8 bytes.
    pub const XFAM: usize = 176;
    /// MRTD, 48 bytes.
    pub const MRTD: usize = 184;
    /// MRCONFIGID, 48 bytes.
    pub const MR_CONFIG_ID: usize = 232;
    /// MROWNER, 48 bytes.
    pub const MR_OWNER: usize = 280;
    /// MROWNERCONFIG, 48 bytes.
    pub const MR_OWNER_CONFIG: usize = 328;
    /// RTMR0, 48 bytes; RTMR1, RTMR2 and RTMR3 follow.
    pub const RTMR0: usize = 376;
    /// Report data, 64 bytes.
    pub const REPORT_DATA: usize = 568;
    /// Length of the signature data, u32 LE; the signature data follow.
    pub const SIGNATURE_LEN: usize = 632;
}

/// A TD report, field by field, in the order of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TdReport {
    /// TDX module and SEAM loader versions.
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the TDX module.
    pub mr_seam: Register,
    /// Signer of the TDX module; zero for Intel's.
    pub mr_signer_seam: Register,
    /// Attributes of the TDX module.
    pub seam_attributes: [u8; 8],
    /// Attributes of the TD; bit 0 of the first byte is DEBUG.
    pub td_attributes: [u8; 8],
    /// Extended features that the TD may use.
    pub xfam: [u8; 8],
    /// Firmware.
    pub mrtd: Register,
    /// What the host bound at launch.
    pub mr_config_id: MrConfigId,
    /// Owner, as the host said at launch.
    pub mr_owner: Register,
    /// Owner's configuration, as the host said at launch.
    pub mr_owner_config: Register,
    /// RTMR0 to RTMR3.
    pub rtmr: [Register; 4],
    /// What the guest put into the quote.
    pub report_data: [u8; 64],
}

impl TdReport {
    /// The report in a quote of version 4, or the version 4 part of one of version 5. Nothing is verified.
    ///
    /// # Errors
    /// Another version or TEE type, or too few bytes.
    pub fn of_quote(quote: &[u8]) -> Result<Self, EvidenceError> {
        let report = shape::report(quote)?;
        Self::read(&mut shape::Reader::new(report))
    }

    fn read(from: &mut shape::Reader<'_>) -> Result<Self, EvidenceError> {
        Ok(Self {
            tee_tcb_svn: from.array("TD report")?,
            mr_seam: Register(from.array("TD report")?),
            mr_signer_seam: Register(from.array("TD report")?),
            seam_attributes: from.array("TD report")?,
            td_attributes: from.array("TD report")?,
            xfam: from.array("TD report")?,
            mrtd: Register(from.array("TD report")?),
            mr_config_id: MrConfigId(from.array("TD report")?),
            mr_owner: Register(from.array("TD report")?),
            mr_owner_config: Register(from.array("TD report")?),
            rtmr: [
                Register(from.array("TD report")?),
                Register(from.array("TD report")?),
                Register(from.array("TD report")?),
                Register(from.array("TD report")?),
            ],
            report_data: from.array("TD report")?,
        })
    }

    /// The report's bytes as a version 4 quote has them.
    pub fn encode(&self) -> [u8; TD_REPORT_LEN] {
        let [rtmr0, rtmr1, rtmr2, rtmr3] = &self.rtmr;
        let parts: [&[u8]; 15] = [
            &self.tee_tcb_svn,
            &self.mr_seam.0,
            &self.mr_signer_seam.0,
            &self.seam_attributes,
            &self.td_attributes,
            &self.xfam,
            &self.mrtd.0,
            &self.mr_config_id.0,
            &self.mr_owner.0,
            &self.mr_owner_config.0,
            &rtmr0.0,
            &rtmr1.0,
            &rtmr2.0,
            &rtmr3.0,
            &self.report_data,
        ];
        let mut bytes = [0; TD_REPORT_LEN];
        bytes.iter_mut().zip(parts.into_iter().flatten()).for_each(|(to, from)| *to = *from);
        bytes
    }

    /// The registers that say what was launched.
    pub const fn launch(&self) -> LaunchRegisters {
        let [rtmr0, rtmr1, rtmr2, _] = self.rtmr;
        LaunchRegisters { mrtd: self.mrtd, rtmr0, rtmr1, rtmr2, mrconfigid: self.mr_config_id }
    }

    /// RTMR3.
    pub const fn rtmr3(&self) -> Register {
        let [.., rtmr3] = self.rtmr;
        rtmr3
    }

    /// Whether the host may read the TD's memory.
    pub const fn is_debug(&self) -> bool {
        let [first, ..] = self.td_attributes;
        first & 1 != 0
    }
}

impl From<&dcap_qvl::quote::TDReport10> for TdReport {
    fn from(report: &dcap_qvl::quote::TDReport10) -> Self {
        Self {
            tee_tcb_svn: report.tee_tcb_svn,
            mr_seam: Register(report.mr_seam),
            mr_signer_seam: Register(report.mr_signer_seam),
            seam_attributes: report.seam_attributes,
            td_attributes: report.td_attributes,
            xfam: report.xfam,
            mrtd: Register(report.mr_td),
            mr_config_id: MrConfigId(report.mr_config_id),
            mr_owner: Register(report.mr_owner),
            mr_owner_config: Register(report.mr_owner_config),
            rtmr: [
                Register(report.rt_mr0),
                Register(report.rt_mr1),
                Register(report.rt_mr2),
                Register(report.rt_mr3),
            ],
            report_data: report.report_data,
        }
    }
}
