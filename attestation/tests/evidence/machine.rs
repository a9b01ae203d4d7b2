//! A simulated machine: registers, a boot's event log, quotes and certificates. Written from the README beside the
//! simulator's keys, not from the agent's code, so that the two check each other.

use casemate_measure::{
    ComposeHash, EventLog, InstanceId, KeyProvider, LaunchRegisters, MrConfigId, Register, RuntimeEvent,
};
use casemate_verify::quote::TdReport;
use casemate_verify::ratls::{self, Attestation};
use casemate_verify::{TrustAnchor, Verifier};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use rcgen::{CertificateParams, CustomExtension, KeyPair, PublicKeyData as _};
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::macros::datetime;

use crate::pki::{Pki, Variant};

/// 2026-11-22T00:00:00Z, inside every simulated validity.
pub(crate) const NOW: u64 = 1_795_305_600;

/// What the simulated TDX module calls SEPT_VE_DISABLE (bit 28), which verifiers demand.
const TD_ATTRIBUTES: [u8; 8] = [0, 0, 0, 0x10, 0, 0, 0, 0];

pub(crate) struct Machine {
    pub(crate) pki: Pki,
    pub(crate) report: TdReport,
    pub(crate) log: EventLog,
}

impl Machine {
    /// A booted machine that runs this document.
    pub(crate) fn boot(document: &[u8], launch: LaunchRegisters) -> Self {
        let mut machine = Self {
            pki: Pki::generate(&Variant::default()).unwrap(),
            report: TdReport {
                tee_tcb_svn: [1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                mr_seam: Register::ZERO,
                mr_signer_seam: Register::ZERO,
                seam_attributes: [0; 8],
                td_attributes: TD_ATTRIBUTES,
                xfam: [0xe7, 2, 6, 0, 0, 0, 0, 0],
                mrtd: launch.mrtd,
                mr_config_id: launch.mrconfigid,
                mr_owner: Register::ZERO,
                mr_owner_config: Register::ZERO,
                rtmr: [launch.rtmr0, launch.rtmr1, launch.rtmr2, Register::ZERO],
                report_data: [0; 64],
            },
            log: EventLog::default(),
        };
        let compose = ComposeHash::of(document);
        for event in boot_events(&compose) {
            machine.extend(event);
        }
        machine
    }

    pub(crate) fn extend(&mut self, event: RuntimeEvent) {
        let digest = self.log.push(event);
        let [.., rtmr3] = &mut self.report.rtmr;
        *rtmr3 = rtmr3.extended(&digest);
    }

    /// A machine whose log is exactly these events.
    pub(crate) fn with_events(mut self, events: Vec<RuntimeEvent>) -> Self {
        self.log = EventLog::default();
        let [.., rtmr3] = &mut self.report.rtmr;
        *rtmr3 = Register::ZERO;
        for event in events {
            self.extend(event);
        }
        self
    }

    pub(crate) fn attest(&self, report_data: [u8; 64]) -> Attestation {
        let report = TdReport { report_data, ..self.report };
        Attestation {
            quote: quote(&self.pki, &report),
            events: self.log.clone(),
            report_data,
            config: "{}".into(),
        }
    }

    /// Key and certificate of a machine that speaks for itself.
    pub(crate) fn certificate(&self) -> (KeyPair, Vec<u8>) {
        let key = KeyPair::generate().unwrap();
        let attestation = self.attest(ratls::report_data_for_key(&key.subject_public_key_info()));
        let certificate = certificate(&key, &[(ratls::ATTESTATION_OID, &attestation.encode_v0())]);
        (key, certificate)
    }
}

/// The events of dstack 0.5.x with key provider none.
pub(crate) fn boot_events(compose: &ComposeHash) -> Vec<RuntimeEvent> {
    vec![
        RuntimeEvent::new("system-preparing", []),
        RuntimeEvent::new("app-id", compose.app_id().0),
        RuntimeEvent::new("compose-hash", compose.0),
        RuntimeEvent::new("instance-id", InstanceId::derive(&[7; 20], &compose.app_id()).0),
        RuntimeEvent::new("boot-mr-done", []),
        RuntimeEvent::new("key-provider", KeyProvider::None.event_payload()),
        RuntimeEvent::new("system-ready", []),
    ]
}

/// A verifier that was told, in so many words, to believe the simulated TEE.
pub(crate) fn trusting_verifier() -> Verifier {
    Verifier::new([TrustAnchor::Simulator], Default::default())
}

/// An image as `casemate-image` measures it in this version: RTMR2 only.
pub(crate) fn image() -> LaunchRegisters {
    LaunchRegisters { rtmr2: Register::digest(b"command line and initramfs"), ..LaunchRegisters::ZERO }
}

/// [`image`], with MRCONFIGID bound to a document.
pub(crate) fn image_bound_to(document: &[u8]) -> LaunchRegisters {
    LaunchRegisters { mrconfigid: MrConfigId::v1(&ComposeHash::of(document)), ..image() }
}

/// A self-signed certificate around a key, with these extensions.
pub(crate) fn certificate(key: &KeyPair, extensions: &[(&[u64], &[u8])]) -> Vec<u8> {
    certificate_valid(key, extensions, datetime!(2026-11-21 00:00:00 UTC), datetime!(2026-11-29 00:00:00 UTC))
}

pub(crate) fn certificate_valid(
    key: &KeyPair,
    extensions: &[(&[u64], &[u8])],
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Vec<u8> {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (not_before, not_after);
    params.custom_extensions = extensions
        .iter()
        .map(|(oid, content)| CustomExtension::from_oid_content(oid, ratls::extension_value(content)))
        .collect();
    params.self_signed(key).unwrap().der().to_vec()
}

/// A version 4 quote of that report.
pub(crate) fn quote(pki: &Pki, report: &TdReport) -> Vec<u8> {
    let mut quote = Vec::new();
    quote.extend(4_u16.to_le_bytes());
    quote.extend(2_u16.to_le_bytes());
    quote.extend(0x81_u32.to_le_bytes());
    quote.extend([0; 4]);
    quote.extend(hex::decode("939a7233f79c4ca9940a0db3957f0607").unwrap());
    quote.extend([0; 20]);
    quote.extend(report.encode());

    let key = public(&pki.attestation_key);
    let authentication: Vec<u8> = (0..32).collect();
    let mut qe_report = pki.qe_report;
    let binding = Sha256::new().chain_update(&key).chain_update(&authentication).finalize();
    qe_report.iter_mut().skip(320).zip(binding).for_each(|(to, from)| *to = from);

    let chain = pki.pck_chain_pem.as_bytes();
    let certification = [
        &qe_report,
        sign(&pki.pck_key, &qe_report).as_slice(),
        &32_u16.to_le_bytes(),
        &authentication,
        &5_u16.to_le_bytes(),
        &length(chain),
        chain,
    ]
    .concat();
    let signature = sign(&pki.attestation_key, &quote);
    let data =
        [signature.as_slice(), &key, &6_u16.to_le_bytes(), &length(&certification), &certification].concat();
    quote.extend(length(&data));
    quote.extend(data);
    quote
}

fn sign(key: &SigningKey, message: &[u8]) -> Vec<u8> {
    let signature: Signature = key.sign(message);
    signature.to_bytes().to_vec()
}

fn public(key: &SigningKey) -> Vec<u8> {
    key.verifying_key().to_encoded_point(false).as_bytes().iter().skip(1).copied().collect()
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap().to_le_bytes()
}
