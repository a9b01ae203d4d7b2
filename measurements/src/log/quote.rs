//! The registers in a TDX quote (Intel TDX DCAP Quoting Library API, quote versions 4 and 5, appendix A.3). Nothing is verified
//! here: `casemate-verify` does that.

use serde::Serialize;

use super::Form;
use super::bytes::Reader;
use super::error::Problem;
use crate::identity::MrConfigId;
use crate::register::Register;

/// The largest quote that is read, bytes. Real ones have about 5,000.
pub const MAX_BYTES: usize = 64 << 10;

/// The TEE type of TDX in the quote header.
const TEE_TYPE_TDX: u32 = 0x81;
/// Bytes of the header behind the TEE type: reserved, vendor, user data.
const HEADER_REST: usize = 40;
/// Bytes of a TD report before MRTD: TCB, SEAM module and signer, attributes, XFAM.
const BEFORE_MRTD: usize = 136;
/// Bytes of a version 4 quote's TD report, which every later one begins with.
const TD_REPORT_LEN: u32 = 584;
/// Bytes of a TD 1.5 report, and of the longer one, as quotes show it.
const TD15_REPORT_LEN: u32 = 648;
const TD15_EX_REPORT_LEN: u32 = 885;
/// Body types of a version 5 quote.
const TD_REPORT: u16 = 2;
const TD15_REPORT: u16 = 3;
const TD15_EX_REPORT: u16 = 4;

/// What a trust domain shows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Registers {
    /// Who says so.
    pub source: Source,
    /// Firmware.
    pub mrtd: Register,
    /// RTMR0 to RTMR3.
    pub rtmr: [Register; 4],
    /// What the host bound at launch; `Info` does not say it.
    pub mrconfigid: Option<MrConfigId>,
}

/// Who says what the registers hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// A quote, whose signature is not verified here.
    Quote,
    /// The agent of the machine, in its `Info`: nobody signed that.
    Info,
}

impl Registers {
    /// The registers in a quote of version 4 or 5.
    ///
    /// # Errors
    /// Another version, TEE or body, or too few bytes.
    pub fn of_quote(quote: &[u8]) -> Result<Self, Problem> {
        if quote.len() > MAX_BYTES {
            return Err(Problem::TooLong { what: "TDX quote", limit: MAX_BYTES, found: quote.len() });
        }
        let mut reader = Reader::new(Form::Quote, quote);
        let version = reader.u16("version")?;
        if !matches!(version, 4 | 5) {
            return Err(reader.wrong("version", "4 or 5", version));
        }
        reader.u16("attestation key type")?;
        let tee_type = reader.u32("TEE type")?;
        if tee_type != TEE_TYPE_TDX {
            return Err(reader.wrong(
                "TEE type",
                format!("{TEE_TYPE_TDX:#x} (TDX)"),
                format_args!("{tee_type:#x}"),
            ));
        }
        reader.take(HEADER_REST, "header")?;
        if version == 5 {
            body(&mut reader)?;
        }
        reader.take(BEFORE_MRTD, "TD report")?;
        let mrtd = Register(reader.array("MRTD")?);
        let mrconfigid = MrConfigId(reader.array("MRCONFIGID")?);
        reader.take(96, "MROWNER and MROWNERCONFIG")?;
        let mut rtmr = [Register::ZERO; 4];
        for register in &mut rtmr {
            *register = Register(reader.array("RTMR")?);
        }
        reader.take(64, "report data")?;
        Ok(Self { source: Source::Quote, mrtd, rtmr, mrconfigid: Some(mrconfigid) })
    }
}

/// The head of a version 5 quote's body.
fn body(reader: &mut Reader<'_>) -> Result<(), Problem> {
    let kind = reader.u16("body type")?;
    let length = match kind {
        TD_REPORT => TD_REPORT_LEN,
        TD15_REPORT => TD15_REPORT_LEN,
        TD15_EX_REPORT => TD15_EX_REPORT_LEN,
        _ => return Err(reader.wrong("body type", "2 to 4 (a TD report)", kind)),
    };
    let found = reader.u32("length of the TD report")?;
    if found == length {
        return Ok(());
    }
    Err(reader.wrong("length of the TD report", length.to_string(), found))
}

/// The registers of a quote, as bytes or as hex digits; `None` if it looks like none.
pub(super) fn detect(bytes: &[u8]) -> Option<Result<Registers, Problem>> {
    let binary = |bytes: &[u8]| matches!(bytes, [4 | 5, 0, _, _, rest @ ..] if rest.starts_with(&TEE_TYPE_TDX.to_le_bytes()));
    if binary(bytes) {
        return Some(Registers::of_quote(bytes));
    }
    let text = bytes.trim_ascii();
    let text = text.strip_prefix(b"0x").unwrap_or(text);
    if text.len() > MAX_BYTES.saturating_mul(2) {
        return None;
    }
    let decoded = hex::decode(text).ok().filter(|decoded| binary(decoded))?;
    Some(Registers::of_quote(&decoded))
}
