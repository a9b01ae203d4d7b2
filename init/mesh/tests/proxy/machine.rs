//! A simulated machine: what a peer's identity is made from. Its keys are the simulator's, which are published.

use std::sync::OnceLock;

use casemate_measure::{
    ComposeHash, EventLog, InstanceId, KeyProvider, LaunchRegisters, Register, RuntimeEvent,
};
use casemate_verify::quote::TdReport;
use casemate_verify::ratls::{self, Attestation};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use rcgen::{CertificateParams, CustomExtension, KeyPair, PublicKeyData as _};
use sha2::{Digest as _, Sha256};

use crate::pki::{Pki, Variant};

/// The image that everybody runs.
pub(crate) const IMAGE: LaunchRegisters =
    LaunchRegisters { rtmr2: Register([2; 48]), ..LaunchRegisters::ZERO };

/// A machine that has booted.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    report: TdReport,
    events: EventLog,
}

impl Machine {
    pub(crate) fn boot(compose: ComposeHash, instance: InstanceId) -> Self {
        let mut events = EventLog::default();
        for event in [
            RuntimeEvent::new("system-preparing", []),
            RuntimeEvent::new("app-id", compose.app_id().0),
            RuntimeEvent::new("compose-hash", compose.0),
            RuntimeEvent::new("instance-id", instance.0),
            RuntimeEvent::new("boot-mr-done", []),
            RuntimeEvent::new("key-provider", KeyProvider::None.event_payload()),
            RuntimeEvent::new("system-ready", []),
        ] {
            events.push(event);
        }
        let report = TdReport {
            tee_tcb_svn: [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            mr_seam: Register::ZERO,
            mr_signer_seam: Register::ZERO,
            seam_attributes: [0; 8],
            // SEPT_VE_DISABLE (bit 28), which verifiers demand.
            td_attributes: [0, 0, 0, 0x10, 0, 0, 0, 0],
            xfam: [0xe7, 2, 6, 0, 0, 0, 0, 0],
            mrtd: IMAGE.mrtd,
            mr_config_id: IMAGE.mrconfigid,
            mr_owner: Register::ZERO,
            mr_owner_config: Register::ZERO,
            rtmr: [IMAGE.rtmr0, IMAGE.rtmr1, IMAGE.rtmr2, events.replay()],
            report_data: [0; 64],
        };
        Self { report, events }
    }

    pub(crate) fn attest(&self, report_data: [u8; 64]) -> Attestation {
        let report = TdReport { report_data, ..self.report };
        Attestation { quote: quote(&report), events: self.events.clone(), report_data, config: "{}".into() }
    }

    /// A certificate around a fresh key, and the key.
    pub(crate) fn certificate(&self) -> (Vec<u8>, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let attestation = self.attest(ratls::report_data_for_key(&key.subject_public_key_info()));
        let mut params = CertificateParams::new(vec!["app".to_owned()]).unwrap();
        let value = ratls::extension_value(&attestation.encode_v0());
        params.custom_extensions = vec![CustomExtension::from_oid_content(ratls::ATTESTATION_OID, value)];
        (params.self_signed(&key).unwrap().der().to_vec(), key.serialize_der())
    }
}

/// The simulator's, made once.
pub(crate) fn pki() -> &'static Pki {
    static PKI: OnceLock<Pki> = OnceLock::new();
    PKI.get_or_init(|| Pki::generate(&Variant::default()).unwrap())
}

/// A quote of version 4 (Intel TDX DCAP Quoting Library API, appendix A.3).
fn quote(report: &TdReport) -> Vec<u8> {
    let pki = pki();
    let header = [4, 0, 2, 0, 0x81, 0, 0, 0, 0, 0, 0, 0];
    let vendor = hex::decode("939a7233f79c4ca9940a0db3957f0607").unwrap();
    let signed = [&header[..], &vendor, &[0; 20], &report.encode()].concat();
    let point = pki.attestation_key.verifying_key().to_encoded_point(false);
    let key = &point.as_bytes()[1..];
    let authentication: Vec<u8> = (0..32).collect();
    let mut enclave = pki.qe_report;
    let bound = Sha256::new().chain_update(key).chain_update(&authentication).finalize();
    enclave[320..352].copy_from_slice(&bound);
    let chain = typed(5, pki.pck_chain_pem.as_bytes());
    let of_enclave = sign(&pki.pck_key, &enclave);
    let enclave = [&enclave[..], &of_enclave, &32_u16.to_le_bytes(), &authentication, &chain].concat();
    let data = [&sign(&pki.attestation_key, &signed), key, &typed(6, &enclave)].concat();
    [&signed[..], &u32::try_from(data.len()).unwrap().to_le_bytes(), &data].concat()
}

/// Certification data: type, length, content.
fn typed(kind: u16, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap();
    [&kind.to_le_bytes()[..], &length.to_le_bytes(), content].concat()
}

fn sign(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    let signature: Signature = key.sign(message);
    signature.to_bytes().to_vec()
}
