//! The simulated TEE: real register arithmetic, structurally real TDX quotes, and no protection at all. Its keys are
//! published (`pki/README.md`), so anyone can make the same evidence; verifiers refuse it unless told otherwise.

mod quote;

use std::fmt;

use casemate_measure::{LaunchRegisters, Register};
use casemate_verify::quote::TdReport;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use sha2::{Digest as _, Sha256};

use crate::tee::{Tee, TeeError, TeeKind};

/// The platform's certificates, PEM: leaf, platform CA, root.
const PCK_CHAIN_PEM: &str = include_str!("pki/pck_chain.pem");
/// The leaf's key. Published.
const PCK_KEY_HEX: &str = include_str!("pki/pck.key.hex");
/// The quoting enclave's key. Published.
const ATTESTATION_KEY_HEX: &str = include_str!("pki/attestation.key.hex");
/// The quoting enclave's report, not yet bound to its key.
const QE_REPORT_HEX: &str = include_str!("pki/qe_report.hex");
/// Where an SGX report has its report data, of which the first 32 bytes bind the key.
const QE_REPORT_DATA: usize = 320;

/// What the simulator's TCB info asks for: TDX module version 1, ISVSVN 1.
const TEE_TCB_SVN: [u8; 16] = [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// Only SEPT_VE_DISABLE (bit 28), without which verifiers refuse a TD.
const TD_ATTRIBUTES: u64 = 1 << 28;
/// Extended features as TDs of current hosts have them.
const XFAM: u64 = 0x0006_02e7;

/// A TEE without hardware, for development images and for the host.
pub struct SimulatedTee {
    launch: LaunchRegisters,
    rtmr3: Register,
    attestation_key: SigningKey,
    /// Why a reader may believe that key: the same in each quote.
    certification: Vec<u8>,
}

impl fmt::Debug for SimulatedTee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SimulatedTee");
        shown.field("launch", &self.launch).field("rtmr3", &self.rtmr3).finish_non_exhaustive()
    }
}

impl SimulatedTee {
    /// A TEE that shows these registers at launch, with RTMR3 zero.
    ///
    /// # Errors
    /// If the built-in keys cannot be read, which a test excludes.
    pub fn new(launch: LaunchRegisters) -> Result<Self, TeeError> {
        let attestation_key = key(ATTESTATION_KEY_HEX)?;
        let public = attestation_key.verifying_key().to_encoded_point(false);
        // SEC1 uncompressed: 04 ‖ x ‖ y.
        let Some(([4], attestation_public)) = public
            .as_bytes()
            .split_first_chunk::<1>()
            .and_then(|(tag, point)| Some((tag, point.first_chunk()?)))
        else {
            return Err(TeeError::Simulator("attestation key: expected an uncompressed point"));
        };
        let report = bound_report(attestation_public)?;
        let certification = quote::certification(&quote::Certification {
            attestation_public,
            report: &report,
            signature: &sign(&key(PCK_KEY_HEX)?, &report),
            chain_pem: PCK_CHAIN_PEM.as_bytes(),
        });
        Ok(Self {
            launch,
            rtmr3: Register::ZERO,
            attestation_key,
            certification: certification
                .ok_or(TeeError::Simulator("certificate chain: expected less than 4 GiB"))?,
        })
    }

    /// Extends RTMR3, as PID 1 does during boot; the agent offers it to nobody.
    pub fn extend(&mut self, digest: &Register) {
        self.rtmr3 = self.rtmr3.extended(digest);
    }
}

impl Tee for SimulatedTee {
    fn kind(&self) -> TeeKind {
        TeeKind::Simulator
    }

    fn launch(&self) -> LaunchRegisters {
        self.launch
    }

    fn rtmr3(&self) -> Register {
        self.rtmr3
    }

    fn quote(&self, report_data: &[u8; 64]) -> Result<Vec<u8>, TeeError> {
        let LaunchRegisters { mrtd, rtmr0, rtmr1, rtmr2, mrconfigid } = self.launch;
        let signed = quote::signed_part(&TdReport {
            tee_tcb_svn: TEE_TCB_SVN,
            mr_seam: Register::ZERO,
            mr_signer_seam: Register::ZERO,
            seam_attributes: [0; 8],
            td_attributes: TD_ATTRIBUTES.to_le_bytes(),
            xfam: XFAM.to_le_bytes(),
            mrtd,
            mr_config_id: mrconfigid,
            mr_owner: Register::ZERO,
            mr_owner_config: Register::ZERO,
            rtmr: [rtmr0, rtmr1, rtmr2, self.rtmr3],
            report_data: *report_data,
        });
        let signature = sign(&self.attestation_key, &signed);
        quote::assemble(&signed, &signature, &self.certification)
            .ok_or(TeeError::Simulator("quote: expected less than 4 GiB"))
    }
}

/// The quoting enclave's report, which says: this attestation key is mine.
fn bound_report(attestation_public: &[u8; 64]) -> Result<[u8; 384], TeeError> {
    let mut report = [0; 384];
    hex::decode_to_slice(QE_REPORT_HEX.trim_end(), &mut report)
        .map_err(|_| TeeError::Simulator("quoting enclave report: expected 768 hex digits"))?;
    let binding =
        Sha256::new().chain_update(attestation_public).chain_update(quote::AUTHENTICATION_DATA).finalize();
    report.iter_mut().skip(QE_REPORT_DATA).zip(binding).for_each(|(to, from)| *to = from);
    Ok(report)
}

fn key(scalar_hex: &str) -> Result<SigningKey, TeeError> {
    let mut scalar = [0; 32];
    hex::decode_to_slice(scalar_hex.trim_end(), &mut scalar)
        .ok()
        .and_then(|()| SigningKey::from_slice(&scalar).ok())
        .ok_or(TeeError::Simulator("a key: expected a P-256 scalar in 64 hex digits"))
}

/// ECDSA P-256 with SHA-256, `r ‖ s`.
fn sign(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    let signature: Signature = key.sign(message);
    signature.to_bytes().into()
}
